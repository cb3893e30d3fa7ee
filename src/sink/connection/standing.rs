//! What the server is doing for docrow: it works, waits for another session's lock, or waits for docrow.

use super::{round_trip::OneRoundTrip, sqlstate};
use crate::{error::Result, sink::Session};

/// Of all of docrow's sessions together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It executes a statement that takes a while.
    Works,
    /// A statement waits for a lock that a session other than docrow's holds.
    Locked(Locked),
    /// It does nothing, or waits for docrow, possibly for a lock that only docrow holds.
    Idle,
}

/// A lock that docrow waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// Whether it is on a table, or a row of it.
    pub is_of_table: bool,
    /// The table, and who holds the lock since when, for people: `a lock on …`.
    pub words: String,
    /// The statement that terminates its holder.
    pub remedy: String,
}

/// For each of this user's sessions in this database: whether it has been executing a statement for a while
/// without waiting; and who holds the lock that it waits for, with the statement that terminates the holder.
/// A session that waits for the same lock ahead of docrow does not hold it, and comes last. (Of other users'
/// sessions only the number and the names may be shown.) A prepared transaction has no session.
const QUESTION: &str = "SELECT \
    coalesce(coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client') \
        AND pg_catalog.clock_timestamp() - a.query_start > interval '1 second', false), \
    'a lock' || coalesce(' on ' || w.relation::pg_catalog.regclass::text, '') || ' that ' || coalesce(b.words, p.words), \
    coalesce(b.remedy, p.remedy), w.relation IS NOT NULL \
    FROM pg_catalog.pg_stat_activity a \
    LEFT JOIN LATERAL (SELECT l.relation FROM pg_catalog.pg_locks l \
        WHERE l.pid = a.pid AND l.relation IS NOT NULL AND (NOT l.granted OR l.locktype = 'tuple') LIMIT 1) AS w ON true \
    LEFT JOIN LATERAL (SELECT 'another session holds (PostgreSQL process ' || o.pid \
            || coalesce(', user ' || o.usename, '') || coalesce(', application ' || nullif(o.application_name, ''), '') \
            || coalesce(', in a transaction since ' || o.xact_start::timestamptz(0), '') || ')' AS words, \
            'SELECT pg_terminate_backend(' || o.pid || ')' AS remedy \
        FROM pg_catalog.pg_stat_activity o WHERE o.pid = ANY (pg_catalog.pg_blocking_pids(a.pid)) \
            AND o.application_name IS DISTINCT FROM 'docrow' \
        ORDER BY pg_catalog.cardinality(pg_catalog.pg_blocking_pids(o.pid)), o.xact_start, o.pid LIMIT 1) AS b ON true \
    LEFT JOIN LATERAL (SELECT 'a prepared transaction holds (' || x.gid || ', since ' || x.prepared::timestamptz(0) || ')' \
            AS words, pg_catalog.format('ROLLBACK PREPARED %L', x.gid) AS remedy \
        FROM pg_catalog.pg_prepared_xacts x JOIN pg_catalog.pg_locks l \
            ON l.pid IS NULL AND l.granted AND l.relation = w.relation AND l.virtualtransaction = '-1/' || x.transaction \
        WHERE x.database = pg_catalog.current_database() AND 0 = ANY (pg_catalog.pg_blocking_pids(a.pid)) \
        LIMIT 1) AS p ON true \
    WHERE a.datname = pg_catalog.current_database() AND a.usename = CURRENT_USER \
        AND a.application_name = 'docrow' AND a.state = 'active' AND a.pid <> pg_catalog.pg_backend_pid()";

/// Asks.
pub async fn look(session: &Session) -> Result<Standing> {
    let fail = |e| sqlstate::error("ask what PostgreSQL does", &e);
    let mut standing = Standing::Idle;
    for row in session.client.fetch(QUESTION, &[]).await.map_err(fail)? {
        let words: Option<String> = row.try_get(1).map_err(fail)?;
        let remedy: Option<String> = row.try_get(2).map_err(fail)?;
        if let Some((words, remedy)) = words.zip(remedy) {
            let is_of_table = row.try_get(3).map_err(fail)?;
            return Ok(Standing::Locked(Locked { is_of_table, words, remedy }));
        }
        if row.try_get(0).map_err(fail)? {
            standing = Standing::Works;
        }
    }
    Ok(standing)
}
