//! `docrow.schemas`: the mapping of every collection, in all its versions, so that a restart never guesses anew, and which
//! tables are whose.

use std::collections::{BTreeSet, HashSet};

use tokio_postgres::{Error as PgError, GenericClient, Row, types::ToSql};

use crate::{
    error::{Code, Error, Result},
    sink::{Session, connection::sqlstate},
};

/// The form in which keys are written: where an earlier docrow wrote them otherwise, a lower number is stored.
const KEY_FORM: i32 = 1;

/// A stored mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The collection, `database.collection`.
    pub collection: String,
    /// Counted from 1; the highest is in force.
    pub version: u16,
    /// The mapping file's text.
    pub text: String,
    /// Whether all rows have been written with this version: false while what it adds is still to be filled back.
    pub filled: bool,
    /// Why the collection is stopped, if it is.
    pub stopped: Option<String>,
    /// The fingerprint of the key that it masks values by. `None` too where an earlier docrow stored it.
    pub masked_by: Option<String>,
}

impl Mapping {
    /// The first version of a collection's mapping.
    pub fn first(collection: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            collection: collection.into(),
            version: 1,
            text: text.into(),
            filled: true,
            stopped: None,
            masked_by: None,
        }
    }

    /// The version after this one, to be filled back.
    #[must_use]
    pub fn next(&self, text: impl Into<String>) -> Self {
        let version = self.version.saturating_add(1);
        Self { version, text: text.into(), filled: false, stopped: None, ..self.clone() }
    }
}

