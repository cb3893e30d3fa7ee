//! From rows back to documents.

use std::{sync::Arc, thread};

use ::bson::{RawBson, RawJavaScriptCodeWithScope, cstr, rawdoc};

use super::*;
use crate::{
    mapping::{Encoder, Framing, same_value},
    schema::MappingSpec,
};

const MAPPING: &str = "collection = \"a.b\"\ntable = \"t\"\nextra = \"x\"\n[key]\ncolumn = \"id\"\ntype = \"text\"\n\
    [columns]\na = { path = \"a\", type = \"numeric\" }\nb = { path = \"o.b\", type = \"text\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"id\"\nordinals = [\"n\"]\n\
    columns = { at = { path = \"at\", type = \"timestamptz\" } }\n";

fn mapping(text: &str) -> Arc<Mapping> {
    Arc::new(Mapping::compile(&MappingSpec::parse(text, "t.toml").unwrap()))
}

fn rows(root: &[Option<&[u8]>], children: &[[Option<&[u8]>; 3]]) -> Rows {
    let mut rows = Rows::new(2);
    assert!(rows.tables[0].push(root));
    assert!(children.iter().all(|child| rows.tables[1].push(child)));
    rows
}

fn rebuilt(rows: &Rows) -> Result<RawDocumentBuf, String> {
    Rebuilder::new(&mapping(MAPPING)).document(rows).map_err(|e| e.to_string())
}

#[test]
fn columns_rows_and_notes_make_the_document() {
    let first = 0_i64.to_be_bytes();
    let extra = b"\x01{\"m.1\": 7, \"o.c.\\\\xff\": null}";
    // `o.c` is no object of the mapping: nothing in it has its own path.
    assert!(rebuilt(&rows(&[Some(b"k"), None, None, Some(extra)], &[])).is_err());
    let extra = b"\x01{\"m.1\": {\"$numberInt\": \"7\"}, \"o.c\": null}";
    let children = [[Some(&b"k"[..]), Some(&first[..]), None]];
    let document = rebuilt(&rows(&[Some(b"k"), None, Some(b"x"), Some(extra)], &children)).unwrap();
    assert_eq!(document, rawdoc! { "_id": "k", "m": [{}, 7], "o": { "b": "x", "c": null } });
}

/// G12: an error names the place, and no value.
#[test]
fn rows_that_are_not_docrows_are_told_by_table_and_column() {
    let ours =
        |extra: &'static [u8]| rebuilt(&rows(&[Some(b"k"), None, None, Some(extra)], &[])).unwrap_err();
    for extra in [
        &b"{}"[..],
        b"\x01",
        b"\x01[]",
        b"\x01{\"u\": {\"$numberInt\": \"x\"}}",
        b"\x01{\"u\": {\"$what\": 1}}",
        b"\x01{\"u\\\\\": 1}",
        b"\x01{\"u\": {\"$docrow\": {\"double\": \"AAAA\"}}}",
        b"\x01{\"u\": {\"$docrow\": {\"document\": \"AAAAAAA=\"}}}",
    ] {
        assert_eq!(ours(extra), "t.x: holds what docrow does not write", "{}", extra.escape_ascii());
    }
    for extra in
        [&b"\x01{\"a.b\": 1}"[..], b"\x01{\"m.x\": 1}", b"\x01{\"m.-1\": 1}", b"\x01{\"m.0\\\\1\": 1}"]
    {
        assert_eq!(ours(extra), "t.x: holds what has no place in the document", "{}", extra.escape_ascii());
    }
    let message = |root: [Option<&[u8]>; 4], children: &[[Option<&[u8]>; 3]]| {
        rebuilt(&rows(&root, children)).unwrap_err()
    };
    assert_eq!(message([Some(b"{"), None, None, None], &[]), "t.id: holds what docrow does not write");
    assert_eq!(message([None; 4], &[]), "t.id: holds what docrow does not write");
    assert_eq!(
        message([Some(b"k"), Some(b"secret"), None, None], &[]),
        "t.a: holds what docrow does not write"
    );
    let (first, third) = (0_i64.to_be_bytes(), 2_i64.to_be_bytes());
    let infinity = i64::MAX.to_be_bytes();
    let child = [Some(&b"k"[..]), Some(&first[..]), Some(&infinity[..])];
    assert_eq!(message([Some(b"k"), None, None, None], &[child]), "m.at: holds what docrow does not write");
    let gap = [Some(&b"k"[..]), Some(&third[..]), None];
    assert!(
        message([Some(b"k"), None, None, None], &[gap]).starts_with("t: has a row that makes no document")
    );
    let taken = b"\x01{\"m\": \"no array\"}";
    let first = [Some(&b"k"[..]), Some(&first[..]), None];
    assert_eq!(
        message([Some(b"k"), None, None, Some(taken)], &[first]),
        "m: holds what has no place in the document"
    );
    assert_eq!(rebuilt(&Rows::new(2)).unwrap_err(), "t: has no row for the document");
}

