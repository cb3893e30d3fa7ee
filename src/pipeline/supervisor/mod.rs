//! The PostgreSQL side: completes the collections that are not complete, while workers apply the changes of
//! those that are.
//!
//! It informs the [`tailer`](super::stream::tailer) of the changes that it can take. What happens to whole
//! collections is recorded in PostgreSQL, and handled at the beginning of the next turn
//! ([`prepare`](super::prepare)), for which the present turn ends.
//!
//! # Why a turn ends
//!
//! Whatever may hold a collection's mapping, or wait for it or for a worker, is a task of its own: the
//! workers, the [keepers](super::mappings::evolution) of the mappings, the task that completes collections,
//! and the task that looks for [requests](super::requests). So each of them always continues, whatever the
//! others wait for, and the turn itself, which only waits for tasks and for events, holds nothing that any of
//! them needs. A mapping is held for as long as a transaction takes, and no task that holds one waits for
//! another task. So every task that waits for a mapping gets it.
//!
//! A turn that ends well cuts off the task that completes collections: its work in progress is rolled back,
//! and it begins nothing more; the next turn does it again. All other tasks are asked to stop, and do so once
//! their present step is done, which is short: a worker writes the batch at hand, and what was
//! [requested](super::requests) of it; a keeper ends before the next page, or the next try for a lock.
//! Changes of the stream that wait for a worker are left: they may take minutes, and are read again from the
//! stored positions, by the next turn or the next process. (If a run ends by itself, once everything is
//! applied, workers write everything that they have been sent.) All tasks are joined before the turn is over.
//! A turn that fails cuts off all tasks, the workers first ([`crew`]).

pub(super) mod crew;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{future::try_join_all, try_join};
use mongodb::bson::Timestamp;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};

use self::crew::{Crew, came};
use super::{
    apply::{
        acknowledge::Acknowledge,
        staleness::Ahead,
        worker::{Limits, Worker},
        writer::BatchWriter,
    },
    collection::Collection,
    context::{Pipeline, TaskOutcome, Until},
    mappings::evolution::Evolution,
    ports::TargetSession,
    prepare::Prepared,
    requests::{RequestWatch, dead_letter_retry::Retries},
    snapshot::completion::Completion,
    stream::{
        channel::{ApplyState, Ending, Workers},
        partitioner::Router,
        repartition,
    },
    watermark::Watermark,
};
use crate::{
    config::Order,
    error::{Code, Error, Kind, Result},
    model::{
        change::{CollectionId, Position},
        partition::Partition,
        phase::Phase,
    },
    process_status::{Part, Stage},
    shutdown::Shutdown,
    source::Source,
};

/// How many replies of the stream may wait for a worker. A reply has at most 16 MB for all partitions
/// together, so this many times that is the most that waits (G11).
const WAITING: usize = 2;

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoundEnd {
    /// Everything is done, or it was asked to stop.
    Done,
    /// There is something to prepare: a new collection, one that must be copied again, a changed
    /// configuration.
    Again,
}

/// The stored positions.
pub(super) struct Stored {
    pub(super) positions: Arc<HashMap<(Partition, CollectionId), Position>>,
    /// The fingerprint of the stream that new positions will belong to.
    fingerprint: i64,
}

impl Pipeline {
    /// Applies changes, and completes what is not complete, until asked to stop, or until everything is
    /// applied that was written before it was complete.
    pub(super) async fn follow(
        &self,
        session: &mut dyn TargetSession,
        prepared: Prepared,
        stored: Stored,
        until: Until,
    ) -> Result<RoundEnd> {
        #[cfg(test)]
        let _unpolled = super::planted::lock_that_nobody_polls(&prepared.collections).await;
        let mut crew = self.start(session, prepared, stored).await?;
        let mut turn = self.attend(session, &mut crew, until).await;
        let post = self.monitor.reporter.vitals().post(Part::Attempt);
        post.at("waits for all tasks to end");
        self.take_no_more();
        if let Ok(ended) = turn {
            let finish =
                until == Until::CaughtUp && ended == RoundEnd::Done && !self.signals.shutdown.is_requested();
            turn = crew.end(finish, &self.signals.shutdown).await.map(|()| ended);
        }
        if turn.is_err() {
            crew.abort().await;
        }
        turn
    }

