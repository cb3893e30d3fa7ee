//! Mappings that follow their documents: new fields become columns and tables while the pipeline runs.
//!
//! Encoders notice what their mapping does not know; the documents are shown to their [`Collection`], and wake the one
//! task that changes mappings. So two workers that meet the same field at once are no race: whoever tells second finds
//! it known. That task decides by all it has seen, a sample of the collection included, what the mapping becomes
//! ([`evolve`]); changes the tables and stores the new version in one transaction; and puts the new mapping in force, all
//! while nobody writes to the collection. Rows written before hold the new fields' values in `extra`, and [`fill`] takes
//! them out from there. Nothing of this is needed for exactness: old rows and new ones both tell their document.
//!
//! Tables are filled once they have primary keys. A crash before the end is made up for at the next start, because the
//! version is stored as not filled.
//!
//! [`fill`]: super::fill

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    time::{Instant, sleep},
};

use super::{
    Collection, Pipeline,
    mappings::{InForce, Unfilled},
    prepare::Prepared,
};
use crate::{
    change::CollectionId,
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
    metrics,
    schema::{MappingSpec, Names, additions, evolve},
    sink::{Session, ddl, schemas},
    source::SAMPLE_SIZE,
};

/// How long to wait for more discoveries, which mostly come together.
const GATHERING: Duration = Duration::from_millis(200);
/// How many times longer than it took to leave mappings alone afterwards: where names of fields never cease to be new,
/// tables must not be filled all the time.
const REST: u32 = 10;
/// How long to leave a table alone on which somebody else holds a lock.
const LOCKED: Duration = Duration::from_secs(10);

/// How many new fields the log names.
const LISTED: usize = 20;

/// Changes the mappings of a pipeline's collections.
pub(super) struct Evolution<'a> {
    pipeline: &'a Pipeline<'a>,
    collections: Arc<[Collection]>,
    wake: Arc<Notify>,
    state: Mutex<State>,
}

/// What only one may change at a time.
pub(super) struct State {
    known: Vec<Known>,
    tables: Names,
}

struct Known {
    in_force: InForce,
    /// Whether the evidence holds a sample of the collection.
    sampled: bool,
    /// Whether the tables have their keys.
    keyed: bool,
}

/// What came of a discovery.
enum Evolved {
    /// Nothing that the mapping takes up.
    Not,
    /// A new version is in force.
    Yes,
    /// Somebody holds a lock on a table.
    Locked,
}

/// What came of a new version.
enum Put {
    Done,
    Locked,
}

impl<'a> Evolution<'a> {
    /// Evolves the mappings of the collections that are prepared.
    pub(super) fn new(pipeline: &'a Pipeline<'a>, prepared: Prepared) -> Self {
        let Prepared { collections, in_force, tables, wake, live } = prepared;
        let ids = (0..).map(CollectionId);
        let known = ids.zip(in_force).map(|(id, in_force)| Known {
            in_force,
            sampled: false,
            keyed: live.contains(&id),
        });
        Self { pipeline, collections, wake, state: Mutex::new(State { known: known.collect(), tables }) }
    }

    /// The collections.
    pub(super) fn collections(&self) -> &Arc<[Collection]> {
        &self.collections
    }

    /// Evolves mappings for as long as it is polled. Ends with an error only.
    pub(super) async fn run(&self) -> Result<Infallible> {
        let mut pause = GATHERING;
        loop {
            self.wake.notified().await;
            sleep(pause).await;
            let began = Instant::now();
            let all = self.turn().await?;
            pause = if all { GATHERING.max(began.elapsed() * REST) } else { LOCKED };
        }
    }

    /// Acts on all that was discovered until now. False if some of it must wait for somebody's lock.
    pub(super) async fn turn(&self) -> Result<bool> {
        let mut state = self.state.lock().await;
        let mut all = true;
        for id in 0..self.collections.len() {
            all &= self.turn_of(id, &mut state).await?;
        }
        Ok(all)
    }

