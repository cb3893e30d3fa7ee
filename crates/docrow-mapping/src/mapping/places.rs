//! What a mapping says about its columns besides how to encode them: where their values lie that do not fit them, and
//! which of them are to take others' places.

use super::compile::Mapping;
use crate::{
    model::table::Column,
    schema::{Segment, TableSpec},
};

/// A column that is written beside a narrower one, to take its place ([`MappingSpec`](crate::schema::MappingSpec)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The table.
    pub table: String,
    /// The column of the document's key in it.
    pub key: String,
    /// The column whose place is taken, and whose name.
    pub narrow: String,
    /// The column that takes it.
    pub wide: String,
    /// The type that the column has in the end, in SQL.
    pub ty: String,
}

/// Where the values of a table's columns lie in `extra` where they do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The table.
    pub table: String,
    /// The column of the document's key in it.
    pub key: String,
    /// The way from the document to the object of a row.
    pub steps: Vec<Step>,
    /// The columns that are not masked, each with the rest of the way, as it stands in a key of `extra`.
    pub columns: Vec<(Column, String)>,
}

/// A step on that way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a field, whose name is as it stands in a key of `extra`.
    Field(String),
    /// Into the element with the number in this column.
    Ordinal(String),
}

impl Mapping {
    /// The columns that are to take others' places.
    pub fn replacements(&self) -> Vec<Replacement> {
        self.spec.replacements()
    }

    /// Where values of columns lie in `extra` that do not fit them, for each table.
    pub fn places(&self) -> Vec<Places> {
        let step = |segment: &Segment, ordinals: &mut std::slice::Iter<'_, String>| {
            let ordinals = ordinals.by_ref().take(segment.arrays).cloned().map(Step::Ordinal);
            std::iter::once(Step::Field(segment.in_extra())).chain(ordinals).collect::<Vec<_>>()
        };
        let places = |table: &TableSpec| {
            let mut ordinals = table.ordinals.iter();
            let plain = table.columns.iter().filter(|column| column.mask.is_none());
            Places {
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
