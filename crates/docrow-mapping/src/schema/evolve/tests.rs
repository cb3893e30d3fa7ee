//! How mappings grow.

use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use bytes::BufMut;
use proptest::prelude::*;

use super::{arbitrary::documents, *};
use crate::{
    mapping::{Encoder, Framing, Mapping, Rebuilder, Rows},
    model::table::{Reading, Scalar},
};

fn sample(documents: &[Document]) -> Sample {
    let mut sample = Sample::new();
    for document in documents {
        sample.observe(&RawDocumentBuf::try_from(document).unwrap());
    }
    sample
}

fn first(documents: &[Document]) -> (MappingSpec, Names) {
    let mut names = Names::new();
    (sample(documents).spec(&Namespace::new("shop", "users"), &mut names), names)
}

/// The columns `table.column path type` of the first documents' mapping after the second documents.
fn grown(before: &[Document], after: &[Document]) -> Vec<String> {
    let (spec, mut names) = first(before);
    let grown = evolve(&spec, &sample(after), &mut names, &[]);
    grown.as_ref().map_or(Vec::new(), all_columns)
}

fn all_columns(spec: &MappingSpec) -> Vec<String> {
    let of = |table: &TableSpec| {
        let line = |column: &ColumnSpec| {
            format!("{}.{} {} {}", table.table, column.name, column.path, column.ty.sql())
        };
        table.columns.iter().map(line).collect::<Vec<_>>()
    };
    spec.tables().flat_map(of).collect()
}

#[test]
fn new_fields_are_appended() {
    let before = [doc! { "_id": 1, "b": 1, "o": { "x": 1 }, "l": [{ "x": 1 }] }];
    let after = [doc! {
        "_id": 2, "a": 1.5, "b": 2, "o": { "n": { "m": true }, "x": 2 },
        "l": [{ "w": "x", "in": [{ "z": 1 }] }], "t": ["x"], "k": [{ "v": 1 }],
    }];
    assert_eq!(
        grown(&before, &after),
        [
            "users.b b bigint",
            "users.o_x o.x bigint",
            "users.a a double precision",
            "users.o_n_m o.n.m boolean",
            "users.t t text[]",
            "users_l.x x bigint",
            "users_l.w w text",
            "users_l_in.z z bigint",
            "users_k.v v bigint",
        ]
    );
    assert!(grown(&before, &before).is_empty());
    assert!(grown(&before, &[doc! { "_id": "x", "n": null, "m": Bson::MaxKey }]).is_empty());
}

#[test]
fn what_is_mapped_stays() {
    let before = [doc! { "_id": 1, "a": "x", "o": { "x": 1 }, "l": [{ "x": 1 }], "t": [1], "j": true }];
    for after in [
        doc! { "a": { "n": 1 }, "o": [{ "n": 1 }], "l": { "n": 1 }, "t": [{ "n": 1 }], "j": [1] },
        doc! { "a": [{ "n": 1 }], "o": 1, "l": 1, "t": { "n": 1 }, "j": 1.5 },
        doc! { "a": 1, "o": "x", "l": [1, [{ "n": 1 }]], "t": [1.5] },
    ] {
        assert!(grown(&before, std::slice::from_ref(&after)).is_empty(), "{after}");
    }
}

#[test]
fn names_do_not_change() {
    let before = [doc! { "_id": 1, "first_name": 1 }];
    let columns = grown(&before, &[doc! { "_id": 1, "firstName": 1, "lastName": 1 }]);
    assert_eq!(columns[0], "users.first_name first_name bigint");
    assert!(columns[1].starts_with("users.first_name_"), "{columns:?}");
    assert_eq!(columns[2], "users.last_name lastName bigint");
}

#[test]
fn integers_widen_where_that_is_a_gain() {
    let widens = |before: Bson, after: Bson| {
        let (spec, mut names) = first(&[doc! { "_id": 1, "n": before }]);
        let grown = evolve(&spec, &sample(&[doc! { "n": after }]), &mut names, &[])?;
        Some(grown.root().columns[0].ty)
    };
    let double = ColumnType { reading: Reading::Number, ..ColumnType::scalar(Scalar::Double) };
    assert_eq!(widens(1.into(), 1.5.into()), Some(double));
    assert_eq!(widens((1_i64 << 40).into(), f64::NAN.into()), Some(double));
    assert_eq!(widens(1.into(), 2.0.into()), None, "bigint holds it");
    assert_eq!(widens(1_i64.into(), 1.5.into()), None, "an int64 would not read back as one");
    assert_eq!(widens(Bson::Array(vec![1.into()]), Bson::Array(vec![1.5.into()])), None);
    let mixed = [doc! { "_id": 1, "n": 1 }, doc! { "_id": 1 }];
    assert!(grown(&mixed, &[doc! { "n": 1_i64 << 40 }, doc! { "n": 1.5 }]).is_empty());
}

/// Limits apply to the whole mapping, however it came about.
#[test]
fn growth_has_limits() {
    let named = |from: usize, count: usize, value: &dyn Fn(usize) -> Bson| {
        (from..from + count).map(|i| (format!("f{i}"), value(i))).collect::<Document>()
    };
    let number = |_| Bson::Int32(1);
    let (mut spec, mut names) = first(&[named(0, 250, &number)]);
    spec = evolve(&spec, &sample(&[named(250, 100, &number)]), &mut names, &[]).unwrap();
    assert_eq!(spec.root().columns.len(), MAX_COLUMNS);
    assert_eq!(evolve(&spec, &sample(&[named(400, 100, &number)]), &mut names, &[]), None);

    let list = |_| Bson::Array(vec![doc! { "x": 1 }.into()]);
    let (mut spec, mut names) = first(&[named(0, 80, &list)]);
    spec = evolve(&spec, &sample(&[named(80, 80, &list)]), &mut names, &[]).unwrap();
    assert_eq!(spec.children().len(), MAX_TABLES);

    let (spec, mut names) = first(&[doc! { "_id": 1, "scores": named(0, 150, &number) }]);
    let more = |count| sample(&[doc! { "_id": 1, "scores": named(150, count, &number) }]);
    assert_eq!(evolve(&spec, &more(51), &mut names, &[]), None, "a map has no columns for its keys");
    assert!(evolve(&spec, &more(50), &mut names, &[]).is_some());
}

