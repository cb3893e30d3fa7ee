//! The walk, from documents to decoded rows.

mod hidden;
mod limits;
mod options;

use std::{collections::BTreeMap, sync::Arc};

use ::bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocument, RawDocumentBuf, Regex,
    Timestamp, doc, oid::ObjectId, rawdoc, spec::BinarySubtype,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    model::{
        change::Namespace,
        table::{ColumnType, DELETED_AT, Scalar, Table},
    },
    schema::{MappingSpec, Names, Sample},
};

const USERS: &str = include_str!("../../../../schemas/users.toml");

type Row = Vec<Option<Vec<u8>>>;

fn mapping(columns: &str) -> Arc<Mapping> {
    keyed("bigint", columns)
}

fn keyed(key: &str, columns: &str) -> Arc<Mapping> {
    mapped("extra = \"_extra\"", key, columns)
}

/// A mapping with these options and columns.
fn mapped(options: &str, key: &str, columns: &str) -> Arc<Mapping> {
    let head =
        format!("collection = \"a.b\"\ntable = \"t\"\n{options}\n[key]\ncolumn = \"id\"\ntype = \"{key}\"\n");
    Arc::new(Mapping::compile(&MappingSpec::parse(&format!("{head}{columns}"), "t.toml").unwrap()))
}

fn encode(mapping: &Arc<Mapping>, document: &RawDocument) -> Result<BTreeMap<String, Vec<Row>>, EncodeError> {
    let mut rows = Rows::new(mapping.tables().len());
    Encoder::new(Arc::clone(mapping), Framing::Copy).encode(document, &mut rows)?;
    let table = |(table, rows): (&Table, &TableRows)| {
        let tuples: Vec<Row> = rows
            .tuples()
            .map(|tuple| tuple.columns().map(|column| column.map(<[u8]>::to_vec)).collect())
            .collect();
        assert_eq!(tuples.len(), rows.count);
        assert!(tuples.iter().all(|tuple| tuple.len() == table.columns.len()));
        (table.name.clone(), tuples)
    };
    Ok(mapping.tables().iter().zip(&rows.tables).map(table).collect())
}

/// The root's `extra`.
fn extra(mapping: &Arc<Mapping>, document: &RawDocument) -> Value {
    let rows = encode(mapping, document).unwrap();
    match rows["t"][0].last().unwrap() {
        None => Value::Null,
        Some(bytes) => {
            assert_eq!(bytes[0], 1);
            serde_json::from_slice(&bytes[1..]).unwrap()
        }
    }
}

/// The bytes of the one column of type `ty`, and `extra`.
fn column(ty: &str, value: impl Into<Bson>) -> (Option<Vec<u8>>, Value) {
    let mapping = mapping(&format!("[columns]\na = {{ path = \"a\", type = \"{ty}\" }}"));
    let document = RawDocumentBuf::try_from(&doc! { "_id": 1, "a": value }).unwrap();
    let rows = encode(&mapping, &document).unwrap();
    (rows["t"][0][1].clone(), extra(&mapping, &document))
}

fn fits(ty: &str, value: impl Into<Bson>, bytes: &[u8]) {
    let value = value.into();
    assert_eq!(column(ty, value.clone()), (Some(bytes.to_vec()), Value::Null), "{value:?} in {ty}");
}

fn misfit(ty: &str, value: impl Into<Bson>, note: Value) {
    let value = value.into();
    assert_eq!(column(ty, value.clone()), (None, json!({ "a": note })), "{value:?} in {ty}");
}

fn decimal(text: &str) -> Decimal128 {
    text.parse().unwrap()
}

