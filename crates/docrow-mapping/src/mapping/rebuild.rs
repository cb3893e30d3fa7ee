//! Rebuilds the document from its rows.
//!
//! The rebuilt document has the fields of the encoded one, with their types and values bit by bit; the
//! elements of arrays and the fields of one name are in their order. Not preserved are the order of fields of
//! different names, which `jsonb` does not keep (except in an `_id`), and the names of the elements of
//! arrays, which are renumbered. Fields that a mapping masks, omits or withholds are left out.
//!
//! Notes in `extra` take precedence over columns. A column that is NULL and has no note is a missing field.
//! So rows that an earlier version of the mapping wrote can be rebuilt as well: newer columns are NULL, newer
//! child rows are absent, and their values are noted.

use std::fmt;

use ::bson::RawDocumentBuf;
use serde_json::{Map, Value as Json};

use super::{
    column,
    compile::{MappedNode, MappedObject, Mapping, TablePlan},
    extended_json_parse, key_column,
    rows::Rows,
    tree::{self, DocumentTree, MappedShape, TreeSpot},
    tuples::Tuple,
};
use crate::model::table::{Column, Table};

/// What is wrong with rows that can't be rebuilt. Never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptRow {
    /// The table.
    pub table: String,
    /// The column, if the error is in one column; else empty.
    pub column: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for CorruptRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, reason } = self;
        if column.is_empty() {
            write!(f, "{table}: {reason}")
        } else {
            write!(f, "{table}.{column}: {reason}")
        }
    }
}

impl std::error::Error for CorruptRow {}

const NOT_OURS: &str = "holds what docrow does not write";
const NO_PLACE: &str = "holds what has no place in the document";
const NO_DOCUMENT: &str =
    "has a row that makes no document with the others: elements of an array are missing";

/// Rebuilds documents from the rows of one mapping.
#[derive(Debug)]
pub struct Rebuilder<'a> {
    mapping: &'a Mapping,
    places: Vec<TablePlace<'a>>,
}

/// Where a table's rows and columns belong in a document.
#[derive(Debug, Default)]
struct TablePlace<'a> {
    steps: Vec<RowStep<'a>>,
    /// For each mapped column, the names on the path from the row's own object.
    columns: Vec<Vec<&'a [u8]>>,
    /// For each mapped column, its number in the row, and whether the next column is the one that it
    /// replaces, which has the value if the column itself does not.
    at: Vec<(usize, bool)>,
    /// The number of the first column after these.
    end: usize,
    /// Which of them do not hold the document's value.
    masked: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum RowStep<'a> {
    Field(&'a [u8]),
    Element,
}

impl TablePlace<'_> {
    fn planned(plan: &TablePlan) -> Self {
        let mut place = Self { end: 1 + plan.ordinals, ..Self::default() };
        for column in &plan.columns {
            place.at.push((place.end, column.was.is_some()));
            place.end += 1 + usize::from(column.was.is_some());
        }
        place
    }
}

impl<'a> Rebuilder<'a> {
    /// For rows of `mapping`, or of an earlier version of it with fewer columns and tables.
    pub fn new(mapping: &'a Mapping) -> Self {
        let mut places: Vec<_> = mapping.plans.iter().map(TablePlace::planned).collect();
        locate(&mapping.root, &mut Vec::new(), 0, &mut places);
        Self { mapping, places }
    }

    /// The document whose rows are `rows`, laid out by [`super::Framing::Copy`].
    pub fn document(&self, rows: &Rows) -> Result<RawDocumentBuf, CorruptRow> {
        let mut tables = self.mapping.tables().iter().zip(&rows.tables).zip(&self.places);
        let Some(((table, root_rows), place)) = tables.next() else { return Err(missing_root(&[])) };
        let Some(row) = root_rows.tuples().next() else { return Err(missing_root(self.mapping.tables())) };
        let root = RowValues::new(table, row);
        let mut special = place.end;
        let mut tree = DocumentTree::default();
        if self.mapping.document().is_some() {
            tree = root.whole(special)?;
            special += 1;
        }
        if let Some((_, bytes)) = root.value(special).filter(|_| self.mapping.extra) {
            let notes = extended_json_parse::jsonb(bytes).ok_or_else(|| root.corrupt(special, NOT_OURS))?;
            let Json::Object(notes) = notes else { return Err(root.corrupt(special, NOT_OURS)) };
            self.notes(&mut tree, &notes).map_err(|reason| root.corrupt(special, reason))?;
        }
        root.key(&mut tree)?;
        if self.mapping.document().is_none() {
            root.columns(place, &mut tree)?;
        }
        for ((table, rows), place) in tables {
            for row in rows.tuples() {
                RowValues::new(table, row).put(place, &mut tree)?;
            }
        }
        let bytes = tree.document().ok_or_else(|| root.fault(NO_DOCUMENT))?;
        RawDocumentBuf::from_bytes(bytes).map_err(|_| root.fault(NO_DOCUMENT))
    }

    /// Puts every note in its place.
    fn notes(&self, tree: &mut DocumentTree, notes: &Map<String, Json>) -> Result<(), &'static str> {
        for (path, json) in notes {
            let (steps, copy) = tree::steps(path).ok_or(NOT_OURS)?;
            let spot = tree.at(&steps, MappedShape::Object(&self.mapping.root)).ok_or(NO_PLACE)?;
            let value = DocumentTree::read(|out| extended_json_parse::value(out, json)).ok_or(NOT_OURS)?;
            match (copy, spot) {
                (0, TreeSpot::Field(field)) => field.value = value,
                (0, TreeSpot::Element(element)) => *element = value,
                (_, TreeSpot::Field(field)) => field.copies.push((copy, value)),
                (_, TreeSpot::Element(_)) => return Err(NO_PLACE),
            }
        }
        Ok(())
    }
}

