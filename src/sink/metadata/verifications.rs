//! `docrow.verifications`: the result of the last scheduled verification, one row per pipeline, for people
//! elsewhere and for the next process, which continues the schedule. Differences that a later verification
//! finds repaired are removed from it.

use std::time::SystemTime;

use tokio_postgres::{Client, Error as PgError};

use crate::{
    error::Result,
    sink::{
        Session,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// A stored result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVerification {
    /// Its time, by the server's clock.
    pub at: SystemTime,
    /// JSON, which only its writer interprets.
    pub result: String,
}

/// Stores a result.
pub async fn store(session: &mut Session, pipeline: &str, result: &str) -> Result<()> {
    let doing = "store the result of a verification";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter_if_fenced(doing).await?;
    let statement = "INSERT INTO docrow.verifications (pipeline, verified_at, result) \
        VALUES ($1, clock_timestamp(), $2::text::jsonb) \
        ON CONFLICT (pipeline) DO UPDATE SET verified_at = EXCLUDED.verified_at, result = EXCLUDED.result";
    transaction.perform(statement, &[&pipeline, &result]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Replaces `stored` by `result`, unless there has been another verification since. Its time stays.
pub async fn amend(
    session: &Session,
    pipeline: &str,
    stored: &StoredVerification,
    result: &str,
) -> Result<()> {
    let fail = |e| sqlstate::error("update the result of a verification", &e);
    let statement = "UPDATE docrow.verifications SET result = $3::text::jsonb \
        WHERE pipeline = $1 AND verified_at = $2";
    session.client.perform(statement, &[&pipeline, &stored.at, &result]).await.map(drop).map_err(fail)
}

/// The last result.
pub async fn last(session: &Session, pipeline: &str) -> Result<Option<StoredVerification>> {
    read(&session.client, pipeline).await.map_err(|e| sqlstate::error("look for the last verification", &e))
}

pub(super) async fn read(client: &Client, pipeline: &str) -> Result<Option<StoredVerification>, PgError> {
    let question = "SELECT verified_at, result::text FROM docrow.verifications WHERE pipeline = $1";
    let row = client.fetch_opt(question, &[&pipeline]).await?;
    row.map(|row| Ok(StoredVerification { at: row.try_get(0)?, result: row.try_get(1)? })).transpose()
}
