//! How a mapping grows with the documents that are seen: automatic mapping, which is the empty mapping grown
//! by a sample, and its growth when fields appear later.
//!
//! A mapping only grows: columns are appended to tables and tables to the mapping, and a `bigint` whose field
//! also has fractions becomes `double precision`. Mapped fields stay where they are and keep their names; a
//! field that has a column keeps it, whatever its values become; objects stay objects, and arrays stay
//! arrays: values of another kind go to `extra`. So earlier rows are rows of the grown mapping too, with NULL
//! in the new columns.
//!
//! A table gets at most [`MAX_COLUMNS`] columns, a collection [`MAX_TABLES`] tables.

use std::collections::HashMap;

use super::{
    ColumnSpec, FieldPath, KeySpec, MappingSpec, Names, Segment, TableSpec,
    infer::FieldShape,
    sample::{KEY, Sample, SampledObjects, SampledValues},
    spec::{EXTRA, OnDelete, OnUnfit},
};
use crate::model::{change::Namespace, table::ColumnType};

/// PostgreSQL moves no value of up to 24 bytes out of a row, and a row must fit a page of 8,160 bytes: this
/// many always do.
pub(super) const MAX_COLUMNS: usize = 300;

pub(super) const MAX_TABLES: usize = 100;

impl Sample {
    /// The mapping that suits the sample. `tables` is the scope in which its tables' names are unique: that
    /// of the target's schema, shared by all collections.
    pub fn spec(&self, collection: &Namespace, tables: &mut Names) -> MappingSpec {
        let root = TableSpec {
            table: tables.claim([&*collection.collection]),
            path: FieldPath::default(),
            parent: KEY.to_owned(),
            ordinals: Vec::new(),
            columns: Vec::new(),
        };
        let empty = MappingSpec {
            collection: collection.clone(),
            extra: Some(EXTRA.to_owned()),
            on_unfit: OnUnfit::default(),
            on_delete: OnDelete::default(),
            foreign_keys: false,
            document: None,
            omit: Vec::new(),
            key: KeySpec { column: KEY.to_owned(), ty: self.ids.key() },
            root,
            children: Vec::new(),
        };
        evolve(&empty, self, tables, &[]).unwrap_or(empty)
    }
}

/// The mapping that `spec` becomes with the documents of `sample`; `None` if it does not change. `tables` is
/// the scope of [`Sample::spec`], which also gets the names of new tables. `there` are columns, each with its
/// table, that already exist in the target, perhaps because a user added them: a new column gets another
/// name.
///
/// The same mapping and sample give the same result, and applying the same sample again changes nothing.
pub fn evolve(
    spec: &MappingSpec,
    sample: &Sample,
    tables: &mut Names,
    there: &[(String, String)],
) -> Option<MappingSpec> {
    if spec.document.is_some() {
        return None;
    }
    for table in spec.tables() {
        tables.reserve(&*table.table);
    }
    let columns = spec.tables().map(|table| {
        let mut names = columns_of(table, spec.extra());
        for (_, column) in there.iter().filter(|(of, _)| *of == table.table) {
            names.reserve(&**column);
        }
        names
    });
    let columns = columns.collect();
    let mut growth = MappingGrowth { spec: spec.clone(), tables, columns, grown: false };
    growth.fields(0, &mut Vec::new(), &KnownField::mapped_by(spec), &sample.documents);
    growth.grown.then_some(growth.spec)
}

/// The mapped fields, as a trie.
#[derive(Default)]
struct KnownField {
    place: MappedAs,
    fields: HashMap<String, KnownField>,
    /// The elements, if the field is mapped as an array.
    element: Option<Box<KnownField>>,
}

/// How a field itself is mapped.
#[derive(Clone, Copy, Default)]
enum MappedAs {
    /// Not, but fields in it may be.
    #[default]
    None,
    /// A column, by the numbers of its table and of itself.
    Column(usize, usize),
    /// A table.
    Table(usize),
    /// It is omitted.
    Omitted,
}

