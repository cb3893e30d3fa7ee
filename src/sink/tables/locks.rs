//! Locks on users' tables: how docrow requests exclusive ones.
//!
//! While a request waits for such a lock, all later requests queue behind it, including those of readers. So
//! a single reader with an idle transaction would make docrow lock out everyone else. Therefore docrow waits
//! only for the duration of a try, withdraws if the lock is not free by then, and leaves the table alone for
//! a while; the caller, which gets [`Code::TargetLocked`], decides for how long.
//!
//! But PostgreSQL cancels its own autovacuum only in favour of a session that has waited for
//! `deadlock_timeout`. So that autovacuum gives way to docrow, too, [`make_way`] requests, for longer, a lock
//! that blocks neither readers nor writers.

use futures_util::try_join;
use tokio_postgres::{Client, Error as PgError, error::SqlState};

use crate::{
    error::{Code, Error, Result},
    sink::{
        Session,
        connection::{round_trip::OneRoundTrip, sqlstate, transaction::WriteTransaction},
    },
};

/// For a transaction.
pub(super) const BRIEFLY: &str = "SET LOCAL lock_timeout = '150ms'";

/// How many holders of a lock are named.
const NAMED: i64 = 3;

/// Locks tables, named with their schemas, in ACCESS EXCLUSIVE mode. The rest of the transaction waits for no
/// lock longer than a try. Errors: [`Code::TargetLocked`] if another session holds a lock on one of them for
/// longer than a try, which is the limit for all of them together.
pub(super) async fn against_all(transaction: &WriteTransaction<'_>, tables: &[&str]) -> Result<()> {
    lock(transaction, tables, "ACCESS EXCLUSIVE").await
}

/// As [`against_all`], but only against sessions that write to them, or change them.
pub(super) async fn against_writers(transaction: &Client, tables: &[&str]) -> Result<()> {
    lock(transaction, tables, "SHARE ROW EXCLUSIVE").await
}

async fn lock(transaction: &Client, tables: &[&str], mode: &str) -> Result<()> {
    let fail = |e: PgError| {
        let error = sqlstate::error(format!("lock {}", shown(tables)), &e);
        // The limit below applies.
        let is_late = e.code() == Some(&SqlState::QUERY_CANCELED);
        if is_late { error.with_code(Code::TargetLocked) } else { error }
    };
    // The first limit is per table, the second per statement.
    let limits = format!("{BRIEFLY}; SET LOCAL statement_timeout = '200ms'");
    let lock = format!("LOCK TABLE {} IN {mode} MODE", tables.join(", "));
    // Not one message: its limit would be that of all statements in it, as it was when it came.
    let limited = async { transaction.batch_execute(&limits).await };
    let locked = async { transaction.batch_execute(&lock).await };
    let lifted = async { transaction.batch_execute("SET LOCAL statement_timeout = 0").await };
    try_join!(limited, locked, lifted).map(drop).map_err(fail)
}

/// After a try, finds out which sessions held a lock on one of these tables, and makes autovacuum give way to
/// the next one. Takes as long as that, or as another session that changes the table or its statistics, but
/// no more than a few seconds.
pub async fn make_way(session: &mut Session, error: Error, tables: &[String]) -> Result<Error> {
    let fail = |e| sqlstate::error("look who holds a lock", &e);
    let holders = holders(session, tables).await.map_err(fail)?;
    let transaction = session.client.transaction().await.map_err(fail)?;
    let patience = "SELECT set_config('lock_timeout', (setting::bigint + 1000)::text, true) \
        FROM pg_settings WHERE name = 'deadlock_timeout'";
    transaction.perform(patience, &[]).await.map_err(fail)?;
    let lock = "SELECT format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', string_agg(t, ', ' ORDER BY t)) \
        FROM unnest($1::text[]) AS t WHERE to_regclass(t) IS NOT NULL HAVING count(*) > 0";
    if let Some(row) = transaction.fetch_opt(lock, &[&tables]).await.map_err(fail)? {
        // If the lock is not available, the next try reports why.
        let _ = transaction.batch_execute(row.try_get(0).map_err(fail)?).await;
    }
    transaction.rollback().await.map_err(fail)?;
    Ok(if holders.is_empty() { error } else { error.within(holders) })
}

/// The sessions that hold a lock on one of these tables, in words; empty if there are none. Sessions of other
/// users show less.
async fn holders(session: &Session, tables: &[String]) -> Result<String, PgError> {
    let question = "SELECT concat(min(relation::regclass::text), ' is locked by ', \
            CASE WHEN pid IS NULL THEN 'a prepared transaction' ELSE 'PostgreSQL process ' || pid END, \
            ' (' || nullif(concat_ws(', ', nullif(min(application_name), ''), min(state)), '') || ')') \
        FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) \
        WHERE locktype = 'relation' AND granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND relation IN (SELECT to_regclass(t) FROM unnest($1::text[]) AS t) \
        GROUP BY pid ORDER BY min(xact_start), pid LIMIT $2";
    let rows = session.client.fetch(question, &[&tables, &NAMED]).await?;
    let words: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(words.join(", "))
}

/// Some of the names.
fn shown(tables: &[&str]) -> String {
    let few = tables.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    let more = tables.len().saturating_sub(3);
    if more == 0 { few } else { format!("{few}, and {more} more") }
}
