//! `docrow.dead_letters`: documents that could not be written, whole, with the reason (G10).
//!
//! A letter is found by a hash of its document's key. An operator may request a retry (`retry_at`): the
//! process that runs the pipeline then looks the document up and writes it, which removes the letter; or it
//! fails again, which answers the request, too.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use mongodb::bson::{RawDocument, RawDocumentBuf};
use tokio_postgres::{Client, Error as PgError, Statement, ToStatement, types::ToSql};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    error::Result,
    model::document_key::{Id, id_text},
    sink::{
        RawValue, Session,
        connection::{fence_entry::ENTERED, round_trip::OneRoundTrip, sqlstate},
    },
};

/// A document that could not be written. Neither text may contain U+0000, which `text` can't hold.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The collection, `database.collection`.
    pub collection: String,
    /// The document's `_id`, readable and unique.
    pub key: String,
    /// The same as raw BSON, `{_id: …}`, to look the document up.
    pub document_key: Vec<u8>,
    /// The path in the document, if it is known.
    pub path: Option<String>,
    /// The reason.
    pub reason: String,
    /// The document as raw BSON, if it may be stored.
    pub document: Option<Vec<u8>>,
}

/// The key of a document that has a dead letter, or had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadKey {
    /// The collection, `database.collection`.
    pub collection: String,
    /// The document's `_id`, as in [`DeadLetter::key`].
    pub key: String,
}

/// Which documents have a dead letter: 16 bytes each, however long their keys are.
#[derive(Clone, Debug, Default)]
pub struct DeadKeys {
    collections: HashMap<String, HashSet<[u8; 16]>>,
}

impl DeadKeys {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.collections.is_empty()
    }

    /// The number for a collection.
    pub fn count(&self, collection: &str) -> usize {
        self.collections.get(collection).map_or(0, HashSet::len)
    }

    /// Whether the document of `collection` with this `key`, as in [`DeadLetter::key`], has one.
    pub fn contains(&self, collection: &str, key: &str) -> bool {
        self.collections.get(collection).is_some_and(|keys| keys.contains(&hash(key)))
    }

    /// Adds one.
    pub fn insert(&mut self, DeadKey { collection, key }: DeadKey) {
        self.collections.entry(collection).or_default().insert(hash(&key));
    }

    /// Removes one.
    pub fn remove(&mut self, DeadKey { collection, key }: &DeadKey) {
        if let Some(keys) = self.collections.get_mut(collection) {
            keys.remove(&hash(key));
            if keys.is_empty() {
                self.collections.remove(collection);
            }
        }
    }
}

/// The keys of all documents of a pipeline that have a dead letter.
pub async fn keys(session: &Session, pipeline: &str) -> Result<DeadKeys> {
    dead_keys(session, pipeline, None).await
}

/// Those of one collection.
pub async fn keys_of(session: &Session, pipeline: &str, collection: &str) -> Result<DeadKeys> {
    dead_keys(session, pipeline, Some(collection)).await
}

async fn dead_keys(session: &Session, pipeline: &str, collection: Option<&str>) -> Result<DeadKeys> {
    let fail = |e| sqlstate::error("load the keys of dead letters", &e);
    let question = "SELECT collection, key_hash FROM docrow.dead_letters \
        WHERE pipeline = $1 AND ($2 IS NULL OR collection = $2)";
    let rows = session.client.fetch(question, &[&pipeline, &collection]).await.map_err(fail)?;
    let mut keys = DeadKeys::default();
    for row in &rows {
        let hash: RawValue<'_> = row.try_get(1).map_err(fail)?;
        let collection = row.try_get(0).map_err(fail)?;
        keys.collections.entry(collection).or_default().extend(<[u8; 16]>::try_from(hash.0));
    }
    Ok(keys)
}

/// Which of the documents of `collection` with these `keys`, as in [`DeadLetter::key`], have a dead letter.
pub async fn among(session: &Session, pipeline: &str, collection: &str, keys: &[String]) -> Result<DeadKeys> {
    let fail = |e| sqlstate::error("look for dead letters", &e);
    let hashes: Vec<_> = keys.iter().map(|key| hash(key)).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 16]>::as_slice).collect();
    let question = "SELECT key_hash FROM docrow.dead_letters JOIN unnest($3::bytea[]) AS h \
        ON key_hash = encode(h, 'hex')::uuid WHERE pipeline = $1 AND collection = $2";
    let rows = session.client.fetch(question, &[&pipeline, &collection, &hashes]).await.map_err(fail)?;
    let mut found = DeadKeys::default();
    for row in &rows {
        let hash: RawValue<'_> = row.try_get(0).map_err(fail)?;
        found.collections.entry(collection.to_owned()).or_default().extend(<[u8; 16]>::try_from(hash.0));
    }
    Ok(found)
}