/// The mapping in force of each of the pipeline's collections; none in a database that docrow has never written to. Errors:
/// an earlier docrow wrote them, whose rows do not tell exactly of which type a value was.
pub async fn load(session: &Session, pipeline: &str) -> Result<Vec<Mapping>> {
    let fail = |e| sqlstate::error("load the mappings in force", &e);
    let later = match form(&session.client).await.map_err(fail)? {
        SchemaForm::Missing => return Ok(Vec::new()),
        SchemaForm::Earlier => "true, NULL::text, true",
        SchemaForm::Complete => "filled, stopped, tables IS NULL",
    };
    let question = format!(
        "SELECT DISTINCT ON (collection) collection, version, mapping, {later}, to_jsonb(s)->>'masked_by' \
         FROM docrow.schemas s WHERE pipeline = $1 ORDER BY collection, version DESC"
    );
    let rows = session.client.query(&question, &[&pipeline]).await.map_err(fail)?;
    let mut mappings = Vec::with_capacity(rows.len());
    for row in &rows {
        let version: i32 = row.try_get(1).map_err(fail)?;
        let mapping = Mapping {
            collection: row.try_get(0).map_err(fail)?,
            version: u16::try_from(version).unwrap_or(u16::MAX),
            text: row.try_get(2).map_err(fail)?,
            filled: row.try_get(3).map_err(fail)?,
            stopped: row.try_get(4).map_err(fail)?,
            masked_by: row.try_get(6).map_err(fail)?,
        };
        if row.try_get(5).map_err(fail)? {
            return Err(earlier(&mapping.collection));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn earlier(collection: &str) -> Error {
    let advice = "its rows do not tell every type exactly: copy anew under another pipeline name and schema";
    Error::new(Code::CopiedByEarlier, format!("{collection} was copied by an earlier docrow: {advice}"))
}

/// Notes that all rows of a collection are written with this version of its mapping.
pub async fn set_filled(session: &mut Session, pipeline: &str, collection: &str, version: u16) -> Result<()> {
    let doing = format!("note that {collection} is filled back");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let statement = "UPDATE docrow.schemas SET filled = true \
        WHERE pipeline = $1 AND collection = $2 AND version <= $3 AND NOT filled";
    transaction.execute(statement, &[&pipeline, &collection, &i32::from(version)]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Notes why a collection is stopped, or that it goes on: with a later version of its mapping than it was stopped with,
/// perhaps.
pub async fn set_stopped(
    session: &mut Session,
    pipeline: &str,
    collection: &str,
    reason: Option<&str>,
) -> Result<()> {
    let doing = format!("note whether {collection} is stopped");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let statement = "UPDATE docrow.schemas SET stopped = $3 WHERE pipeline = $1 AND collection = $2 \
        AND ($3::text IS NULL OR version = \
            (SELECT max(version) FROM docrow.schemas WHERE pipeline = $1 AND collection = $2)) \
        AND stopped IS DISTINCT FROM $3";
    let reason = reason.map(|reason| reason.replace('\0', ""));
    transaction.execute(statement, &[&pipeline, &collection, &reason]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Notes which of the pipeline's collections are not replicated any more: the ones are dropped in MongoDB, the others not
/// included. All others are. Says which were followed until now and are not included any more.
pub async fn set_absent(
    session: &mut Session,
    pipeline: &str,
    dropped: &[String],
    excluded: &[String],
) -> Result<Vec<String>> {
    let doing = "note which collections are not replicated any more";
    let fail = |e| sqlstate::error(doing, &e);
    let transaction = session.enter(doing).await?;
    let wanted =
        "CASE WHEN collection = ANY($2) THEN 'dropped' WHEN collection = ANY($3) THEN 'excluded' END";
    let statement = format!(
        "UPDATE docrow.schemas SET absent = {wanted} WHERE pipeline = $1 AND absent IS DISTINCT FROM {wanted} \
         RETURNING collection"
    );
    let rows = transaction.query(&statement, &[&pipeline, &dropped, &excluded]).await.map_err(fail)?;
    let changed: BTreeSet<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)?;
    transaction.commit().await.map_err(fail)?;
    Ok(changed.into_iter().filter(|name| excluded.contains(name)).collect())
}

/// Stores by which key a collection's values are masked, where an earlier docrow did not.
pub async fn note_mask_key(session: &mut Session, pipeline: &str, mapping: &Mapping) -> Result<()> {
    let Mapping { collection, masked_by: Some(masked_by), .. } = mapping else { return Ok(()) };
    let doing = format!("note the key that masks {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let statement = "UPDATE docrow.schemas SET masked_by = $3 \
        WHERE pipeline = $1 AND collection = $2 AND masked_by IS NULL";
    transaction.execute(statement, &[&pipeline, collection, masked_by]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// The collections of which keys may be in an earlier form.
pub async fn with_earlier_keys(session: &Session, pipeline: &str) -> Result<HashSet<String>> {
    let fail = |e| sqlstate::error("look for keys of an earlier form", &e);
    let question = "SELECT DISTINCT collection FROM docrow.schemas WHERE pipeline = $1 AND key_form < $2";
    let rows = session.client.query(question, &[&pipeline, &KEY_FORM]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
}

/// Notes that no key of a collection is in an earlier form, or will not be.
pub async fn set_keys_renewed(session: &mut Session, pipeline: &str, collection: &str) -> Result<()> {
    let doing = format!("note the form of the keys of {collection}");
    let fail = |e| sqlstate::error(&*doing, &e);
    let transaction = session.enter(&doing).await?;
    let statement = "UPDATE docrow.schemas SET key_form = $3 WHERE pipeline = $1 AND collection = $2";
    transaction.execute(statement, &[&pipeline, &collection, &KEY_FORM]).await.map_err(fail)?;
    transaction.commit().await.map_err(fail)
}

/// Whether this version of a mapping is stored.
pub(crate) async fn is_stored(
    client: &impl GenericClient,
    pipeline: &str,
    mapping: &Mapping,
) -> Result<bool, PgError> {
    let question = "SELECT 1 FROM docrow.schemas WHERE pipeline = $1 AND collection = $2 AND version = $3";
    let version = i32::from(mapping.version);
    Ok(client.query_opt(question, &[&pipeline, &mapping.collection, &version]).await?.is_some())
}

/// Stores a mapping, with the tables that it writes, and those of them that docrow was given. Changes nothing where this version is stored already.
pub(crate) async fn insert(
    client: &impl GenericClient,
    pipeline: &str,
    mapping: &Mapping,
    tables: Vec<&str>,
    adopted: Vec<&str>,
) -> Result<(), PgError> {
    let Mapping { collection, version, text, filled, stopped, masked_by } = mapping;
    let statement = "INSERT INTO docrow.schemas \
            (pipeline, collection, version, mapping, filled, stopped, tables, adopted, masked_by, key_form) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    let version = i32::from(*version);
    let parameters: &[&(dyn ToSql + Sync)] =
        &[&pipeline, collection, &version, text, filled, stopped, &tables, &adopted, masked_by, &KEY_FORM];
    client.execute(statement, parameters).await.map(drop)
}

/// Stores the version after the one in force, of the same tables.
pub(crate) async fn insert_next(
    client: &impl GenericClient,
    pipeline: &str,
    next: &Mapping,
) -> Result<(), PgError> {
    let Mapping { collection, version, text, filled, masked_by, .. } = next;
    let statement = "INSERT INTO docrow.schemas \
            (pipeline, collection, version, mapping, filled, stopped, tables, adopted, masked_by) \
        SELECT pipeline, collection, $3, $4, $5, stopped, tables, adopted, $6 FROM docrow.schemas \
        WHERE pipeline = $1 AND collection = $2 ORDER BY version DESC LIMIT 1";
    let version = i32::from(*version);
    client.execute(statement, &[&pipeline, collection, &version, text, filled, masked_by]).await.map(drop)
}

/// All tables of a collection that are there, named with their schema: those that docrow has made, and those that it was
/// given.
pub(crate) async fn tables(
    client: &impl GenericClient,
    pipeline: &str,
    collection: &str,
) -> Result<(Vec<String>, Vec<String>), PgError> {
    let question = "SELECT t, bool_or(t = ANY (adopted)) FROM docrow.schemas, unnest(tables) AS t \
        WHERE pipeline = $1 AND collection = $2 AND to_regclass(t) IS NOT NULL GROUP BY t ORDER BY t";
    let rows = client.query(question, &[&pipeline, &collection]).await?;
    let (mut made, mut given) = (Vec::new(), Vec::new());
    for row in &rows {
        if row.try_get(1)? { given.push(row.try_get(0)?) } else { made.push(row.try_get(0)?) }
    }
    Ok((made, given))
}

/// To whom a table belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableOwnership {
    /// To the collection.
    Own,
    /// To another collection or pipeline, named here.
    Other(String),
    /// To no pipeline: somebody made it.
    Nobody,
}

/// Which tables belong to which collection of which pipeline.
pub(crate) struct TableOwners(Vec<TableOwner>);

struct TableOwner {
    pipeline: String,
    collection: String,
    /// The tables with their schemas. `None`: not stored by an earlier docrow.
    tables: Option<Vec<String>>,
}

/// Reads who owns which of `tables`, named with their schema, and what else a collection of a pipeline owns.
pub(crate) async fn owners(
    client: &impl GenericClient,
    pipeline: &str,
    collection: &str,
    tables: &[String],
) -> Result<TableOwners, PgError> {
    let (owned, condition) = match form(client).await? {
        SchemaForm::Missing => return Ok(TableOwners(Vec::new())),
        SchemaForm::Earlier => ("NULL::text[]", "$3::text[] IS NULL"),
        SchemaForm::Complete => ("tables", "tables && $3::text[]"),
    };
    let question = format!(
        "SELECT pipeline, collection, {owned} FROM docrow.schemas \
         WHERE pipeline = $1 AND collection = $2 OR {condition} ORDER BY version"
    );
    let rows = client.query(&question, &[&pipeline, &collection, &tables]).await?;
    let owner = |row: &Row| {
        Ok(TableOwner { pipeline: row.try_get(0)?, collection: row.try_get(1)?, tables: row.try_get(2)? })
    };
    rows.iter().map(owner).collect::<Result<_, _>>().map(TableOwners)
}

impl TableOwners {
    /// Whose a table, named with its schema, is, for a pipeline and a collection of it.
    pub(crate) fn ownership(&self, table: &str, mine: (&str, &str)) -> TableOwnership {
        let has = |owner: &&TableOwner| {
            owner.tables.as_ref().is_some_and(|tables| tables.iter().any(|own| own == table))
        };
        if self.all_of(mine).any(|owner| owner.tables.is_none() || has(&owner)) {
            return TableOwnership::Own;
        }
        self.0.iter().find(has).map_or(TableOwnership::Nobody, |owner| {
            TableOwnership::Other(format!("collection {} of pipeline {}", owner.collection, owner.pipeline))
        })
    }

    /// All tables of all versions of a collection's mapping.
    pub(crate) fn tables(&self, mine: (&str, &str)) -> Vec<String> {
        let mut tables: Vec<_> =
            self.all_of(mine).filter_map(|owner| owner.tables.clone()).flatten().collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    fn all_of<'a>(
        &'a self,
        (pipeline, collection): (&'a str, &'a str),
    ) -> impl Iterator<Item = &'a TableOwner> {
        self.0.iter().filter(move |owner| owner.pipeline == pipeline && owner.collection == collection)
    }
}

/// In which form `docrow.schemas` is there.
enum SchemaForm {
    /// Not at all: docrow has never written to this database.
    Missing,
    /// As an earlier docrow made it.
    Earlier,
    /// With all its columns.
    Complete,
}

async fn form(client: &impl GenericClient) -> Result<SchemaForm, PgError> {
    let question = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'tables') \
        FROM to_regclass('docrow.schemas') AS t WHERE t IS NOT NULL";
    Ok(match client.query_opt(question, &[]).await? {
        None => SchemaForm::Missing,
        Some(row) if row.try_get(0)? => SchemaForm::Complete,
        Some(_) => SchemaForm::Earlier,
    })
}
