//! What a process says of itself, as it is written down and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::messages::Message;
use crate::moment::Moment;

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
pub struct WorkRates {
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
pub struct ProcessReport {
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
    pub rates: WorkRates,
    /// How full the spool is.
    pub spool: Spool,
    /// What MongoDB says.
    pub source: Clock,
    /// How far the rows are behind it.
    pub lag: Lag,
    /// From when on the change stream would be read after a restart.
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

/// How the copying of a collection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyPace {
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