/// The documents of `collection` with a dead letter, by their lookup filter `{_id: …}`, in pages: at most a
/// thousand whose letters have a number after `after`, with those numbers.
pub async fn document_keys(
    session: &Session,
    pipeline: &str,
    collection: &str,
    after: i64,
) -> Result<Vec<(i64, RawDocumentBuf)>> {
    let fail = |e| sqlstate::error("list dead letters", &e);
    let question = "SELECT id, coalesce(document_key, document) FROM docrow.dead_letters \
        WHERE pipeline = $1 AND collection = $2 AND id > $3 \
        AND coalesce(document_key, document) IS NOT NULL ORDER BY id LIMIT 1000";
    let rows = session.client.fetch(question, &[&pipeline, &collection, &after]).await.map_err(fail)?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in &rows {
        let bytes: &[u8] = row.try_get(1).map_err(fail)?;
        let document_key =
            RawDocument::from_bytes(bytes).ok().and_then(|found| Id::of(found).ok()?.document().ok());
        keys.extend(document_key.map(|key| row.try_get(0).map(|id| (id, key))).transpose().map_err(fail)?);
    }
    Ok(keys)
}

/// Renames the letters of a collection, because an earlier docrow had several names for one `_id`. Of several
/// letters of one document, the last stays.
pub async fn rename(session: &mut Session, pipeline: &str, collection: &str) -> Result<()> {
    let (mut after, mut named, mut superseded) = (0, HashMap::new(), Vec::new());
    loop {
        let page = document_keys(session, pipeline, collection, after).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (id, document_key) in page {
            superseded.extend(named.insert(id_text(&document_key)?, id));
        }
    }
    let (keys, ids): (Vec<String>, Vec<i64>) = named.into_iter().unzip();
    let hashes: Vec<_> = keys.iter().map(|key| hash(key)).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 16]>::as_slice).collect();
    let doing = "rename dead letters";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter(doing).await?;
    let delete = "DELETE FROM docrow.dead_letters WHERE id = ANY ($1)";
    transaction.perform(delete, &[&superseded]).await.map_err(fail)?;
    let update = "UPDATE docrow.dead_letters d SET key = k, key_hash = encode(h, 'hex')::uuid \
        FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS l (i, k, h) WHERE d.id = i AND d.key <> k";
    transaction.perform(update, &[&ids, &keys, &hashes]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Stores dead letters; the latest one of a document replaces the one before, and answers a requested retry.
pub(crate) fn insert_statement() -> String {
    format!(
        "INSERT INTO docrow.dead_letters AS d \
            (pipeline, collection, key, key_hash, document_key, path, reason, document) \
        SELECT $1, c, k, encode(h, 'hex')::uuid, i, p, r, b \
        FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[], $7::text[], $8::bytea[]) \
            AS l (c, k, h, i, p, r, b) WHERE {ENTERED} \
        ON CONFLICT (pipeline, collection, key_hash) DO UPDATE SET document_key = EXCLUDED.document_key, \
            path = EXCLUDED.path, reason = EXCLUDED.reason, document = EXCLUDED.document, at = now(), retry_at = NULL"
    )
}

/// Removes the dead letters of documents that have been written.
pub(crate) fn remove_statement() -> String {
    format!(
        "DELETE FROM docrow.dead_letters d USING unnest($2::text[], $3::bytea[]) AS k (c, h) \
        WHERE d.pipeline = $1 AND d.collection = c AND d.key_hash = encode(h, 'hex')::uuid AND {ENTERED}"
    )
}

/// Runs [`insert_statement`], given as text or prepared. No document may be among the letters twice.
pub(crate) async fn insert<S: ToStatement + Sync + Send + ?Sized>(
    client: &Client,
    statement: &S,
    pipeline: &str,
    letters: &[DeadLetter],
) -> Result<u64, PgError> {
    let collections: Vec<&str> = letters.iter().map(|letter| letter.collection.as_str()).collect();
    let keys: Vec<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    let hashes: Vec<_> = keys.iter().map(|key| hash(key)).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 16]>::as_slice).collect();
    let document_keys: Vec<&[u8]> = letters.iter().map(|letter| letter.document_key.as_slice()).collect();
    let paths: Vec<Option<&str>> = letters.iter().map(|letter| letter.path.as_deref()).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    let documents: Vec<Option<&[u8]>> = letters.iter().map(|letter| letter.document.as_deref()).collect();
    let parameters: &[&(dyn ToSql + Sync)] =
        &[&pipeline, &collections, &keys, &hashes, &document_keys, &paths, &reasons, &documents];
    client.execute(statement, parameters).await
}