pub(super) fn user(id: i32) -> RawDocumentBuf {
    let at = DateTime::from_millis(1_700_000_000_000);
    let entry = |i: i32| doc! { "key": format!("key{i}"), "value": "v".repeat(40), "timestamp": at, "metadata": "m".repeat(60) };
    let entries = |count| (0..count).map(entry).collect::<Vec<_>>();
    let attachment =
        |i: i32| doc! { "name": format!("file{i}.pdf"), "size": i * 1000, "type": "application/pdf" };
    let message = |i: i32| {
        doc! {
            "id": format!("msg{i}"), "from": "alice", "to": "bob", "subject": "On rows", "body": "b".repeat(200),
            "timestamp": at, "read": i % 2 == 0, "attachments": (0..i % 3).map(attachment).collect::<Vec<_>>(),
        }
    };
    let group = |i: i32| doc! { "id": format!("g{i}"), "name": "Group", "joined": at };
    let document = doc! {
        "_id": id, "username": format!("user{id}"), "email": "u@example.org", "firstName": "Ada", "lastName": "Lovelace",
        "age": 36, "createdAt": at, "updatedAt": at,
        "address": {
            "street": "1 Main St", "city": "London", "state": "LDN", "zipCode": "N1", "country": "UK",
            "coordinates": { "lat": 51.5, "lng": -0.125 },
        },
        "profile": {
            "bio": "x".repeat(300), "interests": ["a", "b", "c"], "skills": ["d", "e"],
            "education": [{ "institution": "I", "degree": "D", "year": 1835, "description": "d".repeat(100) }],
            "experience": [
                { "company": "C", "position": "P", "duration": "2 years", "description": "d".repeat(100) },
                { "company": "C", "position": "P", "duration": "3 years", "description": "d".repeat(100) },
            ],
        },
        "preferences": {
            "language": "en", "timezone": "UTC", "notifications": { "email": true, "push": false, "sms": true },
            "settings": entries(4),
        },
        "activityLog": entries(8), "transactions": entries(6), "messages": (0..5).map(message).collect::<Vec<_>>(),
        "socialMedia": { "connections": ["u1", "u2"], "posts": entries(3), "groups": [group(1), group(2)] },
        "largeData": { "blob1": "1".repeat(200), "blob2": "2".repeat(200), "blob3": "3".repeat(200), "blob4": "4".repeat(200), "blob5": "5".repeat(200) },
    };
    RawDocumentBuf::try_from(&document).unwrap()
}

#[test]
fn a_user_becomes_rows_of_15_tables() {
    let mapping = Arc::new(Mapping::compile(&MappingSpec::parse(USERS, "users.toml").unwrap()));
    let rows = encode(&mapping, &user(7)).unwrap();
    let counts: BTreeMap<_, _> = rows.iter().map(|(table, rows)| (table.as_str(), rows.len())).collect();
    let expected = BTreeMap::from([
        ("users", 1),
        ("addresses", 1),
        ("profiles", 1),
        ("education", 1),
        ("experience", 2),
        ("preferences", 1),
        ("settings", 4),
        ("activity_log", 8),
        ("transactions", 6),
        ("messages", 5),
        ("attachments", 4),
        ("social_media", 1),
        ("posts", 3),
        ("groups", 2),
        ("large_data", 1),
    ]);
    assert_eq!(counts, expected);
    assert!(rows.values().flatten().all(|row| row[0] == Some(7_i64.to_be_bytes().to_vec())));
    // Messages 1 and 4 have one attachment, message 2 has two; messages 0 and 3 have an empty array.
    let ordinals: Vec<_> = rows["attachments"]
        .iter()
        .map(|row| (row[1].as_ref().unwrap()[7], row[2].as_ref().unwrap()[7]))
        .collect();
    assert_eq!(ordinals, [(1, 0), (2, 0), (2, 1), (4, 0)]);
    let extra: Value =
        serde_json::from_slice(&rows["users"][0].last().unwrap().as_ref().unwrap()[1..]).unwrap();
    assert_eq!(extra, json!({ "messages.0.attachments": [], "messages.3.attachments": [] }));
    assert_eq!(rows["addresses"][0][6], Some(51.5_f64.to_be_bytes().to_vec()));
}

/// Both framings carry the same columns; the composite one says each column's type.
fn same_in_both_framings(mapping: &Arc<Mapping>, document: &RawDocument) {
    let copied = encode(mapping, document).unwrap();
    let mut rows = Rows::new(mapping.tables().len());
    Encoder::new(Arc::clone(mapping), Framing::Composite).encode(document, &mut rows).unwrap();
    for (table, rows) in mapping.tables().iter().zip(&rows.tables) {
        let mut rest = &rows.bytes[..];
        let mut take = |count: usize| {
            let (taken, after) = rest.split_at(count);
            rest = after;
            taken.to_vec()
        };
        let number = |bytes: Vec<u8>| i32::from_be_bytes(bytes.try_into().unwrap());
        let mut decoded = Vec::new();
        for _ in 0..rows.count {
            let length = number(take(4));
            let mut used = 4;
            assert_eq!(number(take(4)), i32::try_from(table.columns.len()).unwrap());
            let mut row = Vec::new();
            for column in &table.columns {
                assert_eq!(number(take(4)), i32::try_from(column.ty.oid()).unwrap());
                let size = number(take(4));
                used += 8 + size.max(0);
                row.push(usize::try_from(size).ok().map(&mut take));
            }
            assert_eq!(length, used);
            decoded.push(row);
        }
        assert!(take(0).is_empty() && rest.is_empty());
        assert_eq!(decoded, copied[&table.name]);
    }
}

