//! How the fields of a [`Sample`] are mapped.
//!
//! - A field of one type in the sample gets a column of a wide type; integers and doubles together are
//!   `double precision`, integers and decimals `numeric`, strings and ObjectIds `text`. Of other
//!   combinations, only types that at least one value in twenty has count: exceptions, which go to `extra`,
//!   cost no field its column. A field that was always null, or still has several types, gets none.
//! - A column's values read back as the BSON type that most of them have: values that read back as another
//!   type are noted.
//! - Objects are flattened: `address_city`. Arrays of objects become child tables, arrays of one scalar type
//!   PostgreSQL arrays, other arrays stay in `extra`.
//! - An object whose field names are data (more than [`MAX_KEYS`] of them, or many of which each object has
//!   few) is one `jsonb` column, and so is an array of such objects.
//!
//! A sample that misses a type loses nothing: values that fit no column go to `extra`.

use super::sample::{KindSet, KindTally, SampledObjects, SampledValues, ValueKind};
use crate::model::table::{ColumnType, Reading, Scalar};

/// An object with more different fields than this is a map from data to data.
const MAX_KEYS: usize = 200;

/// So is one with more than this many, of which an object has less than an eighth.
const FEW_KEYS: usize = 16;

/// Fewer than one of this many values of a field are exceptions.
const RARE: u32 = 20;

/// How a field is mapped.
pub(super) enum FieldShape<'a> {
    /// To a column.
    Column(ColumnType),
    /// To columns of the table that it is in.
    Flat(&'a SampledObjects),
    /// To a table with a row for each element.
    Table(&'a SampledObjects),
    /// Not: it stays in `extra`.
    Extra,
}

impl SampledValues {
    /// How the field is mapped if it is not mapped yet.
    pub(super) fn shape(&self) -> FieldShape<'_> {
        let json = FieldShape::Column(ColumnType::scalar(Scalar::Jsonb));
        match (self.kinds.deciding(), &self.elements) {
            (KindSet::OBJECT, _) if self.objects.is_map(self.objects.width()) => json,
            (KindSet::OBJECT, _) => FieldShape::Flat(&self.objects),
            (KindSet::ARRAY, Some(elements)) if elements.kinds.deciding() == KindSet::OBJECT => {
                match &elements.objects {
                    objects if objects.is_map(objects.width()) => json,
                    objects => FieldShape::Table(objects),
                }
            }
            (KindSet::ARRAY, Some(elements)) => match elements.kinds.column(elements.kinds.kinds()) {
                Some(ty) => FieldShape::Column(ColumnType { array: true, ..ty }),
                None => FieldShape::Extra,
            },
            (kinds, _) => self.kinds.column(kinds).map_or(FieldShape::Extra, FieldShape::Column),
        }
    }

    /// The type to which a column of type `ty` is widened for these values, some of which it can't hold. Only
    /// if that is certainly a gain: an int64 would be noted beside its double, or not fit.
    pub(super) fn widened(&self, ty: ColumnType) -> Option<ColumnType> {
        let widens = ty == ColumnType::scalar(Scalar::Bigint)
            && self.kinds.count(ValueKind::Double) > 0
            && self.kinds.count(ValueKind::Long) == 0;
        widens.then_some(ColumnType { reading: Reading::Number, ..ColumnType::scalar(Scalar::Double) })
    }
}

impl SampledObjects {
    /// Whether the fields' names are data, if `keys` different ones are known.
    pub(super) fn is_map(&self, keys: usize) -> bool {
        keys > MAX_KEYS || (keys > FEW_KEYS && self.occurrences * 8 < keys * self.count)
    }
}

impl KindTally {
    /// The type of the key column.
    pub(super) fn key(&self) -> ColumnType {
        match self.column(self.kinds()) {
            Some(ty @ ColumnType { scalar: Scalar::Bigint | Scalar::Uuid, .. }) => ty,
            _ => ColumnType::scalar(Scalar::Text),
        }
    }

