//! `docrow.pipelines.source`: the deployment of MongoDB that a pipeline's positions belong to.

use super::resync_requests;
use crate::{
    error::Result,
    sink::{
        Session,
        connection::{fence_entry::ENTERED, round_trip::OneRoundTrip, sqlstate},
    },
};

/// The stored one; `None`: nothing yet, for example by an earlier docrow.
pub async fn load(session: &Session, pipeline: &str) -> Result<Option<String>> {
    let fail = |e| sqlstate::error("look which MongoDB was copied", &e);
    let select = "SELECT source FROM docrow.pipelines WHERE pipeline = $1";
    let row = session.client.fetch_opt(select, &[&pipeline]).await.map_err(fail)?;
    Ok(row.map(|row| row.try_get::<_, Option<String>>(0)).transpose().map_err(fail)?.flatten())
}

/// Stores it.
pub async fn store(session: &mut Session, pipeline: &str, source: &str) -> Result<()> {
    let update = format!(
        "UPDATE docrow.pipelines SET source = $2 \
         WHERE pipeline = $1 AND source IS DISTINCT FROM $2 AND {ENTERED}"
    );
    session.write("note which MongoDB is copied", &update, &[&pipeline, &source]).await.map(drop)
}

/// Replaces the stored one: everything must be copied again, and the state directory's content, identified by
/// `state_id`, belongs to another deployment.
pub async fn replace(
    session: &mut Session,
    pipeline: &str,
    source: &str,
    state_id: &str,
    collections: &[String],
) -> Result<()> {
    let doing = "note that another MongoDB is copied";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter(doing).await?;
    let update = "UPDATE docrow.pipelines SET source = $2, state_id = $3 WHERE pipeline = $1";
    transaction.perform(update, &[&pipeline, &source, &state_id]).await.map_err(fail)?;
    resync_requests::insert(
        &transaction,
        pipeline,
        collections,
        crate::model::resync_reason::Reason::HistoryLost,
    )
    .await
    .map_err(fail)?;
    transaction.commit().await.map_err(fail)
}