fn missing_root(tables: &[Table]) -> CorruptRow {
    let table = tables.first().map_or_else(String::new, |table| table.name.clone());
    CorruptRow { table, column: String::new(), reason: "has no row for the document" }
}

/// Finds the places of the tables and columns in `object`, which is at `way`; the first `base` steps lead to
/// the row.
fn locate<'a>(
    object: &'a MappedObject,
    way: &mut Vec<RowStep<'a>>,
    base: usize,
    places: &mut [TablePlace<'a>],
) {
    let base = match object.table.and_then(|table| places.get_mut(table)) {
        Some(place) => {
            place.steps.clone_from(way);
            way.len()
        }
        None => base,
    };
    for field in object.fields() {
        way.push(RowStep::Field(field.name()));
        let before = way.len();
        let mut node = &field.node;
        while let MappedNode::Array(element) = node {
            way.push(RowStep::Element);
            node = element;
        }
        match (node, places.get_mut(field.slot.table)) {
            (MappedNode::Object(object), _) => locate(object, way, base, places),
            (MappedNode::Column, Some(place)) => {
                let name = |step: &RowStep<'a>| match *step {
                    RowStep::Field(name) => name,
                    RowStep::Element => &[],
                };
                let columns = place.columns.len().max(field.slot.slot + 1);
                place.columns.resize(columns, Vec::new());
                if field.hidden {
                    place.masked.push(field.slot.slot);
                }
                if let Some(names) = place.columns.get_mut(field.slot.slot) {
                    *names = way.iter().skip(base).map(name).collect();
                }
            }
            _ => {}
        }
        way.truncate(before - 1);
    }
}

/// One row and the meaning of its columns.
struct RowValues<'a> {
    table: &'a Table,
    values: Vec<Option<&'a [u8]>>,
}

impl<'a> RowValues<'a> {
    fn new(table: &'a Table, tuple: Tuple<'a>) -> Self {
        Self { table, values: tuple.columns().collect() }
    }

    fn fault(&self, reason: &'static str) -> CorruptRow {
        CorruptRow { table: self.table.name.clone(), column: String::new(), reason }
    }

    fn corrupt(&self, column: usize, reason: &'static str) -> CorruptRow {
        let column = self.table.columns.get(column).map_or_else(String::new, |column| column.name.clone());
        CorruptRow { column, ..self.fault(reason) }
    }

    fn value(&self, column: usize) -> Option<(&'a Column, &'a [u8])> {
        self.table.columns.get(column).zip(self.values.get(column).copied().flatten())
    }

    /// The document that a `jsonb` column holds.
    fn whole(&self, column: usize) -> Result<DocumentTree, CorruptRow> {
        let tree = self
            .value(column)
            .and_then(|(_, bytes)| DocumentTree::from_json(&extended_json_parse::jsonb(bytes)?));
        tree.filter(DocumentTree::is_document).ok_or_else(|| self.corrupt(column, NOT_OURS))
    }

    /// Sets the `_id`, unless it is set already. For a document, the key column then determines the order of
    /// fields.
    fn key(&self, tree: &mut DocumentTree) -> Result<(), CorruptRow> {
        let Some(field) = tree.field(b"_id") else { return Ok(()) };
        let key = self
            .value(0)
            .and_then(|(column, bytes)| DocumentTree::read(|out| key_column::read(out, column.ty, bytes)));
        let key = key.ok_or_else(|| self.corrupt(0, NOT_OURS))?;
        let told = std::mem::take(&mut field.value);
        field.value = told.in_order_of(key).ok_or_else(|| self.corrupt(0, NO_PLACE))?;
        Ok(())
    }

    /// Adds a child's row.
    fn put(&self, place: &TablePlace<'_>, mut tree: &mut DocumentTree) -> Result<(), CorruptRow> {
        let mut ordinal = 0;
        for step in &place.steps {
            let next = match step {
                RowStep::Field(name) => tree.field(name).map(|field| &mut field.value),
                RowStep::Element => {
                    ordinal += 1;
                    let bytes =
                        self.values.get(ordinal).copied().flatten().and_then(|bytes| bytes.try_into().ok());
                    let index = bytes.and_then(|bytes| usize::try_from(i64::from_be_bytes(bytes)).ok());
                    index.and_then(|index| tree.element(index))
                }
            };
            tree = next.ok_or_else(|| self.fault(NO_PLACE))?;
        }
        self.columns(place, tree)
    }

    /// Adds the mapped columns to the row's own object.
    fn columns(&self, place: &TablePlace<'_>, tree: &mut DocumentTree) -> Result<(), CorruptRow> {
        if !tree.is_object() {
            return Err(self.fault(NO_PLACE));
        }
        for (i, (names, &(at, has_been))) in place.columns.iter().zip(&place.at).enumerate() {
            if place.masked.contains(&i) {
                continue;
            }
            let at = if has_been && self.value(at).is_none() { at + 1 } else { at };
            let Some((column, bytes)) = self.value(at) else { continue };
            let mut field = &mut *tree;
            for name in names {
                field = field
                    .field(name)
                    .map(|field| &mut field.value)
                    .ok_or_else(|| self.corrupt(at, NO_PLACE))?;
            }
            if matches!(field, DocumentTree::Missing) {
                let value = DocumentTree::read(|out| column::read(out, column.ty, bytes));
                *field = value.ok_or_else(|| self.corrupt(at, NOT_OURS))?;
            }
        }
        Ok(())
    }
}
