//! The schema `docrow`: its tables, and the function by which a transaction enters its pipeline (see
//! `fence`).
//!
//! Everything here can be repeated: what exists is left alone, and the tables of an earlier docrow get
//! missing columns.

use futures_util::{join, try_join};
use tokio_postgres::{Client, Error as PgError};

use crate::{
    error::Result,
    failpoint::{self, Failpoint},
    sink::{
        Session, Target,
        connection::{
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
            transaction::WriteTransaction,
        },
        identifiers::quote,
    },
};

/// Held while the schema `docrow` is created, and while tables change: `IF NOT EXISTS` does not protect
/// against a second process that does the same.
pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(7233163017226)";

/// The schema `docrow`. A position is stored as the token itself, to resume from, and as its keystring, which
/// sorts in the order of the stream. A dead letter is found by a hash of its key, because a key may be too
/// long for an index.
const TABLES: &str = "CREATE TABLE IF NOT EXISTS docrow.pipelines (
    pipeline text PRIMARY KEY,
    state_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    epoch bigint NOT NULL DEFAULT 0,
    holder text,
    seen_at timestamptz,
    ahead bigint,
    shown bigint,
    source text
);
CREATE TABLE IF NOT EXISTS docrow.progress (
    pipeline text, partition integer, collection text,
    position text COLLATE \"C\" NOT NULL,
    token bytea NOT NULL,
    cluster_time timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    fingerprint bigint,
    shown bigint,
    PRIMARY KEY (pipeline, partition, collection)
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS docrow.chunks (
    pipeline text, collection text, chunk bigint,
    min bytea, max bytea,
    documents bigint,
    copied_at timestamptz,
    replaces boolean NOT NULL DEFAULT false,
    PRIMARY KEY (pipeline, collection, chunk)
);
CREATE TABLE IF NOT EXISTS docrow.resyncs (
    pipeline text, collection text,
    reason text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, collection)
);
CREATE TABLE IF NOT EXISTS docrow.pauses (
    pipeline text, collection text,
    paused_at timestamptz NOT NULL DEFAULT now(),
    held_at timestamptz,
    PRIMARY KEY (pipeline, collection)
);
CREATE TABLE IF NOT EXISTS docrow.repairs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL, collection text NOT NULL,
    document_key bytea, key bytea,
    asked_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS docrow.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL, collection text NOT NULL, key text NOT NULL, key_hash uuid NOT NULL,
    path text, reason text NOT NULL,
    document bytea, document_key bytea,
    at timestamptz NOT NULL DEFAULT now(),
    retry_at timestamptz,
    UNIQUE (pipeline, collection, key_hash)
);
CREATE TABLE IF NOT EXISTS docrow.schemas (
    pipeline text, collection text, version integer,
    mapping text NOT NULL,
    tables text[],
    adopted text[] NOT NULL DEFAULT '{}',
    filled boolean NOT NULL DEFAULT true,
    stopped text,
    absent text,
    masked_by text,
    key_form integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, collection, version)
);
CREATE TABLE IF NOT EXISTS docrow.misfits (
    pipeline text, collection text, table_name text, column_name text,
    \"values\" bigint NOT NULL, numbers bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    counted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, collection, table_name, column_name)
);
CREATE TABLE IF NOT EXISTS docrow.throttles (
    pipeline text PRIMARY KEY,
    max_rate text,
    asked_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS docrow.verifications (
    pipeline text PRIMARY KEY,
    verified_at timestamptz NOT NULL,
    result jsonb NOT NULL
);
CREATE TABLE IF NOT EXISTS docrow.reports (
    pipeline text PRIMARY KEY,
    reported_at timestamptz NOT NULL,
    report jsonb NOT NULL,
    details jsonb NOT NULL
) WITH (fillfactor = 20)";

/// Columns that the tables of an earlier docrow lack.
const LATER: [(&str, &str, &str); 18] = [
    ("docrow.pipelines", "source", "text"),
    ("docrow.pipelines", "shown", "bigint"),
    ("docrow.progress", "shown", "bigint"),
    ("docrow.pipelines", "ahead", "bigint"),
    ("docrow.schemas", "tables", "text[]"),
    ("docrow.schemas", "filled", "boolean NOT NULL DEFAULT true"),
    ("docrow.schemas", "stopped", "text"),
    ("docrow.schemas", "absent", "text"),
    ("docrow.schemas", "masked_by", "text"),
    ("docrow.schemas", "adopted", "text[] NOT NULL DEFAULT '{}'"),
    ("docrow.schemas", "key_form", "integer NOT NULL DEFAULT 0"),
    ("docrow.dead_letters", "document_key", "bytea"),
    ("docrow.dead_letters", "retry_at", "timestamptz"),
    ("docrow.pipelines", "epoch", "bigint NOT NULL DEFAULT 0"),
    ("docrow.pipelines", "holder", "text"),
    ("docrow.pipelines", "seen_at", "timestamptz"),
    ("docrow.progress", "fingerprint", "bigint"),
    ("docrow.chunks", "replaces", "boolean NOT NULL DEFAULT false"),
];

/// Lets a transaction write to a pipeline, or makes it fail: `fence` has the argument. Every statement of a
/// volatile function sees what was committed before it, so the epoch is read as it is once the lock is
/// granted. What is set at the end is undone with the transaction; statements that write look for it
/// ([`ENTERED`](crate::sink::connection::fence_entry::ENTERED)). Should it ever have to do something else, it
/// gets another name: those of two docrow may be used at once.
const ENTER: &str =
    "CREATE FUNCTION docrow.enter(of_pipeline text, of_epoch bigint, lock bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found bigint;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(lock);
    SELECT p.epoch INTO found FROM docrow.pipelines p WHERE p.pipeline = of_pipeline;
    IF found IS DISTINCT FROM of_epoch THEN
        RAISE EXCEPTION 'the pipeline is at epoch %, not %', found, of_epoch USING ERRCODE = 'ZD001';
    END IF;
    PERFORM pg_catalog.set_config('docrow.entered', of_epoch::text, true);
END $$";

/// How complete the schema `docrow` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaState {
    /// Nothing: docrow has never written to this database.
    Missing,
    /// As created by an earlier docrow.
    Earlier,
    /// Complete.
    Complete,
}

