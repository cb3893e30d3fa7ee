//! Masked and omitted fields: they appear nowhere, and everything else is kept.

mod any;

use ::bson::RawBsonRef;

use super::*;

const OMIT: &str = "omit = [\"gone\", \"o.p.gone\", \"q[].gone\", \"u.v.gone\", \"m[].gone\"]";

const COLUMNS: &str = "[columns]\ncard = { path = \"card\", type = \"text\", mask = \"redact\" }\n\
    born = { path = \"born\", type = \"timestamptz\", mask = \"redact\" }\n\
    list = { path = \"list\", type = \"text[]\", mask = \"redact\" }\n\
    nick = { path = \"o.nick\", type = \"text\", mask = \"redact\" }\n\
    c = { path = \"o.c\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"n\"]\n\
    [tables.columns]\nbody = { path = \"body\", type = \"text\", mask = \"redact\" }\nx = { path = \"x\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"z\"\npath = \"z\"\nparent = \"p\"\n\
    [tables.columns]\npin = { path = \"pin\", type = \"text\", mask = \"redact\" }\n\
    [[tables]]\ntable = \"g\"\npath = \"g[][]\"\nparent = \"p\"\nordinals = [\"n\", \"o\"]\n\
    [tables.columns]\npin = { path = \"k.pin\", type = \"bigint\", mask = \"redact\" }\n";

/// The names on the paths to all masked or omitted fields.
const SECRETS: [&[&str]; 12] = [
    &["gone"],
    &["o", "p", "gone"],
    &["q", "gone"],
    &["u", "v", "gone"],
    &["m", "gone"],
    &["card"],
    &["born"],
    &["list"],
    &["o", "nick"],
    &["m", "body"],
    &["z", "pin"],
    &["g", "k", "pin"],
];

fn secretive(options: &str) -> Arc<Mapping> {
    mapped(&format!("{options}\n{OMIT}"), "bigint", COLUMNS)
}

fn hidden() -> Arc<Mapping> {
    secretive("extra = \"_extra\"")
}

fn withheld() -> Value {
    json!({ "$docrow": { "withheld": true } })
}

/// Only the masked column reveals anything of a masked value, and nothing reveals an omitted one.
#[test]
fn hidden_values_are_nowhere() {
    let mapping = hidden();
    let document = rawdoc! {
        "_id": 1, "gone": 1, "card": "4111", "born": DateTime::from_millis(0), "list": ["a"],
        "o": { "nick": "ada", "c": 7, "p": { "gone": [1], "kept": true } },
        "m": [{ "body": 5, "x": 1, "gone": "x" }, { "body": null }],
        "z": { "pin": "1" }, "q": [{ "gone": 1, "a": 2 }, { "gone": 2 }], "u": { "v": { "gone": 1 }, "w": 1 },
    };
    let rows = encode(&mapping, &document).unwrap();
    let redacted = Some(b"***".to_vec());
    let root = &rows["t"][0];
    assert_eq!(root[1..5], [redacted.clone(), None, None, redacted.clone()]);
    assert_eq!([&rows["m"][0][2], &rows["m"][1][2], &rows["z"][0][1]], [&redacted, &None, &redacted]);
    let two = json!({ "$numberInt": "2" });
    assert_eq!(
        extra(&mapping, &document),
        json!({ "o.p": { "kept": true }, "q": [{ "a": two }, {}], "u": { "v": {}, "w": { "$numberInt": "1" } } })
    );
    let expected = rawdoc! {
        "_id": 1, "o": { "c": 7, "p": { "kept": true } }, "m": [{ "x": 1 }, {}], "z": {},
        "q": [{ "a": 2 }, {}], "u": { "v": {}, "w": 1 },
    };
    assert_eq!(mapping.censored(&document).unwrap(), expected.as_bytes());
    same_in_both_framings(&mapping, &document);
}

