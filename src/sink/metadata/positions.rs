//! `docrow.pipelines` and `docrow.progress`: the position of each partition of a pipeline in each collection.
//!
//! A position never moves backwards. The statement that writes it compares it with the stored one and, if
//! that is further, writes NULL into a NOT NULL column, so that the whole transaction fails. The fence keeps
//! two processes from getting there; this also protects against a single process.
//!
//! With a position, docrow stores how far rows may be ahead of it; and the fingerprint of the stream that its
//! token comes from: in another stream the server may not find it.

use futures_util::try_join;
use mongodb::bson::Timestamp;
use tokio_postgres::{Client, Error as PgError, Statement, types::Type};

use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    model::{change::Position, partition::Partition},
    sink::{
        Session,
        connection::{
            fence_entry::ENTERED,
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
        },
    },
};

/// A partition's position in a collection: everything up to `position` is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPosition {
    /// The partition.
    pub partition: Partition,
    /// The collection, `database.collection`.
    pub collection: String,
    /// The position.
    pub position: Position,
    /// The fingerprint of the stream of the position, if it is known.
    pub fingerprint: Option<i64>,
}

/// A position that a partition reaches in a collection with a batch.
#[derive(Clone, Copy, Debug)]
pub struct Reached<'a> {
    /// The collection, `database.collection`.
    pub collection: &'a str,
    /// The position.
    pub position: &'a Position,
}

/// Stores the pipeline's name with the id of its state directory, unless it is known, and returns the stored
/// id.
pub async fn register(session: &Session, pipeline: &str, state_id: &str) -> Result<String> {
    let fail = |e| sqlstate::error(format!("register pipeline {pipeline}"), &e);
    let insert = "INSERT INTO docrow.pipelines (pipeline, state_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let select = "SELECT state_id FROM docrow.pipelines WHERE pipeline = $1";
    let (inserted, stored): ([&dyn Parameter; 2], [&dyn Parameter; 1]) =
        ([&pipeline, &state_id], [&pipeline]);
    let (client, stored) = (&session.client, &stored);
    let (_, row) =
        try_join!(client.perform(insert, &inserted), client.fetch_one(select, stored)).map_err(fail)?;
    row.try_get(0).map_err(fail)
}

/// Up to which cluster time rows may show states that the stored positions have not reached. `None`: unknown.
pub async fn ahead(session: &Session, pipeline: &str) -> Result<Option<Timestamp>> {
    let fail = |e| sqlstate::error("read how far rows may be ahead", &e);
    let select = "SELECT ahead FROM docrow.pipelines WHERE pipeline = $1";
    let row = session.client.fetch_opt(select, &[&pipeline]).await.map_err(fail)?;
    let ahead = row.map(|row| row.try_get::<_, Option<i64>>(0)).transpose().map_err(fail)?.flatten();
    Ok(ahead.map(timestamp))
}

fn timestamp(both_halves: i64) -> Timestamp {
    let [a, b, c, d, e, f, g, h] = both_halves.to_be_bytes();
    Timestamp { time: u32::from_be_bytes([a, b, c, d]), increment: u32::from_be_bytes([e, f, g, h]) }
}

fn both_halves(at: Timestamp) -> i64 {
    (u64::from(at.time) << 32 | u64::from(at.increment)).cast_signed()
}

/// Up to which cluster time rows may show states, as stored with the positions. `None`: not known for all.
pub async fn shown(session: &Session, pipeline: &str) -> Result<Option<Timestamp>> {
    let fail = |e| sqlstate::error("read how far rows may be ahead", &e);
    let select = "SELECT CASE WHEN bool_and(shown IS NOT NULL) THEN \
            greatest(max(shown), (SELECT shown FROM docrow.pipelines WHERE pipeline = $1)) END \
        FROM docrow.progress WHERE pipeline = $1";
    let row = session.client.fetch_one(select, &[&pipeline]).await.map_err(fail)?;
    Ok(row.try_get::<_, Option<i64>>(0).map_err(fail)?.map(timestamp))
}

