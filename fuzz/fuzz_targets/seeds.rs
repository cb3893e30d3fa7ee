//! What the fuzzer begins with: documents of the users workload, one of every BSON type, deep ones.

use std::{fs, path::Path};

use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc,
    oid::ObjectId, spec::BinarySubtype,
};

use crate::{GROWN, users};

/// How many mappings there are, or a few more.
const MAPPINGS: u8 = 16;

/// Writes the seeds to where `cargo fuzz` looks for a corpus.
pub fn plant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/mapping");
    fs::create_dir_all(&corpus).expect("make the folder of the corpus");
    let documents = [users::user(1, 1), users::user(1, 2), every_type(), deep(100), deep(2000)];
    let raw = documents.iter().map(|document| document.as_bytes()[4..document.as_bytes().len() - 1].to_vec());
    let grown = (0..8_u8).map(|i| (0..200).map(|n: u8| n.wrapping_mul(37 + 2 * i) ^ i).collect::<Vec<u8>>());
    for choice in 0..MAPPINGS {
        let of_choice =
            raw.clone().map(|raw| (choice, raw)).chain(grown.clone().map(|grown| (choice | GROWN, grown)));
        for (number, (choice, bytes)) in of_choice.enumerate() {
            let seed = [&[choice][..], &bytes].concat();
            fs::write(corpus.join(format!("seed-{choice}-{number}")), seed).expect("write a seed");
        }
    }
}

fn every_type() -> RawDocumentBuf {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().expect("it is a decimal"));
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let values = [
        Bson::Double(1.5),
        Bson::Double(f64::NAN),
        Bson::Double(-0.0),
        "text".into(),
        "a\0\"\\é".into(),
        doc! { "x": 1 }.into(),
        Bson::Array(vec![1.into(), Bson::Null, "x".into()]),
        binary(BinarySubtype::Generic, b"binary"),
        binary(BinarySubtype::BinaryOld, b"old"),
        binary(BinarySubtype::Uuid, &[7; 16]),
        Bson::Undefined,
        ObjectId::from_bytes([1; 12]).into(),
        true.into(),
        DateTime::from_millis(1_700_000_000_000).into(),
        Bson::Null,
        Bson::RegularExpression(Regex {
            pattern: "^a".try_into().expect("it has no NUL"),
            options: "i".try_into().expect("it has no NUL"),
        }),
        Bson::JavaScriptCode("code".into()),
        Bson::Symbol("symbol".into()),
        JavaScriptCodeWithScope { code: "code".into(), scope: doc! { "x": 1 } }.into(),
        7.into(),
        Timestamp { time: 1, increment: 2 }.into(),
        (1_i64 << 40).into(),
        7_i64.into(),
        decimal("1.50"),
        decimal("-1E+30"),
        decimal("NaN"),
        Bson::MinKey,
        Bson::MaxKey,
    ];
    let mut document = doc! { "_id": "key" };
    for (number, value) in values.iter().enumerate() {
        document.insert(format!("f{number}"), value.clone());
    }
    let rows: Vec<_> = values
        .iter()
        .map(|value| doc! { "a": value.clone(), "k": [{ "o": { "x": value.clone() } }] })
        .collect();
    document.insert("m", rows.clone());
    document.insert("g", vec![vec![doc! { "k": rows }]]);
    document.insert("o", doc! { "x": "y", "o": { "a": decimal("1") }, "gone": 1 });
    RawDocumentBuf::try_from(&document).expect("it is a document")
}

fn deep(levels: i32) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for level in 0..levels {
        let mut outer = RawDocumentBuf::new();
        let name =
            if level % 2 == 0 { bson::raw::cstr!("a") } else { bson::raw::cstr!("m") };
        outer.append(name, document);
        document = outer;
    }
    document.append(bson::raw::cstr!("_id"), 1);
    document
}
