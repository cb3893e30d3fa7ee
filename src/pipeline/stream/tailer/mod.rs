//! The tailer: reads the change stream for as long as the run lasts, whatever happens to PostgreSQL (G6).
//!
//! Changes go straight to the workers, or into the spool and from there to the workers.
//! [`route`](super::route) decides which way they take, and argues why nothing is left out or taken twice.
//! This file carries out what is decided there: it owns the stream, is the only one to write to the spool,
//! and hands changes out.
//!
//! The other side, an attempt at PostgreSQL, says in an [`ApplyState`] what it has and wants. That is
//! replaced as a whole and read between two steps, so an attempt may fail at any time. Events of whole
//! collections, which the other side must handle, go back in [`TailerEvents`].
//!
//! The spool does not hold what documents became, but which documents changed. They are looked up when they
//! are taken out. So the spool stays small, and a document that changed a thousand times meanwhile is written
//! once.
//!
//! If the spool's disk is full, only reading stops: the reply that finds no space is held, and tried again.
//! Everything else continues, because handing out, trimming and forgetting are what frees space. So no step
//! may wait for space.

mod draining;
mod history;
mod replies;
mod spool;
mod spooling;

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::try_join_all;
use mongodb::bson::DateTime;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use self::spool::{FULL, TENDING, TailerSpool};
use super::{
    channel::{ApplyState, TailerEvents, WorkerMessage, Workers},
    route::{Flow, Route},
};
use crate::{
    config::{Config, OnHistoryLost, Order},
    error::{Error, Kind, Result},
    metrics,
    model::change::{Change, CollectionId, Namespace, Position},
    pipeline::{
        gauges::Gauges,
        planted::{self, Bug},
        ports::{ChangeCursor, DocumentSource, LazySpool, SpoolState},
        watermark::Watermark,
    },
    process_status::Post,
    source::{Source, StreamBatch, StreamStart},
};

/// How long the workers may have no room before changes go into the spool: longer than a few large batches
/// take, because changes that come out of the spool are looked up once more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the change stream.
pub(crate) struct Tailer {
    source: Arc<dyn DocumentSource>,
    log: Arc<LazySpool>,
    on_history_lost: OnHistoryLost,
    order: Order,
    budget: u64,
    apply_state: watch::Receiver<ApplyState>,
    events: Arc<watch::Sender<TailerEvents>>,
    gauges: Arc<Gauges>,
    post: Post,
    /// The `apply_state` that was last seen.
    now: ApplyState,
    /// The attempt whose workers were found to be gone.
    gone: Option<u64>,
    /// Set if it must start over, from each collection's applied position.
    resumes: Option<Vec<Position>>,
    /// The stream's fingerprint.
    fingerprint: i64,
    /// The names of the stream's collections, by their numbers.
    names: Arc<[Namespace]>,
    /// Whether the positions known of a collection belong to another stream, so that this one may not find
    /// them.
    is_foreign: bool,
    flow: Flow,
    stream: Option<Box<dyn ChangeCursor>>,
    start: Option<Position>,
    /// When it began to read from `start`.
    since: Instant,
    /// In the order of commits: changes of a transaction of which more may come.
    tail: Vec<Change>,
    /// A reply for which the spool has no space. Nothing is read before it is passed on.
    held: Option<PendingReply>,
    /// When the first change of the current reply, or of `tail`, happened.
    oldest: Option<DateTime>,
    spool: TailerSpool,
    /// Whether it took changes out of the spool since it last read a reply.
    has_drained: bool,
}

/// What the tailer talks to.
pub(crate) struct TailerPorts {
    pub(crate) source: Arc<dyn DocumentSource>,
    pub(crate) log: Arc<LazySpool>,
    pub(crate) apply_state: watch::Receiver<ApplyState>,
    pub(crate) events: Arc<watch::Sender<TailerEvents>>,
}

/// A reply of the stream, with the tail of the previous one.
struct PendingReply {
    changes: Vec<Change>,
    position: Position,
    at_end: bool,
}

/// Whether the workers can take more.
enum WorkerRoom {
    Yes(Vec<mpsc::OwnedPermit<WorkerMessage>>),
    /// Not for a while.
    No,
    /// They are gone.
    Gone,
}

impl Tailer {
    /// A tailer that begins with the next attempt: only the workers of the present attempt know how far it
    /// is.
    pub(crate) fn new(
        config: &Config,
        TailerPorts { source, log, apply_state, events }: TailerPorts,
        gauges: Arc<Gauges>,
        post: Post,
    ) -> Self {
        let attempt = apply_state.borrow().attempt;
        Self {
            source,
            log,
            on_history_lost: config.on_history_lost,
            order: config.order,
            budget: config.max_spool,
            apply_state,
            events,
            gauges,
            post,
            now: ApplyState { attempt, ..ApplyState::default() },
            gone: Some(attempt),
            resumes: None,
            fingerprint: 0,
            names: Arc::default(),
            is_foreign: false,
            flow: Flow::resume([], None).0,
            stream: None,
            start: None,
            since: Instant::now(),
            tail: Vec::new(),
            held: None,
            oldest: None,
            spool: TailerSpool::new(),
            has_drained: false,
        }
    }

