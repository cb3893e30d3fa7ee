//! `docrow.chunks`: the plan of each collection's snapshot, and which chunks of it are copied.
//!
//! A chunk's marker is set in the transaction that copies its documents, and only once: a chunk can't be
//! copied twice (G2), and a restart re-reads no chunk whose marker is set (G5).
//!
//! The chunks of a resync replace existing rows.

use std::collections::HashMap;

use futures_util::try_join;
use tokio_postgres::{Client, Error as PgError, Row};

use super::positions::{self, StoredPosition};
use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    sink::{
        Session,
        connection::{
            fence_entry::ENTERED,
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
            transaction::WriteTransaction,
        },
    },
};

/// The plan of a collection's snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotPlan {
    /// The collection, `database.collection`.
    pub collection: String,
    /// Its chunks.
    pub chunks: Vec<StoredChunk>,
}

impl SnapshotPlan {
    /// The plan of this collection.
    pub fn new(collection: &str, chunks: Vec<StoredChunk>) -> Self {
        Self { collection: collection.to_owned(), chunks }
    }
}

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

/// Stores the plans of collections' snapshots, with the positions from which their stream starts, in one
/// transaction. Replaces nothing: it is an error if there already is a plan or a position.
pub async fn store(
    session: &mut Session,
    pipeline: &str,
    plans: &[SnapshotPlan],
    start: &[StoredPosition],
) -> Result<()> {
    let doing = "store snapshot plans";
    let fail = |e| sqlstate::error(doing, &e);
    let inserting = async |client: &_| {
        try_join!(insert(client, pipeline, plans), positions::insert(client, pipeline, start)).map_err(fail)
    };
    let (transaction, _) = session.enter_along(doing, inserting).await?;
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
    let chunks = chunks.iter().map(|chunk| StoredChunk { replaces: true, ..chunk.clone() }).collect();
    let plan = SnapshotPlan::new(collection, chunks);
    let inserted = insert(&transaction, pipeline, std::slice::from_ref(&plan));
    try_join!(inserted, positions::insert(&transaction, pipeline, start)).map_err(fail)?;
    failpoint::reach(Failpoint::ResyncBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::ResyncCommitted);
    Ok(())
}

/// Records that a resync is complete: no earlier rows are left.
pub async fn swept(session: &mut Session, pipeline: &str, collection: &str) -> Result<()> {
    let doing = format!("record that {collection} is swept");
    let update = format!(
        "UPDATE docrow.chunks SET replaces = false WHERE pipeline = $1 AND collection = $2 AND {ENTERED}"
    );
    session.write(&doing, &update, &[&pipeline, &collection]).await.map(drop)
}

/// Deletes the plan, the positions and the requested resync of a collection: it counts as never copied.
pub(crate) async fn forget(
    transaction: &WriteTransaction<'_>,
    pipeline: &str,
    collection: &str,
) -> Result<(), PgError> {
    for table in ["docrow.chunks", "docrow.progress", "docrow.resyncs"] {
        let delete = format!("DELETE FROM {table} WHERE pipeline = $1 AND collection = $2");
        transaction.perform(&delete, &[&pipeline, &collection]).await?;
    }
    Ok(())
}

/// Inserts nothing unless the pipeline was entered.
async fn insert(client: &Client, pipeline: &str, plans: &[SnapshotPlan]) -> Result<u64, PgError> {
    let each = || plans.iter().flat_map(|plan| plan.chunks.iter().map(|chunk| (&*plan.collection, chunk)));
    let collections: Vec<&str> = each().map(|(collection, _)| collection).collect();
    let numbers: Vec<i64> = each().map(|(_, chunk)| chunk.number.into()).collect();
    let replaces: Vec<bool> = each().map(|(_, chunk)| chunk.replaces).collect();
    let (mins, maxs): (Vec<_>, Vec<_>) =
        each().map(|(_, chunk)| (chunk.min.as_deref(), chunk.max.as_deref())).unzip();
    let statement = format!(
        "INSERT INTO docrow.chunks (pipeline, collection, chunk, min, max, replaces) \
         SELECT $1, l, n, a, b, r \
         FROM unnest($2::text[], $3::bigint[], $4::bytea[], $5::bytea[], $6::boolean[]) AS c (l, n, a, b, r) \
         WHERE {ENTERED}"
    );
    client.perform(&statement, &[&pipeline, &collections, &numbers, &mins, &maxs, &replaces]).await
}

/// The plan of a collection's snapshot, in the order of the chunks' numbers; empty if there is none.
pub async fn load(session: &Session, pipeline: &str, collection: &str) -> Result<Vec<StoredChunk>> {
    Ok(load_all(session, pipeline, &[collection]).await?.remove(collection).unwrap_or_default())
}

