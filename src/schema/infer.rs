//! Automatic mapping: from a sample of documents to a [`MappingSpec`].
//!
//! - A field that had one type in the sample gets a column, of a wide type; integers and doubles together are
//!   `double precision`, integers and decimals `numeric`. Of other types together only those count that at least one
//!   value in twenty has: exceptions cost no field its column, they go to `extra`. A field that was always null, or of
//!   several types all the same, gets none.
//! - Objects are flattened: `address_city`. Arrays of objects become child tables, arrays of one scalar type
//!   PostgreSQL arrays, other arrays stay in `extra`.
//! - An object whose field names are data (more than [`MAX_KEYS`] of them, or many of which each object has
//!   few) is one `jsonb` column, and so is an array of such objects.
//! - A table gets at most [`MAX_COLUMNS`] columns, a collection [`MAX_TABLES`] tables, and objects are
//!   followed [`MAX_DEPTH`] levels deep; `extra` holds the rest.
//!
//! A sample that misses a type loses nothing: what fits no column is in `extra`.

use std::collections::HashMap;

use mongodb::bson::{
    RawDocument,
    raw::RawElement,
    spec::{BinarySubtype, ElementType},
};

use super::{
    ColumnSpec, FieldPath, KeySpec, MappingSpec, Names, Segment, TableSpec,
    spec::{EXTRA, OnDelete, OnUnfit},
};
use crate::{
    change::Namespace,
    mapping::{ColumnType, Scalar},
};

/// PostgreSQL moves no value of up to 24 bytes out of a row, and a row must fit a page of 8,160: so many
/// always do.
const MAX_COLUMNS: usize = 300;

const MAX_TABLES: usize = 100;

const MAX_DEPTH: usize = 8;

/// An object with more different fields than these in the sample is a map from data to data.
const MAX_KEYS: usize = 200;

/// So is one with more than these, of which an object has less than an eighth.
const FEW_KEYS: usize = 16;

/// The sample's memory is bounded: fields that first occur after so many are not followed.
const MAX_FIELDS: usize = 20_000;

/// Of a field's values in the sample, fewer than one in so many are exceptions.
const RARE: u32 = 20;

/// The name of the key column of every table.
const KEY: &str = "_id";

/// What a sample of a collection's documents looks like.
#[derive(Debug, Default)]
pub struct Sample {
    documents: Objects,
    ids: Kinds,
    fields: usize,
}

/// The objects that were met at one place.
#[derive(Debug, Default)]
struct Objects {
    count: usize,
    /// How many fields they have together.
    occurrences: usize,
    index: HashMap<String, usize>,
    fields: Vec<(String, Seen)>,
}

/// The values that were met in one place.
#[derive(Debug, Default)]
struct Seen {
    kinds: Tally,
    objects: Objects,
    elements: Option<Box<Seen>>,
}

/// How many values there are of each [`Kind`].
#[derive(Debug, Default)]
struct Tally([u32; Kind::COUNT]);

/// A set of [`Kind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds(u16);

/// What a column's type depends on.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Double,
    Decimal,
    Text,
    ObjectId,
    Boolean,
    Date,
    Uuid,
    Bytes,
    Object,
    Array,
    Other,
}

impl Kind {
    const COUNT: usize = Self::Other as usize + 1;
}

impl Sample {
    /// No document yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one document to the sample.
    pub fn observe(&mut self, document: &RawDocument) {
        let Self { documents, ids, fields } = self;
        documents.observe(document, 1, fields);
        if let Some(id) = document.iter_elements().flatten().find(|element| element.key() == KEY) {
            ids.insert(kind(&id).unwrap_or(Kind::Other));
        }
    }

    /// The mapping that suits the sample. `tables` is the scope in which its tables' names are unique: that
    /// of the target's schema, shared by all collections.
    pub fn spec(&self, collection: &Namespace, tables: &mut Names) -> MappingSpec {
        let root = tables.claim([&*collection.collection]);
        let key = match self.ids {
            Kinds::INTEGER => Scalar::Bigint,
            Kinds::UUID => Scalar::Uuid,
            _ => Scalar::Text,
        };
        let mut draft = Draft { root: &root, names: tables, children: Vec::new() };
        let root_table = draft.table(root.clone(), Vec::new(), &self.documents);
        MappingSpec {
            collection: collection.clone(),
            extra: Some(EXTRA.to_owned()),
            on_unfit: OnUnfit::default(),
            on_delete: OnDelete::default(),
            foreign_keys: false,
            document: None,
            omit: Vec::new(),
            key: KeySpec { column: KEY.to_owned(), ty: ColumnType::scalar(key) },
            root: root_table,
            children: draft.children.into_iter().flatten().collect(),
        }
    }
}

