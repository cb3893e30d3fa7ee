//! `docrow.pauses`: collections whose changes wait until `docrow resume`, on an operator's request.
//!
//! A row exists as long as the pause, so the pause outlives every process. The process that runs the pipeline
//! checks for new and deleted rows, and records when nothing more is written to a collection (`held_at`).

use std::time::SystemTime;

use super::requests::Requests;
use crate::{
    error::Result,
    sink::{
        Session,
        connection::{fence_entry::ENTERED, round_trip::OneRoundTrip, sqlstate},
    },
};

/// A collection that is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRequest {
    /// `database.collection`.
    pub collection: String,
    /// When it was requested.
    pub since: SystemTime,
    /// Whether a process that runs the pipeline has confirmed it: from then on nothing is written to the
    /// collection.
    pub is_held: bool,
}

/// The pauses of a pipeline, by collection.
pub async fn all(session: &Session, pipeline: &str) -> Result<Vec<PauseRequest>> {
    let fail = |e| sqlstate::error("look for collections that are paused", &e);
    let question =
        "SELECT collection, paused_at, held_at IS NOT NULL FROM docrow.pauses WHERE pipeline = $1 ORDER BY 1";
    let rows = session.client.fetch(question, &[&pipeline]).await.map_err(fail)?;
    let pause = |row: &tokio_postgres::Row| {
        Ok(PauseRequest { collection: row.try_get(0)?, since: row.try_get(1)?, is_held: row.try_get(2)? })
    };
    rows.iter().map(pause).collect::<Result<_, _>>().map_err(fail)
}

/// Records that nothing more is written to these collections.
pub async fn hold(session: &mut Session, pipeline: &str, collections: &[&str]) -> Result<()> {
    let doing = "record which collections are paused";
    let statement = format!(
        "UPDATE docrow.pauses SET held_at = now() \
         WHERE pipeline = $1 AND collection = ANY($2) AND held_at IS NULL AND {ENTERED}"
    );
    session.write(doing, &statement, &[&pipeline, &collections]).await.map(drop)
}

impl Requests {
    /// The collections that are paused.
    pub async fn pauses(&self) -> Result<Vec<PauseRequest>> {
        all(&self.session, &self.pipeline).await
    }

    /// Pauses these collections. Those that are already paused stay so.
    pub async fn pause(&self, collections: &[String]) -> Result<()> {
        let statement = "INSERT INTO docrow.pauses (pipeline, collection) SELECT $1, c FROM unnest($2::text[]) AS a (c) \
            ON CONFLICT (pipeline, collection) DO NOTHING";
        let done = self.session.client.perform(statement, &[&self.pipeline, &collections]).await;
        done.map(drop).map_err(|e| sqlstate::error("pause collections", &e))
    }

    /// Resumes these collections.
    pub async fn resume(&self, collections: &[String]) -> Result<()> {
        let statement = "DELETE FROM docrow.pauses WHERE pipeline = $1 AND collection = ANY($2)";
        let done = self.session.client.perform(statement, &[&self.pipeline, &collections]).await;
        done.map(drop).map_err(|e| sqlstate::error("resume collections", &e))
    }
}