const NOTING: &str = "record how far rows may be ahead";

/// Stores, for [`shown`], the time of what is about to be written without a position.
pub(crate) async fn note_shown(session: &mut Session, pipeline: &str, shown: Timestamp) -> Result<()> {
    let update =
        format!("UPDATE docrow.pipelines SET shown = greatest(shown, $2) WHERE pipeline = $1 AND {ENTERED}");
    session.write(NOTING, &update, &[&pipeline, &both_halves(shown)]).await.map(drop)
}

/// Stores the value that [`ahead`] returns, unless the stored one is later.
pub async fn set_ahead(session: &mut Session, pipeline: &str, ahead: Option<Timestamp>) -> Result<()> {
    let update = format!(
        "UPDATE docrow.pipelines SET ahead = CASE WHEN $2::bigint IS NOT NULL THEN greatest(ahead, $2) END \
        WHERE pipeline = $1 AND ahead IS DISTINCT FROM $2 AND {ENTERED}"
    );
    session.write(NOTING, &update, &[&pipeline, &ahead.map(both_halves)]).await.map(drop)
}

/// All positions of a pipeline.
pub async fn load(session: &Session, pipeline: &str) -> Result<Vec<StoredPosition>> {
    stored(session, pipeline, None).await
}

/// Those of one collection.
pub async fn load_of(session: &Session, pipeline: &str, collection: &str) -> Result<Vec<StoredPosition>> {
    stored(session, pipeline, Some(collection)).await
}

async fn stored(session: &Session, pipeline: &str, collection: Option<&str>) -> Result<Vec<StoredPosition>> {
    let fail = |e| sqlstate::error("load the stored positions", &e);
    let question = "SELECT partition, collection, token, fingerprint FROM docrow.progress \
        WHERE pipeline = $1 AND ($2 IS NULL OR collection = $2) ORDER BY 1, 2";
    let rows = session.client.fetch(question, &[&pipeline, &collection]).await.map_err(fail)?;
    let mut positions = Vec::with_capacity(rows.len());
    for row in &rows {
        let partition: i32 = row.try_get(0).map_err(fail)?;
        let token: &[u8] = row.try_get(2).map_err(fail)?;
        positions.push(StoredPosition {
            partition: Partition(u16::try_from(partition).map_err(|e| {
                Error::caused(Code::StoredUnreadable, "read docrow.progress: a partition out of range", e)
            })?),
            collection: row.try_get(1).map_err(fail)?,
            position: Position::from_bytes(token)?,
            fingerprint: row.try_get(3).map_err(fail)?,
        });
    }
    Ok(positions)
}

/// Replaces all positions of a pipeline, for example because the number of partitions has changed. This, and
/// [`chunks::replace`](super::chunks::replace) for one collection, can move positions backwards: the caller
/// runs nothing else meanwhile.
pub async fn reset(session: &mut Session, pipeline: &str, positions: &[StoredPosition]) -> Result<()> {
    let doing = "replace the stored positions";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter(doing).await?;
    let delete = "DELETE FROM docrow.progress WHERE pipeline = $1";
    transaction.perform(delete, &[&pipeline]).await.map_err(fail)?;
    insert(&transaction, pipeline, positions).await.map_err(fail)?;
    failpoint::reach(Failpoint::PositionsBeforeReset);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::PositionsReset);
    Ok(())
}