/// The same of several collections, by their names.
pub async fn load_all(
    session: &Session,
    pipeline: &str,
    collections: &[&str],
) -> Result<HashMap<String, Vec<StoredChunk>>> {
    let fail = |e| sqlstate::error("load snapshot plans", &e);
    let question = "SELECT collection, chunk, min, max, \
            CASE WHEN copied_at IS NOT NULL THEN coalesce(documents, 0) END, replaces \
        FROM docrow.chunks WHERE pipeline = $1 AND collection = ANY ($2::text[]) ORDER BY collection, chunk";
    let rows = session.client.fetch(question, &[&pipeline, &collections]).await.map_err(fail)?;
    let mut plans: HashMap<String, Vec<StoredChunk>> = HashMap::new();
    for row in &rows {
        let (collection, chunk) = planned(row).map_err(fail)?;
        plans.entry(collection).or_default().push(chunk);
    }
    Ok(plans)
}

fn planned(row: &Row) -> Result<(String, StoredChunk), PgError> {
    let (number, copied): (i64, Option<i64>) = (row.try_get(1)?, row.try_get(4)?);
    let chunk = StoredChunk {
        number: u32::try_from(number).unwrap_or_default(),
        min: row.try_get(2)?,
        max: row.try_get(3)?,
        copied: copied.map(i64::unsigned_abs),
        replaces: row.try_get(5)?,
    };
    Ok((row.try_get(0)?, chunk))
}

/// The copy progress of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many chunks there are.
    pub chunks: i64,
    /// How many of them are copied.
    pub copied: i64,
    /// How many documents the copied ones had.
    pub documents: i64,
    /// Whether there may be rows from before a resync.
    pub replaces: bool,
}

impl Extent {
    /// That of a new plan.
    pub(crate) fn of_new(chunks: usize, replaces: bool) -> Self {
        Self { chunks: i64::try_from(chunks).unwrap_or(i64::MAX), copied: 0, documents: 0, replaces }
    }

    /// Whether all rows are there, and no others.
    pub fn is_complete(self) -> bool {
        self.chunks > 0 && self.copied == self.chunks && !self.replaces
    }
}

/// The copy progress of all collections that have a plan, by their names.
pub async fn extents(session: &Session, pipeline: &str) -> Result<HashMap<String, Extent>> {
    let fail = |e| sqlstate::error("read the copy progress of all collections", &e);
    let question = "SELECT collection, count(*), count(copied_at), coalesce(sum(documents), 0)::bigint, \
        coalesce(bool_or(replaces), false) FROM docrow.chunks WHERE pipeline = $1 GROUP BY collection";
    let rows = session.client.fetch(question, &[&pipeline]).await.map_err(fail)?;
    let extent = |row: &Row| {
        let (chunks, copied) = (row.try_get(1)?, row.try_get(2)?);
        Ok((
            row.try_get(0)?,
            Extent { chunks, copied, documents: row.try_get(3)?, replaces: row.try_get(4)? },
        ))
    };
    rows.iter().map(extent).collect::<Result<_, _>>().map_err(fail)
}

/// The copy progress of a collection.
pub async fn extent(session: &Session, pipeline: &str, collection: &str) -> Result<Extent> {
    let fail = |e| sqlstate::error(format!("read the copy progress of {collection}"), &e);
    let question = "SELECT count(*), count(copied_at), coalesce(sum(documents), 0)::bigint, \
        coalesce(bool_or(replaces), false) FROM docrow.chunks WHERE pipeline = $1 AND collection = $2";
    let row = session.client.fetch_one(question, &[&pipeline, &collection]).await.map_err(fail)?;
    let get = |column| row.try_get(column).map_err(fail);
    let (chunks, copied, documents) = (get(0)?, get(1)?, get(2)?);
    Ok(Extent { chunks, copied, documents, replaces: row.try_get(3).map_err(fail)? })
}

/// Sets a chunk's marker within its transaction. Errors: [`Kind::TargetAway`](crate::error::Kind) if it is
/// already set, which happens if the answer to an earlier COMMIT was lost and the plan was read before the
/// server executed it; then this transaction must not be committed, and the plan must be read again.
/// [`Kind::Bug`](crate::error::Kind) if the chunk is not in the plan.
pub(crate) async fn mark(
    transaction: &WriteTransaction<'_>,
    pipeline: &str,
    marker: Marker<'_>,
) -> Result<()> {
    let Marker { collection, number, documents } = marker;
    let doing = || format!("mark chunk {number} of {collection}");
    let fail = |e| sqlstate::error(doing(), &e);
    let chunk: [&dyn Parameter; 3] = [&pipeline, &collection, &i64::from(number)];
    let [pipeline, collection, number] = chunk;
    let update = "UPDATE docrow.chunks SET copied_at = now(), documents = $4 \
        WHERE pipeline = $1 AND collection = $2 AND chunk = $3 AND copied_at IS NULL";
    let documents = i64::try_from(documents).unwrap_or(i64::MAX);
    let marked =
        transaction.perform(update, &[pipeline, collection, number, &documents]).await.map_err(fail)?;
    if marked == 1 {
        return Ok(());
    }
    let select = "SELECT FROM docrow.chunks WHERE pipeline = $1 AND collection = $2 AND chunk = $3";
    match transaction.fetch_opt(select, &chunk).await.map_err(fail)? {
        Some(_) => Err(Error::new(
            Code::TargetOvertaken,
            format!("{}: already copied: reading the plan again", doing()),
        )),
        None => Err(Error::bug(format!("{}: not in the plan", doing()))),
    }
}