#[test]
fn framings_carry_the_same_rows() {
    let mapping = Arc::new(Mapping::compile(&MappingSpec::parse(USERS, "users.toml").unwrap()));
    same_in_both_framings(&mapping, &user(7));
}

#[test]
fn values_that_fit() {
    let micros = |unix_millis: i64| ((unix_millis - 946_684_800_000) * 1000).to_be_bytes();
    fits("boolean", true, &[1]);
    fits("integer", -5, &(-5_i32).to_be_bytes());
    fits("bigint", i64::MIN, &i64::MIN.to_be_bytes());
    fits("double precision", 0.1, &0.1_f64.to_be_bytes());
    fits("double precision", f64::NEG_INFINITY, &f64::NEG_INFINITY.to_be_bytes());
    fits("numeric", decimal("1.50"), &[0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88]);
    fits("numeric", decimal("NaN"), &[0, 0, 0, 0, 0xc0, 0, 0, 0]);
    fits("text", "é", "é".as_bytes());
    fits("text", ObjectId::from_bytes([0xab; 12]), b"abababababababababababab");
    fits("bytea", ObjectId::from_bytes([0xab; 12]), &[0xab; 12]);
    fits("bytea", Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] }, &[1, 2]);
    fits("uuid", Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] }, &[9; 16]);
    fits("timestamptz", DateTime::from_millis(0), &micros(0));
    fits("timestamptz", DateTime::from_millis(-1), &micros(-1));
    fits(
        "jsonb",
        doc! { "b": 1, "a": [true, Bson::Null] },
        b"\x01{\"b\":{\"$numberInt\":\"1\"},\"a\":[true,null]}",
    );
    fits("jsonb", Bson::Null, b"\x01null");
    fits("text[]", Vec::<String>::new(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25]);
    let array = [
        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255,
        255,
    ];
    fits("integer[]", vec![Bson::Int32(7), Bson::Null], &array);
}

/// Traps: 3.5, numbers out of range, NUL, dates and subtypes that PostgreSQL has not. The column is NULL,
/// `extra` has the value.
#[test]
fn values_that_do_not_fit() {
    misfit("bigint", 3.5, json!({ "$numberDouble": "3.5" }));
    misfit("bigint", 9_223_372_036_854_775_808.0, json!({ "$numberDouble": "9.223372036854776e18" }));
    misfit("integer", 1_i64 << 31, json!({ "$numberLong": "2147483648" }));
    misfit("double precision", 9_007_199_254_740_993_i64, json!({ "$numberLong": "9007199254740993" }));
    misfit("double precision", decimal("0.1"), json!({ "$numberDecimal": "0.1" }));
    misfit("numeric", 0.1, json!({ "$numberDouble": "0.1" }));
    misfit("numeric", decimal("-Infinity"), json!({ "$numberDecimal": "-Infinity" }));
    misfit("text", "a\0b", json!({ "$docrow": { "string": "YQBi" } }));
    misfit("text", 1, json!({ "$numberInt": "1" }));
    misfit("text", true, json!(true));
    misfit("text", Bson::Null, json!(null));
    misfit("boolean", 1, json!({ "$numberInt": "1" }));
    let millis = |millis: i64| json!({ "$date": { "$numberLong": millis.to_string() } });
    for outside in [i64::MAX, i64::MIN, -210_866_803_200_001, 9_224_318_016_000_000] {
        misfit("timestamptz", DateTime::from_millis(outside), millis(outside));
    }
    misfit("timestamptz", Timestamp { time: 1, increment: 2 }, json!({ "$timestamp": { "t": 1, "i": 2 } }));
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    misfit(
        "uuid",
        binary(BinarySubtype::UuidOld, &[0; 3]),
        json!({ "$binary": { "base64": "AAAA", "subType": "03" } }),
    );
    misfit(
        "bytea",
        binary(BinarySubtype::Md5, &[0; 3]),
        json!({ "$binary": { "base64": "AAAA", "subType": "05" } }),
    );
    misfit("integer[]", vec![Bson::Int32(1), Bson::String("x".into())], json!([{ "$numberInt": "1" }, "x"]));
    misfit("integer[]", 1, json!({ "$numberInt": "1" }));
    misfit("integer[]", vec![Bson::Array(vec![])], json!([[]]));
    misfit("integer", vec![1], json!([{ "$numberInt": "1" }]));
}

