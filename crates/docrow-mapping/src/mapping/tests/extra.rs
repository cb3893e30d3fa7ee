//! What no column holds: it is kept, exactly.

use super::*;

/// Missing, null and empty differ; elements without a row are kept by index.
#[test]
fn extra_keeps_what_shape_does_not_say() {
    let mapping = mapping(NESTED);
    let note = |document: RawDocumentBuf| extra(&mapping, &document);
    assert_eq!(note(rawdoc! { "_id": 1 }), Value::Null);
    assert_eq!(
        note(
            rawdoc! { "_id": 1, "o": { "p": { "c": 1 } }, "m": [{ "x": { "y": 1 } }], "g": [[{ "x": 1 }, {}]] }
        ),
        Value::Null
    );
    assert_eq!(note(rawdoc! { "_id": 1, "o": RawDocumentBuf::new() }), json!({ "o": {} }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": { "p": RawDocumentBuf::new() } }), json!({ "o.p": {} }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": { "p": { "c": null } } }), json!({ "o.p.c": null }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": null, "m": null }), json!({ "o": null, "m": null }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": [] }), json!({ "m": [] }));
    assert_eq!(
        note(rawdoc! { "_id": 1, "m": [{ "x": 1 }, "s", null, { "f.o\\o": true, "x": { "y": "z" } }] }),
        json!({ "m.0.x": { "$numberInt": "1" }, "m.1": "s", "m.2": null, r"m.3.f\.o\\o": true, "m.3.x.y": "z" })
    );
    assert_eq!(
        note(rawdoc! { "_id": 1, "g": [[], "s", [[]]] }),
        json!({ "g.0": [], "g.1": "s", "g.2.0": [] })
    );
    let rows = encode(&mapping, &rawdoc! { "_id": 1, "m": ["s", { "a": 1 }] }).unwrap();
    assert_eq!(
        rows["m"],
        [vec![Some(1_i64.to_be_bytes().to_vec()), Some(1_i64.to_be_bytes().to_vec()), None]]
    );
}

/// Trap: duplicate keys are legal on the wire. The column gets the last one; all are kept.
#[test]
fn duplicate_fields_are_all_kept() {
    let mapping = mapping(
        &format!("{NESTED}[[tables]]\ntable = \"z\"\npath = \"z\"\nparent = \"p\"\n")
            .replace("c = {", "a = { path = \"a\", type = \"bigint\" }\nc = {"),
    );
    let int = |value: i32| Bson::Int32(value);
    let wrapped = |value: i32| json!({ "$numberInt": value.to_string() });
    let document = with_duplicates(&[("_id", int(1)), ("a", int(1)), ("a", "x".into()), ("a", int(3))]);
    let rows = encode(&mapping, &document).unwrap();
    assert_eq!(rows["t"][0][1], Some(3_i64.to_be_bytes().to_vec()));
    assert_eq!(extra(&mapping, &document), json!({ r"a\1": wrapped(1), r"a\2": "x" }));
    let document = with_duplicates(&[("_id", int(1)), ("a", int(1)), ("a", "x".into())]);
    assert_eq!(extra(&mapping, &document), json!({ r"a\1": wrapped(1), "a": "x" }));
    let document =
        with_duplicates(&[("_id", int(1)), ("u", int(1)), ("v", int(9)), ("u", int(2)), ("u", int(3))]);
    assert_eq!(
        extra(&mapping, &document),
        json!({ r"u\1": wrapped(1), r"u\2": wrapped(2), "u": wrapped(3), "v": wrapped(9) })
    );
    let array = |x: i32| Bson::Array(vec![doc! { "x": { "y": x } }.into()]);
    let document = with_duplicates(&[("_id", int(1)), ("m", array(1)), ("m", array(2)), ("_id", int(2))]);
    let rows = encode(&mapping, &document).unwrap();
    assert_eq!(rows["m"].len(), 1);
    assert_eq!(
        extra(&mapping, &document),
        json!({ r"m\2": [{ "x": { "y": wrapped(2) } }], r"_id\2": wrapped(2) })
    );
    let document = with_duplicates(&[("_id", int(1)), ("z", doc! {}.into()), ("z", doc! { "q": 1 }.into())]);
    assert_eq!(extra(&mapping, &document), json!({ r"z\2": { "q": wrapped(1) } }));
    let document = with_duplicates(&[("_id", int(1)), ("z", int(1)), ("z", doc! {}.into()), ("z", int(2))]);
    assert_eq!(extra(&mapping, &document), json!({ "z": wrapped(1), r"z\2": {}, r"z\3": wrapped(2) }));
}

