//! `docrow.schemas`: the mapping of every collection, in all its versions, so that a restart never infers it
//! again, and which tables belong to which collection.

use std::collections::{BTreeSet, HashSet};

use tokio_postgres::{Client, Error as PgError, Row, error::SqlState};

use crate::{
    error::{Code, Error, Result},
    sink::{
        Session,
        connection::{
            fence_entry::ENTERED,
            round_trip::{OneRoundTrip, Parameter},
            sqlstate,
        },
    },
};

/// The form in which keys are written: if an earlier docrow wrote them in another form, a lower number is
/// stored.
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
    /// Whether all rows have been written with this version: false while the columns and tables that it adds
    /// are still being filled.
    pub filled: bool,
    /// Why the collection is stopped, if it is.
    pub stopped: Option<String>,
    /// The fingerprint of its mask key. Also `None` if an earlier docrow stored it.
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

    /// The version after this one, whose new columns must be filled.
    #[must_use]
    pub fn next(&self, text: impl Into<String>) -> Self {
        let version = self.version.saturating_add(1);
        Self { version, text: text.into(), filled: false, stopped: None, ..self.clone() }
    }
}

/// The mapping in force of each of the pipeline's collections; none in a database that docrow has never
/// written to. Errors: an earlier docrow wrote them, whose rows do not determine every value's type.
pub async fn load(session: &Session, pipeline: &str) -> Result<Vec<Mapping>> {
    in_force(session, pipeline, None).await
}

/// As [`load`], of one collection; `None` if it has never had one.
pub async fn load_one(session: &Session, pipeline: &str, collection: &str) -> Result<Option<Mapping>> {
    Ok(in_force(session, pipeline, Some(collection)).await?.pop())
}

async fn in_force(session: &Session, pipeline: &str, collection: Option<&str>) -> Result<Vec<Mapping>> {
    let fail = |e| sqlstate::error("load the mappings in force", &e);
    // An earlier docrow's table lacks the columns that are read as those of its JSON.
    let question = "SELECT DISTINCT ON (collection) collection, version, mapping, \
            coalesce((j->>'filled')::boolean, true), j->>'stopped', j->>'tables' IS NULL, j->>'masked_by' \
        FROM docrow.schemas s, to_jsonb(s) AS j WHERE pipeline = $1 AND ($2 IS NULL OR collection = $2) \
        ORDER BY collection, version DESC";
    let rows = match session.client.fetch(question, &[&pipeline, &collection]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(Vec::new()),
        rows => rows.map_err(fail)?,
    };
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
    let advice = "its rows do not determine every type: copy again under another pipeline name and schema";
    Error::new(Code::CopiedByEarlier, format!("{collection} was copied by an earlier docrow: {advice}"))
}

/// Records that all rows of a collection are written with this version of its mapping.
pub async fn set_filled(session: &mut Session, pipeline: &str, collection: &str, version: u16) -> Result<()> {
    let doing = format!("record that {collection} is filled");
    let statement = format!(
        "UPDATE docrow.schemas SET filled = true \
         WHERE pipeline = $1 AND collection = $2 AND version <= $3 AND NOT filled AND {ENTERED}"
    );
    session.write(&doing, &statement, &[&pipeline, &collection, &i32::from(version)]).await.map(drop)
}

/// Records why a collection is stopped, or that it resumes, possibly with a later version of its mapping than
/// it was stopped with.
pub async fn set_stopped(
    session: &mut Session,
    pipeline: &str,
    collection: &str,
    reason: Option<&str>,
) -> Result<()> {
    let doing = format!("record whether {collection} is stopped");
    let statement = format!(
        "UPDATE docrow.schemas SET stopped = $3 WHERE pipeline = $1 AND collection = $2 \
         AND ($3::text IS NULL OR version = \
            (SELECT max(version) FROM docrow.schemas WHERE pipeline = $1 AND collection = $2)) \
         AND stopped IS DISTINCT FROM $3 AND {ENTERED}"
    );
    let reason = reason.map(|reason| reason.replace('\0', ""));
    session.write(&doing, &statement, &[&pipeline, &collection, &reason]).await.map(drop)
}

