//! `docrow.misfits`: which columns lack values that did not fit and are in `extra` alone, how many, and since
//! when.
//!
//! Only the rows know. docrow counts them from time to time while it runs, and stores the result here; a row
//! without names records when a collection was counted. A collection that was never counted is different from
//! one without misfits.

use std::{collections::HashMap, time::SystemTime};

use tokio_postgres::{Client, Error as PgError, Row};

use crate::{
    error::Result,
    mapping::{ExtraPathStep, Mapping, MisfitPlaces},
    model::table::Column,
    sink::{
        Session,
        connection::{
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
        },
        identifiers::{qualified, quote},
    },
};

/// The maximum number of columns per statement, which may select at most 1,664 numbers.
const AT_ONCE: usize = 400;

/// A column that lacks values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfits {
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// How many rows lack a value that is in `extra`.
    pub values: u64,
    /// How many of these values are numbers.
    pub numbers: u64,
}

/// The result for a collection.
#[derive(Clone, Debug)]
pub struct MisfitCount {
    /// When it was counted.
    pub at: SystemTime,
    /// The columns, each with the time of the count that found it first.
    pub found: Vec<(Misfits, SystemTime)>,
}

/// Counts a collection's misfits. Reads all of its rows that have something in `extra`.
pub async fn count(session: &Session, schema: &str, mapping: &Mapping) -> Result<Vec<Misfits>> {
    let fail = |e| sqlstate::error("count values that did not fit their columns", &e);
    let Some((root, extra)) = mapping.tables().first().zip(mapping.extra()) else { return Ok(Vec::new()) };
    let Some(key) = root.columns.first() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for places in mapping.places() {
        let own = (qualified(schema, &places.table), quote(&places.key));
        let rows = if places.table == root.name {
            format!("{} c", own.0)
        } else {
            let root = qualified(schema, &root.name);
            format!("{} c JOIN {root} t ON t.{} = c.{}", own.0, quote(&key.name), own.1)
        };
        let extra = format!("{}.{}", if places.table == root.name { "c" } else { "t" }, quote(&extra.name));
        for columns in places.columns.chunks(AT_ONCE) {
            let question = question(&places, columns, &rows, &extra);
            let paths: Vec<&str> = fields(&places).chain(columns.iter().map(|(_, path)| &**path)).collect();
            let row = session.client.fetch_one(&question, &[&paths]).await.map_err(fail)?;
            for (at, (column, _)) in columns.iter().enumerate() {
                let number = |n: usize| row.try_get::<_, i64>(n).map(|n| u64::try_from(n).unwrap_or(0));
                let (values, numbers) = (number(2 * at).map_err(fail)?, number(2 * at + 1).map_err(fail)?);
                let (table, column) = (places.table.clone(), column.name.clone());
                if values > 0 {
                    found.push(Misfits { table, column, values, numbers });
                }
            }
        }
    }
    Ok(found)
}

fn fields(places: &MisfitPlaces) -> impl Iterator<Item = &str> {
    places.steps.iter().filter_map(|step| match step {
        ExtraPathStep::Field(name) => Some(&**name),
        ExtraPathStep::Ordinal(_) => None,
    })
}

/// Two numbers for each column. `$1`: the names on the path to the table, then the rest of the path to each
/// column: names from data are not part of the statement.
fn question(places: &MisfitPlaces, columns: &[(Column, String)], rows: &str, extra: &str) -> String {
    let (mut way, mut number) = (String::new(), 0);
    for step in &places.steps {
        let step = match step {
            ExtraPathStep::Field(_) => {
                number += 1;
                format!("($1::text[])[{number}]")
            }
            ExtraPathStep::Ordinal(column) => format!("c.{}", quote(column)),
        };
        way.push_str(&format!("{step} || '.' || "));
    }
    let of = |(at, (column, _)): (usize, &(Column, String))| {
        let value = format!("{extra} -> ({way}($1::text[])[{}])", number + 1 + at);
        let name = format!("c.{}", quote(&column.name));
        let misfit = format!("{name} IS NULL AND jsonb_typeof({value}) <> 'null'");
        format!(
            "count(*) FILTER (WHERE {misfit}), count(*) FILTER (WHERE {misfit} AND ({value}) \
             ?| ARRAY['$numberInt', '$numberLong', '$numberDouble', '$numberDecimal'])"
        )
    };
    let numbers: Vec<_> = columns.iter().enumerate().map(of).collect();
    format!("SELECT {} FROM {rows} WHERE {extra} IS NOT NULL", numbers.join(", "))
}

/// Whether a `double precision` holds every value that is in a `bigint` column.
pub async fn fits_double(session: &Session, schema: &str, table: &str, column: &str) -> Result<bool> {
    let (table, column) = (qualified(schema, table), quote(column));
    let fail = |e| sqlstate::error(format!("look for the largest values of {table}"), &e);
    let beyond = format!("{column} NOT BETWEEN -9007199254740992 AND 9007199254740992");
    let question = format!("SELECT NOT EXISTS (SELECT FROM {table} WHERE {beyond})");
    session.client.fetch_one(&question, &[]).await.and_then(|row| row.try_get(0)).map_err(fail)
}

