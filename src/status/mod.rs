//! The state of a pipeline, as one JSON document: that of `docrow status --json` and of `/status`.
//!
//! This file is its form, a contract that scripts rely on: fields are added, never renamed or taken away, and
//! `docs/status.md` describes them. [`document`] fills it in, [`health`] judges it, both pure;
//! [`StatusGatherer`] asks the servers.
//!
//! PostgreSQL has the phase and the position of each collection, so the document is the same for every
//! reader, and whether or not a process runs the pipeline. What only that process knows is as it last
//! reported it. The document contains no document's value and no password (G12): for dead letters it has
//! paths and reasons.

mod document;
mod gather;
mod health;
mod reckoning;
#[cfg(test)]
pub(crate) mod tests;

use serde::Serialize;

pub use self::{
    document::PipelineFacts,
    gather::StatusGatherer,
    health::{LAG, span},
};
use crate::{
    model::phase::Phase,
    moment::Moment,
    process_status::{Message, Stage, Totals, WorkRates},
    verify::Verified,
};

/// The value of `document`: it is increased if a field's meaning ever changes.
const FORM: u32 = 1;

/// The state of a pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of this format.
    pub document: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it was gathered.
    pub at: Moment,
    /// Whether all is well, in words.
    pub health: Health,
    /// The process that runs the pipeline.
    pub process: ProcessStatus,
    /// MongoDB.
    pub source: SourceStatus,
    /// PostgreSQL.
    pub target: TargetStatus,
    /// How far behind MongoDB the rows of live collections are; `null`: there are none, or it is unknown.
    pub lag_seconds: Option<u64>,
    /// The same in words, and why it is unknown, if it is.
    pub lag_words: String,
    /// Work per second, lately.
    pub rates: WorkRates,
    /// Work since the process was started.
    pub totals: Totals,
    /// By name.
    pub collections: Vec<CollectionStatus>,
    /// By number.
    pub partitions: Vec<PartitionStatus>,
    /// The spool in the state directory.
    pub spool: SpoolStatus,
    /// Documents that could not be written.
    pub dead_letters: DeadLetterStatus,
    /// The result of the last scheduled verification; `null`: there was none.
    pub verified: Option<VerifiedStatus>,
    /// The process's last warnings and errors, the latest last.
    pub messages: Vec<Message>,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthLevel {
    /// All is well.
    Ok,
    /// On the way to `Ok`.
    Busy,
    /// An operator should look at it.
    Warning,
    /// An operator must act.
    Error,
}

/// Whether all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The verdict.
    pub level: HealthLevel,
    /// The reason, in a few words.
    pub words: String,
    /// All problems, the worst first.
    pub problems: Vec<Problem>,
}

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How serious it is.
    pub level: HealthLevel,
    /// The text.
    pub words: String,
}

/// The process that runs the pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// Whether a process does; `null`: unknown, because PostgreSQL does not answer, or because the last
    /// process is not heard of.
    pub running: Option<bool>,
    /// Which process, for people, or the last one, if it is unknown whether one runs; `null`: none.
    pub holder: Option<String>,
    /// Its docrow version; like all that follows as last reported, `null` if it never reported.
    pub version: Option<String>,
    /// When that process was started.
    pub started_at: Option<Moment>,
    /// Its phase.
    pub stage: Option<Stage>,
    /// Since when.
    pub since: Option<Moment>,
    /// Why it retries, or why it ended.
    pub problem: Option<String>,
    /// What holds it up although nothing has failed; `null`: nothing.
    pub hindrance: Option<String>,
    /// What limits how fast its snapshots read; `null`: nothing.
    pub limit: Option<String>,
    /// When it last reported.
    pub reported_at: Option<Moment>,
}

/// MongoDB.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    /// Its hosts, and the database that the URI names, for people; `null`: unknown here.
    pub name: Option<String>,
    /// Whether it answers; `null`: it was not asked.
    pub answers: Option<bool>,
    /// Why it does not.
    pub problem: Option<String>,
    /// When it last answered the process that runs the pipeline; `null`: it answers, or was not asked before.
    pub silent_since: Option<Moment>,
    /// The cluster's time when it last answered.
    pub time: Option<Moment>,
    /// The time from which a restart would read the change stream; `null` unless a process runs the pipeline.
    pub resumes_from: Option<Moment>,
    /// The oplog's window; `null`: it may not be read, or this is a sharded cluster.
    pub oplog: Option<OplogStatus>,
}

/// The oplog's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OplogStatus {
    /// The time of its first entry.
    pub start: Moment,
    /// How far it reaches back from now.
    pub window_seconds: u64,
    /// How far it reaches back from the position to resume from. When this is used up, history is lost.
    pub headroom_seconds: Option<u64>,
    /// Whether history is lost: the position to resume from is no longer in the oplog.
    pub is_history_lost: bool,
}

/// PostgreSQL.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// Its address and the database, for people.
    pub name: String,
    /// The schema of the tables.
    pub schema: String,
    /// Whether it answers.
    pub answers: bool,
    /// Why it does not. Collections, partitions and dead letters then show the last known state.
    pub problem: Option<String>,
}