proptest! {
    /// A mapping that grows stays a mapping, and all mapped fields stay where they are.
    #[test]
    fn a_mapping_only_grows(before in documents(), after in documents()) {
        let (old, mut names) = first(&before);
        prop_assert_eq!(evolve(&old, &sample(&before), &mut names, &[]), None);
        let seen = sample(&after);
        let new = evolve(&old, &seen, &mut names.clone(), &[]);
        prop_assert_eq!(&evolve(&old, &seen, &mut names, &[]), &new);
        let Some(new) = new else { return Ok(()) };
        prop_assert_eq!(evolve(&new, &seen, &mut names, &[]), None);
        prop_assert_eq!(&MappingSpec::parse(&new.to_toml(), "grown").unwrap(), &new);

        prop_assert!(new.children().len() >= old.children().len());
        for (old, new) in old.tables().zip(new.tables()) {
            prop_assert!(new.columns.len() >= old.columns.len());
            for (old, new) in old.columns.iter().zip(&new.columns) {
                let widened = old.ty == ColumnType::scalar(Scalar::Bigint) && new.ty.scalar == Scalar::Double;
                prop_assert!(old == new || (widened && (&old.name, &old.path) == (&new.name, &new.path)));
            }
            let same = (&old.table, &old.path, &old.parent, &old.ordinals);
            prop_assert_eq!(same, (&new.table, &new.path, &new.parent, &new.ordinals));
        }
    }

    /// G4: earlier rows are rows of the grown mapping, with NULL in its new columns and no rows in its
    /// new tables, and represent the same documents. So do rows that it writes itself.
    #[test]
    fn rows_stay_rows(before in documents(), after in documents()) {
        let (old, mut names) = first(&before);
        let Some(new) = evolve(&old, &sample(&after), &mut names, &[]) else { return Ok(()) };
        let (old_mapping, new_mapping) = (Arc::new(Mapping::compile(&old)), Arc::new(Mapping::compile(&new)));
        let rebuilder = Rebuilder::new(&new_mapping);
        for document in before.iter().chain(&after) {
            let expected = sorted(document.clone());
            let rebuilt = rebuilder.document(&encode(&new_mapping, document)).unwrap();
            prop_assert_eq!(sorted(Document::try_from(&rebuilt).unwrap()), expected.clone());
            let Some(rows) = stored(&encode(&old_mapping, document), &old, &new) else { continue };
            let rebuilt = rebuilder.document(&rows).unwrap();
            prop_assert_eq!(sorted(Document::try_from(&rebuilt).unwrap()), expected);
        }
    }
}

fn encode(mapping: &Arc<Mapping>, document: &Document) -> Rows {
    let mut rows = Rows::new(mapping.tables().len());
    let raw = RawDocumentBuf::try_from(document).unwrap();
    Encoder::new(mapping.clone(), Framing::Copy).encode(&raw, &mut rows).unwrap();
    rows
}

/// Rows of the old mapping as stored in the tables of the new one. None if a column is not widened
/// because it contains an int64.
fn stored(rows: &Rows, old: &MappingSpec, new: &MappingSpec) -> Option<Rows> {
    let mut stored = Rows::new(new.tables().count());
    for (number, ((old, new), rows)) in old.tables().zip(new.tables()).zip(&rows.tables).enumerate() {
        for tuple in rows.tuples() {
            let mut columns: Vec<_> = tuple.columns().map(|column| column.map(<[u8]>::to_vec)).collect();
            let head = 1 + old.ordinals.len();
            for (i, (old, new)) in old.columns.iter().zip(&new.columns).enumerate() {
                if let (true, Some(bytes)) = (old.ty != new.ty, &mut columns[head + i]) {
                    let value = i32::try_from(i64::from_be_bytes((&**bytes).try_into().unwrap())).ok()?;
                    *bytes = f64::from(value).to_be_bytes().to_vec();
                }
            }
            let end = head + old.columns.len();
            columns.splice(end..end, vec![None; new.columns.len() - old.columns.len()]);
            let out = &mut stored.tables[number];
            out.count += 1;
            out.bytes.put_u16(columns.len().try_into().unwrap());
            for column in columns {
                let length = column.as_ref().map_or(-1, |bytes| bytes.len().try_into().unwrap());
                out.bytes.put_i32(length);
                out.bytes.extend_from_slice(&column.unwrap_or_default());
            }
        }
    }
    Some(stored)
}

/// With its fields sorted, because their order is not kept.
fn sorted(document: Document) -> String {
    fn sort(value: Bson) -> Bson {
        match value {
            Bson::Document(document) => {
                let mut fields: Vec<_> =
                    document.into_iter().map(|(name, value)| (name, sort(value))).collect();
                fields.sort_by(|left, right| left.0.cmp(&right.0));
                Bson::Document(fields.into_iter().collect())
            }
            Bson::Array(elements) => Bson::Array(elements.into_iter().map(sort).collect()),
            value => value,
        }
    }
    format!("{:?}", sort(document.into()))
}
