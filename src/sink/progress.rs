//! `docrow.pipelines` and `docrow.progress`: how far each partition of a pipeline has come in each
//! collection.
//!
//! A position never moves backwards. The statement that writes it compares it with the stored one and, where
//! that is further, writes NULL into a column that takes none, so that the whole transaction fails. This
//! happens when a process was killed and its last transaction commits late, beside its successor: whichever
//! comes second fails, reads the positions again and goes on from there.

use tokio_postgres::{Client, Error as PgError, GenericClient, Statement, types::Type};

use super::{Session, failure};
use crate::{
    change::Position,
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
};

/// One of the workers among which a pipeline's documents are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// How far a partition has come in a collection: everything up to `position` is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPosition {
    /// The partition.
    pub partition: Partition,
    /// The collection, `database.collection`.
    pub collection: String,
    /// The position.
    pub position: Position,
}

/// A position that a partition reaches in a collection with a batch.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    /// The collection, `database.collection`.
    pub collection: &'a str,
    /// The position.
    pub position: &'a Position,
}

/// Stores the pipeline's name with the id of its state directory, unless it is known, and returns the id that
/// is stored.
pub async fn register(session: &Session, pipeline: &str, state_id: &str) -> Result<String> {
    let fail = |e| failure::of(format!("register pipeline {pipeline}"), &e);
    let insert = "INSERT INTO docrow.pipelines (pipeline, state_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    session.client.execute(insert, &[&pipeline, &state_id]).await.map_err(fail)?;
    let select = "SELECT state_id FROM docrow.pipelines WHERE pipeline = $1";
    session.client.query_one(select, &[&pipeline]).await.and_then(|row| row.try_get(0)).map_err(fail)
}

/// All positions of a pipeline.
pub async fn load(session: &Session, pipeline: &str) -> Result<Vec<StoredPosition>> {
    let fail = |e| failure::of("load the stored positions", &e);
    let question =
        "SELECT partition, collection, token FROM docrow.progress WHERE pipeline = $1 ORDER BY 1, 2";
    let rows = session.client.query(question, &[&pipeline]).await.map_err(fail)?;
    let mut positions = Vec::with_capacity(rows.len());
    for row in &rows {
        let partition: i32 = row.try_get(0).map_err(fail)?;
        let token: &[u8] = row.try_get(2).map_err(fail)?;
        positions.push(StoredPosition {
            partition: Partition(u16::try_from(partition).map_err(|e| {
                Error::caused(Kind::StateCorrupt, "read docrow.progress: a partition out of range", e)
            })?),
            collection: row.try_get(1).map_err(fail)?,
            position: Position::from_bytes(token)?,
        });
    }
    Ok(positions)
}

/// Replaces all positions of a pipeline, for example because the number of partitions changed. Unlike all
/// else here it can move positions backwards: the caller holds the fence and runs nothing else.
pub async fn reset(session: &mut Session, pipeline: &str, positions: &[StoredPosition]) -> Result<()> {
    let fail = |e| failure::of("replace the stored positions", &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    let delete = "DELETE FROM docrow.progress WHERE pipeline = $1";
    transaction.execute(delete, &[&pipeline]).await.map_err(fail)?;
    insert(&transaction, pipeline, positions).await.map_err(fail)?;
    failpoint::reach(Failpoint::PositionsBeforeReset);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::PositionsReset);
    Ok(())
}

/// Adds positions.
pub(super) async fn insert(
    client: &impl GenericClient,
    pipeline: &str,
    positions: &[StoredPosition],
) -> Result<u64, PgError> {
    let partitions: Vec<i32> = positions.iter().map(|stored| stored.partition.0.into()).collect();
    let columns = Columns::of(positions.iter().map(|stored| (stored.collection.as_str(), &stored.position)));
    let statement = "INSERT INTO docrow.progress (pipeline, partition, collection, position, token, cluster_time) \
        SELECT $1, p, c, d, t, to_timestamp(s) \
        FROM unnest($2::int[], $3::text[], $4::text[], $5::bytea[], $6::float8[]) AS r (p, c, d, t, s)";
    let Columns { collections, data, tokens, seconds } = &columns;
    client.execute(statement, &[&pipeline, &partitions, collections, data, tokens, seconds]).await
}

/// Writes, in a batch's transaction, the positions that it reaches.
///
/// `$1`: the batch's number, as set by [`begin`]. A transaction whose `BEGIN` failed would run each of its
/// statements by itself; the number is not set then, and no position is written.
const UPSERT: &str = "INSERT INTO docrow.progress AS p \
        (pipeline, partition, collection, position, token, cluster_time, updated_at) \
    SELECT $2, $3, c, CASE WHEN current_setting('docrow.batch', true) = $1 THEN d END, t, to_timestamp(s), now() \
    FROM unnest($4::text[], $5::text[], $6::bytea[], $7::float8[]) AS r (c, d, t, s) \
    ON CONFLICT (pipeline, partition, collection) DO UPDATE SET \
        position = CASE WHEN p.position <= EXCLUDED.position THEN EXCLUDED.position END, \
        token = EXCLUDED.token, cluster_time = EXCLUDED.cluster_time, updated_at = EXCLUDED.updated_at";

/// Begins the transaction of the batch with this number.
pub(super) fn begin(batch: &str) -> String {
    format!("BEGIN; SET LOCAL docrow.batch = '{batch}'")
}

pub(super) async fn prepare(client: &Client) -> Result<Statement, PgError> {
    client.prepare_typed(UPSERT, &[Type::TEXT, Type::TEXT, Type::INT4]).await
}

/// Runs what [`prepare`] prepared.
pub(super) async fn upsert(
    client: &Client,
    statement: &Statement,
    (pipeline, partition, batch): (&str, Partition, &str),
    reached: &[Reached<'_>],
) -> Result<u64, PgError> {
    let columns = Columns::of(reached.iter().map(|reached| (reached.collection, reached.position)));
    let Columns { collections, data, tokens, seconds } = &columns;
    let partition = i32::from(partition.0);
    client.execute(statement, &[&batch, &pipeline, &partition, collections, data, tokens, seconds]).await
}

/// Positions, column by column.
struct Columns<'a> {
    collections: Vec<&'a str>,
    data: Vec<&'a str>,
    tokens: Vec<&'a [u8]>,
    seconds: Vec<f64>,
}

impl<'a> Columns<'a> {
    fn of(positions: impl Iterator<Item = (&'a str, &'a Position)> + Clone) -> Self {
        Self {
            collections: positions.clone().map(|(collection, _)| collection).collect(),
            data: positions.clone().map(|(_, position)| position.data()).collect(),
            tokens: positions.clone().map(|(_, position)| position.as_bytes()).collect(),
            seconds: positions.map(|(_, position)| f64::from(position.cluster_time().time)).collect(),
        }
    }
}
