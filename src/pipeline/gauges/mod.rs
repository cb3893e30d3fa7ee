//! How far a run is, as its gauges show it: looked at once a second, by the cluster's clock.
//!
//! The stages report here what they have reached, when they reach it; no decision depends on it. Lag is for
//! how long the cluster's time has been past the time up to which all of a collection's partitions have
//! committed ([`lag`]). The cluster's time moves with every write to it, replicated or not, and so do the
//! stream's positions, also with empty replies. So while nothing is written, the two stay together; when
//! PostgreSQL is away, the cluster's time moves on without the positions. It is the time of the set's newest
//! operation, and not only what the member that is asked has reached, which may be behind the others. While
//! MongoDB does not answer, lag is unknown, and nothing says that it is small.

mod lag;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mongodb::bson::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::lag::Timeline;
use crate::{
    error::{Code, Result},
    metrics,
    model::{
        change::{CollectionId, Position},
        partition::Partition,
    },
    moment::Moment,
    pipeline::{collection::Collection, ports::DocumentSource, watermark::Watermark},
    process_status::{ANSWERS_WITHIN, Applied, Clock, Lag, Spool},
    source::{ClockLook, Source},
};

/// How often the gauges are updated.
const LOOKING: Duration = Duration::from_secs(1);
/// The oplog's beginning is looked up once in this many updates.
const SELDOM: u32 = 10;
/// How long to wait for an answer of the source: longer than the driver looks for a server, so that the
/// driver itself says why there is none.
const PATIENCE: Duration = Duration::from_secs(8);

/// A majority that confirms nothing for this long is missing.
const ELECTING: Duration = Duration::from_secs(10);

/// What the stages have reached.
#[derive(Default)]
pub(crate) struct Gauges(Mutex<GaugeState>);

#[derive(Default)]
struct GaugeState {
    collections: Arc<[Collection]>,
    /// What is committed, whether or not it is known to be on PostgreSQL's disk.
    committed: Watermark,
    /// How often a partition has advanced.
    advances: u64,
    /// Where the stream would be read from after a restart.
    resumes: Option<Timestamp>,
    oplog_start: Option<Timestamp>,
    spool: Spool,
    contact: Contact,
    timeline: Timeline,
    /// Why the change stream brings nothing.
    stalled: Option<String>,
    /// Up to when a majority of the replica set has everything, and since when that has not moved although
    /// there is more.
    majority: Option<(Timestamp, Instant)>,
}

/// The contact with the source.
struct Contact {
    /// When the source last answered.
    heard: Instant,
    heard_at: Moment,
    /// Why it has not answered since, if that is known.
    problem: Option<String>,
}

impl Default for Contact {
    fn default() -> Self {
        Self { heard: Instant::now(), heard_at: Moment::now(), problem: None }
    }
}

impl Contact {
    fn is_silent(&self) -> bool {
        self.heard.elapsed() >= ANSWERS_WITHIN
    }
}

impl Gauges {
    /// Starts over, from what is stored.
    pub(crate) fn begin(&self, collections: &Arc<[Collection]>, stored: Watermark) {
        let mut state = self.state();
        let known =
            |collections: &[Collection], name: &str| collections.iter().any(|known| known.name() == name);
        let (before, now) = (&state.collections, collections);
        before.iter().map(Collection::name).filter(|name| !known(now, name)).for_each(metrics::forget);
        // A new collection's lag is known with the next look. The others keep theirs, so that no alert starts
        // over.
        let new = now.iter().map(Collection::name).filter(|name| !known(before, name));
        new.for_each(|name| metrics::LAG.of(&[name]).set(f64::NAN));
        (state.collections, state.committed) = (collections.clone(), stored);
    }

    /// No longer shows any collection: another process has them.
    pub(crate) fn end(&self) {
        self.begin(&Arc::default(), Watermark::default());
    }