impl Objects {
    fn observe(&mut self, object: &RawDocument, depth: usize, budget: &mut usize) {
        self.count += 1;
        for element in object.iter_elements().flatten() {
            self.occurrences += 1;
            let name = element.key().as_str();
            let at = match self.index.get(name) {
                Some(&at) => at,
                None if *budget >= MAX_FIELDS || self.fields.len() > MAX_KEYS.max(MAX_COLUMNS) => continue,
                None => {
                    *budget += 1;
                    self.index.insert(name.to_owned(), self.fields.len());
                    self.fields.push((name.to_owned(), Seen::default()));
                    self.fields.len() - 1
                }
            };
            if let Some((_, seen)) = self.fields.get_mut(at) {
                seen.observe(&element, depth, budget);
            }
        }
    }

    /// Whether the fields' names are data.
    fn is_map(&self) -> bool {
        let keys = self.fields.len();
        keys > MAX_KEYS || (keys > FEW_KEYS && self.occurrences * 8 < keys * self.count)
    }
}

impl Seen {
    fn observe(&mut self, element: &RawElement<'_>, depth: usize, budget: &mut usize) {
        let Some(kind) = kind(element) else { return };
        match (kind, element.value().ok()) {
            (Kind::Object, Some(value)) if depth < MAX_DEPTH => {
                self.kinds.insert(kind);
                if let Some(object) = value.as_document() {
                    self.objects.observe(object, depth + 1, budget);
                }
            }
            (Kind::Array, Some(value)) => {
                self.kinds.insert(kind);
                let elements = self.elements.get_or_insert_default();
                for element in value.as_array().into_iter().flat_map(|array| array.iter_elements()).flatten()
                {
                    match element.element_type() {
                        ElementType::Array => elements.kinds.insert(Kind::Other),
                        _ => elements.observe(&element, depth, budget),
                    }
                }
            }
            (Kind::Object | Kind::Array, _) => self.kinds.insert(Kind::Other),
            _ => self.kinds.insert(kind),
        }
    }
}

/// The kind of a value; none for null.
fn kind(element: &RawElement<'_>) -> Option<Kind> {
    Some(match element.element_type() {
        ElementType::Null => return None,
        ElementType::Int32 | ElementType::Int64 => Kind::Integer,
        ElementType::Double => Kind::Double,
        ElementType::Decimal128 => Kind::Decimal,
        ElementType::String => Kind::Text,
        ElementType::ObjectId => Kind::ObjectId,
        ElementType::Boolean => Kind::Boolean,
        ElementType::DateTime => Kind::Date,
        ElementType::EmbeddedDocument => Kind::Object,
        ElementType::Array => Kind::Array,
        ElementType::Binary => {
            let value = element.value().ok();
            match value.as_ref().and_then(|value| value.as_binary()).map(|binary| binary.subtype) {
                Some(BinarySubtype::Uuid) => Kind::Uuid,
                Some(BinarySubtype::Generic) => Kind::Bytes,
                _ => Kind::Other,
            }
        }
        _ => Kind::Other,
    })
}

impl Tally {
    fn insert(&mut self, kind: Kind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// The kinds that there are more than `least` of.
    fn above(&self, least: u32) -> Kinds {
        let of = |(bit, count): (usize, &u32)| if *count > least { 1 << bit } else { 0 };
        Kinds(self.0.iter().enumerate().map(of).sum())
    }

    /// The kinds that decide what the field becomes: all of them if they go together, or else the common ones.
    fn deciding(&self) -> Kinds {
        let all = self.above(0);
        if all == Kinds::OBJECT || all == Kinds::ARRAY || all.column().is_some() {
            return all;
        }
        self.above(self.0.iter().sum::<u32>() / RARE)
    }
}

impl Kinds {
    const INTEGER: Self = Self::of(&[Kind::Integer]);
    const UUID: Self = Self::of(&[Kind::Uuid]);
    const OBJECT: Self = Self::of(&[Kind::Object]);
    const ARRAY: Self = Self::of(&[Kind::Array]);

