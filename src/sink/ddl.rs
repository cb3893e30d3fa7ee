//! Creates tables: the bookkeeping schema `docrow` and the user's tables.
//!
//! User tables are created bare and get their primary keys after the snapshot, which makes both faster.
//! Everything here can be repeated: what exists is left alone.

use tokio_postgres::{Error as PgError, GenericClient};

use super::{
    Session, Target, catalog, failure,
    plan::{Plan, Wanted, When},
    schemas::{self, Mapping},
    sql::{self, quote},
};
use crate::{
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
    mapping::Table,
};

/// Held while creating the bookkeeping schema: `IF NOT EXISTS` is no protection from a second process doing
/// the same.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7233163017226)";

/// Behind a change that waits for somebody's long query, all other queries of the table wait too: not for long.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

/// The bookkeeping schema. A position is stored as the token itself, to resume from, and as its keystring,
/// which sorts in the order of the stream. A dead letter is found by a hash of its key, for a key may be too
/// long for an index.
const BOOKKEEPING: &str = "CREATE SCHEMA IF NOT EXISTS docrow;
CREATE TABLE IF NOT EXISTS docrow.pipelines (
    pipeline text PRIMARY KEY,
    state_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS docrow.progress (
    pipeline text, partition integer, collection text,
    position text COLLATE \"C\" NOT NULL,
    token bytea NOT NULL,
    cluster_time timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, partition, collection)
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS docrow.chunks (
    pipeline text, collection text, chunk bigint,
    min bytea, max bytea,
    documents bigint,
    copied_at timestamptz,
    PRIMARY KEY (pipeline, collection, chunk)
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
    filled boolean NOT NULL DEFAULT true,
    stopped text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, collection, version)
)";

/// Columns that the tables of an earlier docrow lack.
const LATER: [(&str, &str, &str); 5] = [
    ("docrow.schemas", "tables", "text[]"),
    ("docrow.schemas", "filled", "boolean NOT NULL DEFAULT true"),
    ("docrow.schemas", "stopped", "text"),
    ("docrow.dead_letters", "document_key", "bytea"),
    ("docrow.dead_letters", "retry_at", "timestamptz"),
];

/// Creates the bookkeeping schema, and the user tables' schema if it is missing.
pub async fn create_bookkeeping(session: &mut Session, schema: &str) -> Result<()> {
    let fail = |e| failure::of("create the schema docrow", &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK).await.map_err(fail)?;
    transaction.batch_execute(BOOKKEEPING).await.map_err(fail)?;
    for (table, column, definition) in LATER {
        // `ADD COLUMN IF NOT EXISTS` keeps everyone else out even where there is nothing to add.
        let exists = "SELECT FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = $2";
        if transaction.query_opt(exists, &[&table, &column]).await.map_err(fail)?.is_none() {
            let add = format!("ALTER TABLE {table} ADD COLUMN {column} {definition}");
            transaction.batch_execute(&add).await.map_err(fail)?;
        }
    }
    // `CREATE SCHEMA IF NOT EXISTS` asks for the privilege to create it even where it exists.
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    if transaction.query_opt(exists, &[&schema]).await.map_err(fail)?.is_none() {
        let create = format!("CREATE SCHEMA {}", quote(schema));
        transaction.batch_execute(&create).await.map_err(fail)?;
    }
    transaction.commit().await.map_err(fail)
}

/// What there is to do for a collection's tables. Changes nothing. Errors: [`Kind::TargetAway`] if somebody keeps one of
/// the tables locked.
pub async fn plan(
    session: &mut Session,
    target: &Target,
    collection: &str,
    wanted: Wanted<'_>,
) -> Result<Plan> {
    let fail = |e| failure::of(format!("look for the tables of {collection}"), &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(fail)?;
    let found = catalog::look(&transaction, target, collection, wanted.tables).await.map_err(fail)?;
    Ok(Plan::of(target.schema(), wanted, &found))
}

/// Creates a collection's tables, or adds to them what this version of its mapping adds, and stores the mapping, in one
/// transaction: a table or column exists only if the mapping it belongs to is known. Of a version that is stored already
/// nothing is made again. Says what was to be done; of that, what is to be done [`AfterCopy`](When::AfterCopy) is left to [`build_key`] and [`add_foreign_keys`].
///
/// Errors: [`Kind::TargetRefused`] if something stands in the way, or was dropped, saying what; [`Kind::TargetAway`] if
/// somebody keeps one of the tables locked.
pub async fn change_tables(
    session: &mut Session,
    target: &Target,
    mapping: &Mapping,
    tables: &[Table],
) -> Result<Plan> {
    let doing = || format!("prepare the tables of {}", mapping.collection);
    let fail = |e| failure::of(doing(), &e);
    let wanted = Wanted { tables, foreign_keys: false };
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK).await.map_err(fail)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(fail)?;
    let look = async || {
        let found = catalog::look(&transaction, target, &mapping.collection, tables).await.map_err(fail)?;
        Ok(Plan::of(target.schema(), wanted, &found))
    };
    let mut plan = look().await?;
    let changed: Vec<&str> = plan.changed().collect();
    if !changed.is_empty() {
        // What was found of them may have changed meanwhile.
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", changed.join(", "));
        transaction.batch_execute(&lock).await.map_err(fail)?;
        plan = look().await?;
    }
    if let Some(refusal) = plan.refusal() {
        return Err(Error::new(Kind::TargetRefused, format!("{}: {refusal}", doing())));
    }
    // What this version needs was made with it.
    let lost = plan.steps(When::AtOnce).next();
    if let Some(lost) = lost
        && schemas::is_stored(&transaction, target.pipeline(), mapping).await.map_err(fail)?
    {
        return Err(dropped(&doing(), &lost.sql));
    }
    for step in plan.steps(When::AtOnce) {
        transaction.batch_execute(&step.sql).await.map_err(fail)?;
    }
    let names: Vec<String> = plan.tables.iter().map(|table| table.name.clone()).collect();
    schemas::insert(&transaction, target.pipeline(), mapping, &names).await.map_err(fail)?;
    failpoint::reach(Failpoint::TablesBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::TablesCommitted);
    Ok(plan)
}

