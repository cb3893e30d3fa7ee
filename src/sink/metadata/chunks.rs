//! `docrow.chunks`: the plan of each collection's snapshot, and which chunks of it are copied.
//!
//! A chunk's marker is set in the transaction that copies its documents, and only once: a chunk can't be
//! copied twice (G2), and a restart re-reads no chunk whose marker is set (G5).
//!
//! The chunks of a resync replace existing rows.

use tokio_postgres::{Error as PgError, Transaction, types::ToSql};

use super::positions::{self, StoredPosition};
use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    sink::{Session, connection::sqlstate},
};

/// A chunk of a collection's snapshot. The bounds belong to the source: they are stored and returned, but not
/// interpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Its number within the collection.
    pub number: u32,
    /// The encoded lower bound, if there is one.
    pub min: Option<Vec<u8>>,
    /// The encoded upper bound, if there is one.
    pub max: Option<Vec<u8>>,
    /// How many documents it contained, once copied.
    pub copied: Option<u64>,
    /// Whether rows may already exist: the chunk belongs to a resync.
    pub replaces: bool,
}

/// Marks a chunk as copied, in the transaction that copies it.
#[derive(Clone, Copy, Debug)]
pub struct Marker<'a> {
    /// The collection, `database.collection`.
    pub collection: &'a str,
    /// The chunk's number.
    pub number: u32,
    /// How many documents it contained.
    pub documents: u64,
}

