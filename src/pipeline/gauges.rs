//! How far a run is, as its gauges show it: looked at once a second, by the cluster's clock.
//!
//! The stages say here what they have reached, when they reach it; nothing is decided by it. Lag is the cluster's
//! present time less the time up to which all of a collection's partitions have committed. The cluster's time moves with
//! every write to it, replicated or not, and so do the stream's positions, also with empty replies: so while nothing is
//! written the two stay together, and when PostgreSQL is away the one moves on without the other. It is the time of the
//! set's newest operation, not a wall clock, which would move on by itself; and not only what the member that is asked has
//! come to, which may be behind the others.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mongodb::bson::Timestamp;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Pipeline, collection::Collection, phase::Phase, watermark::Watermark};
use crate::{
    change::{CollectionId, Position},
    error::Result,
    metrics,
    moment::Moment,
    sink::progress::Partition,
    source::Source,
    vitals::{Clock, Spool},
};

/// How often they are looked at, and how long the source may take to answer.
const LOOKING: Duration = Duration::from_secs(1);
/// After how many of these the oplog's beginning is looked at.
const SELDOM: u32 = 10;
/// After how many answers that did not come in time the source counts as away.
const AWAY: u32 = 3;

/// What the stages have reached.
#[derive(Default)]
pub(super) struct Gauges(Mutex<State>);

#[derive(Default)]
struct State {
    collections: Arc<[Collection]>,
    /// What is committed, whether or not it is known to be on PostgreSQL's disk.
    committed: Watermark,
    /// How often a partition has got further.
    advances: u64,
    /// Where the stream would be read from after a restart.
    resumes: Option<Timestamp>,
    oplog_start: Option<Timestamp>,
    spool: Spool,
    /// How many times in a row the source did not answer, and why.
    silent: u32,
    problem: Option<String>,
    /// Why nothing comes of the change stream.
    stalled: Option<String>,
}

impl Gauges {
    /// Begins anew, from what is stored.
    pub(super) fn begin(&self, collections: &Arc<[Collection]>, stored: Watermark) {
        let mut state = self.state();
        let known =
            |collections: &[Collection], name: &str| collections.iter().any(|known| known.name() == name);
        let (before, now) = (&state.collections, collections);
        before.iter().map(Collection::name).filter(|name| !known(now, name)).for_each(metrics::forget);
        // It is known with the next look. Of the others it stays as it was, so that no alert begins anew.
        let new = now.iter().map(Collection::name).filter(|name| !known(before, name));
        new.for_each(|name| metrics::LAG.of(&[name]).set(f64::NAN));
        (state.collections, state.committed) = (collections.clone(), stored);
    }

    /// Shows no collection any more: another process has them.
    pub(super) fn end(&self) {
        self.begin(&Arc::default(), Watermark::default());
    }

