//! Finds out from PostgreSQL's catalog which of a collection's tables exist. Changes nothing.

use std::collections::HashMap;

use futures_util::try_join;
use tokio_postgres::{Client, Error as PgError, Row};

use super::{
    ddl_plan::REWRITTEN,
    found::{
        ColumnWidening, ForeignKey, FoundColumn, FoundRelation, FoundTables, Obstacle, OwnTable, PrimaryKey,
        widening,
    },
    sql::{qualified, quote},
};
use crate::{
    model::table::Table,
    roles,
    sink::{
        Target,
        connection::round_trip::{OneRoundTrip, Parameter},
        metadata::mapping_versions::{self, SchemaForm, TableOwnership},
    },
};

/// `$1`: a schema; `$2`: names. Objects without a name of their own in `pg_class` (a table's array type) make
/// way for a table. Privileges are checked for the user who would write: if the current one may only read,
/// that is the owner of docrow's own tables.
const RELATIONS: &str = "SELECT c.oid, c.relname::text, c.relkind::text, c.relispartition, c.relpersistence::text, \
        pg_has_role(w.oid, c.relowner, 'USAGE'), w.rolname = current_user AND row_security_active(c.oid), \
        has_table_privilege(w.oid, c.oid, 'SELECT') AND has_table_privilege(w.oid, c.oid, 'INSERT') \
        AND has_table_privilege(w.oid, c.oid, 'UPDATE') AND has_table_privilege(w.oid, c.oid, 'DELETE'), \
        coalesce(pg_table_size(c.oid), 0), w.rolname::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles w \
    WHERE w.oid = coalesce( \
        (SELECT b.relowner FROM pg_class b JOIN pg_namespace d ON d.oid = b.relnamespace \
         WHERE d.nspname = 'docrow' AND b.relname = 'schemas' AND NOT has_table_privilege(b.oid, 'INSERT')), \
        (SELECT oid FROM pg_roles WHERE rolname = current_user)) AND n.nspname = $1 AND c.relname = ANY($2::text[]) ORDER BY c.relname";

/// `$1`: OIDs of relations.
const COLUMNS: &str = "SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod) || \
            CASE WHEN NOT k.collisdeterministic THEN ' COLLATE ' || quote_ident(k.collname) ELSE '' END, a.atttypid, \
        a.atttypmod = -1 AND coalesce(k.collisdeterministic, true), a.attnotnull, \
        a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' OR a.attidentity = 'a' \
    FROM pg_attribute a LEFT JOIN pg_collation k ON k.oid = a.attcollation \
    WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

/// `$1`: OIDs of relations.
const KEYS: &str = "SELECT i.indrelid, NOT i.indimmediate, \
        ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (n, o) \
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n \
            WHERE o <= i.indnkeyatts ORDER BY o) \
    FROM pg_index i WHERE i.indisprimary AND i.indrelid = ANY($1)";

/// The existing state of a collection's tables. For columns that would be widened, and for tables that docrow
/// does not own, the rows are checked, too.
pub(super) async fn look(
    client: &Client,
    target: &Target,
    collection: &str,
    tables: &[Table],
) -> Result<FoundTables, PgError> {
    let form = mapping_versions::form(client).await?;
    let mut found = look_all(form, client, target, &[(collection, tables)]).await?.pop().unwrap_or_default();
    for relation in &mut found.relations {
        if let Some(table) = tables.iter().find(|table| table.name == relation.name) {
            look_at_rows(client, target.schema(), table, relation).await?;
        }
    }
    Ok(found)
}

