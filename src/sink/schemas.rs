//! `docrow.schemas`: the mapping in force of every collection, so that a restart never guesses anew.

use tokio_postgres::GenericClient;

use super::{Session, failure};
use crate::error::Result;

/// A stored mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The collection, `database.collection`.
    pub collection: String,
    /// Counted from 1; the highest is in force.
    pub version: u16,
    /// The mapping file's text.
    pub text: String,
}

/// The mapping in force of each of the pipeline's collections; none in a database that docrow has never written to.
pub async fn load(session: &Session, pipeline: &str) -> Result<Vec<Mapping>> {
    let fail = |e| failure::of("load the mappings in force", &e);
    let exists = "SELECT to_regclass('docrow.schemas') IS NOT NULL";
    if !session.client.query_one(exists, &[]).await.and_then(|row| row.try_get(0)).map_err(fail)? {
        return Ok(Vec::new());
    }
    let question = "SELECT DISTINCT ON (collection) collection, version, mapping FROM docrow.schemas \
        WHERE pipeline = $1 ORDER BY collection, version DESC";
    let rows = session.client.query(question, &[&pipeline]).await.map_err(fail)?;
    rows.iter()
        .map(|row| {
            let version: i32 = row.try_get(1)?;
            Ok(Mapping {
                collection: row.try_get(0)?,
                version: u16::try_from(version).unwrap_or(u16::MAX),
                text: row.try_get(2)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// Stores a mapping. Says whether it is new: false if this version is stored already.
pub(super) async fn insert(
    client: &impl GenericClient,
    pipeline: &str,
    mapping: &Mapping,
) -> Result<bool, tokio_postgres::Error> {
    let Mapping { collection, version, text } = mapping;
    let statement = "INSERT INTO docrow.schemas (pipeline, collection, version, mapping) VALUES ($1, $2, $3, $4) \
        ON CONFLICT DO NOTHING";
    Ok(client.execute(statement, &[&pipeline, collection, &i32::from(*version), text]).await? > 0)
}