/// Records which of the pipeline's collections are no longer replicated: dropped in MongoDB, or not included.
/// All others are. Returns those that were followed until now and are no longer included.
pub async fn set_absent(
    session: &mut Session,
    pipeline: &str,
    dropped: &[String],
    excluded: &[String],
) -> Result<Vec<String>> {
    let doing = "record which collections are no longer replicated";
    let fail = |e| sqlstate::error(doing, &e);
    let wanted =
        "CASE WHEN collection = ANY($2) THEN 'dropped' WHEN collection = ANY($3) THEN 'excluded' END";
    let statement = format!(
        "UPDATE docrow.schemas SET absent = {wanted} WHERE pipeline = $1 AND absent IS DISTINCT FROM {wanted} \
         AND {ENTERED} RETURNING collection"
    );
    let rows = session.write(doing, &statement, &[&pipeline, &dropped, &excluded]).await?;
    let changed: BTreeSet<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)?;
    Ok(changed.into_iter().filter(|name| excluded.contains(name)).collect())
}

/// Stores the fingerprint of a collection's mask key, if an earlier docrow did not.
pub async fn note_mask_key(session: &mut Session, pipeline: &str, mapping: &Mapping) -> Result<()> {
    let Mapping { collection, masked_by: Some(masked_by), .. } = mapping else { return Ok(()) };
    let doing = format!("record the mask key of {collection}");
    let statement = format!(
        "UPDATE docrow.schemas SET masked_by = $3 \
         WHERE pipeline = $1 AND collection = $2 AND masked_by IS NULL AND {ENTERED}"
    );
    session.write(&doing, &statement, &[&pipeline, collection, masked_by]).await.map(drop)
}

/// The collections whose keys may be in an earlier form.
pub async fn with_earlier_keys(session: &Session, pipeline: &str) -> Result<HashSet<String>> {
    let fail = |e| sqlstate::error("look for keys of an earlier form", &e);
    let question = "SELECT DISTINCT collection FROM docrow.schemas WHERE pipeline = $1 AND key_form < $2";
    let rows = session.client.fetch(question, &[&pipeline, &KEY_FORM]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
}

/// Records that no key of a collection is in an earlier form, or will not be.
pub async fn set_keys_renewed(session: &mut Session, pipeline: &str, collection: &str) -> Result<()> {
    let doing = format!("record the form of the keys of {collection}");
    let statement = format!(
        "UPDATE docrow.schemas SET key_form = $3 WHERE pipeline = $1 AND collection = $2 AND {ENTERED}"
    );
    session.write(&doing, &statement, &[&pipeline, &collection, &KEY_FORM]).await.map(drop)
}

/// Whether this version of a mapping is stored.
pub(crate) async fn is_stored(client: &Client, pipeline: &str, mapping: &Mapping) -> Result<bool, PgError> {
    let question = "SELECT 1 FROM docrow.schemas WHERE pipeline = $1 AND collection = $2 AND version = $3";
    let version = i32::from(mapping.version);
    Ok(client.fetch_opt(question, &[&pipeline, &mapping.collection, &version]).await?.is_some())
}

/// Stores a mapping, with the tables that it writes, and those of them that docrow was given. Changes nothing
/// where this version is stored already.
pub(crate) async fn insert(
    client: &Client,
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
    let parameters: &[&dyn Parameter] =
        &[&pipeline, collection, &version, text, filled, stopped, &tables, &adopted, masked_by, &KEY_FORM];
    client.perform(statement, parameters).await.map(drop)
}

/// Stores the version after the one in force, with the same tables.
pub(crate) async fn insert_next(client: &Client, pipeline: &str, next: &Mapping) -> Result<(), PgError> {
    let Mapping { collection, version, text, filled, masked_by, .. } = next;
    let statement = "INSERT INTO docrow.schemas \
            (pipeline, collection, version, mapping, filled, stopped, tables, adopted, masked_by) \
        SELECT pipeline, collection, $3, $4, $5, stopped, tables, adopted, $6 FROM docrow.schemas \
        WHERE pipeline = $1 AND collection = $2 ORDER BY version DESC LIMIT 1";
    let version = i32::from(*version);
    client.perform(statement, &[&pipeline, collection, &version, text, filled, masked_by]).await.map(drop)
}

/// All existing tables of a collection, named with their schema: created ones and adopted ones.
pub(crate) async fn tables(
    client: &Client,
    pipeline: &str,
    collection: &str,
) -> Result<(Vec<String>, Vec<String>), PgError> {
    let question = "SELECT t, bool_or(t = ANY (adopted)) FROM docrow.schemas, unnest(tables) AS t \
        WHERE pipeline = $1 AND collection = $2 AND to_regclass(t) IS NOT NULL GROUP BY t ORDER BY t";
    let rows = client.fetch(question, &[&pipeline, &collection]).await?;
    let (mut made, mut given) = (Vec::new(), Vec::new());
    for row in &rows {
        if row.try_get(1)? { given.push(row.try_get(0)?) } else { made.push(row.try_get(0)?) }
    }
    Ok((made, given))
}

/// The owner of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableOwnership {
    /// The collection.
    Own,
    /// Another collection or pipeline, named here.
    Other(String),
    /// No pipeline: a user created it.
    Nobody,
}

