//! A mapping's options beside tables and columns: the treatment of unfit values and of deleted documents,
//! whole documents, discoveries.

use super::*;

const EXTRA: &str = "extra = \"_extra\"";

const COLUMNS: &str = "[columns]\na = { path = \"a\", type = \"bigint\" }\nb = { path = \"o.b\", type = \"text\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"n\"]\n\
    [tables.columns]\nx = { path = \"x\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"z\"\npath = \"z\"\nparent = \"p\"\n";

fn unfit(mapping: &Arc<Mapping>, document: RawDocumentBuf) -> (String, bool) {
    let unfit = encode(mapping, &document).unwrap_err();
    (unfit.to_string(), unfit.stops)
}

/// `on_unfit = "dead_letter"`: a value that fits neither its column nor its table makes a dead letter; fields
/// outside the mapping go to `extra`, and so does null.
#[test]
fn unfit_values_make_dead_letters() {
    let mapping = mapped(&format!("{EXTRA}\non_unfit = \"dead_letter\""), "bigint", COLUMNS);
    let refused = |document, path: &str| {
        let expected = format!("{path}: the value does not fit its column or table");
        assert_eq!(unfit(&mapping, document), (expected, false));
    };
    refused(rawdoc! { "_id": 1, "a": "x" }, "a");
    refused(rawdoc! { "_id": 1, "a": 0.5 }, "a");
    refused(rawdoc! { "_id": 1, "o": { "b": 1 } }, "o.b");
    refused(rawdoc! { "_id": 1, "o": 1 }, "o");
    refused(rawdoc! { "_id": 1, "o": [] }, "o");
    refused(rawdoc! { "_id": 1, "z": [{}] }, "z");
    refused(rawdoc! { "_id": 1, "m": { "x": 1 } }, "m");
    refused(rawdoc! { "_id": 1, "m": [{}, { "x": true }] }, "m.1.x");
    refused(rawdoc! { "_id": 1, "m": [{}, "x"] }, "m.1");
    let note = |document: RawDocumentBuf| extra(&mapping, &document);
    assert_eq!(note(rawdoc! { "_id": 1, "a": null, "m": null }), json!({ "a": null, "m": null }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": [null], "o": {} }), json!({ "m.0": null, "o": {} }));
    assert_eq!(note(rawdoc! { "_id": 1, "u": true, "m": [] }), json!({ "u": true, "m": [] }));
    assert_eq!(note(rawdoc! { "_id": 1, "a": 7.0 }), json!({ "a": { "$numberDouble": "7.0" } }));
    let twice = with_duplicates(&[("_id", 1.into()), ("a", "x".into()), ("a", 1.into())]);
    assert_eq!(note(twice), json!({ r"a\1": "x" }));
}

/// `on_unfit = "fail"`: the same, and the collection stops, whatever the reason for which a document has no
/// rows.
#[test]
fn unfit_values_stop_the_collection() {
    let mapping = mapped(&format!("{EXTRA}\non_unfit = \"fail\""), "bigint", COLUMNS);
    let reason = "the value does not fit its column or table";
    assert_eq!(unfit(&mapping, rawdoc! { "_id": 1, "a": "x" }), (format!("a: {reason}"), true));
    assert!(unfit(&mapping, rawdoc! { "_id": "x" }).1);
    let mut out = bytes::BytesMut::new();
    let key = Encoder::new(Arc::clone(&mapping), Framing::Copy).encode_key(&rawdoc! { "_id": "x" }, &mut out);
    assert!(key.unwrap_err().stops);
    assert_eq!(extra(&mapping, &rawdoc! { "_id": 1, "u": true }), json!({ "u": true }));
}

/// Without `extra`: null and empty count as missing, and equal counts as exact; nothing else may be left
/// over.
#[test]
fn without_extra_everything_must_fit() {
    let mapping = mapped("on_unfit = \"fail\"", "bigint", COLUMNS);
    let names: Vec<_> = mapping.tables()[0].columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["id", "a", "b"]);
    let document = rawdoc! {
        "_id": 1.0, "a": 7.0, "o": { "b": null }, "m": [null, { "x": 5_i64 }, {}], "z": null,
    };
    let rows = encode(&mapping, &document).unwrap();
    let long = |value: i64| Some(value.to_be_bytes().to_vec());
    assert_eq!(rows["t"], [vec![long(1), long(7), None]]);
    assert_eq!(rows["m"], [vec![long(1), long(1), long(5)], vec![long(1), long(2), None]]);
    assert!(rows["z"].is_empty());
    same_in_both_framings(&mapping, &document);
    for fine in [
        rawdoc! { "_id": 1_i64, "a": null, "o": {}, "m": [], "z": {} },
        rawdoc! { "_id": 1, "o": null, "m": null },
    ] {
        assert!(encode(&mapping, &fine).is_ok(), "{fine:?}");
    }
    let unmapped = "no column holds the field, and the mapping has no extra column";
    for (document, expected) in [
        (rawdoc! { "_id": 1, "u": 1 }, format!("u: {unmapped}")),
        (rawdoc! { "_id": 1, "u": null }, format!("u: {unmapped}")),
        (rawdoc! { "_id": 1, "m": [{ "y": 1 }] }, format!("m.0.y: {unmapped}")),
        (rawdoc! { "_id": 1, "z": { "y": 1 } }, format!("z.y: {unmapped}")),
        (with_duplicates(&[("_id", 1.into()), ("a", 1.into()), ("a", 2.into())]), format!("a: {unmapped}")),
        (with_duplicates(&[("_id", 1.into()), ("_id", 1.into())]), format!("_id: {unmapped}")),
        (
            with_duplicates(&[("_id", 1.into()), ("m", Bson::Null), ("m", Bson::Null)]),
            format!("m: {unmapped}"),
        ),
        (rawdoc! { "_id": 1, "a": "x" }, "a: the value does not fit its column or table".into()),
        (rawdoc! { "_id": 1, "m": 1 }, "m: the value does not fit its column or table".into()),
    ] {
        assert_eq!(unfit(&mapping, document), (expected, true));
    }
}

/// `on_delete = "soft"`: the root has a last column that is NULL as long as the document exists.
#[test]
fn a_soft_delete_has_a_column() {
    let mapping = mapped(&format!("{EXTRA}\non_delete = \"soft\""), "bigint", COLUMNS);
    let root = &mapping.tables()[0];
    assert!(root.soft_delete && !mapping.tables()[1].soft_delete);
    let last = root.columns.last().unwrap();
    assert_eq!((&*last.name, last.ty), (DELETED_AT, ColumnType::scalar(Scalar::Timestamptz)));
    assert_eq!(root.columns.len(), 5);
    assert_eq!(mapping.tables()[1].columns.len(), 3);
    let document = rawdoc! { "_id": 1, "a": 2, "u": 1, "m": [{ "x": 1 }] };
    let rows = encode(&mapping, &document).unwrap();
    assert_eq!(rows["t"][0][4], None);
    assert_eq!(rows["t"][0][3].as_deref(), Some(&b"\x01{\"u\":{\"$numberInt\":\"1\"}}"[..]));
    same_in_both_framings(&mapping, &document);
}

#[test]
fn foreign_keys_are_passed_on() {
    assert!(mapped(&format!("{EXTRA}\nforeign_keys = true"), "bigint", COLUMNS).foreign_keys());
    assert!(!mapping(COLUMNS).foreign_keys());
}

/// Document mode: the key, and the whole document, its `_id` included.
#[test]
fn a_document_can_be_one_value() {
    use crate::schema::JsonForm;
    let document = rawdoc! { "_id": 1, "a": [1, 5_i64, 2.0], "o": { "b": -0.0, "c": null } };
    let doc = |mapping: &Arc<Mapping>, document: &RawDocument| {
        let row = encode(mapping, document).unwrap()["t"][0].clone();
        same_in_both_framings(mapping, document);
        let json =
            |column: Option<Vec<u8>>| column.map(|bytes| String::from_utf8(bytes[1..].to_vec()).unwrap());
        (json(row[1].clone()).unwrap(), json(row[2].clone()))
    };
    let relaxed = mapped(EXTRA, "text", "[document]");
    assert_eq!(relaxed.document(), Some(JsonForm::Relaxed));
    let names: Vec<_> = relaxed.tables()[0].columns.iter().map(|column| &*column.name).collect();
    assert_eq!((names, relaxed.tables().len()), (vec!["id", "doc", "_extra"], 1));
    let (text, notes) = doc(&relaxed, &document);
    assert_eq!(text, r#"{"_id":1,"a":[1,5,2.0],"o":{"b":-0.0,"c":null}}"#);
    let notes: Value = serde_json::from_str(&notes.unwrap()).unwrap();
    assert_eq!(notes, json!({ "a.1": { "$numberLong": "5" }, "o.b": { "$numberDouble": "-0.0" } }));
    let id = doc(&relaxed, &rawdoc! { "_id": 1_i64 });
    assert_eq!(id, (r#"{"_id":1}"#.into(), Some(r#"{"_id":{"$numberLong":"1"}}"#.into())));
    assert_eq!(doc(&relaxed, &rawdoc! { "_id": 1 }).1, None);

    let canonical = mapped(EXTRA, "text", "[document]\ncolumn = \"body\"\njson = \"canonical\"");
    assert_eq!(canonical.document(), Some(JsonForm::Canonical));
    let (text, notes) = doc(&canonical, &rawdoc! { "_id": 1_i64, "x": 1 });
    assert_eq!(text, r#"{"_id":{"$numberLong":"1"},"x":{"$numberInt":"1"}}"#);
    assert_eq!(notes, None);

    let bare = mapped("on_unfit = \"fail\"\non_delete = \"soft\"", "text", "[document]");
    let names: Vec<_> = bare.tables()[0].columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["id", "doc", DELETED_AT]);
    assert_eq!(doc(&bare, &document).1, None);
}

/// Document mode keeps what tables can't: fields of one name, in one value.
#[test]
fn an_odd_document_is_one_value_too() {
    let twice = with_duplicates(&[("_id", 1.into()), ("a", 1.into()), ("a", 2.into())]);
    let rows = encode(&mapped(EXTRA, "text", "[document]"), &twice).unwrap();
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, twice.as_bytes());
    let doc: Value = serde_json::from_slice(&rows["t"][0][1].as_ref().unwrap()[1..]).unwrap();
    assert_eq!((doc, &rows["t"][0][2]), (json!({ "$docrow": { "document": base64 } }), &None));
}

/// Each encoder reports a field outside the mapping once per type.
#[test]
fn what_is_new_is_told_once() {
    let mapping = mapping(COLUMNS);
    let mut rows = Rows::new(3);
    let mut encoder = Encoder::new(Arc::clone(&mapping), Framing::Copy);
    let mut new = |encoder: &mut Encoder, document: RawDocumentBuf| {
        encoder.encode(&document, &mut rows).unwrap();
        encoder.discovered()
    };
    assert!(!new(&mut encoder, rawdoc! { "_id": 1, "u": 1 }));
    encoder.watch();
    for (document, expected) in [
        (rawdoc! { "_id": 1, "u": 1 }, true),
        (rawdoc! { "_id": 2, "u": 2 }, false),
        (rawdoc! { "_id": 2, "u": 2, "v": 1 }, true),
        (rawdoc! { "_id": 2, "u": "x" }, true),
        (rawdoc! { "_id": 2, "n": null, "e": [], "f": {} }, false),
        (rawdoc! { "_id": 2, "n": 1 }, true),
        (rawdoc! { "_id": 2, "e": [1] }, true),
        (rawdoc! { "_id": 2, "o": { "u": 1 } }, true),
        (rawdoc! { "_id": 2, "m": [{ "x": 1 }, { "u": 1 }, { "u": 2 }] }, true),
        (rawdoc! { "_id": 2, "m": [{ "u": 1 }], "o": { "u": 3 }, "u": 1 }, false),
        (rawdoc! { "_id": 2, "a": 1, "o": { "b": 1 }, "m": 7 }, false),
        (rawdoc! { "_id": 2, "a": 1.0 }, false),
        (rawdoc! { "_id": 2, "a": 1.5 }, true),
        (rawdoc! { "_id": 2, "a": 2.5 }, false),
        (rawdoc! { "_id": 2, "m": [{ "x": 1.5 }] }, true),
    ] {
        assert_eq!(new(&mut encoder, document.clone()), expected, "{document:?}");
    }
    // Another encoder discovers fields on its own; and the memory of discoveries is bounded.
    let mut other = Encoder::new(Arc::clone(&mapping), Framing::Copy);
    other.watch();
    let found = (0..6000).filter(|i| {
        let document = RawDocumentBuf::try_from(&doc! { "_id": 1, format!("f{i}"): 1 }).unwrap();
        new(&mut other, document)
    });
    assert_eq!(found.count(), 4096);
}
