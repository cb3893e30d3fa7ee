//! A process's vital signs: what it notes of itself while it runs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    messages::{MessageLevel, MessageLog},
    places::{Part, PartPlaces, Post},
    report::{
        ChartPoint, Clock, CopyPace, Details, Hindrance, ProcessReport, Reading, Stage, Totals, WorkRates,
    },
};
use crate::moment::Moment;

/// The time span of the charts: half an hour in seconds.
const POINTS: usize = 1800;
/// The period over which rates are measured.
const WINDOW: Duration = Duration::from_secs(10);
/// Longer, because the chunks of a copy complete in bursts.
const COPY_WINDOW: Duration = Duration::from_secs(30);

/// A process's vital signs.
#[derive(Debug)]
pub struct Vitals {
    signs: Mutex<VitalSigns>,
    /// Signals that a stage began.
    news: Notify,
    places: Arc<PartPlaces>,
}

#[derive(Debug)]
pub(super) struct VitalSigns {
    pub(super) report: ProcessReport,
    messages: MessageLog,
    copies: BTreeMap<String, CopyProgress>,
    pub(super) refused: BTreeMap<String, String>,
    points: VecDeque<ChartPoint>,
    /// The work so far, with the time of the measurement. It includes the documents of chunks in progress.
    read: VecDeque<(Instant, Totals)>,
    /// How many documents are copied, including those of chunks in progress.
    copied: u64,
    beat: Instant,
    /// How many collections are stopped.
    pub(super) stopped: usize,
    /// When PostgreSQL last answered the process that holds the pipeline.
    pub(super) target: Option<watch::Receiver<Instant>>,
}

/// How much of a collection is copied.
#[derive(Debug)]
struct CopyProgress {
    estimated: u64,
    copied: CopiedAmount,
    /// Earlier values, with their times.
    read: VecDeque<(Instant, CopiedAmount)>,
}

/// An amount.
#[derive(Clone, Copy, Debug, Default)]
struct CopiedAmount {
    documents: u64,
    bytes: u64,
}

impl Vitals {
    /// For a process that has just been started.
    pub fn new() -> Self {
        let signs = VitalSigns {
            report: ProcessReport::default(),
            messages: MessageLog::default(),
            copies: BTreeMap::new(),
            refused: BTreeMap::new(),
            points: VecDeque::new(),
            read: VecDeque::new(),
            copied: 0,
            beat: Instant::now(),
            stopped: 0,
            target: None,
        };
        Self { signs: Mutex::new(signs), news: Notify::new(), places: Arc::default() }
    }

    /// Records the process's stage. Returns whether it is new.
    pub fn enter(&self, stage: Stage, problem: Option<String>) -> bool {
        let mut signs = self.signs();
        let report = &mut signs.report;
        if (report.stage, &report.problem) == (stage, &problem) {
            return false;
        }
        if let (Stage::Ended, Some(why)) = (stage, &problem) {
            // The log line comes later, when no page can ask any more.
            signs.messages.note(MessageLevel::Error, why.clone());
        }
        let report = &mut signs.report;
        (report.stage, report.problem, report.since) = (stage, problem, Moment::now());
        self.news.notify_one();
        true
    }

    /// Waits until a stage begins, or has begun since the last call.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// The stage, and the reason.
    pub fn stage(&self) -> (Stage, Option<String>) {
        let signs = self.signs();
        (signs.report.stage, signs.report.problem.clone())
    }

    /// What each of its parts is doing.
    pub fn places(&self) -> &PartPlaces {
        &self.places
    }

    /// A post where a part records what it is doing.
    pub fn post(&self, part: Part) -> Post {
        Post::new(&self.places, part)
    }

    /// Records what blocks the pipeline, if anything. Returns whether that is new.
    pub fn hinder(&self, hindrance: Option<Hindrance>) -> bool {
        let mut signs = self.signs();
        let is_news = signs.report.hindrance != hindrance;
        signs.report.hindrance = hindrance;
        is_news
    }

    /// What blocks the pipeline, if anything.
    pub fn hindrance(&self) -> Option<Hindrance> {
        self.signs().report.hindrance.clone()
    }

    /// Records what limits how fast snapshots read, if anything.
    pub fn limit(&self, words: Option<String>) {
        self.signs().report.limit = words;
    }

    /// Records that the pipeline's own task makes progress.
    pub fn beat(&self) {
        self.signs().beat = Instant::now();
    }

    /// How long ago that was last recorded.
    pub fn silence(&self) -> Duration {
        self.signs().beat.elapsed()
    }

    /// Records a warning or an error.
    pub fn note(&self, level: MessageLevel, text: String) {
        self.signs().messages.note(level, text);
    }

    /// Records that a collection of about this many documents, of which some are already copied, is being
    /// copied.
    pub fn copying(&self, collection: &str, estimated: u64, copied: u64) {
        let copied = CopiedAmount { documents: copied, bytes: 0 };
        let read = VecDeque::from([(Instant::now(), copied)]);
        self.signs().copies.insert(collection.to_owned(), CopyProgress { estimated, copied, read });
    }

    /// Records that this many more of its documents are written, with this many bytes of BSON.
    pub fn copied(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_add(documents);
        if let Some(CopyProgress { copied, .. }) = signs.copies.get_mut(collection) {
            copied.documents = copied.documents.saturating_add(documents);
            copied.bytes = copied.bytes.saturating_add(bytes);
        }
    }

