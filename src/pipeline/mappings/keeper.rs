//! The one task that changes a collection's mapping, and fills what it has added. See
//! [`evolution`](super::evolution).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    active::ActiveMapping,
    backfill::Filled,
    keeper_context::KeeperContext,
    next_version::{listed, next_version},
    widening,
};
use crate::{
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
    mapping::Mapping,
    metrics,
    pipeline::{
        collection::{Changing, Collection},
        ports::TargetSession,
        table_keys::add_foreign_keys,
        tries::Tries,
    },
    process_status::Part,
    schema::{Names, evolve},
    shutdown::Shutdown,
};

/// How long to wait for more discoveries, which mostly come together.
const GATHERING: Duration = Duration::from_millis(200);
/// A mapping rests for this many times as long as its change took, even if names never stop being new.
const REST: u32 = 10;
/// How long another session's lock on a table holds up the end of a backfill.
const LAST: Duration = Duration::from_secs(5);

/// An order to a keeper.
pub(super) enum KeeperOrder {
    /// Act on all that was discovered, then leave the mapping unchanged until the collection is complete.
    Settle(oneshot::Sender<()>),
    /// The collection is complete: its tables have their keys, and no other rows than they should have.
    Complete,
    /// Act on all that was discovered: no more will come.
    Finish(oneshot::Sender<()>),
}

/// Keeps one collection's mapping up to date; nothing else changes it.
pub(super) struct Keeper {
    shared: Arc<KeeperContext>,
    id: usize,
    in_force: ActiveMapping,
    /// What its file has added, but could not be put in force yet.
    pending: Option<ActiveMapping>,
    /// Whether the evidence holds a sample of the collection.
    is_sampled: bool,
    /// Whether the collection is copied, has its keys, and is swept: then it can be filled.
    is_complete: bool,
    /// Whether the mapping is left unchanged until the collection is complete.
    is_settled: bool,
    /// Whether wide columns wait for another session's lock before they can replace narrow ones.
    is_replacing: bool,
    orders: mpsc::Receiver<KeeperOrder>,
    tries: Tries,
    /// How long the current change has taken, not counting waits.
    worked: Duration,
    rests_until: Instant,
}

/// The result of a discovery.
enum Evolved {
    /// The mapping takes up nothing, or the turn ends.
    Not,
    /// A new version is in force.
    Yes,
    /// Writers hold the mapping, or another session has a lock on a table.
    NotNow(Option<Error>),
}

/// A collection whose mapping changes.
struct MappingChange<'a> {
    collection: &'a Collection,
    /// The mapping before the change.
    before: &'a Mapping,
    held: &'a mut Option<Changing>,
}

impl Keeper {
    /// The keeper of the collection with this number.
    pub(super) fn new(
        shared: Arc<KeeperContext>,
        id: usize,
        in_force: ActiveMapping,
        pending: Option<ActiveMapping>,
        orders: mpsc::Receiver<KeeperOrder>,
        stop: Shutdown,
    ) -> Self {
        Self {
            shared,
            id,
            in_force,
            pending,
            is_sampled: false,
            is_complete: false,
            is_settled: false,
            is_replacing: false,
            orders,
            tries: Tries::until(stop),
            worked: Duration::ZERO,
            rests_until: Instant::now(),
        }
    }

