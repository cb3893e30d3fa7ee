//! How a pipeline is doing, as one JSON document: that of `docrow status --json` and of `/status`.
//!
//! This file is its form, a contract that scripts rely on: fields are added, never renamed or taken away, and
//! `docs/status.md` describes them. [`document`] fills it in, [`health`] judges it, both pure; [`StatusGatherer`] asks the
//! servers.
//!
//! Where a collection stands and how far its rows are, PostgreSQL says; so it is the same document whoever asks, and whether
//! or not the pipeline is being run. What only its process knows is in it as that process last said it. Nothing in it is a document's value
//! or a password (G12): of dead letters it has paths and reasons.

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

/// The number that `document` has: it is raised if a field ever means something else.
const FORM: u32 = 1;

/// How a pipeline is doing.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The form of this document.
    pub document: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it was gathered.
    pub at: Moment,
    /// Whether all is well, in words.
    pub health: Health,
    /// Who runs the pipeline.
    pub process: ProcessStatus,
    /// MongoDB.
    pub source: SourceStatus,
    /// PostgreSQL.
    pub target: TargetStatus,
    /// How far behind MongoDB the rows of live collections are; `null`: there are none, or it is not known.
    pub lag_seconds: Option<u64>,
    /// The same in words, and why it is not known, if it is not.
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
    /// What the last verification on schedule found; `null`: there was none.
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
    /// It works towards that.
    Busy,
    /// Somebody should look at it.
    Warning,
    /// Somebody must do something.
    Error,
}

/// Whether all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The verdict.
    pub level: HealthLevel,
    /// What it is for, in a few words.
    pub words: String,
    /// All that is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub level: HealthLevel,
    /// What it is.
    pub words: String,
}

/// Who runs the pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessStatus {
    /// Whether somebody does; `null`: it is not known, because PostgreSQL does not answer, or because nothing is heard of the
    /// process that last did.
    pub running: Option<bool>,
    /// Who, for people, or who last did, if it is not known whether anybody does; `null`: nobody.
    pub holder: Option<String>,
    /// docrow's version there; like all that follows as it was last reported, `null` if it never was.
    pub version: Option<String>,
    /// When that process was started.
    pub started_at: Option<Moment>,
    /// Where it stands.
    pub stage: Option<Stage>,
    /// Since when.
    pub since: Option<Moment>,
    /// What it tries again, or ended for.
    pub problem: Option<String>,
    /// What holds it up, though nothing has failed; `null`: nothing does.
    pub hindrance: Option<String>,
    /// What limits how fast its snapshots read; `null`: nothing does.
    pub limit: Option<String>,
    /// When it last reported.
    pub reported_at: Option<Moment>,
}

/// MongoDB.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceStatus {
    /// Its hosts, and the database that the URI names, for people; `null`: it is not known here.
    pub name: Option<String>,
    /// Whether it answers; `null`: it was not asked.
    pub answers: Option<bool>,
    /// Why it does not.
    pub problem: Option<String>,
    /// When it last answered the process that runs the pipeline; `null`: it answers, or nobody asked before.
    pub silent_since: Option<Moment>,
    /// The cluster's time when it last answered.
    pub time: Option<Moment>,
    /// From when on the change stream would be read after a restart; `null` unless the pipeline is being run.
    pub resumes_from: Option<Moment>,
    /// What the oplog leaves; `null`: it may not be read, or it is a sharded cluster.
    pub oplog: Option<OplogStatus>,
}

/// What the oplog leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OplogStatus {
    /// The time of its first entry.
    pub start: Moment,
    /// How far it reaches back from now.
    pub window_seconds: u64,
    /// How far it reaches back from what is read next. When this comes to an end, history is lost.
    pub headroom_seconds: Option<u64>,
    /// Whether it is: what is to be read next is no longer there.
    pub is_history_lost: bool,
}

/// PostgreSQL.
#[derive(Clone, Debug, Serialize)]
pub struct TargetStatus {
    /// Its address and the database, for people.
    pub name: String,
    /// The schema that the tables are in.
    pub schema: String,
    /// Whether it answers.
    pub answers: bool,
    /// Why it does not. Then collections, partitions and dead letters are as they last were.
    pub problem: Option<String>,
}