/// Runs [`remove_statement`], prepared.
pub(crate) async fn remove(
    client: &Client,
    statement: &Statement,
    pipeline: &str,
    keys: &[DeadKey],
) -> Result<u64, PgError> {
    let collections: Vec<&str> = keys.iter().map(|dead| dead.collection.as_str()).collect();
    let hashes: Vec<_> = keys.iter().map(|dead| hash(&dead.key)).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 16]>::as_slice).collect();
    client.execute(statement, &[&pipeline, &collections, &hashes]).await
}

fn hash(key: &str) -> [u8; 16] {
    xxh3_128(key.as_bytes()).to_be_bytes()
}

/// A letter for which a retry is requested.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The letter's number.
    pub id: i64,
    /// The collection, `database.collection`.
    pub collection: String,
    /// The filter to look the document up, `{_id: …}`.
    pub document_key: RawDocumentBuf,
    /// When it was requested: another time is another request.
    pub at: SystemTime,
}

/// The letters for which a retry is requested, those that have waited longest first, at most a thousand.
/// Looking a document up and writing it, or deleting its rows if it no longer exists, answers the request,
/// whether or not it fails again; call [`answered`] for those that can't even be looked up.
pub async fn asked(session: &Session, pipeline: &str) -> Result<Vec<Asked>> {
    let fail = |e| sqlstate::error("look for dead letters to retry", &e);
    // An earlier docrow did not store the key separately.
    let question = "SELECT id, collection, coalesce(document_key, document), retry_at FROM docrow.dead_letters \
        WHERE pipeline = $1 AND retry_at IS NOT NULL AND coalesce(document_key, document) IS NOT NULL \
        ORDER BY retry_at, id LIMIT 1000";
    let rows = session.client.fetch(question, &[&pipeline]).await.map_err(fail)?;
    let mut asked = Vec::with_capacity(rows.len());
    for row in &rows {
        let bytes: &[u8] = row.try_get(2).map_err(fail)?;
        if let Some(document_key) =
            RawDocument::from_bytes(bytes).ok().and_then(|found| Id::of(found).ok()?.document().ok())
        {
            let (id, collection) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
            asked.push(Asked { id, collection, document_key, at: row.try_get(3).map_err(fail)? });
        }
    }
    Ok(asked)
}

/// The number of letters of each collection that has some.
pub async fn counts(session: &Session, pipeline: &str) -> Result<HashMap<String, u64>> {
    let fail = |e| sqlstate::error("count dead letters", &e);
    let question = "SELECT collection, count(*) FROM docrow.dead_letters WHERE pipeline = $1 GROUP BY 1";
    let rows = session.client.fetch(question, &[&pipeline]).await.map_err(fail)?;
    let mut counts = HashMap::with_capacity(rows.len());
    for row in &rows {
        let count: i64 = row.try_get(1).map_err(fail)?;
        counts.insert(row.try_get(0).map_err(fail)?, u64::try_from(count).unwrap_or(0));
    }
    Ok(counts)
}

/// Removes the letters with these numbers.
pub async fn forget(session: &mut Session, pipeline: &str, ids: &[i64]) -> Result<()> {
    let doing = "remove dead letters of documents that no longer exist";
    let statement =
        format!("DELETE FROM docrow.dead_letters WHERE pipeline = $1 AND id = ANY($2) AND {ENTERED}");
    session.write(doing, &statement, &[&pipeline, &ids]).await.map(drop)
}

/// Records that these letters have been retried, and stay.
pub async fn answered(session: &mut Session, pipeline: &str, ids: &[i64]) -> Result<()> {
    let doing = "record that dead letters were retried";
    let statement = format!(
        "UPDATE docrow.dead_letters SET retry_at = NULL WHERE pipeline = $1 AND id = ANY($2) AND {ENTERED}"
    );
    session.write(doing, &statement, &[&pipeline, &ids]).await.map(drop)
}