/// Adds positions, but none unless the pipeline was entered.
pub(super) async fn insert(
    client: &Client,
    pipeline: &str,
    positions: &[StoredPosition],
) -> Result<u64, PgError> {
    let partitions: Vec<i32> = positions.iter().map(|stored| stored.partition.0.into()).collect();
    let fingerprints: Vec<Option<i64>> = positions.iter().map(|stored| stored.fingerprint).collect();
    let columns =
        PositionColumns::new(positions.iter().map(|stored| (stored.collection.as_str(), &stored.position)));
    let statement = format!(
        "INSERT INTO docrow.progress \
            (pipeline, partition, collection, position, token, cluster_time, fingerprint) \
        SELECT $1, p, c, d, t, to_timestamp(s), f \
        FROM unnest($2::int[], $3::text[], $4::text[], $5::bytea[], $6::float8[], $7::bigint[]) \
            AS r (p, c, d, t, s, f) WHERE {ENTERED}"
    );
    let PositionColumns { collections, data, tokens, seconds } = &columns;
    let parameters: &[&dyn Parameter] =
        &[&pipeline, &partitions, collections, data, tokens, seconds, &fingerprints];
    client.perform(&statement, parameters).await
}

/// Writes, in a batch's transaction, the positions that it reaches.
pub(crate) async fn prepare(client: &Client) -> Result<Statement, PgError> {
    let upsert = format!(
        "INSERT INTO docrow.progress AS p \
            (pipeline, partition, collection, position, token, cluster_time, updated_at, fingerprint, shown) \
        SELECT $1, $2, c, d, t, to_timestamp(s), now(), $3, $4 \
        FROM unnest($5::text[], $6::text[], $7::bytea[], $8::float8[]) AS r (c, d, t, s) WHERE {ENTERED} \
        ON CONFLICT (pipeline, partition, collection) DO UPDATE SET \
            position = CASE WHEN p.position <= EXCLUDED.position THEN EXCLUDED.position END, \
            token = EXCLUDED.token, cluster_time = EXCLUDED.cluster_time, updated_at = EXCLUDED.updated_at, \
            fingerprint = EXCLUDED.fingerprint, shown = EXCLUDED.shown"
    );
    client.prepare_typed(&upsert, &[Type::TEXT, Type::INT4, Type::INT8, Type::INT8]).await
}

/// What is stored of a partition with a batch.
pub(crate) struct PartitionPositions<'a> {
    /// The pipeline's name.
    pub(crate) pipeline: &'a str,
    /// Which one.
    pub(crate) partition: Partition,
    /// Of the stream that the positions are of.
    pub(crate) fingerprint: i64,
    /// How far it is in each collection.
    pub(crate) reached: &'a [Reached<'a>],
    /// Up to when everything shows, in the order of commits.
    pub(crate) shown: Option<Timestamp>,
}

/// Runs the statement of [`prepare`].
pub(crate) async fn upsert(
    client: &Client,
    statement: &Statement,
    written: PartitionPositions<'_>,
) -> Result<u64, PgError> {
    let PartitionPositions { pipeline, partition, fingerprint, reached, shown } = written;
    let shown = shown.map(both_halves);
    let columns = PositionColumns::new(reached.iter().map(|reached| (reached.collection, reached.position)));
    let PositionColumns { collections, data, tokens, seconds } = &columns;
    let partition = i32::from(partition.0);
    client
        .execute(
            statement,
            &[&pipeline, &partition, &fingerprint, &shown, collections, data, tokens, seconds],
        )
        .await
}

/// Positions, column by column.
struct PositionColumns<'a> {
    collections: Vec<&'a str>,
    data: Vec<&'a str>,
    tokens: Vec<&'a [u8]>,
    seconds: Vec<f64>,
}

impl<'a> PositionColumns<'a> {
    fn new(positions: impl Iterator<Item = (&'a str, &'a Position)> + Clone) -> Self {
        Self {
            collections: positions.clone().map(|(collection, _)| collection).collect(),
            data: positions.clone().map(|(_, position)| position.data()).collect(),
            tokens: positions.clone().map(|(_, position)| position.as_bytes()).collect(),
            seconds: positions.map(|(_, position)| f64::from(position.cluster_time().time)).collect(),
        }
    }
}