/// Stores the count of a collection.
pub async fn store(session: &mut Session, pipeline: &str, collection: &str, found: &[Misfits]) -> Result<()> {
    let doing = format!("note what does not fit in {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    // That it was counted is recorded in a separate row.
    let counted = Misfits { table: String::new(), column: String::new(), values: 0, numbers: 0 };
    let all = || found.iter().chain(std::iter::once(&counted));
    let (tables, columns): (Vec<&str>, Vec<&str>) = all().map(|m| (&*m.table, &*m.column)).unzip();
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (values, numbers): (Vec<i64>, Vec<i64>) =
        all().map(|m| (number(m.values), number(m.numbers))).unzip();
    let transaction = session.enter(&doing).await?;
    let forget = "DELETE FROM docrow.misfits m WHERE pipeline = $1 AND collection = $2 AND NOT EXISTS ( \
        SELECT FROM unnest($3::text[], $4::text[]) AS f (t, c) WHERE m.table_name = t AND m.column_name = c)";
    transaction.perform(forget, &[&pipeline, &collection, &tables, &columns]).await.map_err(fail)?;
    let insert = "INSERT INTO docrow.misfits AS m (pipeline, collection, table_name, column_name, \"values\", numbers) \
        SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) \
        ON CONFLICT (pipeline, collection, table_name, column_name) \
        DO UPDATE SET \"values\" = EXCLUDED.\"values\", numbers = EXCLUDED.numbers, counted_at = now()";
    let parameters: [&dyn Parameter; 6] = [&pipeline, &collection, &tables, &columns, &values, &numbers];
    transaction.perform(insert, &parameters).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// The results for the pipeline's collections, by name. Those that were never counted are missing.
pub async fn load(session: &Session, pipeline: &str) -> Result<HashMap<String, MisfitCount>> {
    let fail = |e| sqlstate::error("ask what does not fit its column", &e);
    read(&session.client, pipeline).await.map_err(fail)
}

/// The same.
pub(super) async fn read(client: &Client, pipeline: &str) -> Result<HashMap<String, MisfitCount>, PgError> {
    if client.fetch_one("SELECT to_regclass('docrow.misfits') IS NULL", &[]).await?.try_get(0)? {
        return Ok(HashMap::new());
    }
    let question = "SELECT collection, table_name, column_name, \"values\", numbers, since, counted_at \
        FROM docrow.misfits WHERE pipeline = $1 ORDER BY 1, 2, 3";
    let mut counts: HashMap<String, MisfitCount> = HashMap::new();
    for row in &client.fetch(question, &[&pipeline]).await? {
        let at = row.try_get(6)?;
        let count = counts.entry(row.try_get(0)?).or_insert_with(|| MisfitCount { at, found: Vec::new() });
        let found = misfits(row)?;
        if !found.table.is_empty() {
            count.found.push((found, row.try_get(5)?));
        }
    }
    Ok(counts)
}

fn misfits(row: &Row) -> Result<Misfits, PgError> {
    let number = |n: usize| row.try_get::<_, i64>(n).map(|n| u64::try_from(n).unwrap_or(0));
    Ok(Misfits { table: row.try_get(1)?, column: row.try_get(2)?, values: number(3)?, numbers: number(4)? })
}

impl Misfits {
    /// Whether the column, of this SQL type, contains whole numbers and lacks numbers: then sums over it are
    /// wrong.
    pub fn spoil_sums(&self, ty: &str) -> bool {
        matches!(ty, "bigint" | "integer") && self.numbers > 0
    }

    /// How to fix a column of this SQL type that lacks values: one thing.
    pub fn remedy(&self, ty: &str, is_automatic: bool) -> &'static str {
        match (is_automatic, self.spoil_sums(ty)) {
            (true, true) => {
                "docrow run widens it by itself; if it warns that something depends on the column, drop \
                 that, then start docrow again"
            }
            (false, true) => {
                "set type = \"double precision\", bson = \"number\" for it in its mapping file, then start \
                 docrow again"
            }
            (false, false) => {
                "set type = \"jsonb\", which holds everything, for it in its mapping file, then start docrow \
                 again"
            }
            (true, false) => {
                "turn its stored mapping into a mapping file, with type = \"jsonb\" for it \
                 (docs/mapping.md), then start docrow again"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::{ColumnType, Scalar};

    /// Names from data are parameters.
    #[test]
    fn a_question_holds_no_name_of_a_field() {
        let steps = vec![ExtraPathStep::Field("it's".into()), ExtraPathStep::Ordinal("n".into())];
        let column = Column { name: "c".into(), ty: ColumnType::scalar(Scalar::Bigint) };
        let places =
            MisfitPlaces { table: "t".into(), key: "k".into(), steps, columns: vec![(column, "o.p".into())] };
        let question = question(&places, &places.columns, "rows", "x");
        let value = "x -> (($1::text[])[1] || '.' || c.\"n\" || '.' || ($1::text[])[2])";
        assert!(
            question.contains(&format!("c.\"c\" IS NULL AND jsonb_typeof({value}) <> 'null'")),
            "{question}"
        );
        assert!(!question.contains("it's"));
    }
}