impl KnownField {
    fn mapped_by(spec: &MappingSpec) -> Self {
        let mut root = Self { place: MappedAs::Table(0), ..Self::default() };
        for (number, table) in spec.tables().enumerate() {
            root.descend(&table.path).place = MappedAs::Table(number);
            for (column, mapped) in table.columns.iter().enumerate() {
                root.descend(&table.path.join(&mapped.path)).place = MappedAs::Column(number, column);
            }
        }
        for path in &spec.omit {
            root.descend(path).place = MappedAs::Omitted;
        }
        root
    }

    fn descend(&mut self, path: &FieldPath) -> &mut Self {
        path.segments().iter().fold(self, |node, segment| {
            let field = node.fields.entry(segment.name.clone()).or_default();
            (0..segment.arrays).fold(field, |node, _| node.element.get_or_insert_default())
        })
    }

    /// How many fields there are, in the mapping and among `objects` together.
    fn width(&self, objects: &SampledObjects) -> usize {
        let new = objects.fields().filter(|(name, _)| !self.fields.contains_key(*name));
        self.fields.len() + new.count()
    }
}

/// A mapping that grows.
struct MappingGrowth<'a> {
    spec: MappingSpec,
    tables: &'a mut Names,
    /// The scope of each table's columns.
    columns: Vec<Names>,
    grown: bool,
}

impl MappingGrowth<'_> {
    /// Maps new fields of the objects at `way` from the rows of `table`.
    fn fields(&mut self, table: usize, way: &mut Vec<Segment>, known: &KnownField, objects: &SampledObjects) {
        let is_document = table == 0 && way.is_empty();
        if !is_document && objects.is_map(known.width(objects)) {
            return;
        }
        for (name, seen) in objects.fields() {
            if name.is_empty() || (is_document && name == KEY) {
                continue;
            }
            way.push(Segment { name: name.to_owned(), arrays: 0 });
            match known.fields.get(name) {
                Some(known) => self.known(table, way, known, seen),
                None => self.unknown(table, way, seen),
            }
            way.pop();
        }
    }

    fn known(&mut self, table: usize, way: &mut Vec<Segment>, known: &KnownField, seen: &SampledValues) {
        let mut at = (known, Some(seen));
        while let (KnownField { element: Some(element), .. }, Some(seen)) = at {
            at = (element, seen.elements.as_deref());
        }
        let (known, Some(seen)) = at else { return };
        match known.place {
            MappedAs::Column(table, column) => self.widen(table, column, seen),
            MappedAs::Table(table) => self.fields(table, &mut Vec::new(), known, &seen.objects),
            MappedAs::None => self.fields(table, way, known, &seen.objects),
            MappedAs::Omitted => {}
        }
    }

    fn unknown(&mut self, table: usize, way: &mut Vec<Segment>, seen: &SampledValues) {
        match seen.shape() {
            FieldShape::Column(ty) => self.column(table, way, seen.widened(ty).unwrap_or(ty)),
            FieldShape::Flat(objects) => self.fields(table, way, &KnownField::default(), objects),
            FieldShape::Table(objects) => self.table(table, way, objects),
            FieldShape::Extra => {}
        }
    }

    fn widen(&mut self, table: usize, column: usize, seen: &SampledValues) {
        let column = table_of(&mut self.spec, table).and_then(|table| table.columns.get_mut(column));
        let Some(column) = column else { return };
        if let Some(ty) = seen.widened(column.ty) {
            column.ty = ty;
            self.grown = true;
        }
    }

    fn column(&mut self, table: usize, way: &[Segment], ty: ColumnType) {
        let Some(spec) = table_of(&mut self.spec, table) else { return };
        let Some(names) = self.columns.get_mut(table) else { return };
        if spec.columns.len() >= MAX_COLUMNS {
            return;
        }
        let name = names.claim(way.iter().map(|segment| &*segment.name));
        spec.columns.push(ColumnSpec { name, path: FieldPath::new(way.to_vec()), ty, mask: None, was: None });
        self.grown = true;
    }

    fn table(&mut self, parent: usize, way: &[Segment], objects: &SampledObjects) {
        if self.spec.children.len() >= MAX_TABLES {
            return;
        }
        let above = self.spec.tables().nth(parent).map_or(&[][..], |table| table.path.segments());
        let mut path = [above, way].concat();
        if let Some(last) = path.last_mut() {
            last.arrays = 1;
        }
        let words = [&*self.spec.root.table].into_iter().chain(path.iter().map(|segment| &*segment.name));
        let table = self.tables.claim(words);
        let path = FieldPath::new(path);
        let ordinals = (1..=path.arrays()).map(ordinal).collect();
        let parent = self.spec.key.column.clone();
        let table = TableSpec { table, path, parent, ordinals, columns: Vec::new() };
        self.columns.push(columns_of(&table, None));
        self.spec.children.push(table);
        self.grown = true;
        self.fields(self.spec.children.len(), &mut Vec::new(), &KnownField::default(), objects);
    }
}

