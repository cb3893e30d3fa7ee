//! How a transaction enters its pipeline: see [`fence`](crate::sink::metadata::fence).

use tokio_postgres::{Client, Error as PgError, Statement};
use xxhash_rust::xxh3::xxh3_64;

/// A condition that holds only in a transaction that has entered the pipeline (`docrow.enter`, see `fence`).
/// Of statements that are sent together, each would run separately if the one that begins their transaction
/// failed; with this condition they then do nothing.
pub(crate) const ENTERED: &str = "current_setting('docrow.entered', true) <> ''";

/// The prepared statement that lets a transaction write to the pipeline, or makes it fail.
#[derive(Clone, Debug)]
pub(crate) struct FenceEntry {
    statement: Statement,
    pipeline: String,
    epoch: i64,
    lock: i64,
}

impl FenceEntry {
    pub(super) async fn prepare(client: &Client, pipeline: &str, epoch: i64) -> Result<Self, PgError> {
        let statement = client.prepare("SELECT docrow.enter($1, $2, $3)").await?;
        let lock = lock_of_writers(pipeline);
        Ok(Self { statement, pipeline: pipeline.to_owned(), epoch, lock })
    }

    /// The first statement of a transaction.
    pub(crate) async fn enter(&self, client: &Client) -> Result<u64, PgError> {
        client.execute(&self.statement, &[&self.pipeline, &self.epoch, &self.lock]).await
    }
}

/// The lock that transactions of a pipeline take shared, and a process that raises its epoch takes
/// exclusively.
pub(crate) fn lock_of_writers(pipeline: &str) -> i64 {
    xxh3_64(format!("docrow writers of pipeline {pipeline}").as_bytes()).cast_signed()
}