    const COLUMNS: [(Self, Scalar); 11] = [
        (Self::INTEGER, Scalar::Bigint),
        (Self::of(&[Kind::Double]), Scalar::Double),
        (Self::of(&[Kind::Integer, Kind::Double]), Scalar::Double),
        (Self::of(&[Kind::Decimal]), Scalar::Numeric),
        (Self::of(&[Kind::Integer, Kind::Decimal]), Scalar::Numeric),
        (Self::of(&[Kind::Text]), Scalar::Text),
        (Self::of(&[Kind::ObjectId]), Scalar::Text),
        (Self::of(&[Kind::Boolean]), Scalar::Boolean),
        (Self::of(&[Kind::Date]), Scalar::Timestamptz),
        (Self::UUID, Scalar::Uuid),
        (Self::of(&[Kind::Bytes]), Scalar::Bytea),
    ];

    const fn of(kinds: &[Kind]) -> Self {
        match kinds {
            [] => Self(0),
            [first, rest @ ..] => Self(1 << *first as u16 | Self::of(rest).0),
        }
    }

    fn insert(&mut self, kind: Kind) {
        self.0 |= Self::of(&[kind]).0;
    }

    fn column(self) -> Option<Scalar> {
        Self::COLUMNS.into_iter().find_map(|(kinds, scalar)| (kinds == self).then_some(scalar))
    }
}

/// What a field becomes.
enum Shape<'a> {
    Column(ColumnType),
    Flat(&'a Objects),
    Table(&'a Objects),
    Extra,
}

fn shape(seen: &Seen) -> Shape<'_> {
    let json = Shape::Column(ColumnType::scalar(Scalar::Jsonb));
    match (seen.kinds.deciding(), &seen.elements) {
        (Kinds::OBJECT, _) if seen.objects.is_map() => json,
        (Kinds::OBJECT, _) => Shape::Flat(&seen.objects),
        (Kinds::ARRAY, Some(elements)) if elements.kinds.deciding() == Kinds::OBJECT => {
            if elements.objects.is_map() { json } else { Shape::Table(&elements.objects) }
        }
        (Kinds::ARRAY, Some(elements)) => match elements.kinds.above(0).column() {
            Some(scalar) => Shape::Column(ColumnType { array: true, ..ColumnType::scalar(scalar) }),
            None => Shape::Extra,
        },
        (kinds, _) => kinds.column().map_or(Shape::Extra, |scalar| Shape::Column(ColumnType::scalar(scalar))),
    }
}

/// The tables made so far.
struct Draft<'a> {
    root: &'a str,
    names: &'a mut Names,
    /// A table stands before those within it: its place is taken before it is filled.
    children: Vec<Option<TableSpec>>,
}

impl Draft<'_> {
    /// The table of `objects`, which are at `path`.
    fn table(&mut self, table: String, path: Vec<Segment>, objects: &Objects) -> TableSpec {
        let path = FieldPath::new(path);
        let ordinals: Vec<_> = (1..=path.arrays()).map(ordinal).collect();
        let mut names = Names::of_columns();
        for taken in ordinals.iter().map(String::as_str).chain([KEY, EXTRA]) {
            names.reserve(taken);
        }
        let mut spec = TableSpec { table, path, parent: KEY.to_owned(), ordinals, columns: Vec::new() };
        self.fields(&mut spec, &mut names, &mut Vec::new(), objects);
        spec
    }

    /// Adds the fields of the objects at `way`, a path within the table's own.
    fn fields(
        &mut self,
        table: &mut TableSpec,
        names: &mut Names,
        way: &mut Vec<Segment>,
        objects: &Objects,
    ) {
        let document = way.is_empty() && table.path.segments().is_empty();
        let unmapped = |name: &str| name.is_empty() || (document && name == KEY);
        for (name, seen) in objects.fields.iter().filter(|(name, _)| !unmapped(name)) {
            way.push(Segment { name: name.clone(), arrays: 0 });
            match shape(seen) {
                Shape::Column(ty) if table.columns.len() < MAX_COLUMNS => {
                    let name = names.claim(way.iter().map(|segment| &*segment.name));
                    table.columns.push(ColumnSpec {
                        name,
                        path: FieldPath::new(way.clone()),
                        ty,
                        mask: None,
                    });
                }
                Shape::Flat(objects) => self.fields(table, names, way, objects),
                Shape::Table(objects) if self.children.len() < MAX_TABLES => self.child(table, way, objects),
                Shape::Column(_) | Shape::Table(_) | Shape::Extra => {}
            }
            way.pop();
        }
    }

    fn child(&mut self, parent: &TableSpec, way: &[Segment], objects: &Objects) {
        let mut path = [parent.path.segments(), way].concat();
        if let Some(last) = path.last_mut() {
            last.arrays = 1;
        }
        let words = std::iter::once(self.root).chain(path.iter().map(|segment| &*segment.name));
        let name = self.names.claim(words);
        let place = self.children.len();
        self.children.push(None);
        let child = self.table(name, path, objects);
        if let Some(place) = self.children.get_mut(place) {
            *place = Some(child);
        }
    }
}

