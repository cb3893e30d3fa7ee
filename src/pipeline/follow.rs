//! The side of PostgreSQL: completes the collections that are not, while workers apply the changes of those that are.
//!
//! It says to the [`intake`](super::intake) what it can take, and deals with what happens to whole collections: that is
//! written down in PostgreSQL, and dealt with at the beginning of the next turn ([`prepare`](super::prepare)), for which this one ends.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mongodb::bson::Timestamp;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Pipeline, Until,
    ahead::Ahead,
    batch::Positions,
    collection::Collection,
    evolve::Evolution,
    gauges::Gauges,
    intake::{Demand, Workers},
    phase::Phase,
    positions,
    retries::Retries,
    router::Router,
    watermark::Watermark,
    worker::{Limits, Routed, Worker},
    write::Writer,
};
use crate::{
    change::{CollectionId, Position},
    config::Order,
    error::{Code, Disposition, Error, Kind, Result},
    shutdown::Shutdown,
    sink::{
        Session, dead_letter,
        progress::{self, Partition},
        resyncs,
    },
    source::Source,
    vitals::Stage,
};

/// Replies of the stream that wait for a worker. A reply has at most 16 MB for all partitions together, so this many
/// times that is the most that waits (G11).
const WAITING: usize = 2;

/// How often to look whether somebody asks for something.
const ASKING: Duration = Duration::from_secs(1);

/// How often to look for new collections.
const LISTING: Duration = Duration::from_secs(10);

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All is done, or it was told to stop.
    Done,
    /// There is something to prepare: a new collection, or one that is to be copied anew.
    Again,
}

/// Where a worker reports what is durable.
#[derive(Clone)]
pub(super) struct Acknowledge {
    watermark: Arc<Mutex<Watermark>>,
    gauges: Arc<Gauges>,
}

impl Acknowledge {
    /// Notes which positions a partition has stored.
    pub(super) fn stored(&self, partition: Partition, positions: &[(CollectionId, Position)]) {
        let mut watermark = self.watermark.lock().unwrap_or_else(PoisonError::into_inner);
        positions.iter().for_each(|(id, position)| watermark.advance(partition, *id, position));
    }

    /// Notes how far a partition has committed, for people.
    pub(super) fn committed(&self, partition: Partition, positions: &Positions) {
        self.gauges.committed(partition, positions);
    }
}

/// The positions that are stored.
pub(super) struct Stored {
    pub(super) positions: Arc<HashMap<(Partition, CollectionId), Position>>,
    /// Of the stream that new ones will be of.
    fingerprint: i64,
}

