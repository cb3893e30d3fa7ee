//! `docrow.reports`: what the process that holds a pipeline says of itself every other second, for people elsewhere.
//!
//! One row a pipeline, in a table of its own: each report leaves a dead row, which is not for `docrow.enter` to read past
//! ([`fence`](super::fence)). There is room on its page for the next ones, and no index but the primary key, so that these are taken out
//! without a vacuum. What seldom changes is written only when it does.

use std::time::SystemTime;

use crate::{
    error::Result,
    sink::{Session, connection::sqlstate},
};

/// A report as it was stored. What the texts say is the business of whoever wrote them: JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReport {
    /// What changes all the time.
    pub report: String,
    /// What seldom changes.
    pub details: String,
    /// When it was stored, by the server's clock.
    pub at: SystemTime,
}

/// Stores a report, `details` only if there are any. It need not survive a crash of the server.
pub async fn store(session: &mut Session, pipeline: &str, report: &str, details: Option<&str>) -> Result<()> {
    let doing = "report";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter(doing).await?;
    transaction.batch_execute("SET LOCAL synchronous_commit = off").await.map_err(fail)?;
    let statement = "INSERT INTO docrow.reports AS r (pipeline, reported_at, report, details) \
        VALUES ($1, clock_timestamp(), $2::text::jsonb, coalesce($3::text::jsonb, '{}')) \
        ON CONFLICT (pipeline) DO UPDATE SET reported_at = EXCLUDED.reported_at, report = EXCLUDED.report, \
            details = CASE WHEN $3::text IS NULL THEN r.details ELSE EXCLUDED.details END";
    transaction.execute(statement, &[&pipeline, &report, &details]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}