/// Which tables belong to which collection of which pipeline.
pub(crate) struct TableOwners(Vec<TableOwner>);

struct TableOwner {
    pipeline: String,
    collection: String,
    /// The tables with their schemas. `None`: an earlier docrow did not store them.
    tables: Option<Vec<String>>,
}

/// Reads who owns which of `tables`, named with their schema, and what else these collections of a pipeline
/// own.
pub(crate) async fn owners(
    form: SchemaForm,
    client: &Client,
    pipeline: &str,
    collections: &[&str],
    tables: &[String],
) -> Result<TableOwners, PgError> {
    let (owned, condition) = match form {
        SchemaForm::Missing => return Ok(TableOwners(Vec::new())),
        SchemaForm::Earlier => ("NULL::text[]", "$3::text[] IS NULL"),
        SchemaForm::Complete => ("tables", "tables && $3::text[]"),
    };
    let question = format!(
        "SELECT pipeline, collection, {owned} FROM docrow.schemas \
         WHERE pipeline = $1 AND collection = ANY ($2::text[]) OR {condition} ORDER BY version"
    );
    let rows = client.fetch(&question, &[&pipeline, &collections, &tables]).await?;
    let owner = |row: &Row| {
        Ok(TableOwner { pipeline: row.try_get(0)?, collection: row.try_get(1)?, tables: row.try_get(2)? })
    };
    rows.iter().map(owner).collect::<Result<_, _>>().map(TableOwners)
}

impl TableOwners {
    /// The owner of a table, named with its schema, from the view of a collection of a pipeline.
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

/// The form of `docrow.schemas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaForm {
    /// None: docrow has never written to this database.
    Missing,
    /// The form of an earlier docrow.
    Earlier,
    /// With all its columns, as for the process that holds the pipeline.
    Complete,
}

/// Asks for the form of `docrow.schemas`.
pub(crate) async fn form(client: &Client) -> Result<SchemaForm, PgError> {
    let question = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = 'tables') \
        FROM to_regclass('docrow.schemas') AS t WHERE t IS NOT NULL";
    Ok(match client.fetch_opt(question, &[]).await? {
        None => SchemaForm::Missing,
        Some(row) if row.try_get(0)? => SchemaForm::Complete,
        Some(_) => SchemaForm::Earlier,
    })
}
