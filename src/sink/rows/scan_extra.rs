//! Finds the documents to write again, page by page.

use super::{cursor::RowCursor, read::first_column};
use crate::{
    error::{Error, Result},
    mapping::Replacement,
    model::table::Table,
    sink::{
        Keys, Session,
        connection::sqlstate,
        tables::sql::{self, quote},
    },
};

/// The beginning of a key of `extra`: the name of a top-level field, in which a dot and a backslash are
/// escaped and a byte that is not UTF-8 is `\xff`. Any other backslash begins the number of a field that
/// occurs several times.
const FIRST_STEP: &str = r"E'^(?:[^\\\\.]|\\\\[\\\\.x])*'";

/// Which documents to find.
#[derive(Debug)]
pub struct WantedDocuments {
    /// The root table.
    pub root: Option<Table>,
    /// Documents that have something in this column; if there are `steps`, under a key that begins with one
    /// of them, or a value that is not an object, which docrow does not write.
    pub extra: Option<String>,
    /// The possible beginnings of those keys.
    pub steps: Option<Vec<String>>,
    /// Also documents that have a value only in the narrow one of two columns.
    pub replacements: Vec<Replacement>,
}

impl WantedDocuments {
    /// A condition on the row `t` of the root table. `$1`: the steps.
    fn condition(&self, schema: &str, root_key: &str) -> String {
        let in_extra = self.extra.iter().map(|extra| {
            let extra = format!("t.{}", quote(extra));
            format!(
                "{extra} IS NOT NULL AND ($1::text[] IS NULL OR CASE jsonb_typeof({extra}) WHEN 'object' THEN EXISTS ( \
                    SELECT FROM jsonb_object_keys({extra}) AS k WHERE substring(k, {FIRST_STEP}) = ANY($1)) ELSE true END)"
            )
        });
        let root = self.root.as_ref().map(|root| root.name.as_str());
        let narrow_alone =
            self.replacements.iter().map(|Replacement { table, key, narrow, wide, .. }| {
                let of = |row: &str| {
                    format!("{row}.{} IS NOT NULL AND {row}.{} IS NULL", quote(narrow), quote(wide))
                };
                if Some(table.as_str()) == root {
                    return of("t");
                }
                let (table, key) = (sql::qualified(schema, table), quote(key));
                format!("EXISTS (SELECT FROM {table} c WHERE c.{key} = t.{root_key} AND {})", of("c"))
            });
        let never = std::iter::once("$1::text[] = '{}' AND false".to_owned());
        never
            .chain(in_extra)
            .chain(narrow_alone)
            .map(|one| format!("({one})"))
            .collect::<Vec<_>>()
            .join(" OR ")
    }
}

/// The keys of documents as of when the scan began. Holds no lock.
pub struct Scan<'a>(RowCursor<'a>);

impl<'a> Scan<'a> {
    /// Finds these documents.
    pub async fn new(session: &'a mut Session, schema: &str, wanted: &WantedDocuments) -> Result<Self> {
        let root = wanted.root.as_ref();
        let Some((root, key)) = root.and_then(|root| Some((root, root.columns.first()?))) else {
            return Err(Error::bug("look for documents: no key column"));
        };
        let fail = |e| sqlstate::error(format!("look for documents in {}", quote(&root.name)), &e);
        let (key, table) = (quote(&key.name), sql::qualified(schema, &root.name));
        let question = format!("SELECT t.{key} FROM {table} t WHERE {}", wanted.condition(schema, &key));
        RowCursor::open(session, "", &question, &[&wanted.steps]).await.map(Self).map_err(fail)
    }

    /// At most `most` further keys; none: that was all.
    pub async fn next(&mut self, most: u16) -> Result<Keys> {
        let rows = self.0.next(most).await;
        first_column(&rows.map_err(|e| sqlstate::error("look for documents", &e))?)
    }
}