/// Stores the plan of a collection's snapshot, with the positions from which its stream starts, in one
/// transaction. Replaces nothing: it is an error if there already is a plan or a position.
pub async fn store(
    session: &mut Session,
    pipeline: &str,
    collection: &str,
    chunks: &[StoredChunk],
    start: &[StoredPosition],
) -> Result<()> {
    let doing = format!("store the snapshot plan of {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    insert(&transaction, pipeline, collection, chunks).await.map_err(fail)?;
    positions::insert(&transaction, pipeline, start).await.map_err(fail)?;
    failpoint::reach(Failpoint::PlanBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::PlanCommitted);
    Ok(())
}

/// Begins a resync: in one transaction the collection's plan and positions are replaced by these, and the
/// request is deleted. The collection's rows stay as they are. The caller runs nothing else for the
/// collection.
pub async fn replace(
    session: &mut Session,
    pipeline: &str,
    collection: &str,
    chunks: &[StoredChunk],
    start: &[StoredPosition],
) -> Result<()> {
    let doing = format!("store the plan of the resync of {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    forget(&transaction, pipeline, collection).await.map_err(fail)?;
    let chunks: Vec<_> = chunks.iter().map(|chunk| StoredChunk { replaces: true, ..chunk.clone() }).collect();
    insert(&transaction, pipeline, collection, &chunks).await.map_err(fail)?;
    positions::insert(&transaction, pipeline, start).await.map_err(fail)?;
    failpoint::reach(Failpoint::ResyncBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::ResyncCommitted);
    Ok(())
}

/// Records that a resync is complete: no earlier rows are left.
pub async fn swept(session: &mut Session, pipeline: &str, collection: &str) -> Result<()> {
    let doing = format!("record that {collection} is swept");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let update = "UPDATE docrow.chunks SET replaces = false WHERE pipeline = $1 AND collection = $2";
    transaction.execute(update, &[&pipeline, &collection]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Deletes the plan, the positions and the requested resync of a collection: it counts as never copied.
pub(crate) async fn forget(
    transaction: &Transaction<'_>,
    pipeline: &str,
    collection: &str,
) -> Result<(), PgError> {
    for table in ["docrow.chunks", "docrow.progress", "docrow.resyncs"] {
        let delete = format!("DELETE FROM {table} WHERE pipeline = $1 AND collection = $2");
        transaction.execute(&delete, &[&pipeline, &collection]).await?;
    }
    Ok(())
}

async fn insert(
    transaction: &Transaction<'_>,
    pipeline: &str,
    collection: &str,
    chunks: &[StoredChunk],
) -> Result<u64, PgError> {
    let numbers: Vec<i64> = chunks.iter().map(|chunk| chunk.number.into()).collect();
    let replaces: Vec<bool> = chunks.iter().map(|chunk| chunk.replaces).collect();
    let (mins, maxs): (Vec<_>, Vec<_>) =
        chunks.iter().map(|chunk| (chunk.min.as_deref(), chunk.max.as_deref())).unzip();
    let statement = "INSERT INTO docrow.chunks (pipeline, collection, chunk, min, max, replaces) \
        SELECT $1, $2, n, a, b, r \
        FROM unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::boolean[]) AS c (n, a, b, r)";
    transaction.execute(statement, &[&pipeline, &collection, &numbers, &mins, &maxs, &replaces]).await
}

/// The plan of a collection's snapshot, in the order of the chunks' numbers; empty if there is none.
pub async fn load(session: &Session, pipeline: &str, collection: &str) -> Result<Vec<StoredChunk>> {
    let fail = |e| sqlstate::error(format!("load the snapshot plan of {collection}"), &e);
    let question = "SELECT chunk, min, max, CASE WHEN copied_at IS NOT NULL THEN coalesce(documents, 0) END, \
            replaces FROM docrow.chunks WHERE pipeline = $1 AND collection = $2 ORDER BY chunk";
    let rows = session.client.query(question, &[&pipeline, &collection]).await.map_err(fail)?;
    rows.iter()
        .map(|row| {
            let number: i64 = row.try_get(0)?;
            let copied: Option<i64> = row.try_get(3)?;
            Ok(StoredChunk {
                number: u32::try_from(number).unwrap_or_default(),
                min: row.try_get(1)?,
                max: row.try_get(2)?,
                copied: copied.map(i64::unsigned_abs),
                replaces: row.try_get(4)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// The copy progress of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many chunks there are.
    pub chunks: i64,
    /// How many of them are copied.
    pub copied: i64,
    /// Whether there may be rows from before a resync.
    pub replaces: bool,
}

impl Extent {
    /// Whether all rows are there, and no others.
    pub fn is_complete(self) -> bool {
        self.chunks > 0 && self.copied == self.chunks && !self.replaces
    }
}

/// The copy progress of a collection.
pub async fn extent(session: &Session, pipeline: &str, collection: &str) -> Result<Extent> {
    let fail = |e| sqlstate::error(format!("read the copy progress of {collection}"), &e);
    let question = "SELECT count(*), count(copied_at), coalesce(bool_or(replaces), false) FROM docrow.chunks \
        WHERE pipeline = $1 AND collection = $2";
    let row = session.client.query_one(question, &[&pipeline, &collection]).await.map_err(fail)?;
    let get = |column| row.try_get(column).map_err(fail);
    Ok(Extent { chunks: get(0)?, copied: get(1)?, replaces: row.try_get(2).map_err(fail)? })
}

/// Sets a chunk's marker within its transaction. Errors: [`Kind::TargetAway`](crate::error::Kind) if it is
/// already set, which happens if the answer to an earlier COMMIT was lost and the plan was read before the
/// server executed it; then this transaction must not be committed, and the plan must be read again.
/// [`Kind::Bug`](crate::error::Kind) if the chunk is not in the plan.
pub(crate) async fn mark(transaction: &Transaction<'_>, pipeline: &str, marker: Marker<'_>) -> Result<()> {
    let Marker { collection, number, documents } = marker;
    let doing = || format!("mark chunk {number} of {collection}");
    let fail = |e| sqlstate::error(doing(), &e);
    let chunk: [&(dyn ToSql + Sync); 3] = [&pipeline, &collection, &i64::from(number)];
    let [pipeline, collection, number] = chunk;
    let update = "UPDATE docrow.chunks SET copied_at = now(), documents = $4 \
        WHERE pipeline = $1 AND collection = $2 AND chunk = $3 AND copied_at IS NULL";
    let documents = i64::try_from(documents).unwrap_or(i64::MAX);
    let marked =
        transaction.execute(update, &[pipeline, collection, number, &documents]).await.map_err(fail)?;
    if marked == 1 {
        return Ok(());
    }
    let select = "SELECT FROM docrow.chunks WHERE pipeline = $1 AND collection = $2 AND chunk = $3";
    match transaction.query_opt(select, &chunk).await.map_err(fail)? {
        Some(_) => Err(Error::new(
            Code::TargetOvertaken,
            format!("{}: already copied: reading the plan again", doing()),
        )),
        None => Err(Error::bug(format!("{}: not in the plan", doing()))),
    }
}