#[test]
fn invalid_utf8_is_kept() {
    let mapping = mapping("[columns]\na = { path = \"a\", type = \"text\" }");
    let broken = |document: RawDocumentBuf| {
        let bytes =
            document.into_bytes().into_iter().map(|byte| if byte == b'~' { 0xff } else { byte }).collect();
        RawDocumentBuf::from_bytes(bytes).unwrap()
    };
    assert_eq!(
        extra(&mapping, &broken(rawdoc! { "_id": 1, "a": "x~" })),
        json!({ "a": { "$docrow": { "string": "eP8=" } } })
    );
    assert_eq!(
        extra(&mapping, &broken(rawdoc! { "_id": 1, "b~.": 1 })),
        json!({ r"b\xff\.": { "$numberInt": "1" } })
    );
    let inner = broken(rawdoc! { "~": 1 });
    let note = extra(&mapping, &broken(rawdoc! { "_id": 1, "b": [{ "k": 1, "d": { "~": 1 } }] }));
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, inner.as_bytes());
    assert_eq!(
        note,
        json!({ "b": [{ "k": { "$numberInt": "1" }, "d": { "$docrow": { "document": base64 } } }] })
    );
}

/// Documents that JSON would change, or that would read as another value, are kept as BSON.
#[test]
fn documents_that_json_can_not_say_are_kept_whole() {
    let whole = |document: &RawDocument| {
        let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, document.as_bytes());
        json!({ "$docrow": { "document": base64 } })
    };
    let twice = with_duplicates(&[("a", Bson::Int32(1)), ("b", Bson::Int32(2)), ("a", Bson::Int32(3))]);
    for inner in [twice, rawdoc! { "$numberInt": "1" }, rawdoc! { "$docrow": 1 }] {
        let document = rawdoc! { "_id": 1, "x": [inner.clone()], "y": { "z": inner.clone() } };
        assert_eq!(
            extra(&mapping(""), &document),
            json!({ "x": [whole(&inner)], "y": { "z": whole(&inner) } })
        );
    }
    let reference = rawdoc! { "_id": 1, "x": { "$ref": "users", "$id": "a" } };
    assert_eq!(extra(&mapping(""), &reference), json!({ "x": { "$ref": "users", "$id": "a" } }));
    let scope = rawdoc! { "_id": 1, "x": ::bson::RawJavaScriptCodeWithScope { code: "c".into(), scope: rawdoc! { "$a": 1 } } };
    assert_eq!(
        extra(&mapping(""), &scope),
        json!({ "x": { "$code": "c", "$scope": whole(&rawdoc! { "$a": 1 }) } })
    );
}

/// Trap: 100 levels deep, and far deeper than MongoDB stores.
#[test]
fn deep_nesting_does_not_recurse() {
    let mut document = rawdoc! { "x": 1 };
    for level in 0..20_000 {
        document = if level % 2 == 0 {
            rawdoc! { "a": document }
        } else {
            rawdoc! { "b": [document] }
        };
    }
    let document = rawdoc! { "_id": 1, "deep": document };
    let mut rows = Rows::new(1);
    Encoder::new(mapping(""), Framing::Copy).encode(&document, &mut rows).unwrap();
    assert!(rows.byte_len() > 20_000 * 6);
}
