//! `docrow.reports`: reports of the process that holds a pipeline, every other second, for people elsewhere.
//!
//! One row per pipeline, in a separate table: each report leaves a dead row, which `docrow.enter` must not
//! have to read past ([`fence`](super::fence)). Its page has room for the next ones, and there is no index
//! but the primary key, so that dead rows are removed without a vacuum. Details that rarely change are
//! written only when they do.

use std::time::SystemTime;

use crate::{
    error::Result,
    sink::{Session, connection::fence_entry::ENTERED},
};

/// A stored report. Its texts are JSON, which only their writer interprets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReport {
    /// The part that changes all the time.
    pub report: String,
    /// The part that rarely changes.
    pub details: String,
    /// When it was stored, by the server's clock.
    pub at: SystemTime,
}

/// Stores a report, `details` only if there are any. It need not survive a crash of the server.
pub async fn store(session: &mut Session, pipeline: &str, report: &str, details: Option<&str>) -> Result<()> {
    let statement = format!(
        "INSERT INTO docrow.reports AS r (pipeline, reported_at, report, details) \
         SELECT $1, clock_timestamp(), $2::text::jsonb, coalesce($3::text::jsonb, '{{}}') \
         FROM set_config('synchronous_commit', 'off', true) WHERE {ENTERED} \
         ON CONFLICT (pipeline) DO UPDATE SET reported_at = EXCLUDED.reported_at, report = EXCLUDED.report, \
            details = CASE WHEN $3::text IS NULL THEN r.details ELSE EXCLUDED.details END"
    );
    session.write("report", &statement, &[&pipeline, &report, &details]).await.map(drop)
}