    /// Starts all tasks.
    async fn start(
        &self,
        session: &mut dyn TargetSession,
        prepared: Prepared,
        stored: Stored,
    ) -> Result<Crew> {
        let Prepared { collections, mappings, parting, live, extents } = prepared;
        let partitions = (0..self.config.partitions).map(Partition);
        let writers = try_join_all(partitions.map(|partition| self.writer(partition, &collections, &stored)));
        let (writers, completing, copiers) =
            try_join!(writers, self.ports.target.connect(), self.copiers(&collections, &extents))?;
        // This asks over the session that found everything prepared. If it still answers, the server was not
        // set back before the other sessions were open.
        let ahead = self.ahead(session).await?;
        let (workers, running) = self.start_workers(writers, &collections, &stored, ahead);
        let completing = Completion {
            pipeline: self.clone(),
            session: completing,
            copiers,
            collections: collections.clone(),
            extents,
        };
        let workers = Arc::new(workers);
        let is_left = |(id, c): (CollectionId, &Collection)| !c.is_paused() && !live.contains(&id);
        if (0..).map(CollectionId).zip(collections.iter()).any(is_left) {
            self.monitor.reporter.vitals().enter(Stage::Copying, None);
        }
        let evolution = Evolution::start(self, collections.clone(), mappings, &live);
        self.signals.apply_state.send_modify(|apply_state| {
            apply_state.workers = Some(workers.clone());
            let is_paused = |id: &CollectionId| collections.get(id.0).is_some_and(Collection::is_paused);
            let ready = live.into_iter().filter(|id| !is_paused(id));
            apply_state.ready = Arc::new(ready.map(|id| (id, ahead)).collect());
        });

        let (mut others, asking) = (JoinSet::new(), Shutdown::default());
        let completing = others.spawn(completing.run(evolution.orders()));
        let requests = RequestWatch {
            retries: Retries::new(&collections, stored.positions),
            pipeline: self.clone(),
            collections,
            workers: workers.clone(),
            parting,
            stop: asking.clone(),
        };
        others.spawn(requests.run());
        Ok(Crew { running, workers, others, completing, asking, evolution })
    }

    /// Waits for an event that ends the turn.
    async fn attend(
        &self,
        session: &mut dyn TargetSession,
        crew: &mut Crew,
        until: Until,
    ) -> Result<RoundEnd> {
        let (attempt, collections) = {
            let apply_state = self.signals.apply_state.borrow();
            (apply_state.attempt, apply_state.collections.clone())
        };
        let (mut happened, mut arrived) =
            (self.signals.tailer_events.subscribe(), self.signals.tailer_events.subscribe());
        let mut settings = self.settings.clone();
        let post = self.monitor.reporter.vitals().post(Part::Attempt);
        post.rests("follows");
        loop {
            tokio::select! {
                biased;
                () = self.signals.shutdown.requested() => return Ok(RoundEnd::Done),
                Some(ended) = crew.running.join_next() => return Err(why(ended)),
                error = crew.evolution.failed() => return Err(error),
                Ok(()) = settings.changed() => return Ok(RoundEnd::Again),
                lost = happened.wait_for(|n| n.attempt == attempt && (n.is_lost || !n.resyncs.is_empty())) => {
                    if lost.is_ok_and(|events| events.is_lost) {
                        return Err(Error::new(Code::SpoolLost, "follow: the changes read ahead are lost"));
                    }
                    return Ok(RoundEnd::Again);
                }
                Some(ended) = crew.others.join_next() => match came(ended)? {
                    TaskOutcome::Complete => {
                        self.all_are_ready(session, &collections, until).await?;
                        if self.monitor.reporter.vitals().enter(Stage::Live, None) {
                            let live = collections.iter().filter(|c| c.stopped().is_none()).count();
                            let noun = if live == 1 { "collection follows" } else { "collections follow" };
                            tracing::info!("live: {live} {noun} MongoDB");
                        }
                    }
                    TaskOutcome::Asked => return Ok(RoundEnd::Again),
                    TaskOutcome::Stopped => {}
                },
                _ = arrived.wait_for(|n| n.attempt == attempt && n.arrived) => return Ok(RoundEnd::Done),
            }
        }
    }

    /// Returns the time up to which the rows of live collections may be ahead of the stored positions: the
    /// stored time, or else the present. In commit order, rows and positions are of one time, and since when
    /// is stored.
    async fn ahead(&self, session: &mut dyn TargetSession) -> Result<Timestamp> {
        let (now, ahead, shown) =
            try_join!(self.ports.source.operation_time(), session.ahead(), session.shown())?;
        if self.config.order == Order::Document {
            if ahead.is_some() {
                session.set_ahead(None).await?;
            }
            return Ok(shown.unwrap_or(now));
        }
        if let Some(ahead) = ahead {
            return Ok(ahead);
        }
        session.set_ahead(Some(now)).await?;
        Ok(now)
    }