/// The first and last instants that PostgreSQL has.
#[test]
fn dates_at_the_limits_fit() {
    for inside in [-210_866_803_200_000, 9_224_318_015_999_999] {
        assert!(column("timestamptz", DateTime::from_millis(inside)).0.is_some(), "{inside}");
    }
}

/// What `numeric` and `bigint` can't say of a Decimal128 or of -0 is noted beside the value.
#[test]
fn values_that_are_more_than_their_column_says() {
    let noted = |ty, value: Bson, note| {
        let (bytes, extra) = column(ty, value);
        assert!(bytes.is_some());
        assert_eq!(extra, json!({ "a": note }));
    };
    noted("numeric", decimal("1E+3").into(), json!({ "$numberDecimal": "1E+3" }));
    noted("numeric", decimal("-0.0").into(), json!({ "$numberDecimal": "-0.0" }));
    noted("numeric", (-0.0).into(), json!({ "$numberDouble": "-0.0" }));
    noted("bigint", (-0.0).into(), json!({ "$numberDouble": "-0.0" }));
    noted("bigint", decimal("7.00").into(), json!({ "$numberDecimal": "7.00" }));
    noted("double precision", decimal("0.50").into(), json!({ "$numberDecimal": "0.50" }));
}

/// Every BSON type has a canonical Extended JSON form.
#[test]
fn extra_holds_every_type() {
    let document = doc! {
        "_id": 1,
        "double": 1.5, "nan": f64::NAN, "text": "q\"\\\n\u{1}é", "object": { "x": 1_i64 }, "array": [1, [2]], "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![255; 16] },
        "undefined": Bson::Undefined, "oid": ObjectId::from_bytes([1; 12]), "bool": false, "date": DateTime::from_millis(-1), "null": Bson::Null,
        "regex": Regex { pattern: "^a\"".try_into().unwrap(), options: "ix".try_into().unwrap() },
        "code": Bson::JavaScriptCode("x".into()), "symbol": Bson::Symbol("s".into()),
        "scope": JavaScriptCodeWithScope { code: "c".into(), scope: doc! { "a": { "b": 1 } } },
        "timestamp": Timestamp { time: u32::MAX, increment: 2 }, "min": Bson::MinKey, "max": Bson::MaxKey,
        "decimals": (["1.50", "1E+3", "-1.5E-10", "0.00001", "1234E-2", "0E-7"].map(|text| Bson::Decimal128(decimal(text))).to_vec()),
    };
    let note = extra(&mapping(""), &RawDocumentBuf::try_from(&document).unwrap());
    let decimals = ["1.50", "1E+3", "-1.5E-10", "0.00001", "12.34", "0E-7"]
        .map(|text| json!({ "$numberDecimal": text }));
    let expected = json!({
        "double": { "$numberDouble": "1.5" }, "nan": { "$numberDouble": "NaN" }, "text": "q\"\\\n\u{1}é", "object": { "x": { "$numberLong": "1" } },
        "array": [{ "$numberInt": "1" }, [{ "$numberInt": "2" }]], "uuid": { "$binary": { "base64": "/////////////////////w==", "subType": "04" } },
        "undefined": { "$undefined": true }, "oid": { "$oid": "010101010101010101010101" }, "bool": false, "date": { "$date": { "$numberLong": "-1" } },
        "null": null, "regex": { "$regularExpression": { "pattern": "^a\"", "options": "ix" } }, "code": { "$code": "x" }, "symbol": { "$symbol": "s" },
        "scope": { "$code": "c", "$scope": { "a": { "b": { "$numberInt": "1" } } } }, "timestamp": { "$timestamp": { "t": u32::MAX, "i": 2 } },
        "min": { "$minKey": 1 }, "max": { "$maxKey": 1 },
        "decimals": decimals,
    });
    assert_eq!(note, expected);
}