    /// Keeps mappings as they are until the guard is dropped.
    pub(super) async fn pause(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// Notes that the tables have their keys, and fills what is to be filled.
    pub(super) async fn live(&self, mut state: MutexGuard<'_, State>) -> Result<()> {
        state.known.iter_mut().for_each(|known| known.keyed = true);
        for id in 0..self.collections.len() {
            self.fill(id, &mut state).await?;
        }
        Ok(())
    }

    async fn turn_of(&self, id: usize, state: &mut State) -> Result<bool> {
        let Some(collection) = self.collections.get(id) else { return Ok(true) };
        if collection.stopped().is_some() || !collection.take_discoveries() {
            return Ok(true);
        }
        match self.evolve(id, collection, state).await? {
            Evolved::Not => Ok(true),
            Evolved::Yes => self.fill(id, state).await.map(|()| true),
            Evolved::Locked => {
                tracing::warn!(
                    "{}: new columns wait: another session holds a lock on a table of it",
                    collection.name()
                );
                collection.keep_discoveries();
                Ok(false)
            }
        }
    }

    async fn evolve(&self, id: usize, collection: &Collection, state: &mut State) -> Result<Evolved> {
        let State { known, tables, .. } = state;
        let Some(Known { in_force, sampled, .. }) = known.get_mut(id) else { return Ok(Evolved::Not) };
        if !*sampled {
            let source = &self.pipeline.source;
            source.sample_documents(collection.namespace(), SAMPLE_SIZE, |d| collection.observe(d)).await?;
            *sampled = true;
        }
        let mut session = self.pipeline.target.connect().await?;
        let mut names = tables.clone();
        for name in ddl::relations(&session, self.pipeline.target.schema()).await? {
            names.reserve(name);
        }
        // Columns that somebody has added keep their values.
        let tables_there = collection.hold().await.tables().to_vec();
        let there = ddl::columns(&session, self.pipeline.target.schema(), &tables_there).await?;
        let evolved = collection.weigh(|sample| evolve(&in_force.spec, sample, &mut names, &there));
        let Some(mut spec) = evolved else { return Ok(Evolved::Not) };
        loop {
            let (next, fields) = next_version(in_force, spec)?;
            match self.put_in_force(&mut session, collection, &next).await {
                Ok(Put::Done) => {
                    metrics::MAPPING_CHANGES.of(&[collection.name()]).increment(1);
                    let (name, version) = (collection.name(), next.version);
                    tracing::info!("{name}: mapped anew (version {version}): {}", listed(&fields));
                    *in_force = next;
                    *tables = names;
                    return Ok(Evolved::Yes);
                }
                Ok(Put::Locked) => return Ok(Evolved::Locked),
                // A table that is large, or has values that a wider column would not tell exactly, keeps its columns.
                Err(error) if error.kind() == Kind::TargetRefused => {
                    match in_force.spec.unwidened(&next.spec) {
                        Some(narrower) if narrower != next.spec => spec = narrower,
                        _ => {
                            tracing::warn!(code = %error.code(), "{}: new fields stay in extra: {error}", collection.name());
                            return Ok(Evolved::Not);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes the tables, stores the version, and lets everyone write by it.
    async fn put_in_force(
        &self,
        session: &mut Session,
        collection: &Collection,
        next: &InForce,
    ) -> Result<Put> {
        let Pipeline { config, target, .. } = self.pipeline;
        let mapping = Arc::new(config.compile(&next.spec)?);
        let mut held = collection.change().await;
        match ddl::change_tables(session, target, &next.record(&mapping), mapping.tables()).await {
            Err(error) if error.kind() == Kind::TargetAway && !session.is_closed() => return Ok(Put::Locked),
            changed => drop(changed?),
        }
        failpoint::reach(Failpoint::VersionCommitted);
        *held = mapping;
        Ok(Put::Done)
    }

    /// Takes out of `extra` what there are columns and tables for now.
    async fn fill(&self, id: usize, state: &mut State) -> Result<()> {
        let Some(Known { in_force, keyed, .. }) = state.known.get_mut(id) else { return Ok(()) };
        let (Some(unfilled), Some(collection)) = (&in_force.unfilled, self.collections.get(id)) else {
            return Ok(());
        };
        if !*keyed || collection.stopped().is_some() {
            return Ok(());
        }
        self.pipeline.fill(collection, unfilled).await?;
        let mut session: Session = self.pipeline.target.connect().await?;
        let pipeline = self.pipeline.target.pipeline();
        failpoint::reach(Failpoint::FilledBeforeNoted);
        schemas::set_filled(&mut session, pipeline, collection.name(), in_force.version).await?;
        failpoint::reach(Failpoint::FilledNoted);
        in_force.unfilled = None;
        Ok(())
    }
}

/// The version after `in_force`, and the fields that it has places for.
fn next_version(in_force: &InForce, spec: MappingSpec) -> Result<(InForce, Vec<String>)> {
    let added = additions(&in_force.spec, &spec)
        .map_err(|_| Error::bug("evolve a mapping: it does more than add"))?;
    let fields = added.fields.iter().map(ToString::to_string).collect();
    let unfilled = match in_force.unfilled {
        None => Unfilled::Fields(added.fields),
        Some(_) => Unfilled::All,
    };
    let version = in_force.version.saturating_add(1);
    Ok((InForce { spec, version, is_automatic: true, unfilled: Some(unfilled) }, fields))
}

/// Names for the log: not all of them where they are many, each on the line whatever is in it.
fn listed(fields: &[String]) -> String {
    let escaped = |name: &String| -> String {
        let char = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        name.chars().map(char).collect()
    };
    let shown: Vec<_> = fields.iter().take(LISTED).map(escaped).collect();
    let more = fields.len().saturating_sub(LISTED);
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_some_fields_on_one_line() {
        let fields = |count| (0..count).map(|n| format!("é\n{n}")).collect::<Vec<_>>();
        assert_eq!(listed(&fields(2)), r"é\n0, é\n1");
        assert!(listed(&fields(LISTED + 3)).ends_with(", and 3 more"));
    }
}