impl Pipeline<'_> {
    /// Applies changes, and completes what is not complete, until told to stop, or until everything that was written
    /// before it was complete is applied.
    pub(super) async fn follow(
        &self,
        session: &mut Session,
        evolution: &Evolution<'_>,
        (stored, live): (Stored, Vec<CollectionId>),
        until: Until,
    ) -> Result<Turn> {
        let collections = evolution.collections();
        let ahead = self.ahead(session).await?;
        let (workers, mut running) = self.start_workers(collections, &stored, ahead).await?;
        let workers = Arc::new(workers);
        let mut retries = Retries::new(collections, stored.positions.clone());
        if live.len() < collections.len() {
            self.reporter.vitals().enter(Stage::Copying, None);
        }
        self.demand.send_modify(|demand| {
            demand.workers = Some(workers.clone());
            demand.ready = Arc::new(live.into_iter().map(|id| (id, ahead)).collect());
        });
        let attempt = self.demand.borrow().attempt;
        let (mut happened, mut arrived) = (self.notices.subscribe(), self.notices.subscribe());
        let (mut completing, mut is_complete) = (pin!(self.complete(evolution)), false);
        let mut asking = interval(ASKING);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listed = Instant::now();
        let turn = loop {
            tokio::select! {
                biased;
                () = self.shutdown.requested() => break Turn::Done,
                Some(ended) = running.join_next() => return Err(why(ended)),
                lost = happened.wait_for(|n| n.attempt == attempt && (n.is_lost || !n.anew.is_empty())) => {
                    if lost.is_ok_and(|notices| notices.is_lost) {
                        return Err(Error::new(Code::SpoolLost, "follow: what had been read ahead is lost"));
                    }
                    break Turn::Again;
                }
                completed = &mut completing, if !is_complete => {
                    completed?;
                    is_complete = true;
                    self.all_are_ready(session, collections, until).await?;
                    self.reporter.vitals().enter(Stage::Live, None);
                }
                _ = arrived.wait_for(|n| n.attempt == attempt && n.arrived) => break Turn::Done,
                _ = asking.tick() => {
                    self.record_stopped(session, collections).await?;
                    let asked = retries.asked(session, &self.target, &workers.router).await?;
                    let repairs = self.repairs(session, collections, (&retries, &workers.router)).await?;
                    for (partition, changes) in asked.into_iter().chain(repairs) {
                        let Some(sender) = workers.senders.get(usize::from(partition.0)) else { continue };
                        // A worker that is gone has ended with an error, which the next round finds.
                        let _ = sender.send(Routed { changes, reached: None, oldest: None }).await;
                    }
                    if self.is_resync_asked(session, collections).await? {
                        break Turn::Again;
                    }
                    if listed.elapsed() >= LISTING {
                        listed = Instant::now();
                        self.show_dead(session, collections).await?;
                        if self.is_anything_new(collections).await? {
                            break Turn::Again;
                        }
                    }
                }
            }
        };
        self.take_no_more();
        // Not only by dropping the senders: the intake may be held up with one.
        workers.stop.request();
        drop(workers);
        while let Some(ended) = running.join_next().await {
            ended.map_err(|e| Error::caused(Kind::Bug, "a partition's worker broke off", e))??;
        }
        Ok(turn)
    }

    /// Up to when the rows of live collections may be ahead of the stored positions: if it is not stored, up to now.
    /// In the order of commits rows and positions are of one time, and since when is stored.
    async fn ahead(&self, session: &mut Session) -> Result<Timestamp> {
        let (now, pipeline) = (self.source.operation_time().await?, self.target.pipeline());
        if self.config.order == Order::Document {
            progress::set_ahead(session, pipeline, None).await?;
            return Ok(progress::shown(session, pipeline).await?.unwrap_or(now));
        }
        if let Some(ahead) = progress::ahead(session, pipeline).await? {
            return Ok(ahead);
        }
        progress::set_ahead(session, pipeline, Some(now)).await?;
        Ok(now)
    }

    /// The rows of collections that were not complete may be ahead of the stored positions up to now. In the order of
    /// commits that is to be stored before they count as complete.
    pub(super) async fn note_ahead(
        &self,
        session: &mut Session,
        collections: &[Collection],
    ) -> Result<Timestamp> {
        let now = self.source.operation_time().await?;
        if self.config.order == Order::Commit && self.demand.borrow().ready.len() < collections.len() {
            progress::set_ahead(session, self.target.pipeline(), Some(now)).await?;
        }
        Ok(now)
    }

    /// Lets the workers have the changes of all collections.
    async fn all_are_ready(
        &self,
        session: &mut Session,
        collections: &[Collection],
        until: Until,
    ) -> Result<()> {
        let now = self.note_ahead(session, collections).await?;
        self.enter(Phase::Live, collections);
        self.demand.send_modify(|demand| {
            let mut ready = BTreeMap::clone(&demand.ready);
            for id in (0..collections.len()).map(CollectionId) {
                ready.entry(id).or_insert(now);
            }
            demand.ready = Arc::new(ready);
            demand.until = (until == Until::CaughtUp).then_some(now);
        });
        Ok(())
    }

    /// Tells the intake that nobody takes changes any more.
    pub(super) fn take_no_more(&self) {
        self.demand.send_modify(|demand| demand.workers = None);
    }

    /// Shows how many dead letters there are: somebody may have discarded some.
    async fn show_dead(&self, session: &Session, collections: &[Collection]) -> Result<()> {
        let counts = dead_letter::counts(session, self.target.pipeline()).await?;
        for collection in collections {
            let count = counts.get(collection.name()).copied().unwrap_or(0);
            collection.show_dead(usize::try_from(count).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    async fn is_resync_asked(&self, session: &Session, collections: &[Collection]) -> Result<bool> {
        let asked = resyncs::asked(session, self.target.pipeline()).await?;
        Ok(asked.iter().any(|(name, _)| collections.iter().any(|collection| collection.name() == name)))
    }

    async fn is_anything_new(&self, collections: &[Collection]) -> Result<bool> {
        let names = match self.source.names(&self.config.include, &self.config.exclude).await {
            // The stream waits for the source, too; there is time to look.
            Err(error) if error.kind().disposition() == Disposition::Retry => return Ok(false),
            names => names?,
        };
        Ok(names.iter().any(|name| !collections.iter().any(|collection| collection.namespace() == name)))
    }

    /// The stored position of each partition in each collection, which from now on is where the intake reads from. Where
    /// they were stored by another number of partitions, every partition begins at the least of them.
    pub(super) async fn positions(
        &self,
        session: &mut Session,
        collections: &Arc<[Collection]>,
    ) -> Result<Stored> {
        let pipeline = self.target.pipeline();
        let namespaces: Vec<_> = collections.iter().map(|c| c.namespace().clone()).collect();
        let fingerprint = Source::fingerprint(&namespaces);
        let ids: HashMap<String, CollectionId> = (0..)
            .map(CollectionId)
            .zip(collections.iter())
            .map(|(id, c)| (c.name().to_owned(), id))
            .collect();
        let mut stored = progress::load(session, pipeline).await?;
        if !positions::are_of(&stored, self.config.partitions) {
            stored = positions::spread(&stored, self.config.partitions);
            progress::reset(session, pipeline, &stored).await?;
        }
        stored.retain(|position| ids.contains_key(&position.collection));
        // The server may not find a position in a stream of other collections, and takes that for lost history (error
        // 280): the stream is to begin at the position's time then. What comes twice is dropped.
        let foreign = stored.iter().any(|position| position.fingerprint != Some(fingerprint));
        let known =
            stored.into_iter().filter_map(|p| Some(((p.partition, *ids.get(&p.collection)?), p.position)));
        let positions = Arc::new(known.collect::<HashMap<_, _>>());
        self.demand.send_modify(|demand| {
            *demand = Demand {
                attempt: demand.attempt + 1,
                collections: collections.clone(),
                stored: positions.clone(),
                foreign,
                ..Demand::default()
            };
        });
        Ok(Stored { positions, fingerprint })
    }

    async fn start_workers(
        &self,
        collections: &Arc<[Collection]>,
        stored: &Stored,
        ahead: Timestamp,
    ) -> Result<(Workers, JoinSet<Result<()>>)> {
        let positions = &stored.positions;
        let known = positions.iter().map(|(place, position)| (*place, position.clone()));
        self.gauges.begin(collections, Watermark::new(known.clone()));
        let watermark = Arc::new(Mutex::new(Watermark::new(known)));
        let counter = self.reporter.counter("following, changes applied".to_owned());
        let (mut workers, stop) = (JoinSet::new(), Shutdown::default());
        let mut senders = Vec::new();
        for partition in (0..self.config.partitions).map(Partition) {
            let (sender, incoming) = mpsc::channel(WAITING);
            let worker = Worker {
                partition,
                source: self.source.clone(),
                collections: collections.clone(),
                writer: self.writer(partition, collections, stored).await?,
                ahead: Ahead::new(ahead),
                order: self.config.order,
                limits: Limits { rows: self.config.batch_rows, age: self.config.batch_age },
                incoming,
                stop: stop.clone(),
                acknowledge: Acknowledge { watermark: watermark.clone(), gauges: self.gauges.clone() },
                counts: self.counts.clone(),
                counter: counter.clone(),
                stored_for_all: Instant::now(),
                lasting: Instant::now(),
                took: Duration::ZERO,
                unacknowledged: BTreeMap::new(),
                oldest: None,
                changed: HashMap::new(),
            };
            workers.spawn(worker.run());
            senders.push(sender);
        }
        let router = Router::new(self.config.partitions, HashMap::clone(positions));
        Ok((Workers { senders, stop, router, watermark }, workers))
    }

    async fn writer(
        &self,
        partition: Partition,
        collections: &Arc<[Collection]>,
        stored: &Stored,
    ) -> Result<Writer> {
        let places = (stored.fingerprint, &*stored.positions);
        Writer::start(&self.target, partition, collections, places, self.counts.clone()).await
    }
}

/// A worker never ends by itself while the stream goes on.
fn why(ended: Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::bug("a partition's worker ended early"),
        Ok(Err(error)) => error,
        Err(error) => Error::caused(Kind::Bug, "a partition's worker broke off", error),
    }
}