/// The existing state of several collections' tables, in a few round trips. The rows are not checked.
pub(super) async fn look_all(
    form: SchemaForm,
    client: &Client,
    target: &Target,
    wanted: &[(&str, &[Table])],
) -> Result<Vec<FoundTables>, PgError> {
    let schema = target.schema();
    let collections: Vec<&str> = wanted.iter().map(|(collection, _)| *collection).collect();
    let tables = || wanted.iter().flat_map(|(_, tables)| tables.iter().map(|table| &*table.name));
    let (names, full): (Vec<&str>, Vec<String>) =
        tables().map(|name| (name, qualified(schema, name))).unzip();
    let roots: Vec<&str> = wanted.iter().filter_map(|(_, tables)| Some(&*tables.first()?.name)).collect();
    let owners = mapping_versions::owners(form, client, target.pipeline(), &collections, &full);
    let relations = async {
        let relations = client.fetch(RELATIONS, &[&schema, &names]).await?;
        let oids = relations.iter().map(|row| row.try_get(0)).collect::<Result<Vec<u32>, _>>()?;
        if oids.is_empty() {
            return Ok((relations, oids, Vec::new(), Vec::new()));
        }
        let parameters: [&dyn Parameter; 1] = [&oids];
        let (columns, keys) = try_join!(client.fetch(COLUMNS, &parameters), client.fetch(KEYS, &parameters))?;
        Ok((relations, oids, columns, keys))
    };
    let references = references_of(client, schema, &roots);
    let (owners, (rows, oids, columns, keys), mut references) = try_join!(owners, relations, references)?;
    let (mut columns, mut keys) = (group(columns, attribute)?, group(keys, primary_key)?);
    let mut relations = HashMap::with_capacity(rows.len());
    for (row, oid) in rows.iter().zip(&oids) {
        let mut relation = relation(row, schema)?;
        relation.columns = columns.remove(oid).unwrap_or_default();
        relation.key = keys.remove(oid).and_then(|mut keys| keys.pop());
        relations.insert(relation.name.clone(), relation);
    }
    let mut all = Vec::with_capacity(wanted.len());
    for (collection, tables) in wanted {
        let mine = (target.pipeline(), *collection);
        let mut found = FoundTables::default();
        for table in *tables {
            if let Some(mut relation) = relations.remove(&table.name) {
                relation.whose = owners.ownership(&qualified(schema, &relation.name), mine);
                found.relations.push(relation);
            }
        }
        found.relations.sort_by(|a, b| a.name.cmp(&b.name));
        found.own = owners.tables(mine).into_iter().map(|name| OwnTable { name, exists: false }).collect();
        let root = tables.first().map(|root| &*root.name);
        found.references = root.and_then(|root| references.remove(root)).unwrap_or_default();
        all.push(found);
    }
    let own: Vec<String> = all.iter().flat_map(|found| &found.own).map(|own| own.name.clone()).collect();
    if !own.is_empty() {
        let exist = "SELECT to_regclass(t) IS NOT NULL FROM unnest($1::text[]) WITH ORDINALITY AS o (t, n) ORDER BY n";
        let there = client.fetch(exist, &[&own]).await?;
        for (own, row) in all.iter_mut().flat_map(|found| &mut found.own).zip(&there) {
            own.exists = row.try_get(0)?;
        }
    }
    Ok(all)
}

/// The tables of the same schema that refer to a table by one column.
pub(super) async fn references(
    client: &Client,
    schema: &str,
    root: &Table,
) -> Result<Vec<ForeignKey>, PgError> {
    let mut references = references_of(client, schema, &[&root.name]).await?;
    Ok(references.remove(&root.name).unwrap_or_default())
}

/// The same for several tables, by their names.
async fn references_of(
    client: &Client,
    schema: &str,
    roots: &[&str],
) -> Result<HashMap<String, Vec<ForeignKey>>, PgError> {
    let question = "SELECT r.relname::text, c.relname::text, a.attname::text FROM pg_constraint f \
        JOIN pg_class r ON r.oid = f.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace \
        JOIN pg_class c ON c.oid = f.conrelid AND c.relnamespace = r.relnamespace \
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1] \
        WHERE f.contype = 'f' AND cardinality(f.conkey) = 1 AND n.nspname = $1 AND r.relname = ANY ($2::text[])";
    let mut references: HashMap<String, Vec<ForeignKey>> = HashMap::new();
    for row in client.fetch(question, &[&schema, &roots]).await? {
        let reference = ForeignKey { table: row.try_get(1)?, column: row.try_get(2)? };
        references.entry(row.try_get(0)?).or_default().push(reference);
    }
    Ok(references)
}

