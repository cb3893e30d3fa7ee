//! `docrow.dead_letters`: documents that could not be written, whole, with the reason (G10).

use tokio_postgres::{Error as PgError, GenericClient, ToStatement};
use xxhash_rust::xxh3::xxh3_128;

use super::{Session, failure};
use crate::error::Result;

/// A document that could not be written. Neither text may hold U+0000, which `text` can't.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The collection, `database.collection`.
    pub collection: String,
    /// The document's `_id`, readable and unique.
    pub key: String,
    /// Where in the document the trouble is, if that is known.
    pub path: Option<String>,
    /// What the trouble is.
    pub reason: String,
    /// The document as raw BSON.
    pub document: Vec<u8>,
}

/// The key of a document that has a dead letter, or had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadKey {
    /// The collection, `database.collection`.
    pub collection: String,
    /// The document's `_id`, as in [`DeadLetter::key`].
    pub key: String,
}

/// The keys of all documents of a pipeline that have a dead letter.
pub async fn keys(session: &Session, pipeline: &str) -> Result<Vec<DeadKey>> {
    let fail = |e| failure::of("load the keys of dead letters", &e);
    let question = "SELECT collection, key FROM docrow.dead_letters WHERE pipeline = $1";
    let rows = session.client.query(question, &[&pipeline]).await.map_err(fail)?;
    rows.iter()
        .map(|row| Ok(DeadKey { collection: row.try_get(0)?, key: row.try_get(1)? }))
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// Stores dead letters; the latest of a document replaces the one before.
pub(super) const INSERT: &str = "INSERT INTO docrow.dead_letters AS d \
        (pipeline, collection, key, key_hash, path, reason, document) \
    SELECT $1, c, k, encode(h, 'hex')::uuid, p, r, b \
    FROM unnest($2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::bytea[]) AS l (c, k, h, p, r, b) \
    ON CONFLICT (pipeline, collection, key_hash) DO UPDATE SET \
        path = EXCLUDED.path, reason = EXCLUDED.reason, document = EXCLUDED.document, at = now()";

/// Removes the dead letters of documents that are written by now.
pub(super) const REMOVE: &str = "DELETE FROM docrow.dead_letters d USING unnest($2::text[], $3::bytea[]) AS k (c, h) \
    WHERE d.pipeline = $1 AND d.collection = c AND d.key_hash = encode(h, 'hex')::uuid";

/// Runs [`INSERT`], given as text or prepared. No document may be among the letters twice.
pub(super) async fn insert<S: ToStatement + Sync + Send + ?Sized>(
    client: &impl GenericClient,
    statement: &S,
    pipeline: &str,
    letters: &[DeadLetter],
) -> Result<u64, PgError> {
    let collections: Vec<&str> = letters.iter().map(|letter| letter.collection.as_str()).collect();
    let keys: Vec<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    let hashes: Vec<Vec<u8>> = keys.iter().map(|key| hash(key)).collect();
    let paths: Vec<Option<&str>> = letters.iter().map(|letter| letter.path.as_deref()).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    let documents: Vec<&[u8]> = letters.iter().map(|letter| letter.document.as_slice()).collect();
    client.execute(statement, &[&pipeline, &collections, &keys, &hashes, &paths, &reasons, &documents]).await
}

/// Runs [`REMOVE`], given as text or prepared.
pub(super) async fn remove<S: ToStatement + Sync + Send + ?Sized>(
    client: &impl GenericClient,
    statement: &S,
    pipeline: &str,
    keys: &[DeadKey],
) -> Result<u64, PgError> {
    let collections: Vec<&str> = keys.iter().map(|dead| dead.collection.as_str()).collect();
    let hashes: Vec<Vec<u8>> = keys.iter().map(|dead| hash(&dead.key)).collect();
    client.execute(statement, &[&pipeline, &collections, &hashes]).await
}

fn hash(key: &str) -> Vec<u8> {
    xxh3_128(key.as_bytes()).to_be_bytes().to_vec()
}
