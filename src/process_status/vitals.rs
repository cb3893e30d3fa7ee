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

/// How far back the charts go: half an hour by seconds.
const POINTS: usize = 1800;
/// Over what time rates are told.
const WINDOW: Duration = Duration::from_secs(10);
/// Chunks of a copy come in jerks.
const COPY_WINDOW: Duration = Duration::from_secs(30);

/// A process's vital signs.
#[derive(Debug)]
pub struct Vitals {
    signs: Mutex<VitalSigns>,
    /// That a stage began.
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
    /// What was done, and when that was read. Of documents, those of chunks under way are part of it.
    read: VecDeque<(Instant, Totals)>,
    /// How many documents are copied, those of chunks under way included.
    copied: u64,
    beat: Instant,
    /// How many collections are stopped.
    pub(super) stopped: usize,
    /// When PostgreSQL last answered whoever holds the pipeline.
    pub(super) target: Option<watch::Receiver<Instant>>,
}

/// How much of a collection is copied.
#[derive(Debug)]
struct CopyProgress {
    estimated: u64,
    copied: CopiedAmount,
    /// How much it was, and when.
    read: VecDeque<(Instant, CopiedAmount)>,
}

/// So much.
#[derive(Clone, Copy, Debug, Default)]
struct CopiedAmount {
    documents: u64,
    bytes: u64,
}

impl Vitals {
    /// Of a process that has just been started.
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

    /// Notes where the process stands from now on. Whether that is news.
    pub fn enter(&self, stage: Stage, problem: Option<String>) -> bool {
        let mut signs = self.signs();
        let report = &mut signs.report;
        if (report.stage, &report.problem) == (stage, &problem) {
            return false;
        }
        if let (Stage::Ended, Some(why)) = (stage, &problem) {
            // It is logged when there is nobody left to be told.
            signs.messages.note(MessageLevel::Error, why.clone());
        }
        let report = &mut signs.report;
        (report.stage, report.problem, report.since) = (stage, problem, Moment::now());
        self.news.notify_one();
        true
    }

    /// Waits until a stage begins, or has begun since this was last called.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Where it stands, and why.
    pub fn stage(&self) -> (Stage, Option<String>) {
        let signs = self.signs();
        (signs.report.stage, signs.report.problem.clone())
    }

    /// Where each of its parts is.
    pub fn places(&self) -> &PartPlaces {
        &self.places
    }

    /// A place for a part to say where it is.
    pub fn post(&self, part: Part) -> Post {
        Post::new(&self.places, part)
    }

    /// Notes what holds everything up, if something does. Whether that is news.
    pub fn hinder(&self, hindrance: Option<Hindrance>) -> bool {
        let mut signs = self.signs();
        let is_news = signs.report.hindrance != hindrance;
        signs.report.hindrance = hindrance;
        is_news
    }

    /// What holds everything up, if something does.
    pub fn hindrance(&self) -> Option<Hindrance> {
        self.signs().report.hindrance.clone()
    }

    /// Notes what limits how fast snapshots read, if something does.
    pub fn limit(&self, words: Option<String>) {
        self.signs().report.limit = words;
    }

    /// Notes that the pipeline's own task goes on.
    pub fn beat(&self) {
        self.signs().beat = Instant::now();
    }

    /// How long ago that was last so.
    pub fn silence(&self) -> Duration {
        self.signs().beat.elapsed()
    }

    /// Notes a warning or an error.
    pub fn note(&self, level: MessageLevel, text: String) {
        self.signs().messages.note(level, text);
    }

    /// Notes that a collection of about so many documents, of which some are copied already, is being copied.
    pub fn copying(&self, collection: &str, estimated: u64, copied: u64) {
        let copied = CopiedAmount { documents: copied, bytes: 0 };
        let read = VecDeque::from([(Instant::now(), copied)]);
        self.signs().copies.insert(collection.to_owned(), CopyProgress { estimated, copied, read });
    }

    /// Notes that so many more of its documents are written, of so many bytes of BSON.
    pub fn copied(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_add(documents);
        if let Some(CopyProgress { copied, .. }) = signs.copies.get_mut(collection) {
            copied.documents = copied.documents.saturating_add(documents);
            copied.bytes = copied.bytes.saturating_add(bytes);
        }
    }

    /// Notes that so many of them are not, after all.
    pub fn rolled_back(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_sub(documents);
        if let Some(CopyProgress { copied, .. }) = signs.copies.get_mut(collection) {
            copied.documents = copied.documents.saturating_sub(documents);
            copied.bytes = copied.bytes.saturating_sub(bytes);
        }
    }

    /// Notes which collections can't have their tables, each with the reason.
    pub fn refuse(&self, refused: BTreeMap<String, String>) {
        self.signs().refused = refused;
    }

    /// Notes what was read.
    pub fn take(&self, reading: Reading) {
        let mut signs = self.signs();
        let now = Instant::now();
        let Reading { totals, spool, lag, resumes_from, stopped } = reading;
        // Chunks come in jerks; their documents do not.
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

    /// Notes what MongoDB says. An answer that did not come leaves out the times; then those before stay.
    pub fn hear(&self, Clock { problem, silent_since, time, oplog_start }: Clock) {
        let source = &mut self.signs().report.source;
        (source.problem, source.silent_since) = (problem, silent_since);
        source.time = time.or(source.time);
        source.oplog_start = oplog_start.or(source.oplog_start);
    }

    /// What there is to be said.
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

/// Adds what was read, and forgets what was read before `window`, but for the last of it.
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