/// Checks how complete it is, without waiting for locks.
pub(crate) async fn extent(session: &Session) -> Result<SchemaState> {
    let fail = |e| sqlstate::error("look for the schema docrow", &e);
    let tables = [
        ("docrow.resyncs", "reason"),
        ("docrow.repairs", "key"),
        ("docrow.pauses", "held_at"),
        ("docrow.verifications", "result"),
        ("docrow.throttles", "max_rate"),
        ("docrow.misfits", "counted_at"),
        ("docrow.reports", "details"),
    ]
    .into_iter();
    let wanted = LATER.iter().map(|(table, column, _)| (*table, *column)).chain(tables);
    let (tables, columns): (Vec<_>, Vec<_>) = wanted.unzip();
    let question = "SELECT to_regclass('docrow.pipelines') IS NOT NULL, \
        to_regprocedure('docrow.enter(text, bigint, bigint)') IS NOT NULL AND bool_and(EXISTS ( \
            SELECT FROM pg_attribute WHERE attrelid = to_regclass(t) AND attname = c AND NOT attisdropped)) \
        FROM unnest($1::text[], $2::text[]) AS wanted (t, c)";
    let row = session.client.fetch_one(question, &[&tables, &columns]).await.map_err(fail)?;
    Ok(match (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?) {
        (false, _) => SchemaState::Missing,
        (true, false) => SchemaState::Earlier,
        (true, true) => SchemaState::Complete,
    })
}