/// The crate's own Decimal128 text is the specification's.
#[test]
fn decimals_are_written_as_the_specification_says() {
    for text in [
        "0",
        "-0",
        "0.000001",
        "1E-7",
        "12345678901234567890.1234",
        "9.999999999999999999999999999999999E+6144",
        "1E-6176",
        "0E+6111",
    ] {
        let value = decimal(text);
        assert_eq!(column("text", value).1, json!({ "a": { "$numberDecimal": value.to_string() } }));
    }
}

#[test]
fn a_db_pointer_is_kept() {
    let mut document = rawdoc! { "_id": 1 }.into_bytes();
    document.pop();
    document.extend_from_slice(b"\x0cp\0\x03\0\0\0ns\0abcdefghijkl\0");
    let length = i32::try_from(document.len()).unwrap();
    document[..4].copy_from_slice(&length.to_le_bytes());
    let document = RawDocumentBuf::from_bytes(document).unwrap();
    let id = ObjectId::from_bytes(*b"abcdefghijkl").to_hex();
    assert_eq!(
        extra(&mapping(""), &document),
        json!({ "p": { "$dbPointer": { "$ref": "ns", "$id": { "$oid": id } } } })
    );
}

const NESTED: &str = "[columns]\nc = { path = \"o.p.c\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"n\"]\n\
    [tables.columns]\nx = { path = \"x.y\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"g\"\npath = \"g[][]\"\nparent = \"p\"\nordinals = [\"n\", \"o\"]\n\
    [tables.columns]\nx = { path = \"x\", type = \"bigint\" }\n";

/// Missing, null and empty differ; elements that are no rows are kept by index.
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