    /// Records that this many of them are not written, because they were rolled back.
    pub fn rolled_back(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_sub(documents);
        if let Some(CopyProgress { copied, .. }) = signs.copies.get_mut(collection) {
            copied.documents = copied.documents.saturating_sub(documents);
            copied.bytes = copied.bytes.saturating_sub(bytes);
        }
    }

    /// Records which collections can't have their tables, each with the reason.
    pub fn refuse(&self, refused: BTreeMap<String, String>) {
        self.signs().refused = refused;
    }

    /// Records a measurement.
    pub fn take(&self, reading: Reading) {
        let mut signs = self.signs();
        let now = Instant::now();
        let Reading { totals, spool, lag, resumes_from, stopped } = reading;
        // Chunks complete in bursts; their documents do not.
        let done = (now, Totals { documents: signs.copied, ..totals });
        let lately = signs.read.back().map_or_else(WorkRates::default, |before| rates(*before, done));
        remember(&mut signs.read, done, WINDOW);
        let oldest = signs.read.front().copied().unwrap_or(done);
        for copy in signs.copies.values_mut() {
            remember(&mut copy.read, (now, copy.copied), COPY_WINDOW);
        }
        signs.points.push_back(ChartPoint {
            at: Moment::now().seconds(),
            lag_seconds: lag.seconds,
            changes_per_second: lately.changes_per_second,
            documents_per_second: lately.documents_per_second,
            spool_bytes: spool.bytes,
        });
        let surplus = signs.points.len().saturating_sub(POINTS);
        signs.points.drain(..surplus);
        let report = &mut signs.report;
        (report.totals, report.spool, report.rates) = (totals, spool, rates(oldest, done));
        (report.resumes_from, report.lag) = (resumes_from, lag);
        signs.stopped = stopped;
    }

    /// Records MongoDB's answer. A missing answer contains no times; then the previous ones stay.
    pub fn hear(&self, Clock { problem, silent_since, time, oplog_start }: Clock) {
        let source = &mut self.signs().report.source;
        (source.problem, source.silent_since) = (problem, silent_since);
        source.time = time.or(source.time);
        source.oplog_start = oplog_start.or(source.oplog_start);
    }

    /// The current report.
    pub fn report(&self) -> (ProcessReport, Details) {
        let signs = self.signs();
        let pace = |CopyProgress { estimated, copied, read }: &CopyProgress| {
            let (took, then) =
                read.front().map_or((Duration::ZERO, *copied), |(since, then)| (since.elapsed(), *then));
            CopyPace {
                estimated: *estimated,
                copied: copied.documents,
                bytes: copied.bytes,
                documents_per_second: per_second(copied.documents.saturating_sub(then.documents), took),
                bytes_per_second: per_second(copied.bytes.saturating_sub(then.bytes), took),
            }
        };
        let copies = signs.copies.iter().map(|(name, copy)| (name.clone(), pace(copy))).collect();
        let (messages, refused) = (signs.messages.all(), signs.refused.clone());
        (signs.report.clone(), Details { copies, messages, refused })
    }

    /// The charts' points, the latest last.
    pub fn points(&self) -> Vec<ChartPoint> {
        self.signs().points.iter().copied().collect()
    }

    pub(super) fn signs(&self) -> MutexGuard<'_, VitalSigns> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds a measurement, and removes those older than `window`, except for the last of them.
fn remember<T>(read: &mut VecDeque<(Instant, T)>, latest: (Instant, T), window: Duration) {
    read.push_back(latest);
    while read.get(1).is_some_and(|(second, _)| second.elapsed() > window) {
        read.pop_front();
    }
}

fn rates((since, then): (Instant, Totals), (at, now): (Instant, Totals)) -> WorkRates {
    let took = at.saturating_duration_since(since);
    let rate = |before: u64, after: u64| per_second(after.saturating_sub(before), took);
    WorkRates {
        documents_per_second: rate(then.documents, now.documents),
        rows_per_second: rate(then.rows, now.rows),
        changes_per_second: rate(then.changes, now.changes),
    }
}

fn per_second(count: u64, took: Duration) -> u64 {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    count.saturating_mul(1000).checked_div(millis).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_begins_once() {
        let vitals = Vitals::new();
        vitals.enter(Stage::Retrying, Some("why".to_owned()));
        let since = vitals.report().0.since;
        vitals.enter(Stage::Retrying, Some("why".to_owned()));
        assert_eq!(vitals.report().0.since, since);
        assert_eq!(vitals.stage(), (Stage::Retrying, Some("why".to_owned())));
    }

    #[test]
    fn what_mongodb_last_said_stays() {
        let vitals = Vitals::new();
        let time = Some(Moment::now());
        vitals.hear(Clock { time, ..Clock::default() });
        let problem = Some("away".to_owned());
        vitals.hear(Clock { problem: problem.clone(), ..Clock::default() });
        let source = vitals.report().0.source;
        assert_eq!((source.problem, source.time), (problem, time));
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(per_second(50, Duration::from_millis(500)), 100);
        assert_eq!(per_second(50, Duration::ZERO), 0);
        let vitals = Vitals::new();
        vitals.copying("a.b", 100, 10);
        vitals.copied("a.b", 20, 4000);
        vitals.copied("a.c", 20, 4000);
        vitals.rolled_back("a.b", 5, 1000);
        let copies = vitals.report().1.copies;
        assert_eq!(copies.keys().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!((copies["a.b"].estimated, copies["a.b"].copied, copies["a.b"].bytes), (100, 25, 3000));
    }
}