    /// Records how far a partition has committed.
    pub(crate) fn committed<'a>(
        &self,
        partition: Partition,
        positions: impl IntoIterator<Item = (&'a CollectionId, &'a Position)>,
    ) {
        let GaugeState { collections, committed, advances, .. } = &mut *self.state();
        for (id, position) in positions {
            // Nothing more is written to a stopped collection.
            if collections.get(id.0).is_some_and(|collection| collection.stopped().is_none())
                && committed.advance(partition, *id, position)
            {
                *advances = advances.wrapping_add(1);
            }
        }
    }

    /// Records where the stream would be read from after a restart.
    pub(crate) fn resumes_from(&self, position: Option<Timestamp>) {
        self.state().resumes = position;
    }

    /// Whether the oplog no longer reaches back to a collection's position, as far as that is known.
    pub(crate) fn is_left_behind(&self, name: &str) -> bool {
        let state = self.state();
        let mut named = (0..).map(CollectionId).zip(state.collections.iter());
        let id = named.find(|(_, collection)| collection.name() == name).map(|(id, _)| id);
        let reached = id.and_then(|id| state.committed.least(id)).map(Position::cluster_time);
        reached.zip(state.oplog_start).is_some_and(|(reached, start)| reached < start)
    }

    /// Records how much of the disk the spool takes.
    pub(crate) fn spooled(&self, bytes: u64) {
        self.state().spool.bytes = bytes;
    }

    /// Records why nothing can be put into the spool; `None`: changes can be.
    pub(crate) fn lacks_space(&self, problem: Option<String>) {
        metrics::STATE_FULL.set(if problem.is_some() { 1.0 } else { 0.0 });
        self.state().spool.problem = problem;
    }

    /// Records why the change stream brings nothing; `None`: it does bring changes.
    pub(crate) fn stalled(&self, why: Option<String>) {
        self.state().stalled = why;
    }

    /// MongoDB's times.
    pub(super) fn clock(&self, source: &dyn DocumentSource) -> Clock {
        let state = self.state();
        let time = Some(source.newest()).filter(|time| time.time > 0);
        let is_silent = state.contact.is_silent();
        let no_answer = || format!("no answer from MongoDB at {}", source.hosts());
        let problem = is_silent.then(|| state.contact.problem.clone().unwrap_or_else(no_answer));
        Clock {
            problem: problem.or_else(|| state.without_majority()).or_else(|| state.stalled.clone()),
            silent_since: is_silent.then_some(state.contact.heard_at),
            time: time.map(Moment::from),
            oplog_start: state.oplog_start.map(Moment::from),
        }
    }

    /// Whether MongoDB is why nothing comes: it does not answer, or has no majority that confirms writes.
    pub(super) fn is_held_up(&self) -> bool {
        let state = self.state();
        state.contact.is_silent() || state.without_majority().is_some()
    }

    /// How far behind the `live` collections are; `None`: there are none, or it is not known.
    pub(super) fn behind(&self, live: &[CollectionId]) -> Option<Duration> {
        let state = self.state();
        live.iter().filter_map(|id| state.behind(state.committed.least(*id)?)).max()
    }

    /// Calculates the lag, for display, and sets the metric: both show the same.
    pub(super) fn lag(&self, live: &[CollectionId]) -> Lag {
        let live: BTreeSet<_> = live.iter().copied().collect();
        let state = self.state();
        let (mut behind, mut applied) = (BTreeMap::new(), Applied::default());
        let mut seconds: Option<u64> = None;
        for (id, collection) in (0..).map(CollectionId).zip(state.collections.iter()) {
            let (name, committed) = (collection.name(), state.committed.least(id));
            let lag = committed.and_then(|position| state.behind(position)).map(|lag| lag.as_secs());
            metrics::LAG.of(&[name]).set(lag.map_or(f64::NAN, metrics::figure));
            let position = committed.map(|position| position.cluster_time().into());
            applied.collections.extend(position.map(|at| (name.to_owned(), at)));
            behind.extend(lag.filter(|lag| *lag > 0).map(|lag| (name.to_owned(), lag)));
            seconds = if live.contains(&id) { seconds.max(lag) } else { seconds };
        }
        let mut partitions = BTreeMap::new();
        for (Partition(number), position) in state.committed.by_partition(&live) {
            applied.partitions.insert(number, position.cluster_time().into());
            partitions.extend(state.behind(position).map(|lag| (number, lag.as_secs())));
        }
        Lag { seconds, behind, partitions, applied }
    }

    /// Where the stream would be read from, and the spool, for display.
    pub(super) fn stream(&self) -> (Option<Moment>, Spool) {
        let state = self.state();
        (state.resumes.map(Moment::from), state.spool.clone())
    }

    /// How often a partition has advanced in a collection.
    pub(super) fn advances(&self) -> u64 {
        self.state().advances
    }

    /// Updates all gauges for as long as it is polled.
    pub(crate) async fn show(&self, source: &Source) -> Infallible {
        self.state().contact = Contact::default();
        tokio::join!(self.ask(source), async {
            let mut looking = interval(LOOKING);
            looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looking.tick().await;
                self.state().show(source.newest());
                metrics::keep_up();
            }
        })
        .0
    }

    /// Asks the source for its time again and again.
    async fn ask(&self, source: &Source) -> Infallible {
        let mut looking = interval(LOOKING);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_missed = false;
        for round in (0..SELDOM).cycle() {
            looking.tick().await;
            let looked = timeout(PATIENCE, source.look_at_clock()).await;
            let without = {
                let mut state = self.state();
                state.answered(looked.ok(), source.newest());
                state.without_majority()
            };
            match (&without, is_missed) {
                (Some(why), false) => tracing::warn!(code = %Code::SourceWithoutMajority, "{why}"),
                (None, true) => tracing::info!("a majority of the replica set confirms writes again"),
                _ => {}
            }
            is_missed = without.is_some();
            if round == 0
                && let Ok(Ok(start)) = timeout(LOOKING, source.oplog_start()).await
            {
                self.state().oplog_start = start;
            }
        }
        std::future::pending().await
    }

    fn state(&self) -> MutexGuard<'_, GaugeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows that this process has the pipeline, until it is dropped.