    /// Notes how far a partition has committed.
    pub(super) fn committed<'a>(
        &self,
        partition: Partition,
        positions: impl IntoIterator<Item = (&'a CollectionId, &'a Position)>,
    ) {
        let State { collections, committed, advances, .. } = &mut *self.state();
        for (id, position) in positions {
            // Nothing more is written of one that is stopped.
            if collections.get(id.0).is_some_and(|collection| collection.stopped().is_none())
                && committed.advance(partition, *id, position)
            {
                *advances = advances.wrapping_add(1);
            }
        }
    }

    /// Notes where the stream would be read from after a restart.
    pub(super) fn resumes_from(&self, position: Option<Timestamp>) {
        self.state().resumes = position;
    }

    /// Whether the oplog no longer reaches back to where a collection is, as far as that is known.
    pub(super) fn is_left_behind(&self, name: &str) -> bool {
        let state = self.state();
        let mut named = (0..).map(CollectionId).zip(state.collections.iter());
        let id = named.find(|(_, collection)| collection.name() == name).map(|(id, _)| id);
        let reached = id.and_then(|id| state.committed.least(id)).map(Position::cluster_time);
        reached.zip(state.oplog_start).is_some_and(|(reached, start)| reached < start)
    }

    /// Notes how much of the disk the spool takes.
    pub(super) fn spooled(&self, bytes: u64) {
        self.state().spool.bytes = bytes;
    }

    /// Notes why nothing can be put into the spool, if that is so.
    pub(super) fn lacks_space(&self, problem: Option<String>) {
        metrics::STATE_FULL.set(if problem.is_some() { 1.0 } else { 0.0 });
        self.state().spool.problem = problem;
    }

    /// Notes why nothing comes of the change stream, if that is so.
    pub(super) fn stalled(&self, why: Option<String>) {
        self.state().stalled = why;
    }

    /// What MongoDB says of its time.
    pub(super) fn clock(&self, source: &Source) -> Clock {
        let state = self.state();
        let time = Some(source.newest()).filter(|time| time.time > 0);
        Clock {
            problem: state.problem.clone().filter(|_| state.silent >= AWAY).or_else(|| state.stalled.clone()),
            time: time.map(Moment::from),
            oplog_start: state.oplog_start.map(Moment::from),
        }
    }

    /// What is read for people: how far behind the `live` collections are, where the stream would be read from, and
    /// the spool.
    pub(super) fn reached(
        &self,
        live: impl IntoIterator<Item = CollectionId>,
        now: Timestamp,
    ) -> (Option<Duration>, Option<Moment>, Spool) {
        let state = self.state();
        let committed = live.into_iter().filter_map(|id| state.committed.least(id));
        let behind = committed.map(|position| now.time.saturating_sub(position.cluster_time().time)).max();
        let lag = behind.map(|seconds| Duration::from_secs(seconds.into()));
        (lag, state.resumes.map(Moment::from), state.spool.clone())
    }

    /// How often a partition has got further in a collection.
    pub(super) fn advances(&self) -> u64 {
        self.state().advances
    }

    /// Shows all this for as long as it is polled.
    pub(super) async fn show(&self, source: &Source) -> Infallible {
        let mut looking = interval(LOOKING);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in (0..SELDOM).cycle() {
            looking.tick().await;
            let looked = timeout(LOOKING, source.look_at_clock()).await;
            self.state().answered(looked.ok());
            if round == 0
                && let Ok(Ok(start)) = timeout(LOOKING, source.oplog_start()).await
            {
                self.state().oplog_start = start;
            }
            self.state().show(source.newest());
            metrics::keep_up();
        }
        std::future::pending().await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipeline {
    /// Notes that all collections that were not live are in this phase.
    pub(super) fn enter(&self, phase: Phase, collections: &[Collection]) {
        let ready = self.demand.borrow().ready.clone();
        let all = (0..).map(CollectionId).zip(collections);
        all.filter(|(id, _)| !ready.contains_key(id)).for_each(|(_, collection)| collection.enter(phase));
    }
}

/// Shows that the pipeline is this process's, until it is dropped.
pub(super) struct Leading(::metrics::Gauge);

impl Leading {
    pub(super) fn begin(pipeline: &str) -> Self {
        let gauge = metrics::LEADER.of(&[pipeline]);
        gauge.set(1.0);
        Self(gauge)
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.set(0.0);
    }
}

impl State {
    /// Notes an answer; `None`: it did not come in time.
    fn answered(&mut self, answer: Option<Result<Timestamp>>) {
        match answer {
            Some(Ok(_)) => (self.silent, self.problem) = (0, None),
            Some(Err(error)) => (self.silent, self.problem) = (self.silent + 1, Some(error.to_string())),
            None => {
                self.silent += 1;
                self.problem.get_or_insert_with(|| "no answer".to_owned());
            }
        }
    }

    fn show(&self, now: Timestamp) {
        for (id, collection) in (0..).map(CollectionId).zip(self.collections.iter()) {
            let committed = self.committed.least(id).map(Position::cluster_time);
            metrics::LAG.of(&[collection.name()]).set(age(committed, now));
        }
        metrics::POSITION_AGE.set(age(self.resumes, now));
        metrics::OPLOG_WINDOW.set(age(self.oplog_start, now));
    }
}

/// How many seconds before `now` that was; NaN, if it is not known.
fn age(then: Option<Timestamp>, now: Timestamp) -> f64 {
    then.map_or(f64::NAN, |then| f64::from(now.time.saturating_sub(then.time)))
}
