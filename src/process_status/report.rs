//! What a process says of itself, as it is written down and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::messages::Message;
use crate::moment::Moment;

/// The stages of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It connects, and tries to take the pipeline.
    #[default]
    Starting,
    /// Another process holds the pipeline; this one waits for it.
    StandingBy,
    /// It holds the pipeline, and creates tables and plans.
    Preparing,
    /// Some collections are not complete.
    Copying,
    /// All collections that are not stopped are complete, and changes are applied.
    Live,
    /// It retries after an error that may be transient.
    Retrying,
    /// It is done, was stopped, or could not continue.
    Ended,
}

/// The work done since the process was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Documents that were copied.
    pub documents: u64,
    /// The rows of these documents.
    pub rows: u64,
    /// Changes that were applied.
    pub changes: u64,
    /// Documents that became dead letters.
    pub dead_letters: u64,
}

/// The recent work per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkRates {
    /// Documents copied.
    pub documents_per_second: u64,
    /// The rows of these documents.
    pub rows_per_second: u64,
    /// Changes applied.
    pub changes_per_second: u64,
}

/// The spool in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spool {
    /// Its size on disk.
    pub bytes: u64,
    /// Its maximum size.
    pub budget: u64,
    /// Why nothing can be added to it, if nothing can: its disk is full.
    pub problem: Option<String>,
}

/// MongoDB's times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Why it does not answer, or why its change stream delivers nothing, if so.
    pub problem: Option<String>,
    /// When it last answered, if it does not: since then it is unknown how far behind it the rows are.
    pub silent_since: Option<Moment>,
    /// The cluster's time when it last answered.
    pub time: Option<Moment>,
    /// The time of the oplog's first entry, if it may be read.
    pub oplog_start: Option<Moment>,
}

/// How far the rows are behind MongoDB, as computed once a second by the process that writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// In seconds, for the live collection that is furthest behind; `None`: there is none, or it is unknown.
    pub seconds: Option<u64>,
    /// In seconds, for each collection that is behind at all.
    pub behind: BTreeMap<String, u64>,
    /// In seconds, for each partition of the live collections.
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
    /// For live collections, by partition.
    pub partitions: BTreeMap<u16, Moment>,
}

/// What blocks the pipeline although nothing has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Another session's lock in PostgreSQL.
    Lock(String),
    /// Unknown: the pipeline has stalled. Reported until something makes progress again.
    Standstill(String),
}

impl Hindrance {
    /// The text.
    pub fn words(&self) -> &str {
        match self {
            Self::Lock(words) | Self::Standstill(words) => words,
        }
    }
}

/// A process's report, every other second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessReport {
    /// docrow's version.
    pub version: String,
    /// When the process was started.
    pub started_at: Moment,
    /// Its phase.
    pub stage: Stage,
    /// Since when.
    pub since: Moment,
    /// Why it retries, or why it ended.
    pub problem: Option<String>,
    /// What blocks it, if anything.
    pub hindrance: Option<Hindrance>,
    /// What limits how fast its snapshots read, if anything.
    pub limit: Option<String>,
    /// Its work.
    pub totals: Totals,
    /// Its rates.
    pub rates: WorkRates,
    /// Its spool.
    pub spool: Spool,
    /// MongoDB's times.
    pub source: Clock,
    /// How far the rows are behind MongoDB.
    pub lag: Lag,
    /// The time from which a restart would read the change stream.
    pub resumes_from: Option<Moment>,
}

impl Default for ProcessReport {
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
            rates: WorkRates::default(),
            spool: Spool::default(),
            source: Clock::default(),
            lag: Lag::default(),
            resumes_from: None,
        }
    }
}

/// The progress of a collection's copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyPace {
    /// About how many documents there are.
    pub estimated: u64,
    /// How many are copied, including those of chunks in progress.
    pub copied: u64,
    /// How many bytes of BSON this process has copied, including those of chunks in progress.
    pub bytes: u64,
    /// How many documents are copied per second, recently.
    pub documents_per_second: u64,
    /// How many bytes of BSON per second.
    pub bytes_per_second: u64,
}

/// The part of a process's report that rarely changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// By collection.
    pub copies: BTreeMap<String, CopyPace>,
    /// The last warnings and errors, the latest last.
    pub messages: Vec<Message>,
    /// The collections that can't have their tables, each with the reason.
    pub refused: BTreeMap<String, String>,
}

/// A point of the charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChartPoint {
    /// Seconds since 1970.
    pub at: u64,
    /// How far behind MongoDB the rows of live collections are.
    pub lag_seconds: Option<u64>,
    /// Changes applied, per second.
    pub changes_per_second: u64,
    /// Documents copied, per second.
    pub documents_per_second: u64,
    /// The size of the spool on disk.
    pub spool_bytes: u64,
}

/// A measurement, about once a second.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The work so far.
    pub totals: Totals,
    /// The spool.
    pub spool: Spool,
    /// How far the rows are behind MongoDB.
    pub lag: Lag,
    /// The time from which a restart would read the change stream.
    pub resumes_from: Option<Moment>,
    /// How many collections are stopped.
    pub stopped: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of an earlier or a later docrow can be read.
    #[test]
    fn a_report_reads_back_with_less_and_with_more() {
        let report = ProcessReport { problem: Some("why".to_owned()), ..ProcessReport::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ProcessReport>(&text).unwrap(), report);
        let other = serde_json::from_str::<ProcessReport>("{\"stage\": \"live\", \"news\": 1}").unwrap();
        assert_eq!(other.stage, Stage::Live);
    }
}