/// A document with several fields of one name, which no builder makes.
fn with_duplicates(fields: &[(&str, Bson)]) -> RawDocumentBuf {
    let mut bytes = vec![0; 4];
    for (name, value) in fields {
        let one = RawDocumentBuf::try_from(&doc! { *name: value.clone() }).unwrap();
        bytes.extend_from_slice(&one.as_bytes()[4..one.as_bytes().len() - 1]);
    }
    bytes.push(0);
    let length = i32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

/// Trap: duplicate keys are legal on the wire. The last one wins for the column, all are kept.
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

fn text_key(id: impl Into<Bson>) -> (String, Value) {
    let document = RawDocumentBuf::try_from(&doc! { "_id": id.into() }).unwrap();
    let mapping = keyed("text", "");
    let rows = encode(&mapping, &document).unwrap();
    let key = rows["t"][0][0].clone().unwrap();
    let mut alone = bytes::BytesMut::new();
    Encoder::new(Arc::clone(&mapping), Framing::Copy).encode_key(&document, &mut alone).unwrap();
    assert_eq!(&alone[..], key);
    (String::from_utf8(key).unwrap(), extra(&mapping, &document))
}

/// Issue: `_id`s of all types arrive, each as itself.
#[test]
fn a_text_key_says_every_id() {
    let hex = "0123456789abcdef01234567";
    let exact = |text: &str| (text.to_owned(), Value::Null);
    assert_eq!(text_key("plain"), exact("plain"));
    assert_eq!(text_key(""), exact(""));
    assert_eq!(text_key("1"), exact("1"));
    assert_eq!(text_key(hex), exact("\"0123456789abcdef01234567\""));
    assert_eq!(text_key(hex.to_uppercase()), exact(&hex.to_uppercase()));
    assert_eq!(text_key(ObjectId::parse_str(hex).unwrap()), exact(hex));
    assert_eq!(text_key("null"), exact("\"null\""));
    assert_eq!(text_key(Bson::Null), exact("null"));
    assert_eq!(text_key("{"), exact("\"{\""));
    assert_eq!(text_key("\"a\""), exact(r#""\"a\"""#));
    assert_eq!(text_key("a\0"), exact(r#""a\u0000""#));
    assert_eq!(text_key(true), exact("true"));
    assert_eq!(text_key(5_i64), exact(r#"{"$numberLong":"5"}"#));
    assert_eq!(text_key(0.5), exact(r#"{"$numberDouble":"0.5"}"#));
    assert_eq!(text_key(f64::NAN), exact(r#"{"$numberDouble":"NaN"}"#));
    assert_eq!(text_key(decimal("0.1")), exact(r#"{"$numberDecimal":"0.1"}"#));
    assert_eq!(text_key(doc! { "b": 1, "a": "x" }), exact(r#"{"b":{"$numberInt":"1"},"a":"x"}"#));
    assert_eq!(text_key(DateTime::from_millis(1)), exact(r#"{"$date":{"$numberLong":"1"}}"#));
    assert_eq!(text_key(Timestamp { time: 1, increment: 2 }), exact(r#"{"$timestamp":{"t":1,"i":2}}"#));
    assert_eq!(text_key(Bson::MinKey), exact(r#"{"$minKey":1}"#));
    assert_eq!(text_key(Bson::MaxKey), exact(r#"{"$maxKey":1}"#));
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![0; 16] };
    assert_eq!(text_key(uuid), exact(r#"{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}}"#));
}

/// One key for equal numbers; which of them it was is noted.
#[test]
fn a_key_that_does_not_say_its_type_is_noted() {
    let one = r#"{"$numberLong":"1"}"#.to_owned();
    assert_eq!(text_key(1), (one.clone(), json!({ "_id": { "$numberInt": "1" } })));
    assert_eq!(text_key(1.0), (one.clone(), json!({ "_id": { "$numberDouble": "1.0" } })));
    assert_eq!(text_key(decimal("1.0")), (one, json!({ "_id": { "$numberDecimal": "1.0" } })));
    assert_eq!(
        text_key(decimal("0.50")),
        (r#"{"$numberDouble":"0.5"}"#.into(), json!({ "_id": { "$numberDecimal": "0.50" } }))
    );
    let document = rawdoc! { "_id": 1.0 };
    assert_eq!(extra(&mapping(""), &document), json!({ "_id": { "$numberDouble": "1.0" } }));
    assert_eq!(extra(&mapping(""), &rawdoc! { "_id": 1_i64 << 31 }), Value::Null);
    assert_eq!(extra(&mapping(""), &rawdoc! { "_id": 1_i64 }), json!({ "_id": { "$numberLong": "1" } }));
}

#[test]
fn documents_without_a_fitting_key_are_unfit() {
    let reason =
        |key: &str, document: RawDocumentBuf| encode(&keyed(key, ""), &document).unwrap_err().to_string();
    assert_eq!(
        reason("bigint", rawdoc! { "_id": "x" }),
        "_id: the _id does not fit the type of the key column"
    );
    assert_eq!(
        reason("bigint", rawdoc! { "_id": 1.5 }),
        "_id: the _id does not fit the type of the key column"
    );
    assert_eq!(reason("uuid", rawdoc! { "_id": 1 }), "_id: the _id does not fit the type of the key column");
    let twelve = Binary { subtype: BinarySubtype::Generic, bytes: vec![0; 12] };
    assert_eq!(
        reason("bytea", rawdoc! { "_id": twelve }),
        "_id: the _id does not fit the type of the key column"
    );
    assert_eq!(reason("text", rawdoc! { "a": 1 }), "the document has no _id");
    let long = "x".repeat(2601);
    assert_eq!(
        reason("text", rawdoc! { "_id": long }),
        "_id: the _id is longer than the 2,600 bytes that a PostgreSQL index takes"
    );
    assert!(encode(&keyed("text", ""), &rawdoc! { "a": 1, "_id": "x".repeat(2600) }).is_ok());
}

/// Memory is bounded: a long name repeated before every element can't grow without end.
#[test]
fn paths_can_not_grow_without_bound() {
    let name = "n".repeat(1_000_000);
    let elements: Vec<Bson> = vec![Bson::Int32(0); 300];
    let document = RawDocumentBuf::try_from(&doc! { "_id": 1, &name: elements }).unwrap();
    let columns =
        format!("[[tables]]\ntable = \"m\"\npath = \"{name}[]\"\nparent = \"p\"\nordinals = [\"n\"]\n");
    let mut rows = Rows::new(2);
    let unfit = Encoder::new(mapping(&columns), Framing::Copy).encode(&document, &mut rows).unwrap_err();
    assert_eq!(unfit.reason, "a value is longer than the 256 MB that jsonb takes");
    assert_eq!((rows.byte_len(), rows.row_count()), (0, 0));
}

#[test]
fn an_unfit_document_leaves_nothing_behind() {
    let mapping = mapping(NESTED);
    let mut encoder = Encoder::new(Arc::clone(&mapping), Framing::Copy);
    let mut rows = Rows::new(3);
    let good = rawdoc! { "_id": 1, "m": [{}, {}] };
    encoder.encode(&good, &mut rows).unwrap();
    let before: Vec<_> = rows.tables.iter().map(|table| (table.bytes.to_vec(), table.count)).collect();
    let mut bad = rawdoc! { "_id": 1, "m": [{}, { "x": { "y": "abc" } }] }.into_bytes();
    let at = bad.windows(3).position(|window| window == b"abc").unwrap();
    bad[at - 1] = 0x7f;
    let bad = RawDocumentBuf::from_bytes(bad).unwrap();
    let unfit = encoder.encode(&bad, &mut rows).unwrap_err();
    assert_eq!(
        unfit,
        EncodeError { path: "m.1.x".into(), reason: "the bytes are not valid BSON", stops: false }
    );
    assert_eq!(
        rows.tables.iter().map(|table| (table.bytes.to_vec(), table.count)).collect::<Vec<_>>(),
        before
    );
    encoder.encode(&good, &mut rows).unwrap();
    assert_eq!(rows.tables[0].bytes.len(), 2 * before[0].0.len());
}

fn any_bson() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<f64>().prop_map(Bson::Double),
        any::<bool>().prop_map(Bson::Boolean),
        "(?s).{0,8}".prop_map(Bson::String),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
        any::<[u8; 16]>().prop_map(|bytes| Bson::Decimal128(Decimal128::from_bytes(bytes))),
        any::<i64>().prop_map(|millis| Bson::DateTime(DateTime::from_millis(millis))),
        prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })),
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        (any::<u32>(), any::<u32>())
            .prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::vec(("[a-z.$\\\\]{0,3}", inner), 0..4).prop_map(|fields| Bson::Document(
                fields.into_iter().filter(|(name, _)| !name.contains('\0')).collect()
            )),
        ]
    })
}

fn anything() -> impl Strategy<Value = RawDocumentBuf> {
    let names = prop::sample::select(vec!["o", "m", "g", "x", "c", "zz"]);
    prop::collection::vec((names, any_bson()), 0..6).prop_map(|fields| {
        let fields: Vec<_> = std::iter::once(("_id", Bson::Int32(1))).chain(fields).collect();
        with_duplicates(&fields)
    })
}

proptest! {
    /// Whatever a document holds, it has a root row, and `extra` is JSON.
    #[test]
    fn every_document_has_rows(document in anything()) {
        let mapping = mapping(NESTED);
        prop_assert_eq!(encode(&mapping, &document).unwrap()["t"].len(), 1);
        prop_assert!(matches!(extra(&mapping, &document), Value::Null | Value::Object(_)));
    }

    /// Whatever a sample holds, its mapping is a valid one, and takes the sample.
    #[test]
    fn every_sample_has_a_mapping(documents in prop::collection::vec(anything(), 0..5)) {
        let mut sample = Sample::new();
        documents.iter().for_each(|document| sample.observe(document));
        let spec = sample.spec(&Namespace::new("a", "t"), &mut Names::new());
        prop_assert_eq!(&MappingSpec::parse(&spec.to_toml(), "t.toml").unwrap(), &spec);
        let mapping = Arc::new(Mapping::compile(&spec));
        for document in &documents {
            prop_assert_eq!(encode(&mapping, document).unwrap()["t"].len(), 1);
        }
    }

    /// Two text keys are equal exactly when the documents' keys are.
    #[test]
    fn text_keys_are_injective(left in any_id(), right in any_id()) {
        let key = |id: &Bson| {
            let document = RawDocumentBuf::try_from(&doc! { "_id": id.clone() }).unwrap();
            crate::model::document_key::DocumentKey::of(crate::model::document_key::Id::of(&document).unwrap())
        };
        prop_assert_eq!(key(&left) == key(&right), text_key(left).0 == text_key(right).0);
    }
}

/// Ids that are often equal, or nearly.
fn any_id() -> impl Strategy<Value = Bson> {
    let near = (-1_i32..3, 0_usize..8).prop_map(|(value, form)| match form {
        0 => Bson::Int32(value),
        1 => Bson::Int64(value.into()),
        2 => Bson::Double(f64::from(value) / 2.0),
        3 => Bson::Decimal128(decimal(&format!("{value}.50"))),
        4 => Bson::Decimal128(decimal(&format!("{value}E-1"))),
        5 => Bson::String(value.to_string()),
        6 => Bson::String(format!("{{\"$numberLong\":\"{value}\"}}")),
        _ => Bson::Symbol(value.to_string()),
    });
    prop_oneof![near, any_bson()]
}