/// An object that has lost all its fields is still present.
#[test]
fn an_object_with_nothing_but_secrets_is_kept() {
    let mapping = hidden();
    let document = rawdoc! { "_id": 1, "o": { "nick": "ada" }, "u": { "v": { "gone": 1 } } };
    assert_eq!(extra(&mapping, &document), json!({ "o": {}, "u": { "v": {} } }));
    assert_eq!(encode(&mapping, &document).unwrap()["t"][0][4], Some(b"***".to_vec()));
    // A row shows that there was an object.
    assert_eq!(extra(&mapping, &rawdoc! { "_id": 1, "z": { "pin": 1 } }), Value::Null);
    assert_eq!(
        extra(&mapping, &rawdoc! { "_id": 1, "g": [[{ "k": { "pin": 1 } }]] }),
        json!({ "g.0.0.k": {} })
    );
}

/// A value of another shape than the mapping expects might contain a secret anywhere.
#[test]
fn what_can_not_be_taken_apart_is_withheld() {
    let mapping = hidden();
    let note = |document: RawDocumentBuf| extra(&mapping, &document);
    assert_eq!(note(rawdoc! { "_id": 1, "o": [{ "nick": "ada" }] }), json!({ "o": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": "ada" }), json!({ "o": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": { "p": [1] } }), json!({ "o.p": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": { "body": 1 } }), json!({ "m": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": [[{ "body": 1 }]] }), json!({ "m.0": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "q": [{}, { "a": 1 }, [2]] }), json!({ "q": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "g": [{ "k": 1 }] }), json!({ "g.0": withheld() }));
    assert_eq!(
        note(rawdoc! { "_id": 1, "o": null, "m": [], "u": null, "q": [] }),
        json!({ "o": null, "m": [], "u": null, "q": [] })
    );
    let twice = with_duplicates(&[
        ("_id", 1.into()),
        ("card", "a".into()),
        ("card", "b".into()),
        ("o", doc! { "c": 1, "nick": "a" }.into()),
        ("o", doc! { "c": 2, "nick": "b" }.into()),
        ("o", vec![doc! { "nick": "c" }].into()),
    ]);
    // The masked field was there before; its value is not shown.
    assert_eq!(
        note(twice.clone()),
        json!({ r"card\1": withheld(), r"o\2": { "c": { "$numberInt": "2" } }, r"o\3": withheld() })
    );
    let marker = doc! { "$docrow": { "withheld": true } };
    let left = with_duplicates(&[
        ("_id", 1.into()),
        ("o", doc! { "c": 1 }.into()),
        ("o", doc! { "c": 2 }.into()),
        ("o", marker.into()),
    ]);
    assert_eq!(mapping.censored(&twice).unwrap(), left.as_bytes());
}

/// A masked value never makes a dead letter; a value that can't be taken apart does, but its contents are not
/// shown.
#[test]
fn masked_values_always_fit() {
    let strict = secretive("on_unfit = \"fail\"");
    let document = rawdoc! {
        "_id": 1, "card": [1], "gone": 1, "born": "x", "o": { "nick": 1.5 }, "u": { "v": { "gone": 1 } },
    };
    let unfit = encode(&strict, &document).unwrap_err().to_string();
    assert_eq!(unfit, "u: no column holds the field, and the mapping has no extra column");
    let document = rawdoc! { "_id": 1, "card": [1], "gone": 1, "born": "x", "o": { "nick": 1.5 }, "z": { "pin": 1 }, "u": null };
    assert!(encode(&strict, &document).is_ok());
    let letters = secretive("extra = \"_extra\"\non_unfit = \"dead_letter\"");
    assert!(encode(&letters, &document).is_ok());
    let unfit = encode(&letters, &rawdoc! { "_id": 1, "o": "4111" }).unwrap_err();
    assert_eq!(unfit.to_string(), "o: the value does not fit its column or table");
}

