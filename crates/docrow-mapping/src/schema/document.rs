//! Document mode: a collection as one table, each document whole in a `jsonb` column.

use super::{DocumentSpec, JsonForm, MappingSpec, Names, Sample, TableSpec};
use crate::model::change::Namespace;

/// The name of the column.
const COLUMN: &str = "doc";

impl Sample {
    /// The mapping of a collection to whole documents; it only takes the type of the key from the sample.
    /// `tables` as for [`Self::spec`].
    pub fn document_spec(&self, collection: &Namespace, json: JsonForm, tables: &mut Names) -> MappingSpec {
        let spec = self.spec(collection, &mut tables.clone());
        tables.reserve(&*spec.root.table);
        MappingSpec {
            document: Some(DocumentSpec { column: COLUMN.to_owned(), json }),
            root: TableSpec { columns: Vec::new(), ..spec.root },
            children: Vec::new(),
            ..spec
        }
    }
}
