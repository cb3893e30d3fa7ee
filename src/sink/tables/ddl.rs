//! Creates, changes and drops the user's tables.
//!
//! They are created without keys and get their primary keys after the snapshot, which makes both faster.
//! Everything here can be repeated: what exists is left alone, and what is already gone is no error.

use futures_util::{join, try_join};
use tokio_postgres::{Client, Error as PgError, Row};

use super::{
    catalog,
    ddl_plan::{Origin, Plan, TablePlan, Wanted, When},
    ddl_sql, locks,
    sql::{self, quote},
};
pub use crate::sink::metadata::schema::create as create_bookkeeping;
use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    model::table::Table,
    sink::{
        Session, Target,
        connection::{
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
            transaction::WriteTransaction,
        },
        metadata::{
            chunks,
            mapping_versions::{self, Mapping},
            resync_requests,
            schema::LOCK,
        },
    },
};

/// How long to wait for a session that holds an exclusive lock on a table.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

/// What happens to the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFate {
    /// They stay, with their rows, and no longer belong to docrow.
    Keep,
    /// Those that docrow has created are dropped, adopted ones are emptied.
    Drop,
}

/// What there is to do for a collection's tables. Changes nothing. Errors:
/// [`Kind::TargetAway`](crate::error::Kind) if another session keeps one of the tables locked.
pub async fn plan(
    session: &mut Session,
    target: &Target,
    collection: &str,
    wanted: Wanted<'_>,
) -> Result<Plan> {
    let fail = |e| sqlstate::error(format!("look for the tables of {collection}"), &e);
    let transaction = session.client.transaction().await.map_err(fail)?;
    transaction.batch_execute(LOCK_TIMEOUT).await.map_err(fail)?;
    let found = catalog::look(transaction.client(), target, collection, wanted.tables).await.map_err(fail)?;
    Ok(Plan::of(target.schema(), wanted, &found))
}

/// Creates a collection's tables, or adds to them what this version of its mapping adds, and stores the
/// mapping, in one transaction: a table or column exists only if its mapping is known. If the version is
/// already stored, nothing is created again, unless a resync is requested. Returns the changes; those for
/// [`AfterCopy`](When::AfterCopy) are left to [`build_key`] and [`add_foreign_keys`].
///
/// Errors: [`Kind::TargetRefused`](crate::error::Kind) if there is an obstacle, or something was dropped,
/// with the details; [`Code::TargetLocked`] if another session has a lock on one of the tables: retry.
pub async fn change_tables(
    session: &mut Session,
    target: &Target,
    mapping: &Mapping,
    tables: &[Table],
) -> Result<Plan> {
    let doing = || format!("prepare the tables of {}", mapping.collection);
    let fail = |e| sqlstate::error(doing(), &e);
    let wanted = Wanted { tables, foreign_keys: false };
    let transaction = session.enter(&doing()).await?;
    transaction.batch_execute(&format!("{LOCK}; {}", locks::BRIEFLY)).await.map_err(fail)?;
    let look = async || {
        let found = catalog::look(&transaction, target, &mapping.collection, tables).await.map_err(fail)?;
        Ok(Plan::of(target.schema(), wanted, &found))
    };
    let mut plan = look().await?;
    let changed: Vec<&str> = plan.changed().collect();
    if !changed.is_empty() {
        // They may have changed since they were looked at.
        locks::against_all(&transaction, &changed).await.map_err(|e| e.within(doing()))?;
        plan = look().await?;
    }
    if let Some(refusal) = plan.refusal() {
        return Err(Error::new(Code::TableInTheWay, format!("{}: {refusal}", doing())));
    }
    // What this version needs was created with it. It is created again only if every row is about to be
    // written again.
    let is_lacking = |table: &&TablePlan| table.steps.iter().any(|step| step.when == When::AtOnce);
    if let Some(lost) = plan.tables.iter().find(is_lacking)
        && mapping_versions::is_stored(&transaction, target.pipeline(), mapping).await.map_err(fail)?
        && !resync_requests::is_asked(&transaction, target.pipeline(), &mapping.collection)
            .await
            .map_err(fail)?
    {
        return Err(dropped(&doing(), &mapping.collection, lost));
    }
    let steps: Vec<&str> = plan.steps(When::AtOnce).map(|step| &*step.sql).collect();
    let names = plan.tables.iter().map(|table| &*table.name).collect();
    let adopted = plan.tables.iter().filter(|table| table.origin == Origin::Adopted);
    let adopted = adopted.map(|table| &*table.name).collect();
    let stored = mapping_versions::insert(&transaction, target.pipeline(), mapping, names, adopted);
    let steps = steps.join("; ");
    try_join!(transaction.batch_execute(&steps), stored).map_err(fail)?;
    failpoint::reach(Failpoint::TablesBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::TablesCommitted);
    Ok(plan)
}