    /// Reads for as long as it is polled. Ends only with an error: the source refuses, or the history of all
    /// collections is lost and that must stop the pipeline.
    pub(crate) async fn run(mut self) -> Result<Infallible> {
        let mut tending = interval(TENDING);
        tending.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.step(&mut tending).await {
                Err(error) if error.kind() == Kind::StateRebuilt => self.start_over(&error),
                // The spool can't even be opened, so there is nothing to hand out.
                Err(error) if error.kind() == Kind::StateFull => {
                    self.lack_space(&error);
                    sleep(FULL).await;
                }
                done => done?,
            }
        }
    }

    async fn step(&mut self, tending: &mut Interval) -> Result<()> {
        self.apply_demand();
        if let Some(applied) = self.resumes.clone() {
            self.resume(applied).await?;
            self.resumes = None;
        }
        if self.now.workers.is_some() {
            self.now.ready.keys().for_each(|id| self.flow.release(*id));
        }
        let workers = self.now.workers.clone().filter(|_| self.flow.any_on(Route::Draining));
        #[cfg(test)]
        self.show_direct();
        self.post.rests("waits for the stream, or for workers to hand changes to");
        // Neither the stream nor the spool may keep the other waiting: they take turns.
        let (is_draining, drains_first) = (workers.is_some(), !self.has_drained);
        let workers = workers.as_deref();
        tokio::select! {
            biased;
            changed = self.apply_state.changed() => {
                changed.map_err(|_| Error::bug("read the stream: its reader is gone"))
            }
            _ = tending.tick() => self.trim_and_measure().await,
            room = room(workers), if is_draining && drains_first => self.drain_into(room).await,
            () = sleep_until(self.spool.again), if self.held.is_some() => match self.held.take() {
                Some(reply) => self.pass_on(reply).await,
                None => Ok(()),
            },
            batch = next(&mut self.stream), if self.reads_on() => {
                self.has_drained = false;
                match batch {
                    Err(error) if error.kind() == Kind::HistoryLost => self.lose_history(error).await,
                    batch => self.take(batch?).await,
                }
            }
            room = room(workers), if is_draining && !drains_first => self.drain_into(room).await,
        }
    }

    #[cfg(test)]
    fn show_direct(&self) {
        let known = |id: CollectionId| {
            Some((self.now.collections.get(id.0)?.namespace().clone(), self.flow.known(id)?.clone()))
        };
        let direct = self.flow.on(Route::Direct).filter_map(known).collect();
        self.events.send_if_modified(|events| {
            events.direct = direct;
            false
        });
    }

    async fn drain_into(&mut self, room: WorkerRoom) -> Result<()> {
        self.has_drained = true;
        match room {
            WorkerRoom::Yes(permits) => self.drain(permits).await,
            WorkerRoom::No | WorkerRoom::Gone => {
                self.rewind();
                Ok(())
            }
        }
    }

    /// Whether there is room for more. There always is for the rest of a transaction, because the workers
    /// wait for it. Reading waits for workers that are about to start: changes that go to them directly need
    /// not be looked up.
    fn reads_on(&self) -> bool {
        let for_somebody = self.now.workers.is_some() || self.since.elapsed() >= PATIENCE;
        self.held.is_none() && (for_somebody && self.spool.tenths < 10 || !self.tail.is_empty())
    }

    /// Takes over the latest demands of the other side.
    fn apply_demand(&mut self) {
        let mut apply_state = self.apply_state.borrow_and_update().clone();
        if self.gone == Some(apply_state.attempt) {
            apply_state.workers = None;
        }
        let before = std::mem::replace(&mut self.now, apply_state);
        let is_same = before.collections.len() == self.now.collections.len();
        if planted::has(Bug::DroppedWhenGone) && is_same && self.now.attempt != before.attempt {
            return;
        }
        if self.now.attempt != before.attempt {
            self.resumes = Some(least_of(&self.now));
        } else if let (Some(workers), None) = (before.workers, &self.now.workers) {
            self.resumes = Some(applied_by(&workers, &self.now));
        }
    }

    /// Starts over, because the spool is lost. Changes can't be taken back from the workers, so these are
    /// replaced, too.
    fn start_over(&mut self, error: &Error) {
        tracing::warn!(code = %error.code(), "{error}: the changes it held are read again");
        metrics::retried(error.kind());
        let attempt = self.now.attempt;
        self.events.send_modify(|events| (events.attempt, events.is_lost) = (attempt, true));
        self.gone = Some(attempt);
        let workers = self.now.workers.take();
        let applied = workers.map_or_else(|| least_of(&self.now), |workers| applied_by(&workers, &self.now));
        self.resumes = Some(applied);
    }

    /// Starts over, because the workers are gone: what was handed to them counts for nothing.
    fn rewind(&mut self) {
        if let Some(workers) = self.now.workers.take() {
            self.gone = Some(self.now.attempt);
            if !planted::has(Bug::DroppedWhenGone) {
                self.resumes = Some(applied_by(&workers, &self.now));
            }
        }
    }

    /// Begins from what is durable: in PostgreSQL, as `applied` says, and in the spool.
    async fn resume(&mut self, applied: Vec<Position>) -> Result<()> {
        self.post.at("reads what the spool holds");
        self.names = self.now.collections.iter().map(|collection| collection.namespace().clone()).collect();
        if applied.len() != self.names.len() {
            return Err(Error::bug("read the stream: a collection has no position"));
        }
        self.fingerprint = Source::fingerprint(&self.names);
        let SpoolState { life, mut spans, token, fingerprint: stored } = self.log()?.state().await?;
        self.spool.life = Some(life);
        let known: Vec<_> =
            applied.into_iter().zip(self.names.iter().map(|name| spans.remove(name))).collect();
        let (flow, worthless) = Flow::resume(known, token.as_ref());
        self.flow = flow;
        // An open span of a collection whose changes no longer come would claim to hold them.
        self.spool.owed = spans.into_keys().map(|name| (name, None)).collect();
        self.owe(worthless);
        self.abandon_stopped();
        self.held = None;
        self.pay().await?;
        let attempt = self.now.attempt;
        // Events that still must be handled are met again on the way from there.
        self.events.send_if_modified(|events| {
            let is_new = events.attempt != attempt;
            if is_new {
                *events = TailerEvents { attempt, ..TailerEvents::default() };
            }
            is_new
        });
        self.spool.taken.clear();
        self.spool.looked = None;
        self.is_foreign = self.now.foreign || stored.is_some_and(|stored| stored != self.fingerprint);
        self.read_on();
        Ok(())
    }

    /// Opens the stream where the followed collections need it.
    fn read_on(&mut self) {
        self.tail.clear();
        self.since = Instant::now();
        self.start = self.flow.start().cloned();
        let start = self.start.as_ref().map(|start| self.beginning_at(start));
        self.stream = start.map(|start| self.source.change_stream(&self.names, start));
    }

    fn beginning_at(&self, position: &Position) -> StreamStart {
        match self.is_foreign {
            true => StreamStart::At(position.cluster_time()),
            false => StreamStart::After(position.clone()),
        }
    }

    /// Ignores the changes of stopped collections.
    fn abandon_stopped(&mut self) {
        let collections = self.now.collections.clone();
        let stopped = (0..).map(CollectionId).zip(collections.iter()).filter(|(_, c)| c.stopped().is_some());
        let saved = stopped.filter_map(|(id, _)| self.flow.abandon(id)).collect();
        self.owe(saved);
    }

    /// Waits for room for one more reply. If nothing goes direct, none is needed.
    async fn room(&mut self) -> WorkerRoom {
        let Some(workers) = self.now.workers.clone().filter(|_| self.flow.any_on(Route::Direct)) else {
            return WorkerRoom::Yes(Vec::new());
        };
        match timeout(PATIENCE, room(Some(&workers))).await {
            Ok(room) => room,
            Err(_) => WorkerRoom::No,
        }
    }
}

/// Waits for room for one message to every worker.
async fn room(workers: Option<&Workers>) -> WorkerRoom {
    let Some(workers) = workers else { return std::future::pending().await };
    match try_join_all(workers.senders.iter().map(|sender| sender.clone().reserve_owned())).await {
        Ok(permits) => WorkerRoom::Yes(permits),
        Err(_) => WorkerRoom::Gone,
    }
}

async fn next(stream: &mut Option<Box<dyn ChangeCursor>>) -> Result<StreamBatch> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

/// The least stored position of each collection.
fn least_of(apply_state: &ApplyState) -> Vec<Position> {
    let stored = apply_state.stored.iter().map(|(place, position)| (*place, position.clone()));
    least(&Watermark::new(stored), apply_state)
}

fn applied_by(workers: &Workers, apply_state: &ApplyState) -> Vec<Position> {
    least(&workers.watermark.lock().unwrap_or_else(PoisonError::into_inner), apply_state)
}

fn least(watermark: &Watermark, apply_state: &ApplyState) -> Vec<Position> {
    (0..apply_state.collections.len()).filter_map(|id| watermark.least(CollectionId(id)).cloned()).collect()
}