async fn look_at_rows(
    client: &Client,
    schema: &str,
    table: &Table,
    relation: &mut FoundRelation,
) -> Result<(), PgError> {
    let name = qualified(schema, &relation.name);
    if relation.barrier.is_some() {
        return Ok(());
    }
    if relation.whose == TableOwnership::Nobody {
        let question = format!("SELECT EXISTS (SELECT FROM {name})");
        relation.has_rows = client.fetch_one(&question, &[]).await?.try_get(0)?;
    }
    if relation.whose == TableOwnership::Own && relation.bytes <= REWRITTEN {
        for column in &mut relation.columns {
            let wanted = table.columns.iter().find(|wanted| wanted.name == column.name);
            if wanted.and_then(|wanted| widening(wanted.ty, column)) == Some(ColumnWidening::IfSmall) {
                let beyond = format!("{} NOT BETWEEN -2147483648 AND 2147483647", quote(&column.name));
                let question = format!("SELECT EXISTS (SELECT FROM {name} WHERE {beyond})");
                column.beyond_int4 = client.fetch_one(&question, &[]).await?.try_get(0)?;
            }
        }
    }
    Ok(())
}

/// The values of rows by the OID in their first column.
fn group<T>(
    rows: Vec<Row>,
    read: impl Fn(&Row) -> Result<T, PgError>,
) -> Result<HashMap<u32, Vec<T>>, PgError> {
    let mut groups: HashMap<u32, Vec<T>> = HashMap::new();
    for row in &rows {
        groups.entry(row.try_get(0)?).or_default().push(read(row)?);
    }
    Ok(groups)
}

fn relation(row: &Row, schema: &str) -> Result<FoundRelation, PgError> {
    let (name, kind): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let (partition, persistence): (bool, String) = (row.try_get(3)?, row.try_get(4)?);
    let (row_security, writable): (bool, bool) = (row.try_get(6)?, row.try_get(7)?);
    let user: String = row.try_get(9)?;
    let barrier = match (kind.as_str(), persistence.as_str()) {
        ("r", _) if partition => Some(Obstacle::new("a partition", "a table of its own")),
        ("r", "u") => Some(Obstacle::new("an unlogged table, which a crash empties", "a logged table")),
        ("r", _) if row_security => Some(Obstacle::new(
            format!("row-level security for user {}", quote(&user)),
            "none for docrow's user",
        )),
        ("r", _) if !writable => {
            let grant = roles::grant_table(&qualified(schema, &name), &quote(&user));
            Some(Obstacle::new("no privilege to read and write it", grant))
        }
        ("r", _) => None,
        (other, _) => Some(Obstacle::new(kind_name(other), "a table")),
    };
    Ok(FoundRelation {
        name,
        whose: TableOwnership::Nobody,
        barrier,
        has_rows: false,
        bytes: u64::try_from(row.try_get::<_, i64>(8)?).unwrap_or(0),
        columns: Vec::new(),
        key: None,
        alterable: row.try_get(5)?,
    })
}

/// <https://www.postgresql.org/docs/15/catalog-pg-class.html>, `relkind`.
fn kind_name(kind: &str) -> &'static str {
    match kind {
        "v" => "a view",
        "m" => "a materialized view",
        "p" => "a partitioned table",
        "f" => "a foreign table",
        "S" => "a sequence",
        "i" | "I" => "an index",
        "c" => "a composite type",
        _ => "something else",
    }
}

fn attribute(row: &Row) -> Result<FoundColumn, PgError> {
    Ok(FoundColumn {
        name: row.try_get(1)?,
        ty: row.try_get(2)?,
        oid: row.try_get(3)?,
        plain: row.try_get(4)?,
        not_null: row.try_get(5)?,
        default: row.try_get(6)?,
        generated: row.try_get(7)?,
        beyond_int4: false,
    })
}

fn primary_key(row: &Row) -> Result<PrimaryKey, PgError> {
    Ok(PrimaryKey { deferrable: row.try_get(1)?, columns: row.try_get(2)? })
}