    /// Releases the changes of all collections to the workers.
    async fn all_are_ready(
        &self,
        session: &mut dyn TargetSession,
        collections: &[Collection],
        until: Until,
    ) -> Result<()> {
        let now = self.note_ahead(session, collections).await?;
        self.enter(Phase::Live, collections);
        self.signals.apply_state.send_modify(|apply_state| {
            let mut ready = BTreeMap::clone(&apply_state.ready);
            let all = (0..).map(CollectionId).zip(collections);
            for (id, _) in all.filter(|(_, collection)| !collection.is_paused()) {
                ready.entry(id).or_insert(now);
            }
            apply_state.ready = Arc::new(ready);
            apply_state.until = (until == Until::CaughtUp).then_some(now);
        });
        Ok(())
    }

    /// Informs the tailer that no one takes changes any more.
    pub(super) fn take_no_more(&self) {
        self.signals.apply_state.send_modify(|apply_state| apply_state.workers = None);
    }

    /// Returns the stored position of each partition in each collection, which from now on is where the
    /// tailer reads from. If they were stored with another number of partitions, every partition starts at
    /// the least of them.
    pub(super) async fn positions(
        &self,
        session: &mut dyn TargetSession,
        collections: &Arc<[Collection]>,
    ) -> Result<Stored> {
        let namespaces: Vec<_> = collections.iter().map(|c| c.namespace().clone()).collect();
        let fingerprint = Source::fingerprint(&namespaces);
        let ids: HashMap<String, CollectionId> = (0..)
            .map(CollectionId)
            .zip(collections.iter())
            .map(|(id, c)| (c.name().to_owned(), id))
            .collect();
        let mut stored = session.positions().await?;
        if !repartition::are_of(&stored, self.config.partitions) {
            stored = repartition::spread(&stored, self.config.partitions);
            session.reset_positions(&stored).await?;
        }
        stored.retain(|position| ids.contains_key(&position.collection));
        // The server may not find a position in a stream of other collections, and takes that for lost
        // history (error 280): then the stream must start at the position's time. Changes that come twice are
        // dropped. The positions of a stopped collection stay as they are, and the stream is not read from
        // them.
        let is_read = |name: &str| {
            ids.get(name).and_then(|id| collections.get(id.0)).is_some_and(|c| c.stopped().is_none())
        };
        let foreign = stored.iter().any(|p| p.fingerprint != Some(fingerprint) && is_read(&p.collection));
        let known =
            stored.into_iter().filter_map(|p| Some(((p.partition, *ids.get(&p.collection)?), p.position)));
        let positions = Arc::new(known.collect::<HashMap<_, _>>());
        self.signals.apply_state.send_modify(|apply_state| {
            *apply_state = ApplyState {
                attempt: apply_state.attempt + 1,
                collections: collections.clone(),
                stored: positions.clone(),
                foreign,
                ..ApplyState::default()
            };
        });
        Ok(Stored { positions, fingerprint })
    }

    fn start_workers(
        &self,
        writers: Vec<BatchWriter>,
        collections: &Arc<[Collection]>,
        stored: &Stored,
        ahead: Timestamp,
    ) -> (Workers, JoinSet<Result<()>>) {
        let positions = &stored.positions;
        let known = positions.iter().map(|(place, position)| (*place, position.clone()));
        self.monitor.gauges.begin(collections, Watermark::new(known.clone()));
        let watermark = Arc::new(Mutex::new(Watermark::new(known)));
        let counter = self.monitor.reporter.counter("following, changes applied".to_owned());
        let (mut workers, ending) = (JoinSet::new(), Ending::default());
        let mut senders = Vec::new();
        for (partition, writer) in (0..).map(Partition).zip(writers) {
            let (sender, incoming) = mpsc::channel(WAITING);
            let worker = Worker {
                partition,
                source: self.ports.source.clone(),
                collections: collections.clone(),
                writer,
                ahead: Ahead::new(ahead),
                order: self.config.order,
                limits: Limits { rows: self.config.batch_rows, age: self.config.batch_age },
                incoming,
                ending: ending.clone(),
                acknowledge: Acknowledge {
                    watermark: watermark.clone(),
                    gauges: self.monitor.gauges.clone(),
                },
                counts: self.monitor.counts.clone(),
                counter: counter.clone(),
                post: self.monitor.reporter.vitals().post(Part::Worker(partition.0)),
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
        (Workers { senders, ending, router, watermark }, workers)
    }

    async fn writer(
        &self,
        partition: Partition,
        collections: &Arc<[Collection]>,
        stored: &Stored,
    ) -> Result<BatchWriter> {
        BatchWriter::start(
            &*self.ports.target,
            partition,
            collections,
            stored.fingerprint,
            &stored.positions,
            self.monitor.counts.clone(),
        )
        .await
    }
}

/// Returns why a worker ended, which never happens by itself while the stream continues.
fn why(ended: Result<Result<()>, JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::bug("a partition's worker ended early"),
        Ok(Err(error)) => error,
        Err(error) => Error::caused(Kind::Bug, "a partition's worker ended unexpectedly", error),
    }
}
