//! One writer (G9): the advisory lock that a pipeline's process holds for as long as it runs.
//!
//! The lock is on a connection of its own that does nothing else, so that the server frees it the moment the
//! process dies. [`Fence::lost`] tells when it is gone. A transaction that is on its way then may still commit,
//! beside the successor's: `progress` says what keeps that from losing anything.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use xxhash_rust::xxh3::xxh3_64;

use super::{Session, Target, failure};
use crate::error::{Error, Kind, Result};

/// How long the lock is tried for: a server under load takes a moment to notice that a process was killed.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// A held lock. Dropping it frees it.
#[derive(Debug)]
pub struct Fence {
    session: Session,
}

impl Fence {
    /// Takes the pipeline's lock. Errors: [`Kind::Fenced`] if another connection holds it, saying which.
    pub async fn acquire(target: &Target) -> Result<Self> {
        let session = target.connect().await?;
        let pipeline = target.pipeline();
        let fail = |e| failure::of(format!("lock pipeline {pipeline}"), &e);
        let key = key_of(pipeline);
        let question = "SELECT pg_try_advisory_lock($1)";
        let deadline = Instant::now() + PATIENCE;
        loop {
            if session
                .client
                .query_one(question, &[&key])
                .await
                .and_then(|row| row.try_get(0))
                .map_err(fail)?
            {
                return Ok(Self { session });
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(POLL).await;
        }
        let holder = holder(&session, pipeline).await?;
        let holder = holder.map_or_else(String::new, |holder| format!(" ({holder})"));
        let advice = "stop the other process, or give this pipeline another name";
        Err(Error::new(Kind::Fenced, format!("another docrow runs pipeline {pipeline}{holder}: {advice}")))
    }

    /// Returns once the lock is lost, because its connection ended.
    pub async fn lost(&mut self) {
        self.session.closed().await;
    }
}

/// The connection that holds a pipeline's lock, for a person to read; `None`: nobody runs it.
pub async fn holder(session: &Session, pipeline: &str) -> Result<Option<String>> {
    let fail = |e| failure::of(format!("ask who runs pipeline {pipeline}"), &e);
    // Of another user's process nothing but its number is shown to everybody.
    let question = "SELECT concat('PostgreSQL process ', a.pid, ', client ' || \
            coalesce(host(a.client_addr), 'on a local socket'), ', since ' || a.backend_start::timestamptz(0)) \
        FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
        AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let row = session.client.query_opt(question, &[&key_of(pipeline)]).await.map_err(fail)?;
    row.map(|row| row.try_get(0)).transpose().map_err(fail)
}

fn key_of(pipeline: &str) -> i64 {
    xxh3_64(format!("docrow pipeline {pipeline}").as_bytes()).cast_signed()
}
