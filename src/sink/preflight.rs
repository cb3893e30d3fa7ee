//! Checks whether the target is suitable, before anything is written to it.
//!
//! [`preflight`] is for a run, and reports the first problem; [`inspect`] is for the check, and reports all
//! of them. Both run the same query, so that they agree.

use futures_util::join;
use tokio_postgres::{Error as PgError, SimpleQueryMessage, error::SqlState};

use super::objections::TargetFacts;
pub use super::objections::{TargetObjection, TargetRemedy};
use crate::{
    error::{Code, Error, Kind, Result},
    roles,
    sink::{
        Session, Target,
        connection::{round_trip::OneRoundTrip, sqlstate},
        identifiers::quote,
        metadata::{
            runner::{self, PipelineRunner},
            schema::{self, SchemaState},
        },
    },
};

/// A NULL privilege belongs to a schema that does not exist. All users can call `docrow.enter` unless that
/// was revoked.
const QUESTION: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), \
    current_setting('server_encoding'), current_setting('transaction_read_only')::bool, \
    pg_is_in_recovery(), current_user::text, current_database()::text, \
    has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'), \
    (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
     FROM pg_namespace WHERE nspname = 'docrow'), \
    (SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') \
     FROM pg_namespace WHERE nspname = $1), \
    (SELECT coalesce(bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
         AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')), true) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = 'docrow' AND c.relkind = 'r'), \
    (SELECT coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE')), true) \
     FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'docrow')";

/// The facts about a target.
#[derive(Debug)]
pub struct TargetInspection {
    /// The server's version, in words.
    pub version: String,
    /// docrow's user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// The obstacles.
    pub objections: Vec<TargetObjection>,
    /// Whether docrow has ever written to this database.
    pub is_known: bool,
    /// The process that runs the pipeline; `None`: this user may not see it.
    pub runner: Option<PipelineRunner>,
    /// How many sessions more could be opened by this user.
    pub sessions_left: i64,
}

/// The intended use of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Tables are created and written.
    Write,
    /// Nothing is changed.
    Look,
}

/// Checks that sessions are sessions, version, encoding, and, to [write](Intent::Write), that the target can
/// be written to, and the privileges to create what docrow creates. Errors of
/// [`Kind::TargetRefused`](crate::error::Kind), with what to do, and with the exact GRANT if one is missing.
/// Writes nothing. Returns a description for people: `PostgreSQL 16.2 at db:5432, database warehouse`.
///
/// `other` is a second session, if there is one left: see [`Target::connect_twice`].
pub async fn preflight(
    session: &Session,
    other: Option<Session>,
    target: &Target,
    intent: Intent,
) -> Result<String> {
    let found = found(session, other, target).await?;
    let objections = match intent {
        Intent::Write => found.judge(target.schema()),
        Intent::Look => found.judge_server(),
    };
    match objections.first() {
        Some(first) => Err(Error::new(first.code, first.sentence())),
        None => Ok(format!(
            "PostgreSQL {} at {}, database {}",
            found.version_name,
            target.address(),
            found.database
        )),
    }
}

/// The same, with all obstacles at once.
pub async fn inspect(session: &Session, other: Option<Session>, target: &Target) -> Result<TargetInspection> {
    let found = found(session, other, target).await?;
    let objections = found.judge(target.schema());
    // Without the privilege to look, the result is an error.
    let is_known = match found.docrow {
        Some(true) if found.bookkeeping => schema::extent(session).await? != SchemaState::Missing,
        there => there.is_some(),
    };
    let runner = match is_known {
        // Reading requires less than writing.
        true => match runner::runner(session, target.pipeline()).await {
            Err(error) if error.kind() == Kind::TargetRefused => None,
            runner => Some(runner?),
        },
        false => Some(PipelineRunner::Nobody),
    };
    Ok(TargetInspection {
        objections,
        version: found.version_name,
        user: found.user,
        database: found.database,
        is_known,
        runner,
        sessions_left: sessions_left(session).await?,
    })
}

/// The GRANT that lets docrow connect, if its lack is the reason for a refused connection.
pub fn grant_to_connect(target: &Target, refusal: &Error) -> Option<String> {
    let (user, database) = target.user_and_database()?;
    let lacks = refusal.kind() == Kind::TargetRefused && refusal.to_string().contains("(SQLSTATE 42501)");
    lacks.then(|| roles::grant_connect(&quote(&database), &quote(&user)))
}

/// The limits of the server, the database and the role. For other users' sessions, everyone can see only
/// their number.
async fn sessions_left(session: &Session) -> Result<i64> {
    let question = "SELECT least( \
            current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
                - coalesce(current_setting('reserved_connections', true)::bigint, 0) \
                - (SELECT sum(numbackends) FROM pg_stat_database), \
            CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit \
                - (SELECT numbackends FROM pg_stat_database s WHERE s.datid = d.oid) END, \
            CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit \
                - (SELECT count(*) FROM pg_stat_activity WHERE usesysid = r.oid) END)::bigint \
        FROM pg_roles r, pg_database d WHERE rolname = current_user AND datname = current_database()";
    let fail = |e| sqlstate::error("count the sessions of the target", &e);
    session.client.fetch_one(question, &[]).await.map_err(fail)?.try_get(0).map_err(fail)
}

async fn found(session: &Session, other: Option<Session>, target: &Target) -> Result<TargetFacts> {
    let fail = |e| sqlstate::error("check the target", &e);
    let facts = async { session.client.fetch_one(QUESTION, &[&target.schema()]).await };
    let (pooled, facts) = is_pooled(session, other, facts).await.map_err(fail)?;
    // This comes first, because with a pooler even a query with a parameter may fail.
    if pooled {
        let (address, advice) = (target.address(), sqlstate::POOLED);
        let what = format!("a pooler at {address} gives docrow's statements to different sessions");
        return Err(Error::new(Code::Pooled, format!("{what}: {advice}")));
    }
    TargetFacts::read(&facts.map_err(fail)?).map_err(fail)
}

/// Whether several server processes execute the statements of one session, or one process those of two: a
/// pool in transaction or statement mode, whatever it is called. A pool that assigns the next process in turn
/// gives `session` another one when it asks again. One that assigns the process that was released last gives
/// `other` the same one, or, if that is busy, a second one, which is the last when `other` has ended its
/// transaction; by then `session` must execute nothing else. Also returns what was asked `along`.
async fn is_pooled<T>(
    session: &Session,
    other: Option<Session>,
    along: impl Future<Output = T>,
) -> Result<(bool, T), PgError> {
    const ASK: &str = "SELECT pg_catalog.pg_backend_pid()";
    let first = process(session, ASK).await?;
    let begin = format!("BEGIN; {ASK}");
    let taking = async {
        match &other {
            Some(other) => process(other, &begin).await,
            // Another check reports that no second session is available.
            None => Ok(None),
        }
    };
    let (again, taken, along) = join!(process(session, ASK), taking, along);
    let taken = match taken {
        // In statement mode there are no transactions.
        Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => return Ok((true, along)),
        taken => taken?,
    };
    if again? != first || taken == first {
        return Ok((true, along));
    }
    if let Some(other) = other {
        other.client.batch_execute("ROLLBACK").await?;
    }
    Ok((process(session, ASK).await? != first, along))
}

/// The id of the server process that executes `statement`, which is not prepared.
async fn process(session: &Session, statement: &str) -> Result<Option<String>, PgError> {
    let answer = session.client.simple_query(statement).await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
