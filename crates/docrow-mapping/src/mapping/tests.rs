//! The whole path: from documents to decoded rows.

mod any;
mod extra;
mod hidden;
mod keys;
mod limits;
mod options;
mod rebuild;
mod values;

use std::{collections::BTreeMap, sync::Arc};

use ::bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocument, RawDocumentBuf, Regex,
    Timestamp, doc, oid::ObjectId, rawdoc, spec::BinarySubtype,
};
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

type DecodedRow = Vec<Option<Vec<u8>>>;

fn mapping(columns: &str) -> Arc<Mapping> {
    keyed("bigint", columns)
}

fn keyed(key: &str, columns: &str) -> Arc<Mapping> {
    mapped("extra = \"_extra\"", key, columns)
}

/// A mapping with the given options and columns.
fn mapped(options: &str, key: &str, columns: &str) -> Arc<Mapping> {
    let head =
        format!("collection = \"a.b\"\ntable = \"t\"\n{options}\n[key]\ncolumn = \"id\"\ntype = \"{key}\"\n");
    Arc::new(Mapping::compile(&MappingSpec::parse(&format!("{head}{columns}"), "t.toml").unwrap()))
}

fn encode(
    mapping: &Arc<Mapping>,
    document: &RawDocument,
) -> Result<BTreeMap<String, Vec<DecodedRow>>, EncodeError> {
    let mut rows = Rows::new(mapping.tables().len());
    Encoder::new(Arc::clone(mapping), Framing::Copy).encode(document, &mut rows)?;
    let table = |(table, rows): (&Table, &TableRows)| {
        let tuples: Vec<DecodedRow> = rows
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

const NESTED: &str = "[columns]\nc = { path = \"o.p.c\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"n\"]\n\
    [tables.columns]\nx = { path = \"x.y\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"g\"\npath = \"g[][]\"\nparent = \"p\"\nordinals = [\"n\", \"o\"]\n\
    [tables.columns]\nx = { path = \"x\", type = \"bigint\" }\n";

/// A document with several fields of one name, which no builder creates.
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

/// Memory is bounded, even if a long name is repeated before every element.
#[test]
fn paths_can_not_grow_without_bound() {
    let name = "n".repeat(1_000_000);
    let elements: Vec<Bson> = vec![Bson::Int32(0); 300];
    let document = RawDocumentBuf::try_from(&doc! { "_id": 1, &name: elements }).unwrap();
    let columns =
        format!("[[tables]]\ntable = \"m\"\npath = \"{name}[]\"\nparent = \"p\"\nordinals = [\"n\"]\n");
    let mut rows = Rows::new(2);
    let unfit = Encoder::new(mapping(&columns), Framing::Copy).encode(&document, &mut rows).unwrap_err();
    assert_eq!(unfit.reason, "a value is longer than the 256 MB that jsonb allows");
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