    /// The kinds that decide how the field is mapped: all of them if they are compatible, otherwise the
    /// common ones.
    pub(super) fn deciding(&self) -> KindSet {
        let all = self.kinds();
        if all == KindSet::OBJECT || all == KindSet::ARRAY || all.column().is_some() {
            return all;
        }
        let least = self.total() / RARE;
        let common = KindSet::FAMILIES.into_iter().filter(|&family| self.among(family) > least);
        common.fold(KindSet::default(), |common, family| common.or(family.and(all)))
    }

    /// The type of a column for values of these kinds.
    pub(super) fn column(&self, kinds: KindSet) -> Option<ColumnType> {
        let scalar = kinds.column()?;
        Some(ColumnType { reading: self.reading(scalar), ..ColumnType::scalar(scalar) })
    }

    /// The reading that needs fewer notes.
    fn reading(&self, scalar: Scalar) -> Reading {
        match scalar.other_reading() {
            Some(Reading::Long) if self.count(ValueKind::Int32) < self.count(ValueKind::ShortLong) => {
                Reading::Long
            }
            Some(Reading::Number) if self.count(ValueKind::WholeDouble) < self.count(ValueKind::Int32) => {
                Reading::Number
            }
            Some(Reading::Usual | Reading::Long | Reading::Number) | None => Reading::Usual,
        }
    }
}

impl KindSet {
    const OBJECT: Self = Self::new(&[ValueKind::Object]);
    const ARRAY: Self = Self::new(&[ValueKind::Array]);
    const DECIMAL: Self = Self::new(&[ValueKind::Decimal]);
    const OBJECT_ID: Self = Self::new(&[ValueKind::ObjectId]);
    const BOOLEAN: Self = Self::new(&[ValueKind::Boolean]);
    const DATE: Self = Self::new(&[ValueKind::Date]);
    const UUID: Self = Self::new(&[ValueKind::Uuid]);
    const BYTES: Self = Self::new(&[ValueKind::Bytes]);

    /// The kinds, as people distinguish types.
    pub(super) const FAMILIES: [Self; 13] = [
        Self::INTEGERS,
        Self::DOUBLES,
        Self::DECIMAL,
        Self::TEXTS,
        Self::OBJECT_ID,
        Self::BOOLEAN,
        Self::DATE,
        Self::UUID,
        Self::BYTES,
        Self::OBJECT,
        Self::new(&[ValueKind::DeepObject]),
        Self::new(&[ValueKind::Array, ValueKind::InnerArray]),
        Self::new(&[ValueKind::Other]),
    ];

    /// The kinds for which a column of this type is made. None: docrow makes none by itself.
    fn inferred(scalar: Scalar) -> Option<Self> {
        match scalar {
            Scalar::Boolean => Some(Self::BOOLEAN),
            Scalar::Bigint => Some(Self::INTEGERS),
            Scalar::Double => Some(Self::INTEGERS.or(Self::DOUBLES)),
            Scalar::Numeric => Some(Self::INTEGERS.or(Self::DECIMAL)),
            Scalar::Text => Some(Self::TEXTS.or(Self::OBJECT_ID)),
            Scalar::Bytea => Some(Self::BYTES),
            Scalar::Uuid => Some(Self::UUID),
            Scalar::Timestamptz => Some(Self::DATE),
            Scalar::Integer | Scalar::Jsonb => None,
        }
    }

    /// The kinds that a column of this type is for.
    pub(super) fn of_column(scalar: Scalar) -> Self {
        Self::inferred(scalar).unwrap_or(Self::ALL)
    }

    /// The type of a column that is made for these kinds: the first that has them all.
    fn column(self) -> Option<Scalar> {
        let has_all = |scalar: &Scalar| Self::inferred(*scalar).is_some_and(|kinds| self.are_among(kinds));
        if self.is_empty() { None } else { Scalar::ALL.into_iter().find(has_all) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::{
        Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype,
    };

    use crate::{
        mapping::{Encoder, Framing, Mapping, Rows},
        model::change::Namespace,
        schema::{MappingSpec, Names, Sample, evolve::*},
    };

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

    /// Two collections of the same name in two databases, and a child table with the name of a collection.
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