fn table_of(spec: &mut MappingSpec, number: usize) -> Option<&mut TableSpec> {
    match number.checked_sub(1) {
        None => Some(&mut spec.root),
        Some(child) => spec.children.get_mut(child),
    }
}

/// The names in use by a table's columns.
pub(super) fn columns_of(table: &TableSpec, extra: Option<&str>) -> Names {
    let mut names = Names::of_columns();
    let columns = table.columns.iter().flat_map(ColumnSpec::names);
    for taken in table.ordinals.iter().map(String::as_str).chain(columns).chain([&*table.parent]).chain(extra)
    {
        names.reserve(taken);
    }
    names
}

fn ordinal(number: usize) -> String {
    if number == 1 { "_ord".to_owned() } else { format!("_ord{number}") }
}

/// Documents of all sorts, whose fields often have the same names.
#[cfg(test)]
pub(super) mod arbitrary {
    use bson::{Bson, DateTime, Document, oid::ObjectId};
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Bson> {
        let leaf = prop_oneof![
            Just(Bson::Null),
            any::<i32>().prop_map(Bson::Int32),
            (-9_i64..9).prop_map(Bson::Int64),
            any::<i64>().prop_map(Bson::Int64),
            (-9_i32..9).prop_map(|n| Bson::Double(n.into())),
            any::<f64>().prop_map(Bson::Double),
            "[a-c]{0,2}".prop_map(Bson::String),
            any::<[u8; 12]>().prop_map(|bytes| Bson::String(ObjectId::from_bytes(bytes).to_hex())),
            any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
            any::<bool>().prop_map(Bson::Boolean),
            Just(Bson::DateTime(DateTime::from_millis(0))),
            Just(Bson::MaxKey),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                fields(inner.clone()).prop_map(Bson::Document),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
                prop::collection::vec(fields(inner).prop_map(Bson::Document), 0..4).prop_map(Bson::Array),
            ]
        })
    }

    fn fields(value: impl Strategy<Value = Bson>) -> impl Strategy<Value = Document> {
        let name = prop_oneof![
            "[a-e]",
            "[a-b][A-B]?",
            Just("a.b".to_owned()),
            Just("$\"x\n".to_owned()),
            Just(String::new())
        ];
        prop::collection::vec((name, value), 0..6).prop_map(|fields| fields.into_iter().collect())
    }

    pub(crate) fn documents() -> impl Strategy<Value = Vec<Document>> {
        let document = fields(value()).prop_map(|mut fields| {
            fields.insert("_id", 1);
            fields
        });
        prop::collection::vec(document, 0..6)
    }
}

#[cfg(test)]
mod tests;
