//! A pipeline's state in PostgreSQL, read for a status, by any user, whether or not a process runs it. Writes
//! nothing.

use std::{collections::HashMap, time::SystemTime};

use tokio_postgres::{Client, Error as PgError, Row};

use super::{
    misfits::{self, MisfitCount},
    process_reports::StoredReport,
    runner::{self, PipelineRunner},
    schema, verifications,
};
use crate::{
    error::Result,
    sink::{
        Session, Target,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// The maximum number of groups of dead letters.
const GROUPS: i64 = 100;

/// The state.
#[derive(Clone, Debug)]
pub struct PipelineSurvey {
    /// When it was read, by the server's clock.
    pub at: SystemTime,
    /// The process that runs the pipeline.
    pub runner: PipelineRunner,
    /// The last report of that process, or of the one before.
    pub report: Option<StoredReport>,
    /// The collections, by name.
    pub collections: Vec<CollectionSurvey>,
    /// The position of each partition in each collection.
    pub positions: Vec<PartitionReach>,
    /// Dead letters, the largest groups first.
    pub letters: Vec<LetterCount>,
    /// Misfits, by collection, as far as they were counted.
    pub misfits: HashMap<String, MisfitCount>,
    /// The result of the last scheduled verification.
    pub verified: Option<verifications::StoredVerification>,
}

/// A collection.
#[derive(Clone, Debug)]
pub struct CollectionSurvey {
    /// `database.collection`.
    pub name: String,
    /// The version of its mapping in force.
    pub version: u16,
    /// The mapping file's text.
    pub mapping: String,
    /// Whether all rows are written with this version.
    pub filled: bool,
    /// Why it is stopped, if it is.
    pub stopped: Option<String>,
    /// Since when it is paused, if it is.
    pub paused: Option<SystemTime>,
    /// Why it is no longer replicated, if it is not: `dropped` in MongoDB, or `excluded`.
    pub absent: Option<String>,
    /// How many chunks there are; none: it is not planned yet.
    pub chunks: usize,
    /// How many of them are copied.
    pub chunks_copied: usize,
    /// How many documents these contained.
    pub documents: u64,
    /// Whether the copy replaces existing rows.
    pub replaces: bool,
    /// How many of its tables have no primary key yet.
    pub keys_missing: usize,
    /// Why it needs a resync, if it does.
    pub resync: Option<String>,
    /// How many dead letters it has.
    pub dead_letters: u64,
}

/// The position of a partition in a collection.
#[derive(Clone, Debug)]
pub struct PartitionReach {
    /// The partition.
    pub partition: u16,
    /// `database.collection`.
    pub collection: String,
    /// By the cluster's clock.
    pub cluster_time: SystemTime,
    /// When that was stored.
    pub stored_at: SystemTime,
}

/// Dead letters of one collection with the same reason at the same path.
#[derive(Clone, Debug)]
pub struct LetterCount {
    /// `database.collection`.
    pub collection: String,
    /// The path in the documents, if it is known.
    pub path: Option<String>,
    /// The reason.
    pub reason: String,
    /// Their number.
    pub count: u64,
    /// When the latest was written.
    pub last_at: SystemTime,
}

/// Asks a target about a pipeline.
#[derive(Debug)]
pub struct OverviewReader {
    session: Session,
    pipeline: String,
}

impl OverviewReader {
    /// Connects; `None` if docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = schema::open(target).await?;
        Ok(session.map(|session| Self { session, pipeline: target.pipeline().to_owned() }))
    }

    /// Reads everything.
    pub async fn survey(&self) -> Result<PipelineSurvey> {
        let (client, pipeline) = (&self.session.client, &*self.pipeline);
        let runner = runner::runner(&self.session, pipeline).await?;
        let read = async {
            let (report, collections, positions, letters, misfits, verified) = tokio::try_join!(
                report(client, pipeline),
                collections(client, pipeline),
                positions(client, pipeline),
                letters(client, pipeline),
                misfits::read(client, pipeline),
                verifications::read(client, pipeline),
            )?;
            let (at, report) = report;
            Ok(PipelineSurvey { at, runner, report, collections, positions, letters, misfits, verified })
        };
        read.await.map_err(|e: PgError| sqlstate::error(format!("ask about pipeline {pipeline}"), &e))
    }
}

async fn report(client: &Client, pipeline: &str) -> Result<(SystemTime, Option<StoredReport>), PgError> {
    let question = "SELECT clock_timestamp(), report::text, details::text, reported_at \
        FROM (VALUES ($1::text)) AS p (pipeline) LEFT JOIN docrow.reports USING (pipeline)";
    let row = client.fetch_one(question, &[&pipeline]).await?;
    let stored = match row.try_get(1)? {
        Some(report) => Some(StoredReport { report, details: row.try_get(2)?, at: row.try_get(3)? }),
        None => None,
    };
    Ok((row.try_get(0)?, stored))
}

async fn collections(client: &Client, pipeline: &str) -> Result<Vec<CollectionSurvey>, PgError> {
    let question = "SELECT s.collection, s.version, s.mapping, s.filled, s.stopped, \
            coalesce(c.chunks, 0), coalesce(c.copied, 0), coalesce(c.documents, 0), coalesce(c.replaces, false), \
            (SELECT count(*) FROM unnest(s.tables) AS t (name) WHERE NOT EXISTS \
                (SELECT FROM pg_index WHERE indrelid = to_regclass(name) AND indisprimary)), \
            r.reason, (SELECT count(*) FROM docrow.dead_letters d WHERE d.pipeline = $1 AND d.collection = s.collection), \
            s.absent, p.paused_at \
        FROM (SELECT DISTINCT ON (collection) * FROM docrow.schemas WHERE pipeline = $1 \
                ORDER BY collection, version DESC) AS s \
            LEFT JOIN (SELECT collection, count(*) AS chunks, count(copied_at) AS copied, \
                    (sum(documents) FILTER (WHERE copied_at IS NOT NULL))::bigint AS documents, \
                    bool_or(replaces) AS replaces \
                FROM docrow.chunks WHERE pipeline = $1 GROUP BY 1) AS c USING (collection) \
            LEFT JOIN docrow.pauses AS p ON p.pipeline = $1 AND p.collection = s.collection \
            LEFT JOIN docrow.resyncs AS r ON r.pipeline = $1 AND r.collection = s.collection \
        ORDER BY 1";
    let rows = client.fetch(question, &[&pipeline]).await?;
    let surveyed = |row: &Row| {
        let version: i32 = row.try_get(1)?;
        Ok(CollectionSurvey {
            name: row.try_get(0)?,
            version: u16::try_from(version).unwrap_or(u16::MAX),
            mapping: row.try_get(2)?,
            filled: row.try_get(3)?,
            stopped: row.try_get(4)?,
            chunks: number(row, 5)?,
            chunks_copied: number(row, 6)?,
            documents: number(row, 7)?,
            replaces: row.try_get(8)?,
            keys_missing: number(row, 9)?,
            resync: row.try_get(10)?,
            dead_letters: number(row, 11)?,
            absent: row.try_get(12)?,
            paused: row.try_get(13)?,
        })
    };
    rows.iter().map(surveyed).collect()
}

async fn positions(client: &Client, pipeline: &str) -> Result<Vec<PartitionReach>, PgError> {
    let question = "SELECT partition, collection, cluster_time, updated_at FROM docrow.progress \
        WHERE pipeline = $1 ORDER BY 1, 2";
    let rows = client.fetch(question, &[&pipeline]).await?;
    let reached = |row: &Row| {
        let partition: i32 = row.try_get(0)?;
        Ok(PartitionReach {
            partition: u16::try_from(partition).unwrap_or(u16::MAX),
            collection: row.try_get(1)?,
            cluster_time: row.try_get(2)?,
            stored_at: row.try_get(3)?,
        })
    };
    rows.iter().map(reached).collect()
}

/// The largest groups.
async fn letters(client: &Client, pipeline: &str) -> Result<Vec<LetterCount>, PgError> {
    let question = format!(
        "SELECT collection, path, reason, count(*), max(at) FROM docrow.dead_letters \
         WHERE pipeline = $1 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT {GROUPS}"
    );
    let rows = client.fetch(&question, &[&pipeline]).await?;
    let group = |row: &Row| {
        Ok(LetterCount {
            collection: row.try_get(0)?,
            path: row.try_get(1)?,
            reason: row.try_get(2)?,
            count: number(row, 3)?,
            last_at: row.try_get(4)?,
        })
    };
    rows.iter().map(group).collect()
}

/// A count, which is never negative.
fn number<N: TryFrom<i64> + Default>(row: &Row, column: usize) -> Result<N, PgError> {
    row.try_get(column).map(|count: i64| N::try_from(count).unwrap_or_default())
}