pub(crate) struct Leading(::metrics::Gauge);

impl Leading {
    pub(crate) fn begin(pipeline: &str) -> Self {
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

impl GaugeState {
    /// Records an answer; `None`: it did not come in time. The set's time may be later than that of the
    /// member that was asked.
    fn answered(&mut self, answer: Option<Result<ClockLook>>, newest: Timestamp) {
        match answer {
            Some(Ok(look)) => {
                self.contact = Contact::default();
                self.timeline.saw(newest, Instant::now());
                let before = self.majority.filter(|(time, _)| Some(*time) == look.majority);
                self.majority = before.or_else(|| Some((look.majority?, Instant::now())));
            }
            Some(Err(error)) => self.contact.problem = Some(error.to_string()),
            // Why it does not answer is either known already, or unknown.
            None => {}
        }
    }

    /// That no majority of the replica set confirms writes, in words, if that is so.
    fn without_majority(&self) -> Option<String> {
        let (_, since) = self.majority.filter(|(_, since)| since.elapsed() >= ELECTING)?;
        let seconds = since.elapsed().as_secs();
        Some(format!(
            "MongoDB has had no majority of its replica set that confirms writes for {seconds} s: docrow waits for \
             it, since anything else could be rolled back; see rs.status()"
        ))
    }

    /// How long the changes after this position have waited; `None`: that is not known.
    fn behind(&self, position: &Position) -> Option<Duration> {
        if self.contact.is_silent() {
            return None;
        }
        self.timeline.behind(position.cluster_time(), Instant::now())
    }

    fn show(&self, now: Timestamp) {
        metrics::POSITION_AGE.set(age(self.resumes, now));
        metrics::OPLOG_WINDOW.set(age(self.oplog_start, now));
    }
}

/// How many seconds `then` was before `now`; NaN, if it is not known.
fn age(then: Option<Timestamp>, now: Timestamp) -> f64 {
    then.map_or(f64::NAN, |then| f64::from(now.time.saturating_sub(then.time)))
}
