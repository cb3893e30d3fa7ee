//! What only the running process knows of itself: where it stands, how fast it is, how full the spool is, what it last
//! warned of. For people and probes; nothing that is replicated depends on it.
//!
//! The pipeline writes it, about once a second and where a stage begins; `serve` shows it, and the pipeline copies it into
//! PostgreSQL ([`Report`], [`Details`]), so that `docrow status` works from elsewhere. It holds names, numbers and log
//! lines, and like those no document's values (G12).

mod messages;
mod places;
mod readiness;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use self::messages::Messages;
pub use self::{
    messages::{Gravity, Message},
    places::{Part, Place, Places, Post},
    readiness::ANSWERS_WITHIN,
};
use crate::moment::Moment;

/// How far back the charts go: half an hour by seconds.
const POINTS: usize = 1800;
/// Over what time rates are told.
const WINDOW: Duration = Duration::from_secs(10);
/// Chunks of a copy come in jerks.
const COPY_WINDOW: Duration = Duration::from_secs(30);

/// Where a process stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It connects, and asks for the pipeline.
    #[default]
    Starting,
    /// Another process holds the pipeline; this one waits for it.
    StandingBy,
    /// It holds the pipeline, and makes tables and plans.
    Preparing,
    /// Some collections are not complete.
    Copying,
    /// All collections that are not stopped are complete, and changes are applied.
    Live,
    /// An error that may pass; it is tried again.
    Retrying,
    /// It has done what it was to do, was told to stop, or could not go on.
    Ended,
}

/// What was done since the process was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Documents that were copied.
    pub documents: u64,
    /// Rows that they became.
    pub rows: u64,
    /// Changes that were applied.
    pub changes: u64,
    /// Documents that became dead letters.
    pub dead_letters: u64,
}

/// How much of it per second, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Documents copied.
    pub documents_per_second: u64,
    /// Rows that they became.
    pub rows_per_second: u64,
    /// Changes applied.
    pub changes_per_second: u64,
}

/// The spool in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spool {
    /// What it takes of the disk.
    pub bytes: u64,
    /// The most that it may take.
    pub budget: u64,
    /// Why nothing can be put into it, if nothing can: its disk is full.
    pub problem: Option<String>,
}

/// What MongoDB says of its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Why it does not answer, or why nothing comes of its change stream, if that is so.
    pub problem: Option<String>,
    /// When it last answered, if it does not: since then nobody knows how far behind it the rows are.
    pub silent_since: Option<Moment>,
    /// The cluster's time when it last answered.
    pub time: Option<Moment>,
    /// The time of the oplog's first entry, where it may be read.
    pub oplog_start: Option<Moment>,
}

/// How far the rows are behind MongoDB, as the process that writes them reckons it, once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// In seconds, of the live collection that is furthest behind; `None`: there is none, or it is not known.
    pub seconds: Option<u64>,
    /// In seconds, of each collection that is behind at all.
    pub behind: BTreeMap<String, u64>,
    /// In seconds, of each partition in the live collections.
    pub partitions: BTreeMap<u16, u64>,
    /// Up to when changes are applied. Not part of the report: PostgreSQL has it.
    #[serde(skip)]
    pub applied: Applied,
}

/// Up to when changes are applied, by the cluster's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// By collection.
    pub collections: BTreeMap<String, Moment>,
    /// Of live collections, by partition.
    pub partitions: BTreeMap<u16, Moment>,
}

/// What holds everything up, though nothing has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Another session's lock in PostgreSQL.
    Lock(String),
    /// Nobody knows: all stands still. It is said until something moves again.
    Standstill(String),
}

impl Hindrance {
    /// What it is.
    pub fn words(&self) -> &str {
        match self {
            Self::Lock(words) | Self::Standstill(words) => words,
        }
    }
}

/// What a process says of itself every other second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// docrow's version.
    pub version: String,
    /// When the process was started.
    pub started_at: Moment,
    /// Where it stands.
    pub stage: Stage,
    /// Since when.
    pub since: Moment,
    /// What it tries again, or ended for.
    pub problem: Option<String>,
    /// What holds it up, if something does.
    pub hindrance: Option<Hindrance>,
    /// What limits how fast its snapshots read, if something does.
    pub limit: Option<String>,
    /// What it has done.
    pub totals: Totals,
    /// How fast it is.
    pub rates: Rates,
    /// How full the spool is.
    pub spool: Spool,
    /// What MongoDB says.
    pub source: Clock,
    /// How far the rows are behind it.
    pub lag: Lag,
    /// From when on the change stream would be read after a restart.
    pub resumes_from: Option<Moment>,
}

impl Default for Report {
    fn default() -> Self {
        let now = Moment::now();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: now,
            stage: Stage::Starting,
            since: now,
            problem: None,
            hindrance: None,
            limit: None,
            totals: Totals::default(),
            rates: Rates::default(),
            spool: Spool::default(),
            source: Clock::default(),
            lag: Lag::default(),
            resumes_from: None,
        }
    }
}