/// What a verification on schedule found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedStatus {
    /// When.
    pub at: Moment,
    /// What.
    #[serde(flatten)]
    pub result: Verified,
}

/// A collection.
#[derive(Clone, Debug, Serialize)]
pub struct CollectionStatus {
    /// `database.collection`.
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// Why it is stopped; `null`: it is not.
    pub stopped: Option<String>,
    /// Why it is not replicated any more, though its tables are there: `dropped` in MongoDB, or `excluded` by the
    /// configuration; `null`: it is.
    pub absent: Option<String>,
    /// Since when it is paused; `null`: it is not. Its changes wait, and its lag counts for nothing.
    pub paused: Option<Moment>,
    /// Why it is to be copied anew; `null`: it is not.
    pub resync: Option<String>,
    /// How far its copy is.
    pub snapshot: SnapshotStatus,
    /// Up to when its changes are applied.
    pub applied_up_to: Option<Moment>,
    /// How far its rows are behind MongoDB; `null` unless it is live.
    pub lag_seconds: Option<u64>,
    /// How many of its documents could not be written.
    pub dead_letters: u64,
    /// How it is mapped.
    pub mapping: MappingStatus,
    /// What does not fit its column; `null`: it was not counted yet.
    pub misfits: Option<MisfitsStatus>,
}

/// Values that do not fit their column, and are in `_extra` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MisfitsStatus {
    /// When they were counted.
    pub counted_at: Moment,
    /// The columns that lack any.
    pub columns: Vec<NarrowColumn>,
}

/// A column that lacks values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NarrowColumn {
    /// Its table.
    pub table: String,
    /// Its name.
    pub column: String,
    /// Its type in SQL; empty: it is of an earlier version of the mapping.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// How many rows lack a value that is in `_extra`.
    pub values: u64,
    /// How many of them are numbers.
    pub numbers: u64,
    /// Since when it lacks some, as far as it was counted.
    pub since: Moment,
    /// What mends it.
    pub remedy: String,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotStatus {
    /// How many documents are copied; while it is being copied, those of chunks under way included.
    pub documents: u64,
    /// About how many there are; `null`: not known.
    pub estimated: Option<u64>,
    /// How many chunks are copied.
    pub chunks_copied: usize,
    /// How many there are.
    pub chunks: usize,
    /// Whether rows that were there before are replaced.
    pub replaces: bool,
    /// How many bytes of BSON the process has copied; like what follows `null` unless it is being copied.
    pub bytes: Option<u64>,
    /// Documents per second, lately.
    pub documents_per_second: Option<u64>,
    /// Bytes of BSON per second, lately.
    pub bytes_per_second: Option<u64>,
    /// How long it will take at that pace.
    pub eta_seconds: Option<u64>,
}

/// The mapping in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingStatus {
    /// Counted from 1.
    pub version: u16,
    /// Whether all rows are written with this version: `false` while what it added is being filled back.
    pub filled: bool,
    /// Its tables, the documents' own first.
    pub tables: Vec<TableStatus>,
}

/// A table of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// The object or array whose elements are its rows; empty for the documents' own.
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
    /// Its type in SQL.
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
    /// What it takes of the disk; `null`: never reported.
    pub bytes: Option<u64>,
    /// The most that it may take.
    pub budget: Option<u64>,
    /// Why nothing can be put into it; `null`: it can, or the pipeline is not being run.
    pub problem: Option<String>,
}

/// Documents that could not be written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadLetterStatus {
    /// How many.
    pub total: u64,
    /// Why, the largest groups first, at most a hundred.
    pub groups: Vec<LetterStatus>,
}

/// Dead letters of one collection, with one reason at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterStatus {
    /// `database.collection`.
    pub collection: String,
    /// Where in the documents the trouble is, if that is known.
    pub path: Option<String>,
    /// What the trouble is.
    pub reason: String,
    /// How many there are.
    pub count: u64,
    /// When the latest was written.
    pub last_at: Moment,
}

impl CollectionStatus {
    /// Whether its changes are to be applied: it is neither stopped nor paused, and still replicated.
    pub fn is_followed(&self) -> bool {
        self.stopped.is_none() && self.paused.is_none() && self.absent.is_none()
    }

    /// Whether changes of it are applied as they come.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live && self.stopped.is_none() && self.absent.is_none()
    }
}
