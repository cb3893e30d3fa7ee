//! `docrow.resyncs`: collections to resync, because an operator requested it or their history is lost.
//!
//! The transaction that stores the plan of the resync ([`chunks::replace`]) answers a request: it covers all
//! requests made before; one made afterwards is another request.
//!
//! [`chunks::replace`]: super::chunks::replace

use tokio_postgres::{Client, Error as PgError};

use super::requests::Requests;
use crate::{
    error::Result,
    model::resync_reason::Reason,
    sink::{
        Session,
        connection::{round_trip::OneRoundTrip, sqlstate},
    },
};

/// Requests a resync of these collections, for this reason from now on.
pub async fn ask(
    session: &mut Session,
    pipeline: &str,
    collections: &[impl AsRef<str> + Sync],
    reason: Reason,
) -> Result<()> {
    let doing = "request a resync";
    let fail = |e| sqlstate::error(doing, &e);
    // The process that runs the pipeline requests it as such; others may request it, too.
    let transaction = session.enter_if_fenced(doing).await?;
    insert(&transaction, pipeline, collections, reason).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// The same, in a transaction.
pub(super) async fn insert(
    client: &Client,
    pipeline: &str,
    collections: &[impl AsRef<str> + Sync],
    reason: Reason,
) -> Result<u64, PgError> {
    let collections: Vec<&str> = collections.iter().map(AsRef::as_ref).collect();
    let statement = "INSERT INTO docrow.resyncs (pipeline, collection, reason) \
        SELECT $1, c, $3 FROM unnest($2::text[]) AS a (c) \
        ON CONFLICT (pipeline, collection) DO UPDATE SET reason = EXCLUDED.reason";
    client.perform(statement, &[&pipeline, &collections, &reason.text()]).await
}

/// The current requests.
pub async fn asked(session: &Session, pipeline: &str) -> Result<Vec<(String, Reason)>> {
    let fail = |e| sqlstate::error("look for requested resyncs", &e);
    let question = "SELECT collection, reason FROM docrow.resyncs WHERE pipeline = $1 ORDER BY collection";
    let rows = session.client.fetch(question, &[&pipeline]).await.map_err(fail)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, Reason::from_text(row.try_get(1)?))))
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// Whether a resync of this collection is requested.
pub(crate) async fn is_asked(client: &Client, pipeline: &str, collection: &str) -> Result<bool, PgError> {
    let question = "SELECT FROM docrow.resyncs WHERE pipeline = $1 AND collection = $2";
    Ok(client.fetch_opt(question, &[&pipeline, &collection]).await?.is_some())
}

impl Requests {
    /// The collections that the pipeline has copied, or started to copy.
    pub async fn collections(&self) -> Result<Vec<String>> {
        let fail = |e| sqlstate::error("look for the pipeline's collections", &e);
        let question = "SELECT DISTINCT collection FROM docrow.chunks WHERE pipeline = $1 ORDER BY 1";
        let rows = self.session.client.fetch(question, &[&self.pipeline]).await.map_err(fail)?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
    }

    /// Requests a resync of these collections.
    pub async fn resync(&mut self, collections: &[String]) -> Result<()> {
        ask(&mut self.session, &self.pipeline, collections, Reason::Asked).await
    }
}