/// A table or a column of a collection that is already copied was dropped.
fn dropped(doing: &str, collection: &str, lost: &TablePlan) -> Error {
    let name = lost.name.replace('"', "");
    let statements = lost.steps.iter().filter(|step| step.when == When::AtOnce).map(|step| &*step.sql);
    let columns: Vec<_> =
        statements.flat_map(added_columns).map(|column| format!("{name}.{column}")).collect();
    let what = match (lost.origin, &*columns) {
        (Origin::Created, _) => format!("table {name} was dropped or renamed"),
        (_, []) => format!("table {name} was changed"),
        (_, [column]) => format!("column {column} was dropped or renamed"),
        (_, columns) => format!("columns {} were dropped or renamed", columns.join(", ")),
    };
    let advice = format!(
        "restore it with its content, or have it created and all rows written again: docrow resync \
         '{collection}', then start docrow again"
    );
    Error::new(Code::TableDropped, format!("{doing}: {what}: {advice}"))
}

/// The columns that a statement of [`sql`] adds.
fn added_columns(statement: &str) -> impl Iterator<Item = String> {
    let added = statement.split("ADD COLUMN \"").skip(1);
    added.filter_map(|rest| Some(rest.split_once("\" ")?.0.replace("\"\"", "\"")))
}

/// The names of tables with their schema, as SQL.
pub fn names(schema: &str, tables: &[Table]) -> Vec<String> {
    tables.iter().map(|table| sql::qualified(schema, &table.name)).collect()
}

/// The names that are in use in a schema: of tables, views, indexes and sequences, docrow's own and others.
pub async fn relations(session: &Session, schema: &str) -> Result<Vec<String>> {
    let fail = |e| sqlstate::error(format!("look at schema {}", quote(schema)), &e);
    let question = "SELECT relname::text FROM pg_class \
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let rows = session.client.fetch(question, &[&schema]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
}

/// The columns of these tables, docrow's own and others, each with its table.
pub async fn columns(session: &Session, schema: &str, tables: &[Table]) -> Result<Vec<(String, String)>> {
    let fail = |e| sqlstate::error(format!("look for the columns of schema {}", quote(schema)), &e);
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let question = "SELECT relname::text, attname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
        WHERE relname = ANY($2::text[]) AND attnum > 0 AND NOT attisdropped \
        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let rows = session.client.fetch(question, &[&schema, &names]).await.map_err(fail)?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>().map_err(fail)
}

/// Whether the text keys of a root table include some in which an earlier docrow left numbers and symbols
/// within an embedded document unchanged, and which may have another form now.
pub async fn has_earlier_keys(session: &Session, schema: &str, root: &Table) -> Result<bool> {
    let fail = |e| sqlstate::error(format!("look at the keys of {}", quote(&root.name)), &e);
    let Some(key) = root.columns.first().map(|key| quote(&key.name)) else { return Ok(false) };
    let question = format!(
        r#"SELECT EXISTS (SELECT FROM {} AS t WHERE t.{key} LIKE '{{"%' AND t.{key} NOT LIKE '{{"$date":%'
        AND (t.{key} LIKE '{{"$docrow":{{"document":%' OR substr(t.{key}, 4) ~ '"[$](number(Long|Double|Decimal)|symbol|docrow)"'))"#,
        sql::qualified(schema, &root.name)
    );
    let row = session.client.fetch_one(&question, &[]).await.map_err(fail)?;
    row.try_get(0).map_err(fail)
}