/// Trap: an embedded `_id` with any types and order of fields has one key for all that are equal, and is
/// rebuilt as it was, also through the `jsonb` of PostgreSQL, which has its own order.
#[test]
fn an_embedded_id_keeps_its_types_and_its_order() {
    let scope = || rawdoc! { "zz": 1.0, "a": 1 };
    let code = RawJavaScriptCodeWithScope { code: "f".into(), scope: scope() };
    let mut twice = rawdoc! { "b": 1_i64 };
    twice.append(cstr!("b"), 2.0);
    let whole = "collection = \"a.b\"\ntable = \"t\"\nextra = \"x\"\n[key]\ncolumn = \"id\"\ntype = \"text\"\n\
        [document]\ncolumn = \"doc\"\n";
    for id in [
        rawdoc! { "zz": 1, "b": "x" },
        rawdoc! { "zz": 1_i64, "b": { "y": -0.0, "c": [1.0, { "zz": 2_i64, "a": 1 }] } },
        rawdoc! { "zz": f64::NAN, "b": RawBson::Symbol("x".into()), "aaa": twice },
        rawdoc! { "zz": code.clone(), "a": RawBson::JavaScriptCodeWithScope(code) },
    ] {
        let document = rawdoc! { "_id": id };
        for mapping in [mapping(MAPPING), mapping(whole), mapping(&format!("{whole}json = \"canonical\"\n"))]
        {
            let mut rows = Rows::new(mapping.tables().len());
            Encoder::new(Arc::clone(&mapping), Framing::Copy).encode(&document, &mut rows).unwrap();
            let columns: Vec<Option<Vec<u8>>> =
                rows.tables[0].tuples().next().unwrap().columns().map(|column| column.map(stored)).collect();
            let mut stored = Rows::new(mapping.tables().len());
            assert!(stored.tables[0].push(&columns.iter().map(Option::as_deref).collect::<Vec<_>>()));
            assert_eq!(Rebuilder::new(&mapping).document(&stored).unwrap(), document);
        }
    }
}

/// In PostgreSQL's form: for `jsonb`, the keys ordered by length, then by bytes.
fn stored(column: &[u8]) -> Vec<u8> {
    fn sort(json: Value) -> Value {
        match json {
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.into_iter().map(|(name, json)| (name, sort(json))).collect();
                fields.sort_by(|(left, _), (right, _)| (left.len(), left).cmp(&(right.len(), right)));
                Value::Object(fields.into_iter().collect())
            }
            Value::Array(elements) => Value::Array(elements.into_iter().map(sort).collect()),
            other => other,
        }
    }
    match column.strip_prefix(b"\x01").map(serde_json::from_slice) {
        Some(Ok(json)) => [b"\x01", sort(json).to_string().as_bytes()].concat(),
        _ => column.to_vec(),
    }
}

/// Trap: deep nesting. MongoDB accepts 200 levels; much deeper nesting is refused, and never overflows
/// the stack.
#[test]
fn deep_documents_come_back_and_hostile_ones_are_refused() {
    let nested = |levels: usize| {
        (0..levels).fold(rawdoc! { "x": 1 }, |inner, level| match level % 2 {
            0 => rawdoc! { "a": inner },
            _ => rawdoc! { "b": [inner] },
        })
    };
    let whole = "collection = \"a.b\"\ntable = \"t\"\nextra = \"x\"\n[key]\ncolumn = \"id\"\ntype = \"text\"\n\
        [document]\ncolumn = \"doc\"\n";
    let small_stack = thread::Builder::new().stack_size(1 << 20);
    let test = move || {
        for text in [MAPPING, whole] {
            let mapping = mapping(text);
            let mut encoder = Encoder::new(Arc::clone(&mapping), Framing::Copy);
            let mut pass = |document: &RawDocumentBuf| {
                let mut rows = Rows::new(mapping.tables().len());
                encoder.encode(document, &mut rows).unwrap();
                Rebuilder::new(&mapping).document(&rows)
            };
            let deep = rawdoc! { "_id": "k", "u": nested(300) };
            assert_eq!(pass(&deep).unwrap(), deep);
            assert!(pass(&rawdoc! { "_id": "k", "u": nested(5000) }).is_err());
        }
    };
    small_stack.spawn(test).unwrap().join().unwrap();
}

/// The comparison of verify does not depend on depth.
#[test]
fn deep_json_is_compared_by_value() {
    let json = |space: &str| {
        let deep = format!("{}{space}1{}", "[".repeat(400), "]".repeat(400));
        [&[1], deep.as_bytes()].concat()
    };
    let ty = mapping(MAPPING).tables()[0].columns[3].ty;
    assert!(same_value(ty, Some(&json("")), Some(&json(" "))));
    assert!(!same_value(ty, Some(&json("")), Some(&json("1"))));
}