/// HMAC-SHA-256, as in RFC 4231; equal strings are equal in every column, and null stays NULL.
#[test]
fn a_hash_hides_a_value() {
    let columns = "[columns]\na = { path = \"a\", type = \"text\", mask = \"sha256\" }\nb = { path = \"b\", type = \"text\", mask = \"sha256\" }";
    let spec = format!(
        "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n{columns}"
    );
    let spec = MappingSpec::parse(&spec, "t.toml").unwrap();
    let mapping = Mapping::compile(&spec);
    assert!(mapping.needs_mask_key() && !hidden().needs_mask_key());
    let keyed = Arc::new(mapping.with_mask_key(MaskKey::new(b"Jefe")));
    let hashes = |a: Bson, b: Bson| {
        let document = RawDocumentBuf::try_from(&doc! { "_id": 1, "a": a, "b": b }).unwrap();
        assert_eq!(extra(&keyed, &document), Value::Null);
        let row = encode(&keyed, &document).unwrap()["t"][0].clone();
        let text = |column: &Option<Vec<u8>>| column.clone().map(|bytes| String::from_utf8(bytes).unwrap());
        (text(&row[1]), text(&row[2]))
    };
    let hash = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let question = || Bson::from("what do ya want for nothing?");
    assert_eq!(hashes(question(), question()), (Some(hash.into()), Some(hash.into())));
    assert_eq!(hashes(question(), Bson::Null), (Some(hash.into()), None));
    let id = ObjectId::from_bytes([0xab; 12]);
    let (id, hex) = hashes(id.into(), id.to_hex().into());
    assert_eq!(id, hex);
    let (int, text) = hashes(5.into(), "{\"$numberInt\":\"5\"}".into());
    assert_eq!(int, text);
    let (long, document) = hashes(5_i64.into(), doc! { "x": 5 }.into());
    assert!(long != int && document != long && document.unwrap().len() == 64);
    let unkeyed = Arc::new(Mapping::compile(&spec));
    assert_eq!(encode(&unkeyed, &rawdoc! { "_id": 1, "a": "x" }).unwrap()["t"][0][1], None);
    let debug = format!("{:?}", MaskKey::new(b"Jefe"));
    assert_eq!(debug, "MaskKey(..)");
}

/// Omission works on whole documents, too.
#[test]
fn a_whole_document_is_without_what_is_omitted() {
    let options = "extra = \"_extra\"\nomit = [\"a.b\", \"c\"]";
    for form in ["relaxed", "canonical"] {
        let mapping = mapped(options, "text", &format!("[document]\njson = \"{form}\""));
        let full = rawdoc! { "_id": 1, "a": { "b": 1, "x": 5_i64 }, "c": 2, "d": -0.0 };
        let left = rawdoc! { "_id": 1, "a": { "x": 5_i64 }, "d": -0.0 };
        assert_eq!(encode(&mapping, &full), encode(&mapping, &left));
        let odd = rawdoc! { "_id": 1, "a": [{ "b": 1 }] };
        let marked = rawdoc! { "_id": 1, "a": { "$docrow": { "withheld": true } } };
        assert_eq!(encode(&mapping, &odd), encode(&mapping, &marked));
        assert_eq!(mapping.censored(&odd).unwrap(), marked.as_bytes());
    }
}

/// Trap: deep nesting. Only the mapping's paths are followed.
#[test]
fn a_deep_document_is_censored() {
    let mut deep = rawdoc! { "gone": 1 };
    for _ in 0..20_000 {
        deep = rawdoc! { "v": deep };
    }
    let document = rawdoc! { "_id": 1, "gone": 1, "u": deep };
    let censored = hidden().censored(&document).unwrap();
    assert_eq!(censored.len(), document.as_bytes().len() - b"\x10gone\0\x01\0\0\0".len());
}

#[test]
fn without_secrets_a_document_is_kept_as_it_is() {
    let plain = mapping("[columns]\na = { path = \"a\", type = \"bigint\" }");
    let twice = with_duplicates(&[("_id", 1.into()), ("a", 1.into()), ("a", "x".into())]);
    assert_eq!(plain.censored(&twice).unwrap(), twice.as_bytes());
    let mut broken = rawdoc! { "_id": 1, "a": "abc", "gone": 1 }.into_bytes();
    let at = broken.windows(3).position(|window| window == b"abc").unwrap();
    broken[at - 1] = 0x7f;
    let broken = RawDocumentBuf::from_bytes(broken).unwrap();
    assert_eq!(plain.censored(&broken).unwrap(), broken.as_bytes());
    assert_eq!(hidden().censored(&broken), None);
}