/// Which of the tables have no primary key yet, the largest first, so that no long work is left for the end.
/// Does not wait for locks on the other tables.
pub async fn keys_missing<'a>(
    session: &Session,
    schema: &str,
    tables: &'a [Table],
) -> Result<Vec<&'a Table>> {
    let fail = |e| sqlstate::error(format!("look for the keys of schema {}", quote(schema)), &e);
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let question = format!(
        "SELECT n::int - 1 FROM unnest($2::text[]) WITH ORDINALITY AS t (name, n) \
         WHERE name NOT IN ({KEYED}) ORDER BY coalesce( \
            pg_relation_size(to_regclass(quote_ident($1) || '.' || quote_ident(name))), 0) DESC, n"
    );
    let rows = session.client.fetch(&question, &[&schema, &names]).await.map_err(fail)?;
    let missing = |row: &Row| {
        Ok::<_, PgError>(usize::try_from(row.try_get::<_, i32>(0)?).ok().and_then(|at| tables.get(at)))
    };
    Ok(rows.iter().map(missing).collect::<Result<Vec<_>, _>>().map_err(fail)?.into_iter().flatten().collect())
}

/// The names of the tables `$2` of the schema `$1` that have a primary key.
const KEYED: &str = "SELECT relname::text FROM pg_class JOIN pg_index ON indrelid = pg_class.oid \
    WHERE indisprimary AND relname = ANY($2::text[]) \
    AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";

/// Builds a table's primary key if it has none, then gathers its statistics. For several tables, run it over
/// several sessions. Errors: [`Code::TargetLocked`] if another session has a lock on the table: retry.
pub async fn build_key(session: &mut Session, schema: &str, table: &Table) -> Result<()> {
    let name = sql::qualified(schema, &table.name);
    let doing = format!("build the primary key of {name}");
    let fail = |e| sqlstate::error(&*doing, &e);
    // From then on no one can add or drop a key; only the statement itself makes readers wait, for as short a
    // time as possible.
    let lock = async |client: &_| {
        let names = [&*table.name];
        let parameters: [&dyn Parameter; 2] = [&schema, &names.as_slice()];
        let table = [&*name];
        let locked = locks::against_writers(client, &table);
        let (locked, keyed) = join!(locked, Client::fetch(client, KEYED, &parameters));
        locked.map_err(|e| e.within(&doing))?;
        keyed.map_err(fail)
    };
    let (transaction, keyed) = session.enter_along(&doing, lock).await?;
    if keyed.is_empty() {
        let add = ddl_sql::add_primary_key(schema, table);
        let add = format!("SET LOCAL maintenance_work_mem = '256MB'; {add}");
        transaction.batch_execute(&add).await.map_err(fail)?;
    }
    failpoint::reach(Failpoint::KeyBeforeCommit);
    let analyze = ddl_sql::analyze(schema, table);
    transaction.commit_and(&analyze).await.map_err(fail)?;
    failpoint::reach(Failpoint::KeyCommitted);
    Ok(())
}

/// Adds the missing foreign keys from the child tables to the root table, the first of `tables`. Their
/// primary keys must be built. Errors: [`Code::TargetLocked`] if other sessions write to the tables all the
/// time, or change them: retry.
pub async fn add_foreign_keys(session: &mut Session, schema: &str, tables: &[Table]) -> Result<()> {
    let Some((root, children)) = tables.split_first() else { return Ok(()) };
    for child in children {
        let [child_name, root_name] = [child, root].map(|table| sql::qualified(schema, &table.name));
        let doing = format!("add the foreign key of {child_name}");
        let fail = |e| sqlstate::error(&*doing, &e);
        // If the foreign key exists, no writer needs to be blocked.
        let references = catalog::references(&session.client, schema, root).await.map_err(fail)?;
        if references.iter().any(|reference| reference.is_of(child)) {
            continue;
        }
        let transaction = session.enter(&doing).await?;
        let both = [&*child_name, &*root_name];
        locks::against_writers(&transaction, &both).await.map_err(|e| e.within(&doing))?;
        let references = catalog::references(&transaction, schema, root).await.map_err(fail)?;
        if !references.iter().any(|reference| reference.is_of(child)) {
            let add = ddl_sql::add_foreign_key(schema, child, root);
            transaction.batch_execute(&add).await.map_err(fail)?;
        }
        failpoint::reach(Failpoint::ForeignKeyBeforeCommit);
        transaction.commit().await.map_err(fail)?;
        failpoint::reach(Failpoint::ForeignKeyCommitted);
    }
    Ok(())
}