/// The result of a scheduled verification.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedStatus {
    /// When.
    pub at: Moment,
    /// The result.
    #[serde(flatten)]
    pub result: Verified,
}

/// A collection.
#[derive(Clone, Debug, Serialize)]
pub struct CollectionStatus {
    /// `database.collection`.
    pub name: String,
    /// Its phase.
    pub phase: Phase,
    /// Why it is stopped; `null`: it is not.
    pub stopped: Option<String>,
    /// Why it is no longer replicated, though its tables exist: `dropped` in MongoDB, or `excluded` by the
    /// configuration; `null`: it is replicated.
    pub absent: Option<String>,
    /// Since when it is paused; `null`: it is not. Its changes wait, and its lag does not count.
    pub paused: Option<Moment>,
    /// Why it needs a resync; `null`: it does not.
    pub resync: Option<String>,
    /// The progress of its copy.
    pub snapshot: SnapshotStatus,
    /// Up to when its changes are applied.
    pub applied_up_to: Option<Moment>,
    /// How far its rows are behind MongoDB; `null` unless it is live.
    pub lag_seconds: Option<u64>,
    /// How many of its documents could not be written.
    pub dead_letters: u64,
    /// Its mapping.
    pub mapping: MappingStatus,
    /// Values that do not fit their columns; `null`: not counted yet.
    pub misfits: Option<MisfitsStatus>,
}

/// Values that do not fit their column, and are in `_extra` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MisfitsStatus {
    /// When they were counted.
    pub counted_at: Moment,
    /// The columns that lack values.
    pub columns: Vec<NarrowColumn>,
}

/// A column that lacks values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NarrowColumn {
    /// Its table.
    pub table: String,
    /// Its name.
    pub column: String,
    /// Its SQL type; empty: it belongs to an earlier version of the mapping.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// How many rows lack a value that is in `_extra`.
    pub values: u64,
    /// How many of them are numbers.
    pub numbers: u64,
    /// When a missing value was first counted.
    pub since: Moment,
    /// How to fix it.
    pub remedy: String,
}

/// The progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotStatus {
    /// How many documents are copied; while it is being copied, including those of chunks in progress.
    pub documents: u64,
    /// About how many there are; `null`: unknown.
    pub estimated: Option<u64>,
    /// How many chunks are copied.
    pub chunks_copied: usize,
    /// Their number.
    pub chunks: usize,
    /// Whether existing rows are replaced.
    pub replaces: bool,
    /// How many bytes of BSON the process has copied; like the following fields, `null` unless it is being
    /// copied.
    pub bytes: Option<u64>,
    /// Documents per second, recently.
    pub documents_per_second: Option<u64>,
    /// Bytes of BSON per second, recently.
    pub bytes_per_second: Option<u64>,
    /// The estimated time left at that speed.
    pub eta_seconds: Option<u64>,
}

/// The mapping in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingStatus {
    /// Counted from 1.
    pub version: u16,
    /// Whether all rows are written with this version: `false` while the columns and tables that it added are
    /// being filled.
    pub filled: bool,
    /// Its tables, the root table first.
    pub tables: Vec<TableStatus>,
}

/// A table of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// The object or array whose elements are its rows; empty for the root table.
    pub path: String,
    /// Its mapped columns.
    pub columns: Vec<ColumnStatus>,
}

/// A column of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnStatus {
    /// Its name.
    pub name: String,
    /// The field, relative to the table's path.
    pub path: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub sql_type: String,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u16,
    /// Up to when its changes of live collections are applied.
    pub applied_up_to: Option<Moment>,
    /// How far that is behind MongoDB.
    pub lag_seconds: Option<u64>,
    /// When it last stored a position.
    pub stored_at: Option<Moment>,
}

/// The spool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// Its size on disk; `null`: never reported.
    pub bytes: Option<u64>,
    /// Its maximum size.
    pub budget: Option<u64>,
    /// Why nothing can be added to it; `null`: it can, or no process runs the pipeline.
    pub problem: Option<String>,
}

/// Documents that could not be written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadLetterStatus {
    /// Its size.
    pub total: u64,
    /// The reasons, the largest groups first, at most a hundred.
    pub groups: Vec<LetterStatus>,
}

/// Dead letters of one collection with the same reason at the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterStatus {
    /// `database.collection`.
    pub collection: String,
    /// The path in the documents, if it is known.
    pub path: Option<String>,
    /// The reason.
    pub reason: String,
    /// Their number.
    pub count: u64,
    /// When the latest was written.
    pub last_at: Moment,
}

impl CollectionStatus {
    /// Whether its changes should be applied: it is neither stopped nor paused, and still replicated.
    pub fn is_followed(&self) -> bool {
        self.stopped.is_none() && self.paused.is_none() && self.absent.is_none()
    }

    /// Whether its changes are applied as they arrive.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live && self.stopped.is_none() && self.absent.is_none()
    }
}