    /// Works until the turn ends. Fills the tables of a collection that is complete.
    pub(super) async fn run(mut self, is_complete: bool) -> Result<()> {
        self.is_complete = is_complete;
        let shared = self.shared.clone();
        let Some(collection) = shared.collections.get(self.id) else { return Ok(()) };
        collection.misfits.set_unfilled(self.in_force.unfilled.is_some());
        self.fill(collection).await?;
        while !self.tries.is_over() {
            let (is_settled, rests_until) = (self.is_settled, self.rests_until);
            let is_pending = self.pending.is_some() || self.is_replacing;
            let due = async {
                if !is_pending {
                    collection.discoveries().await;
                    sleep(GATHERING).await;
                }
                sleep_until(rests_until).await;
            };
            let order = tokio::select! {
                biased;
                order = self.tries.unless_stopped(self.orders.recv()) => order.flatten(),
                () = due, if !is_settled => {
                    self.act(collection).await?;
                    continue;
                }
            };
            match order {
                Some(KeeperOrder::Settle(done)) => {
                    self.act(collection).await?;
                    self.is_settled = true;
                    let _ = done.send(());
                }
                Some(KeeperOrder::Complete) => {
                    (self.is_complete, self.is_settled) = (true, false);
                    self.fill(collection).await?;
                }
                Some(KeeperOrder::Finish(done)) => {
                    self.finish(collection).await?;
                    let _ = done.send(());
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Acts on what has been discovered so far.
    async fn act(&mut self, collection: &Collection) -> Result<()> {
        self.worked = Duration::ZERO;
        match self.evolve(collection).await? {
            Evolved::Not if self.is_replacing => self.fill(collection).await?,
            Evolved::Not => {}
            Evolved::Yes => {
                self.tries.succeeded();
                self.fill(collection).await?;
            }
            Evolved::NotNow(_) => {
                if self.pending.is_none() {
                    collection.keep_discoveries();
                }
                self.rests_until = Instant::now() + self.tries.failed();
                return Ok(());
            }
        }
        if !self.is_replacing {
            self.rests_until = Instant::now() + self.worked * REST;
        }
        Ok(())
    }

    /// Acts on all that was discovered, and waits a while for another session's lock.
    async fn finish(&mut self, collection: &Collection) -> Result<()> {
        let deadline = Instant::now() + LAST;
        self.act(collection).await?;
        let waits =
            |keeper: &Self| keeper.pending.is_some() || keeper.is_replacing || collection.has_discoveries();
        while waits(self) && self.rests_until < deadline && !self.tries.is_over() {
            self.tries.unless_stopped(sleep_until(self.rests_until)).await;
            self.act(collection).await?;
        }
        Ok(())
    }

    /// Gives the mapping the places that the discoveries need, or that its file has added.
    async fn evolve(&mut self, collection: &Collection) -> Result<Evolved> {
        if collection.rests() || self.pending.is_none() && !collection.take_discoveries() {
            return Ok(Evolved::Not);
        }
        let shared = self.shared.clone();
        if self.pending.is_none() && !self.is_sampled {
            let sampled = self.tries.unless_stopped(shared.sample(collection)).await.transpose()?;
            self.is_sampled = sampled.is_some();
        }
        let (before, mut held) = (collection.mapping().await, None);
        let (evolved, mut session) = loop {
            let ready = self.tries.unless_stopped(shared.make_ready()).await.transpose()?;
            let Some((mut session, mut tables)) = ready else { return Ok(Evolved::Not) };
            let began = Instant::now();
            let place = MappingChange { collection, before: &before, held: &mut held };
            let evolved = match self.pending.take() {
                Some(next) => self.catch_up(place, &mut *session, next).await?,
                None => self.take_up(place, &mut *session, &mut tables).await?,
            };
            self.worked += began.elapsed();
            match evolved {
                // Then only the copying of the collection holds the mapping. It does so for as long as a
                // chunk takes, and nothing else waits for the mapping; so the keeper waits, but not while
                // others wait for their turn to change tables.
                Evolved::NotNow(None) if !self.is_complete && held.is_none() && !self.tries.is_over() => {
                    drop(tables);
                    held = self.tries.unless_stopped(collection.change()).await;
                }
                evolved => break (evolved, session),
            }
        };
        drop(held);
        let Evolved::NotNow(Some(error)) = evolved else {
            self.refer(collection, &mut *session).await?;
            return Ok(evolved);
        };
        let what = format!("{}: new columns", collection.name());
        self.tries.make_way(&mut *session, &what, error, before.tables()).await?;
        Ok(Evolved::NotNow(None))
    }

    /// Makes new tables refer to the root, if they should.
    async fn refer(&self, collection: &Collection, session: &mut dyn TargetSession) -> Result<()> {
        let mapping = collection.mapping().await;
        if self.is_complete && mapping.foreign_keys() {
            let adding = add_foreign_keys(session, collection, mapping.tables());
            self.tries.unless_stopped(adding).await.transpose()?;
        }
        Ok(())
    }

    /// Puts in force the mapping that could not be put in force when the turn began.
    async fn catch_up(
        &mut self,
        mut place: MappingChange<'_>,
        session: &mut dyn TargetSession,
        mut next: ActiveMapping,
    ) -> Result<Evolved> {
        loop {
            match self.put_in_force(session, &mut place, &next).await {
                Ok(Evolved::Yes) => break,
                Ok(other) => {
                    self.pending = Some(next);
                    return Ok(other);
                }
                Err(error) if error.kind() == Kind::TargetRefused => match next.less() {
                    Some(less) if less.version > self.in_force.version => next = less,
                    Some(_) => return Ok(Evolved::Not),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        let name = place.collection.name();
        tracing::info!("{name}: mapped as its file says (version {})", next.version);
        self.in_force = ActiveMapping { before: None, ..next };
        Ok(Evolved::Yes)
    }

    /// Gives the mapping the places that the discoveries need.
    async fn take_up(
        &mut self,
        mut place: MappingChange<'_>,
        session: &mut dyn TargetSession,
        tables: &mut Names,
    ) -> Result<Evolved> {
        let collection = place.collection;
        let mut names = tables.clone();
        for name in session.relations().await? {
            names.reserve(name);
        }
        // Columns that a user has added keep their values.
        let there = session.columns(place.before.tables()).await?;
        let evolved = collection.weigh(|sample| evolve(&self.in_force.spec, sample, &mut names, &there));
        let wider = collection.widened(evolved.as_ref().unwrap_or(&self.in_force.spec));
        let Some(spec) = wider.or(evolved) else { return Ok(Evolved::Not) };
        let mut spec = self.in_force.spec.beside(&spec);
        loop {
            let (next, fields) = next_version(&self.in_force, spec)?;
            let (next, kept) = widening::possible(session, next).await?;
            widening::warn(kept.as_ref());
            if next.version == self.in_force.version {
                return Ok(Evolved::Not);
            }
            match self.put_in_force(session, &mut place, &next).await {
                Ok(Evolved::Yes) => {
                    metrics::MAPPING_CHANGES.of(&[collection.name()]).increment(1);
                    let (name, version) = (collection.name(), next.version);
                    tracing::info!("{name}: remapped (version {version}): {}", listed(&fields));
                    self.in_force = ActiveMapping { before: None, ..next };
                    *tables = names;
                    return Ok(Evolved::Yes);
                }
                Ok(other) => return Ok(other),
                // A table that is large, or has values that a wider column would not represent exactly, gets
                // another column.
                Err(error) if error.kind() == Kind::TargetRefused => {
                    match self.in_force.spec.less_than(&next.spec) {
                        Some(less) => spec = less,
                        None => {
                            tracing::warn!(code = %error.code(), "{}: new fields stay in extra: {error}", collection.name());
                            return Ok(Evolved::Not);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes the tables, stores the version, and makes all writers use it.
    async fn put_in_force(
        &self,
        session: &mut dyn TargetSession,
        place: &mut MappingChange<'_>,
        next: &ActiveMapping,
    ) -> Result<Evolved> {
        let pipeline = &self.shared.pipeline;
        let mapping = Arc::new(pipeline.config.compile(&next.spec)?);
        let post = pipeline.monitor.reporter.vitals().post(Part::Evolution(self.id));
        post.at(format!("changes the tables of {}", place.collection.name()));
        if self.is_complete && place.held.is_none() {
            *place.held = self.tries.grasp(place.collection).await;
        }
        let Some(held) = place.held else { return Ok(Evolved::NotNow(None)) };
        match session.change_tables(&next.record(&mapping), mapping.tables()).await {
            Err(error) if error.kind() == Kind::TargetAway && !session.is_closed() => {
                return Ok(Evolved::NotNow(Some(error)));
            }
            changed => drop(changed?),
        }
        failpoint::reach(Failpoint::VersionCommitted);
        place.collection.misfits.set_unfilled(next.unfilled.is_some());
        **held = mapping;
        Ok(Evolved::Yes)
    }

    /// Takes out of `extra` what now has columns and tables; then wide columns replace narrow ones.
    async fn fill(&mut self, collection: &Collection) -> Result<()> {
        self.is_replacing = false;
        if !self.is_complete || collection.rests() {
            return Ok(());
        }
        let is_filled = self.in_force.unfilled.is_none() || self.take_out(collection).await?;
        if !is_filled || self.in_force.spec.replacements().is_empty() {
            return Ok(());
        }
        let Self { shared, in_force, tries, .. } = self;
        if !widening::replace_columns(&shared.pipeline, collection, in_force, tries).await? {
            self.is_replacing = true;
            self.rests_until = Instant::now() + self.tries.failed();
        }
        Ok(())
    }

    /// Takes out of `extra` what now has columns and tables. `false`: some of it is still there.
    async fn take_out(&mut self, collection: &Collection) -> Result<bool> {
        let Some(unfilled) = &self.in_force.unfilled else { return Ok(true) };
        let pipeline = &self.shared.pipeline;
        let post = pipeline.monitor.reporter.vitals().post(Part::Evolution(self.id));
        post.at(format!("fills new columns of {}", collection.name()));
        let permit = self.tries.unless_stopped(self.shared.filling.acquire()).await;
        let Some(Ok(_permit)) = permit else { return Ok(false) };
        let began = Instant::now();
        let session = self.tries.unless_stopped(pipeline.ports.target.connect()).await.transpose()?;
        let Some(mut session) = session else { return Ok(false) };
        let filled = self.shared.fill(collection, unfilled, &mut *session, &mut self.tries).await?;
        self.worked += began.elapsed().saturating_sub(self.tries.take_waited());
        match filled {
            Filled::ButSome if self.in_force.spec.replacements().is_empty() => {}
            Filled::CutOff | Filled::ButSome => return Ok(false),
            Filled::All => {}
        }
        failpoint::reach(Failpoint::FilledBeforeNoted);
        session.set_filled(collection.name(), self.in_force.version).await?;
        failpoint::reach(Failpoint::FilledNoted);
        self.in_force.unfilled = None;
        collection.misfits.filled();
        Ok(true)
    }
}