/// Empties a collection's tables and removes its dead letters, in one transaction.
///
/// Errors: [`Code::TargetLocked`] if another session has a lock on one of them: retry.
pub async fn empty_tables(session: &mut Session, target: &Target, collection: &str) -> Result<()> {
    let doing = format!("empty the tables of {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let (made, given) =
        mapping_versions::tables(&transaction, target.pipeline(), collection).await.map_err(fail)?;
    let tables: Vec<String> = made.into_iter().chain(given).collect();
    if !tables.is_empty() {
        let names: Vec<&str> = tables.iter().map(String::as_str).collect();
        locks::against_all(&transaction, &names).await.map_err(|e| e.within(&doing))?;
        let statement = format!("TRUNCATE TABLE {}", tables.join(", "));
        transaction.batch_execute(&statement).await.map_err(fail)?;
    }
    // Their documents no longer exist, either.
    let delete = "DELETE FROM docrow.dead_letters WHERE pipeline = $1 AND collection = $2";
    transaction.perform(delete, &[&target.pipeline(), &collection]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Drops the tables that docrow has created for a collection, empties those that it adopted, and deletes
/// everything stored about the collection, in one transaction.
///
/// Errors: [`Kind::TargetRefused`](crate::error::Kind) if an object that is not docrow's depends on a table,
/// with the details; [`Code::TargetLocked`] if another session has a lock on one of them: retry.
pub async fn drop_tables(session: &mut Session, target: &Target, collection: &str) -> Result<()> {
    let doing = format!("drop the tables of {collection}");
    let transaction = session.enter(&doing).await?;
    part(&transaction, target, &doing, collection, TableFate::Drop).await?;
    transaction.commit().await.map_err(|e| sqlstate::error(&*doing, &e))
}

/// Deletes everything stored about a collection, and keeps, empties or drops its tables as requested. Returns
/// their names. Errors: as [`drop_tables`].
pub(crate) async fn part(
    transaction: &WriteTransaction<'_>,
    target: &Target,
    doing: &str,
    collection: &str,
    tables: TableFate,
) -> Result<Vec<String>> {
    let fail = |e| sqlstate::error(doing, &e);
    let pipeline = target.pipeline();
    transaction.batch_execute(LOCK).await.map_err(fail)?;
    let (made, given) = mapping_versions::tables(transaction, pipeline, collection).await.map_err(fail)?;
    let named = [made.clone(), given.clone()].concat();
    if tables == TableFate::Drop {
        drop_all(transaction, doing, made, given).await?;
    }
    for table in
        ["docrow.schemas", "docrow.dead_letters", "docrow.misfits", "docrow.repairs", "docrow.pauses"]
    {
        let delete = format!("DELETE FROM {table} WHERE pipeline = $1 AND collection = $2");
        transaction.perform(&delete, &[&pipeline, &collection]).await.map_err(fail)?;
    }
    chunks::forget(transaction, pipeline, collection).await.map_err(fail)?;
    Ok(named)
}

async fn drop_all(
    transaction: &WriteTransaction<'_>,
    doing: &str,
    made: Vec<String>,
    given: Vec<String>,
) -> Result<()> {
    let fail = |e| sqlstate::error(doing, &e);
    transaction.batch_execute(locks::BRIEFLY).await.map_err(fail)?;
    let names: Vec<&str> = made.iter().chain(&given).map(String::as_str).collect();
    if !names.is_empty() {
        locks::against_all(transaction, &names).await.map_err(|e| e.within(doing))?;
    }
    // Adopted tables may refer to created ones.
    let references = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) FROM pg_constraint \
        WHERE contype = 'f' AND conrelid = ANY ($1::text[]::regclass[]) AND confrelid = ANY ($2::text[]::regclass[])";
    for row in transaction.fetch(references, &[&given, &made]).await.map_err(fail)? {
        transaction.batch_execute(row.try_get(0).map_err(fail)?).await.map_err(fail)?;
    }
    // All at once, because they may refer to each other.
    for (what, tables) in [("DROP", made), ("TRUNCATE", given)] {
        if !tables.is_empty() {
            let statement = format!("{what} TABLE {}", tables.join(", "));
            transaction.batch_execute(&statement).await.map_err(fail)?;
        }
    }
    Ok(())
}