/// How the copying of a collection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// About how many documents there are.
    pub estimated: u64,
    /// How many are copied, those of chunks under way included.
    pub copied: u64,
    /// How many bytes of BSON this process has copied of it, those of chunks under way included.
    pub bytes: u64,
    /// How many documents are copied per second, lately.
    pub documents_per_second: u64,
    /// How many bytes of BSON.
    pub bytes_per_second: u64,
}

/// What a process says of itself when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// By collection.
    pub copies: BTreeMap<String, Pace>,
    /// The last warnings and errors, the latest last.
    pub messages: Vec<Message>,
    /// The collections that can't have their tables, each with the reason.
    pub refused: BTreeMap<String, String>,
}

/// A point of the charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Seconds since 1970.
    pub at: u64,
    /// How far behind MongoDB the rows of live collections are.
    pub lag_seconds: Option<u64>,
    /// Changes applied, per second.
    pub changes_per_second: u64,
    /// Documents copied, per second.
    pub documents_per_second: u64,
    /// What the spool takes of the disk.
    pub spool_bytes: u64,
}

/// What is read about once a second.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// What was done.
    pub totals: Totals,
    /// The spool.
    pub spool: Spool,
    /// How far the rows are behind MongoDB.
    pub lag: Lag,
    /// From when on the change stream would be read after a restart.
    pub resumes_from: Option<Moment>,
    /// How many collections are stopped.
    pub stopped: usize,
}

/// A process's vital signs.
#[derive(Debug)]
pub struct Vitals {
    signs: Mutex<Signs>,
    /// That a stage began.
    news: Notify,
    places: Arc<Places>,
}

#[derive(Debug)]
struct Signs {
    report: Report,
    messages: Messages,
    copies: BTreeMap<String, Progress>,
    refused: BTreeMap<String, String>,
    points: VecDeque<Point>,
    /// What was done, and when that was read. Of documents, those of chunks under way are part of it.
    read: VecDeque<(Instant, Totals)>,
    /// How many documents are copied, those of chunks under way included.
    copied: u64,
    beat: Instant,
    /// How many collections are stopped.
    stopped: usize,
    /// When PostgreSQL last answered whoever holds the pipeline.
    target: Option<watch::Receiver<Instant>>,
}

/// How much of a collection is copied.
#[derive(Debug)]
struct Progress {
    estimated: u64,
    copied: Copied,
    /// How much it was, and when.
    read: VecDeque<(Instant, Copied)>,
}

/// So much.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    documents: u64,
    bytes: u64,
}

impl Vitals {
    /// Of a process that has just been started.
    pub fn new() -> Self {
        let signs = Signs {
            report: Report::default(),
            messages: Messages::default(),
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
            signs.messages.note(Gravity::Error, why.clone());
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
    pub fn places(&self) -> &Places {
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
    pub fn note(&self, level: Gravity, text: String) {
        self.signs().messages.note(level, text);
    }

    /// Notes that a collection of about so many documents, of which some are copied already, is being copied.
    pub fn copying(&self, collection: &str, estimated: u64, copied: u64) {
        let copied = Copied { documents: copied, bytes: 0 };
        let read = VecDeque::from([(Instant::now(), copied)]);
        self.signs().copies.insert(collection.to_owned(), Progress { estimated, copied, read });
    }

    /// Notes that so many more of its documents are written, of so many bytes of BSON.
    pub fn copied(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_add(documents);
        if let Some(Progress { copied, .. }) = signs.copies.get_mut(collection) {
            copied.documents = copied.documents.saturating_add(documents);
            copied.bytes = copied.bytes.saturating_add(bytes);
        }
    }

    /// Notes that so many of them are not, after all.
    pub fn rolled_back(&self, collection: &str, documents: u64, bytes: u64) {
        let mut signs = self.signs();
        signs.copied = signs.copied.saturating_sub(documents);
        if let Some(Progress { copied, .. }) = signs.copies.get_mut(collection) {
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
        let lately = signs.read.back().map_or_else(Rates::default, |before| rates(*before, done));
        remember(&mut signs.read, done, WINDOW);
        let oldest = signs.read.front().copied().unwrap_or(done);
        for copy in signs.copies.values_mut() {
            remember(&mut copy.read, (now, copy.copied), COPY_WINDOW);
        }
        signs.points.push_back(Point {
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
    pub fn report(&self) -> (Report, Details) {
        let signs = self.signs();
        let pace = |Progress { estimated, copied, read }: &Progress| {
            let (took, then) =
                read.front().map_or((Duration::ZERO, *copied), |(since, then)| (since.elapsed(), *then));
            Pace {
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
    pub fn points(&self) -> Vec<Point> {
        self.signs().points.iter().copied().collect()
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
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

fn rates((since, then): (Instant, Totals), (at, now): (Instant, Totals)) -> Rates {
    let took = at.saturating_duration_since(since);
    let rate = |before: u64, after: u64| per_second(after.saturating_sub(before), took);
    Rates {
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

    /// A report of an earlier or a later docrow can be read.
    #[test]
    fn a_report_reads_back_with_less_and_with_more() {
        let report = Report { problem: Some("why".to_owned()), ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let other = serde_json::from_str::<Report>("{\"stage\": \"live\", \"news\": 1}").unwrap();
        assert_eq!(other.stage, Stage::Live);
    }
}
