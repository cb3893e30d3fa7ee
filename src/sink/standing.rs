//! What the server is doing for docrow: works, waits for somebody's lock, or waits for docrow.

use super::{Session, failure};
use crate::error::Result;

/// Of all of docrow's sessions together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It carries out a statement that takes a while.
    Works,
    /// A statement waits for a lock that a session holds which is not docrow's: which lock, and whose, for people.
    Locked(String),
    /// It does nothing, or waits for docrow: for a lock, too, that only docrow holds.
    Idle,
}

/// Of this user's sessions in this database: for how long each has carried out a statement and does not wait, and who holds the
/// lock that it waits for. (Of other users' sessions only the number may be shown.)
const QUESTION: &str = "SELECT \
    coalesce(coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client') \
        AND pg_catalog.clock_timestamp() - a.query_start > interval '1 second', false), \
    (SELECT concat_ws(' ', \
        coalesce('a lock on ' || (SELECT w.relation::pg_catalog.regclass::text FROM pg_catalog.pg_locks w \
            WHERE w.pid = a.pid AND w.relation IS NOT NULL AND (NOT w.granted OR w.locktype = 'tuple') LIMIT 1), \
            'a lock'), \
        'that another session holds (PostgreSQL process ' || b.pid \
        || coalesce(', user ' || b.usename, '') || coalesce(', ' || nullif(b.application_name, ''), '') \
        || coalesce(', ' || b.state || ' since ' || b.state_change::timestamptz(0), '') || ')') \
     FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid)) \
        AND b.application_name IS DISTINCT FROM 'docrow' LIMIT 1) \
    FROM pg_catalog.pg_stat_activity a \
    WHERE a.datname = pg_catalog.current_database() AND a.usename = CURRENT_USER \
        AND a.application_name = 'docrow' AND a.state = 'active' AND a.pid <> pg_catalog.pg_backend_pid()";

/// Asks.
pub async fn look(session: &Session) -> Result<Standing> {
    let fail = |e| failure::of("ask what PostgreSQL does", &e);
    let mut standing = Standing::Idle;
    for row in session.client.query(QUESTION, &[]).await.map_err(fail)? {
        if let Some(by) = row.try_get::<_, Option<String>>(1).map_err(fail)? {
            return Ok(Standing::Locked(by));
        }
        if row.try_get(0).map_err(fail)? {
            standing = Standing::Works;
        }
    }
    Ok(standing)
}
