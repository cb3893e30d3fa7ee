//! `docrow.repairs`: documents whose rows must be written again, because `docrow verify --repair` found them
//! different, or because the process that runs the pipeline found rows that docrow does not write.
//!
//! Only the process that runs the pipeline writes rows, so the repairs are requested from it. It takes a
//! request off the list and then executes it; if it is killed in between, the requester finds the repair
//! undone, and requests it again.

use mongodb::bson::{RawDocument, RawDocumentBuf};

use super::requests::Requests;
use crate::{
    error::Result,
    model::document_key::Id,
    sink::{
        Keys, Session,
        connection::{
            fence_entry::ENTERED,
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
        },
    },
};

/// How many are taken at a time.
const AT_ONCE: i64 = 1000;

/// What to write again.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    /// Documents, by their lookup filter `{_id: …}`.
    pub documents: Vec<RawDocumentBuf>,
    /// Keys that no document can have: their rows must be deleted.
    pub keys: Keys,
}

impl Repairs {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.keys.is_empty()
    }
}

/// Takes requests, the oldest first, by collection, except those of the collections `later`.
pub async fn take(session: &mut Session, pipeline: &str, later: &[&str]) -> Result<Vec<(String, Repairs)>> {
    let doing = "take rows to be repaired";
    let fail = |e| sqlstate::error(doing, &e);
    let delete = format!(
        "DELETE FROM docrow.repairs WHERE id IN \
            (SELECT id FROM docrow.repairs WHERE pipeline = $1 AND collection <> ALL ($2) ORDER BY id LIMIT $3) \
         AND {ENTERED} RETURNING collection, document_key, key"
    );
    let rows = session.write(doing, &delete, &[&pipeline, &later, &AT_ONCE]).await?;
    let mut taken: Vec<(String, Repairs)> = Vec::new();
    for row in &rows {
        let collection: &str = row.try_get(0).map_err(fail)?;
        if !taken.iter().any(|(name, _)| name == collection) {
            taken.push((collection.to_owned(), Repairs::default()));
        }
        let Some((_, repairs)) = taken.iter_mut().find(|(name, _)| name == collection) else { continue };
        let document: Option<&[u8]> = row.try_get(1).map_err(fail)?;
        let key: Option<&[u8]> = row.try_get(2).map_err(fail)?;
        let document = document.and_then(|bytes| RawDocument::from_bytes(bytes).ok());
        repairs.documents.extend(document.and_then(|found| Id::of(found).ok()?.document().ok()));
        key.into_iter().for_each(|key| repairs.keys.push(key));
    }
    Ok(taken)
}

impl Requests {
    /// Requests repairs.
    pub async fn repair(&self, collection: &str, repairs: &Repairs) -> Result<()> {
        let fail = |e| sqlstate::error("request repairs", &e);
        let documents: Vec<&[u8]> = repairs.documents.iter().map(|document| document.as_bytes()).collect();
        let keys: Vec<&[u8]> = repairs.keys.iter().collect();
        let insert = "INSERT INTO docrow.repairs (pipeline, collection, document_key, key) \
            SELECT $1, $2, d, NULL FROM unnest($3::bytea[]) AS a (d) \
            UNION ALL SELECT $1, $2, NULL, k FROM unnest($4::bytea[]) AS a (k)";
        let parameters: [&dyn Parameter; 4] = [&self.pipeline, &collection, &documents, &keys];
        self.session.client.perform(insert, &parameters).await.map(drop).map_err(fail)
    }

    /// How many requests have not been taken yet.
    pub async fn repairs_left(&self, collection: &str) -> Result<i64> {
        let fail = |e| sqlstate::error("count the repairs that are left", &e);
        let question = "SELECT count(*) FROM docrow.repairs WHERE pipeline = $1 AND collection = $2";
        let row = self.session.client.fetch_one(question, &[&self.pipeline, &collection]).await;
        row.and_then(|row| row.try_get(0)).map_err(fail)
    }

    /// Withdraws requests that have not been taken.
    pub async fn take_back_repairs(&self, collection: &str) -> Result<()> {
        let fail = |e| sqlstate::error("withdraw repairs", &e);
        let delete = "DELETE FROM docrow.repairs WHERE pipeline = $1 AND collection = $2";
        self.session.client.perform(delete, &[&self.pipeline, &collection]).await.map(drop).map_err(fail)
    }
}
