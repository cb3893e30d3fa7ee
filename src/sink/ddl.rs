//! Creates tables: the bookkeeping schema `docrow` and the user's tables.
//!
//! User tables are created bare and get their primary keys after the snapshot, which makes both faster.
//! Everything here can be repeated: what exists is left alone.

use tokio_postgres::{Error as PgError, GenericClient};

use super::{
    Session, Target, failure,
    schemas::{self, Mapping},
    sql::{self, quote},
};
use crate::{
    error::{Error, Kind, Result},
    mapping::Table,
};

/// Held while creating the bookkeeping schema: `IF NOT EXISTS` is no protection from a second process doing
/// the same.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7233163017226)";

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
    document bytea,
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (pipeline, collection, key_hash)
);
CREATE TABLE IF NOT EXISTS docrow.schemas (
    pipeline text, collection text, version integer,
    mapping text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, collection, version)
)";

/// Creates the bookkeeping schema, and the user tables' schema if it is missing.
pub async fn create_bookkeeping(session: &mut Session, schema: &str) -> Result<()> {
    let fail = |e| failure::of("create the schema docrow", &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK).await.map_err(fail)?;
    transaction.batch_execute(BOOKKEEPING).await.map_err(fail)?;
    // `CREATE SCHEMA IF NOT EXISTS` asks for the privilege to create it even where it exists.
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    if transaction.query_opt(exists, &[&schema]).await.map_err(fail)?.is_none() {
        let create = format!("CREATE SCHEMA {}", quote(schema));
        transaction.batch_execute(&create).await.map_err(fail)?;
    }
    transaction.commit().await.map_err(fail)
}

/// Creates a collection's tables, bare, and stores its mapping, in one transaction: a table exists only if
/// the mapping it belongs to is known. Does nothing where this pipeline has a mapping for the collection
/// already, except that a missing table is created. Errors: [`Kind::TargetRefused`] if one of the tables
/// exists and is not this pipeline's.
pub async fn create_tables(
    session: &mut Session,
    target: &Target,
    mapping: &Mapping,
    tables: &[Table],
) -> Result<()> {
    let doing = || format!("create the tables of {}", mapping.collection);
    let fail = |e| failure::of(doing(), &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK).await.map_err(fail)?;
    let is_ours = !schemas::insert(&transaction, target.pipeline(), mapping).await.map_err(fail)?;
    if !is_ours {
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        let existing = "SELECT relname::text FROM pg_class WHERE relname = ANY($2::text[]) \
            AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) ORDER BY relname LIMIT 1";
        if let Some(row) = transaction.query_opt(existing, &[&target.schema(), &names]).await.map_err(fail)? {
            let name: String = row.try_get(0).map_err(fail)?;
            let name = sql::qualified(target.schema(), &name);
            let advice =
                "rename or drop it, or choose another table name in a mapping file, or another target schema";
            return Err(Error::new(
                Kind::TargetRefused,
                format!("{}: {name} exists already and is not this pipeline's: {advice}", doing()),
            ));
        }
    }
    for table in tables {
        transaction.batch_execute(&sql::create_table(target.schema(), table)).await.map_err(fail)?;
    }
    transaction.commit().await.map_err(fail)
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
    transaction.commit().await.map_err(fail)?;
    session.client.batch_execute(&sql::analyze(schema, table)).await.map_err(fail)
}