/// A session for operators' requests; `None` if docrow has never written to the target.
pub(crate) async fn open(target: &Target) -> Result<Option<Session>> {
    let mut session = target.connect().await?;
    match extent(&session).await? {
        SchemaState::Missing => return Ok(None),
        SchemaState::Earlier => create(&mut session, target.schema()).await?,
        SchemaState::Complete => {}
    }
    Ok(Some(session))
}

/// Creates the schema `docrow`, and the user tables' schema if it is missing.
pub async fn create(session: &mut Session, schema: &str) -> Result<()> {
    let fail = |e| sqlstate::error("create the schema docrow", &e);
    // Waiting for the lock could mean waiting for a process that is frozen.
    let missing = async { missing_schemas(&session.client, schema).await.map_err(fail) };
    let (state, missing) = try_join!(extent(session), missing)?;
    if state == SchemaState::Complete && missing.is_empty() {
        return Ok(());
    }
    let transaction = WriteTransaction::of(&session.client);
    // In one round trip: what is missing is looked for once the lock is granted.
    let (locked, missing, changes) =
        join!(transaction.begin_with(LOCK), missing_schemas(&transaction, schema), changes(&transaction));
    locked.map_err(fail)?;
    let mut statements: Vec<String> =
        missing.map_err(fail)?.iter().map(|schema| format!("CREATE SCHEMA {}", quote(schema))).collect();
    statements.push(TABLES.to_owned());
    statements.extend(changes.map_err(fail)?);
    let statements = statements.join("; ");
    // If they fail, COMMIT rolls back.
    let (created, committed) = join!(session.client.batch_execute(&statements), transaction.commit());
    created.and(committed).map_err(fail)?;
    failpoint::reach(Failpoint::BookkeepingCreated);
    Ok(())
}

/// Which of the two schemas do not exist. (`CREATE SCHEMA IF NOT EXISTS` requires the privilege to create
/// one even if it exists.)
async fn missing_schemas(client: &Client, schema: &str) -> Result<Vec<String>, PgError> {
    let question = "SELECT DISTINCT wanted FROM unnest($1::text[]) AS wanted \
        WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = wanted)";
    let rows = client.fetch(question, &[&vec!["docrow", schema]]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// What the tables and the function of an earlier docrow lack, after [`TABLES`].
async fn changes(client: &Client) -> Result<Vec<String>, PgError> {
    // `ADD COLUMN IF NOT EXISTS` locks everyone else out even if there is nothing to add.
    let question = "SELECT n::int FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS later (t, c, n) \
        WHERE to_regclass(t) IS NOT NULL AND NOT EXISTS \
            (SELECT FROM pg_attribute WHERE attrelid = to_regclass(t) AND attname = c AND NOT attisdropped)";
    let (tables, columns): (Vec<_>, Vec<_>) =
        LATER.iter().map(|(table, column, _)| (*table, *column)).unzip();
    // An earlier docrow created it without its own search path. Only its owner may change that.
    let exists = "SELECT proconfig IS NULL AND pg_has_role(proowner, 'USAGE') FROM pg_proc \
        WHERE oid = to_regprocedure('docrow.enter(text, bigint, bigint)')";
    let later: [&dyn Parameter; 2] = [&tables, &columns];
    let (missing, function) = try_join!(client.fetch(question, &later), client.fetch_opt(exists, &[]))?;
    let mut changes = Vec::new();
    for row in &missing {
        let number: i32 = row.try_get(0)?;
        let later = usize::try_from(number - 1).ok().and_then(|at| LATER.get(at));
        changes.extend(later.map(|(table, column, definition)| {
            format!("ALTER TABLE {table} ADD COLUMN {column} {definition}")
        }));
    }
    match function {
        None => changes.push(ENTER.to_owned()),
        Some(row) if row.try_get(0)? => changes.push(
            "ALTER FUNCTION docrow.enter(text, bigint, bigint) SET search_path = pg_catalog, pg_temp"
                .to_owned(),
        ),
        Some(_) => {}
    }
    Ok(changes)
}
