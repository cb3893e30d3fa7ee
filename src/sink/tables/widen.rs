//! Replaces narrow columns by wide ones, once every row has its value in both (`schema::widening`).

use tokio_postgres::{Client, Error as PgError};

use super::{
    locks,
    sql::{qualified, quote},
};
use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    mapping::Replacement,
    sink::{
        Session, Target,
        connection::{
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
        },
        metadata::mapping_versions::{self, Mapping},
    },
};

/// How many obstacles an error names.
const SHOWN: usize = 6;

/// `$1`: tables, `$2`: a column of each; `$3`, `$4`: the pipeline and the collection. Finds everything that
/// would be lost with the column, or keeps it from being dropped.
const IN_THE_WAY: &str = "SELECT w.n, o.what FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (t, c, n) \
    JOIN pg_class r ON r.oid = to_regclass(w.t) \
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = w.c AND NOT a.attisdropped \
    CROSS JOIN LATERAL ( \
        SELECT pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on it' FROM pg_depend d \
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid = a.attnum \
        UNION SELECT 'it is NOT NULL' WHERE a.attnotnull \
        UNION SELECT 'it has privileges of its own' WHERE a.attacl IS NOT NULL \
        UNION SELECT 'another table inherits it' FROM pg_inherits WHERE inhparent = r.oid \
        UNION SELECT 'its table belongs to another role' WHERE NOT pg_has_role(r.relowner, 'USAGE') \
        UNION SELECT 'its table was there before docrow' FROM docrow.schemas \
            WHERE pipeline = $3 AND collection = $4 AND w.t = ANY (adopted) \
    ) AS o (what) ORDER BY 1, 2";

/// The columns that can't be replaced, and the error that says why.
pub async fn irreplaceable(
    session: &Session,
    target: &Target,
    collection: &str,
    replacements: &[Replacement],
) -> Result<Option<(Vec<Replacement>, Error)>> {
    look(&session.client, target, collection, replacements).await
}

async fn look(
    client: &Client,
    target: &Target,
    collection: &str,
    replacements: &[Replacement],
) -> Result<Option<(Vec<Replacement>, Error)>> {
    let fail = |e| sqlstate::error(doing(collection), &e);
    let tables: Vec<String> = replacements.iter().map(|r| qualified(target.schema(), &r.table)).collect();
    let columns: Vec<&str> = replacements.iter().map(|r| &*r.narrow).collect();
    let parameters: [&dyn Parameter; 4] = [&tables, &columns, &target.pipeline(), &collection];
    let rows = client.fetch(IN_THE_WAY, &parameters).await.map_err(fail)?;
    let (mut kept, mut why) = (Vec::new(), Vec::new());
    for row in &rows {
        let (at, what): (i64, String) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        let one = usize::try_from(at).ok().and_then(|at| replacements.get(at.checked_sub(1)?));
        let Some(one) = one else { continue };
        why.push(format!("column {} of {}: {what}", one.narrow, one.table));
        if !kept.contains(one) {
            kept.push(one.clone());
        }
    }
    if kept.is_empty() {
        return Ok(None);
    }
    let more = why.len().saturating_sub(SHOWN);
    why.truncate(SHOWN);
    if more > 0 {
        why.push(format!("and {more} more"));
    }
    let error = Error::new(Code::ColumnInUse, format!("{}: {}", doing(collection), why.join("; ")));
    Ok(Some((kept, error)))
}

fn doing(collection: &str) -> String {
    format!("widen columns of {collection}")
}

/// Drops the narrow columns, gives the wide ones their names, and stores the mapping `next`, which has them
/// so, in one short transaction. No process may write with an earlier version meanwhile, and every row must
/// have been written with it.
///
/// Errors: [`Code::ColumnInUse`]; [`Code::TargetLocked`] if another session has a lock on one of the tables:
/// retry.
pub async fn replace_columns(
    session: &mut Session,
    target: &Target,
    next: &Mapping,
    replacements: &[Replacement],
) -> Result<()> {
    let doing = doing(&next.collection);
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let mut tables: Vec<String> = replacements.iter().map(|r| qualified(target.schema(), &r.table)).collect();
    tables.dedup();
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    locks::against_all(&transaction, &names).await.map_err(|e| e.within(&doing))?;
    if let Some((_, error)) = look(&transaction, target, &next.collection, replacements).await? {
        return Err(error);
    }
    for Replacement { table, narrow, wide, .. } in replacements {
        let table = qualified(target.schema(), table);
        let comment = comment(&transaction, &table, narrow, wide).await.map_err(fail)?.unwrap_or_default();
        let (narrow, wide) = (quote(narrow), quote(wide));
        let statements = format!(
            "{comment}; ALTER TABLE {table} DROP COLUMN {narrow}; ALTER TABLE {table} RENAME COLUMN {wide} TO {narrow}"
        );
        transaction.batch_execute(&statements).await.map_err(fail)?;
    }
    mapping_versions::insert_next(&transaction, target.pipeline(), next).await.map_err(fail)?;
    failpoint::reach(Failpoint::ColumnsBeforeCommit);
    transaction.commit().await.map_err(fail)?;
    failpoint::reach(Failpoint::ColumnsReplaced);
    Ok(())
}

/// The statement that copies the narrow column's comment to the wide one, if it has one.
async fn comment(client: &Client, table: &str, narrow: &str, wide: &str) -> Result<Option<String>, PgError> {
    let question = "SELECT format('COMMENT ON COLUMN %s.%I IS %L', $1::text, $3::text, col_description(attrelid, attnum)) \
        FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 \
        AND col_description(attrelid, attnum) IS NOT NULL";
    client.fetch_opt(question, &[&table, &narrow, &wide]).await?.map(|row| row.try_get(0)).transpose()
}
