//! Facts about a mapping's columns besides their encoding: where in `extra` their misfits are, and which of
//! them will replace others.

use super::compile::Mapping;
use crate::{
    model::table::Column,
    schema::{Segment, TableSpec},
};

/// A column that is written beside a narrower one, which it will replace
/// ([`MappingSpec`](crate::schema::MappingSpec)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The table.
    pub table: String,
    /// Its column with the document's key.
    pub key: String,
    /// The column to be replaced, and its name.
    pub narrow: String,
    /// The column that replaces it.
    pub wide: String,
    /// The final SQL type of the column.
    pub ty: String,
}

/// Where the misfits of a table's columns are in `extra`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisfitPlaces {
    /// The table.
    pub table: String,
    /// Its column with the document's key.
    pub key: String,
    /// The path from the document to the object of a row.
    pub steps: Vec<ExtraPathStep>,
    /// The columns that are not masked, each with the rest of the path, in the form of a key of `extra`.
    pub columns: Vec<(Column, String)>,
}

/// A step of that path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtraPathStep {
    /// Into a field, whose name is in the form of a key of `extra`.
    Field(String),
    /// Into the element with the number in this column.
    Ordinal(String),
}

impl Mapping {
    /// The columns that will replace others.
    pub fn replacements(&self) -> Vec<Replacement> {
        self.spec.replacements()
    }

    /// Where misfits are in `extra`, for each table.
    pub fn places(&self) -> Vec<MisfitPlaces> {
        let step = |segment: &Segment, ordinals: &mut std::slice::Iter<'_, String>| {
            let ordinals = ordinals.by_ref().take(segment.arrays).cloned().map(ExtraPathStep::Ordinal);
            std::iter::once(ExtraPathStep::Field(segment.in_extra())).chain(ordinals).collect::<Vec<_>>()
        };
        let places = |table: &TableSpec| {
            let mut ordinals = table.ordinals.iter();
            let plain = table.columns.iter().filter(|column| column.mask.is_none());
            MisfitPlaces {
                table: table.table.clone(),
                key: table.parent.clone(),
                steps: table
                    .path
                    .segments()
                    .iter()
                    .flat_map(|segment| step(segment, &mut ordinals))
                    .collect(),
                columns: plain
                    .map(|column| {
                        let names: Vec<_> = column.path.segments().iter().map(Segment::in_extra).collect();
                        (Column { name: column.name.clone(), ty: column.ty }, names.join("."))
                    })
                    .collect(),
            }
        };
        self.spec.tables().map(places).collect()
    }

    /// Whether this column holds whole numbers.
    pub fn is_whole(&self, table: &str, column: &str) -> bool {
        let table = self.tables().iter().find(|own| own.name == table);
        let column = table.and_then(|table| table.columns.iter().find(|own| own.name == column));
        column.is_some_and(|column| column.ty.is_whole())
    }
}