fn ordinal(number: usize) -> String {
    if number == 1 { "_ord".to_owned() } else { format!("_ord{number}") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc, oid::ObjectId};

    use super::*;
    use crate::mapping::{Encoder, Framing, Mapping, Rows};

    fn infer(documents: impl IntoIterator<Item = Document>) -> MappingSpec {
        let mut sample = Sample::new();
        let documents: Vec<_> =
            documents.into_iter().map(|document| RawDocumentBuf::try_from(&document).unwrap()).collect();
        for document in &documents {
            sample.observe(document);
        }
        let spec = sample.spec(&Namespace::new("shop", "users"), &mut Names::new());
        assert_eq!(MappingSpec::parse(&spec.to_toml(), "inferred").unwrap(), spec);
        let mapping = Arc::new(Mapping::compile(&spec));
        let mut rows = Rows::new(mapping.tables().len());
        let mut encoder = Encoder::new(mapping, Framing::Copy);
        for document in &documents {
            encoder.encode(document, &mut rows).unwrap();
        }
        spec
    }

    fn columns(spec: &MappingSpec, table: usize) -> Vec<String> {
        let table = spec.tables().nth(table).unwrap();
        table
            .columns
            .iter()
            .map(|column| format!("{} {} {}", column.name, column.path, column.ty.sql()))
            .collect()
    }

    #[test]
    fn every_type_has_its_column() {
        let spec = infer([doc! {
            "_id": 1, "int": 1, "long": 1_i64, "real": 1.5, "price": "1.5".parse::<Decimal128>().unwrap(), "name": "x", "ok": true,
            "at": DateTime::now(), "ref": ObjectId::new(), "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![0; 16] },
            "bin": Binary { subtype: BinarySubtype::Generic, bytes: vec![] }, "tags": ["a"], "nothing": null, "max": Bson::MaxKey, "empty": [],
        }]);
        assert_eq!(
            columns(&spec, 0),
            [
                "int int bigint",
                "long long bigint",
                "real real double precision",
                "price price numeric",
                "name name text",
                "ok ok boolean",
                "at at timestamptz",
                "ref ref text",
                "uuid uuid uuid",
                "bin bin bytea",
                "tags tags text[]",
            ]
        );
        assert_eq!(
            (spec.key().column.as_str(), spec.key().ty.sql().as_str(), spec.extra()),
            ("_id", "bigint", Some("_extra"))
        );
    }

    #[test]
    fn types_widen_or_stay_in_extra() {
        let spec = infer([
            doc! { "_id": 1, "a": 1, "b": 1, "c": 1, "d": [1], "e": null },
            doc! { "_id": 2, "a": 1.5, "b": "1".parse::<Decimal128>().unwrap(), "c": "x", "d": [1.5, null], "e": 1 },
        ]);
        assert_eq!(
            columns(&spec, 0),
            ["a a double precision", "b b numeric", "d d double precision[]", "e e bigint"]
        );
    }

    #[test]
    fn exceptions_cost_no_field_its_column() {
        let usual = |i: i32| doc! { "_id": i, "a": i, "b": { "c": "x" }, "d": [{ "e": 1 }], "f": [i] };
        let odd = doc! { "_id": 0, "a": "x", "b": 1, "d": 1, "f": ["x"] };
        let of = |usuals| infer((1..=usuals).map(usual).chain([odd.clone()]));
        assert_eq!(
            columns(&of(40), 0),
            ["a a bigint", "b_c b.c text"],
            "an odd element would spoil its whole array"
        );
        assert_eq!(columns(&of(40), 1), ["e e bigint"]);
        assert!(columns(&of(10), 0).is_empty());
    }

    #[test]
    fn nested_documents_become_columns_and_tables() {
        let spec = infer([doc! {
            "_id": "x", "address": { "zipCode": "1", "geo": { "lat": 1.5 } },
            "messages": [{ "_id": 1, "from": { "name": "a" }, "attachments": [{ "size": 1 }] }],
            "mixed": [{ "a": 1 }, 2], "matrix": [[1]],
        }]);
        assert_eq!(
            columns(&spec, 0),
            ["address_zip_code address.zipCode text", "address_geo_lat address.geo.lat double precision"]
        );
        let tables: Vec<_> = spec
            .children()
            .iter()
            .map(|t| (t.table.as_str(), t.path.to_string(), t.ordinals.join(" ")))
            .collect();
        assert_eq!(
            tables,
            [
                ("users_messages", "messages[]".to_owned(), "_ord".to_owned()),
                (
                    "users_messages_attachments",
                    "messages[].attachments[]".to_owned(),
                    "_ord _ord2".to_owned()
                ),
            ]
        );
        assert_eq!(columns(&spec, 1), ["id _id bigint", "from_name from.name text"]);
        assert!(spec.children().iter().all(|table| table.parent == "_id"));
    }

    #[test]
    fn keys_are_what_all_ids_are() {
        let key = |ids: Vec<Bson>| infer(ids.into_iter().map(|id| doc! { "_id": id })).key().ty.sql();
        assert_eq!(key(vec![1.into(), 2_i64.into()]), "bigint");
        assert_eq!(key(vec![Binary { subtype: BinarySubtype::Uuid, bytes: vec![0; 16] }.into()]), "uuid");
        assert_eq!(key(vec![ObjectId::new().into()]), "text");
        assert_eq!(key(vec![1.into(), 1.5.into()]), "text");
        assert_eq!(key(vec![1.into(), Bson::Null]), "text");
        assert_eq!(key(vec![]), "text");
    }

    /// Field names that are data do not become columns.
    #[test]
    fn maps_stay_whole() {
        let named = |count: i32, from: i32| {
            (from..from + count).map(|i| (format!("k{i}"), Bson::Int32(i))).collect::<Document>()
        };
        let spec = infer([
            doc! { "_id": 1, "scores": named(201, 0), "fields": named(20, 0), "list": [named(300, 0)] },
        ]);
        assert_eq!(columns(&spec, 0)[0], "scores scores jsonb");
        assert_eq!(columns(&spec, 0).len(), 1 + 20 + 1);
        assert_eq!(columns(&spec, 0)[21], "list list jsonb");
        let sparse = infer((0..10).map(|i| doc! { "_id": i, "scores": named(2, i * 2) }));
        assert_eq!(columns(&sparse, 0), ["scores scores jsonb"]);
    }

    #[test]
    fn wide_and_deep_documents_stay_within_limits() {
        let wide: Document = std::iter::once(("_id".into(), 1.into()))
            .chain((0..2000).map(|i| (format!("f{i}"), i.into())))
            .collect();
        assert_eq!(columns(&infer([wide]), 0).len(), MAX_COLUMNS);
        let deep = |levels: usize| (0..levels).fold(doc! { "x": 1 }, |inner, _| doc! { "a": inner });
        let mut document = deep(7);
        document.insert("_id", 1);
        assert_eq!(columns(&infer([document]), 0), ["a_a_a_a_a_a_a_x a.a.a.a.a.a.a.x bigint"]);
        let mut document = deep(8);
        document.insert("_id", 1);
        assert!(columns(&infer([document]), 0).is_empty());
        let many: Document = std::iter::once(("_id".into(), 1.into()))
            .chain((0..150).map(|i| (format!("t{i}"), vec![doc! {}].into())))
            .collect();
        assert_eq!(infer([many]).children().len(), MAX_TABLES);
    }

    #[test]
    fn awkward_names_become_unique_columns() {
        let spec = infer([doc! {
            "_id": 1, "id": 2, "_extra": 3, "extra": 4, "_ord": 5, "a.b": 6, "a": { "b": 7 }, "": 8, "$": 9, "xmin": 10, "firstName": 11,
            "first_name": 12, "x".repeat(100): 13, "x".repeat(101): 14,
        }]);
        let names: Vec<_> = spec.root().columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names[..5], ["id", "extra", "extra_e72ce801", "ord", "a_b"]);
        assert_eq!(names.len(), 12);
    }

    /// Two collections of one name in two databases, and a child that is named like a collection.
    #[test]
    fn tables_of_several_collections_stay_apart() {
        let mut sample = Sample::new();
        sample.observe(&RawDocumentBuf::try_from(&doc! { "_id": 1, "messages": [{ "a": 1 }] }).unwrap());
        let mut names = Names::new();
        names.reserve("users_messages");
        let first = sample.spec(&Namespace::new("shop", "users"), &mut names);
        let second = sample.spec(&Namespace::new("crm", "users"), &mut names);
        let tables: std::collections::HashSet<_> =
            first.tables().chain(second.tables()).map(|table| table.table.clone()).collect();
        assert!(
            tables.len() == 4 && tables.contains("users") && !tables.contains("users_messages"),
            "{tables:?}"
        );
    }
}