/// Somebody has dropped a table or a column of a collection that is copied already.
fn dropped(doing: &str, sql: &str) -> Error {
    let place = sql.split(" (").next().unwrap_or_default();
    let advice =
        "what it held is not copied again: restore it, or copy anew under another pipeline name and schema";
    Error::new(Kind::TargetRefused, format!("{doing}: what `{place}` makes was dropped since: {advice}"))
}

/// The names that are taken in a schema, whoever took them: of tables, views, indexes and sequences.
pub async fn relations(session: &Session, schema: &str) -> Result<Vec<String>> {
    let fail = |e| failure::of(format!("look at schema {}", quote(schema)), &e);
    let question = "SELECT relname::text FROM pg_class \
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let rows = session.client.query(question, &[&schema]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
}

/// The columns of these tables, whoever made them, each with its table.
pub async fn columns(session: &Session, schema: &str, tables: &[Table]) -> Result<Vec<(String, String)>> {
    let fail = |e| failure::of(format!("look for the columns of schema {}", quote(schema)), &e);
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let question = "SELECT relname::text, attname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
        WHERE relname = ANY($2::text[]) AND attnum > 0 AND NOT attisdropped \
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let rows = session.client.query(question, &[&schema, &names]).await.map_err(fail)?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(fail)
}

/// Which of the tables have no primary key yet.
pub async fn keys_missing<'a>(
    session: &Session,
    schema: &str,
    tables: &'a [Table],
) -> Result<Vec<&'a Table>> {
    let fail = |e| failure::of(format!("look for the keys of schema {}", quote(schema)), &e);
    let keyed = keyed(&session.client, schema, tables).await.map_err(fail)?;
    Ok(tables.iter().filter(|table| !keyed.contains(&table.name)).collect())
}

/// The names of those that have one.
async fn keyed(client: &impl GenericClient, schema: &str, tables: &[Table]) -> Result<Vec<String>, PgError> {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let question = "SELECT relname::text FROM pg_class JOIN pg_index ON indrelid = pg_class.oid \
        WHERE indisprimary AND relname = ANY($2::text[]) \
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    client.query(question, &[&schema, &names]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Builds a table's primary key if it has none, then gathers its statistics. For several tables, run it over
/// several sessions.
pub async fn build_key(session: &mut Session, schema: &str, table: &Table) -> Result<()> {
    let doing = || format!("build the primary key of {}", sql::qualified(schema, &table.name));
    let fail = |e| failure::of(doing(), &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    // A process that was killed may still be building it: look again after waiting for its end.
    transaction.batch_execute(&sql::lock(schema, table)).await.map_err(fail)?;
    if keyed(&transaction, schema, std::slice::from_ref(table)).await.map_err(fail)?.is_empty() {
        transaction.batch_execute("SET LOCAL maintenance_work_mem = '256MB'").await.map_err(fail)?;
        transaction.batch_execute(&sql::add_primary_key(schema, table)).await.map_err(fail)?;
    }
    failpoint::reach(Failpoint::KeyBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::KeyCommitted);
    session.client.batch_execute(&sql::analyze(schema, table)).await.map_err(fail)
}

/// Makes the child tables refer to the root, the first of `tables`, where they do not yet. Their primary keys must be
/// built.
pub async fn add_foreign_keys(session: &mut Session, schema: &str, tables: &[Table]) -> Result<()> {
    let Some((root, children)) = tables.split_first() else { return Ok(()) };
    for child in children {
        let fail =
            |e| failure::of(format!("add the foreign key of {}", sql::qualified(schema, &child.name)), &e);
        let transaction = session.client.transaction().await.map_err(fail)?;
        // As when a key is built.
        transaction.batch_execute(&sql::lock(schema, child)).await.map_err(fail)?;
        let references = catalog::references(&transaction, schema, root).await.map_err(fail)?;
        if !references.iter().any(|reference| reference.is_of(child)) {
            let add = sql::add_foreign_key(schema, child, root);
            transaction.batch_execute(&add).await.map_err(fail)?;
        }
        failpoint::reach(Failpoint::ForeignKeyBeforeCommit);
        transaction.commit().await.map_err(fail)?;
        failpoint::reach(Failpoint::ForeignKeyCommitted);
    }
    Ok(())
}
