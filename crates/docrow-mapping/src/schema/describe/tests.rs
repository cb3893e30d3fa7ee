//! Mapping files with what the sample shows beside each column.

use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};
use proptest::prelude::*;

use super::*;
use crate::schema::evolve::arbitrary::documents;

fn file(documents: &[Document]) -> (MappingSpec, String) {
    let mut sample = Sample::new();
    for document in documents {
        sample.observe(&RawDocumentBuf::try_from(document).unwrap());
    }
    let namespace = Namespace::new("shop", "users");
    let expected = sample.spec(&namespace, &mut Names::new());
    let (spec, text) = sample.mapping_file(&namespace, documents.len() as u64, &mut Names::new());
    assert_eq!(spec, expected);
    assert_eq!(MappingSpec::parse(&text, "users.toml").expect(&text), spec, "{text}");
    let uncommented = MappingSpec::parse(&uncommented(&text), "users.toml").expect(&text);
    assert!(
        uncommented.tables().zip(spec.tables()).all(|(all, some)| all.columns.len() >= some.columns.len())
    );
    (spec, text)
}

/// The file with all that it proposes.
fn uncommented(text: &str) -> String {
    let is_proposal = |line: &str| line.starts_with("# ") && line.contains(" = { path = ");
    let line = |line: &str| if is_proposal(line) { line[2..].to_owned() } else { line.to_owned() };
    text.lines().map(|text| format!("{}\n", line(text))).collect()
}

#[test]
fn a_file_is_as_one_would_write_it() {
    let id = ObjectId::from_bytes([7; 12]);
    let usual = |i: i32| {
        doc! {
            "_id": i, "name": "x", "total": if i % 2 == 0 { Bson::Double(0.5) } else { Bson::Int32(i) },
            "address": { "zipCode": "x" }, "lines": [{ "sku": "x", "n": 1_i64 << (i % 40) }, { "sku": "y" }],
            "none": null, "never": [], "ref": id, "mixed": if i % 4 == 0 { Bson::Int32(i) } else { "x".into() },
        }
    };
    let mut documents: Vec<_> = (1..=40).map(usual).collect();
    documents[3].insert("name", 7);
    documents[4].insert("address", "x");
    documents[5].insert("lines", vec![Bson::Int32(1)]);
    documents[6].insert("ref", id.to_hex());
    documents[7].insert("note", "x");
    documents[8].insert("scores", (0..250).map(|i| (format!("k{i}"), 1.into())).collect::<Document>());
    let (_, text) = file(&documents);
    let expected = include_str!("../../../../../testdata/infer.toml");
    assert_eq!(text, expected, "{text}");
}

#[test]
fn an_empty_collection_has_a_file() {
    let (spec, text) = file(&[]);
    assert_eq!(spec.key().ty.sql(), "text");
    let first = "# Made by docrow infer while shop.users had no documents: _extra keeps what comes.\n";
    assert!(text.starts_with(first) && text.ends_with("\n[columns]\n"), "{text}");
}

/// G12: comments never hold a document's values.
#[test]
fn comments_hold_no_values() {
    let secret = "hunter2";
    let document = doc! {
        "_id": secret, "a": secret, "b": [secret, 1], "c": [{ "d": secret }], "e": { "f": [secret] },
    };
    let (_, text) = file(&[document, doc! { "_id": 987_654_321, "a": 987_654_321, "c": [987_654_321] }]);
    assert!(!text.contains(secret) && !text.contains("987654321"), "{text}");
    assert!(text.contains("# _id: 50% int, 50% string\n[key]\n"), "{text}");
}

#[test]
fn what_is_left_out_is_said() {
    let wide: Document = (0..400).map(|i| (format!("f{i}"), i.into())).collect();
    let (_, text) = file(&[wide]);
    assert!(text.contains("\n# 1 more: a table gets at most 300 columns; _extra holds the rest\n"), "{text}");
    let lists: Document = (0..101).map(|i| (format!("f{i}"), vec![doc! { "a": 1 }].into())).collect();
    let (_, text) = file(&[lists]);
    assert!(text.contains("\n# f100: no table, there are 100; _extra holds it\n"), "{text}");
    let (_, text) = file(&[doc! { "": 1 }]);
    assert!(text.contains("\n# A field whose name is empty "), "{text}");
}

proptest! {
    /// The file reads back as the mapping that it describes, and with all that it proposes it is a mapping, too.
    #[test]
    fn a_file_reads_back(documents in documents()) {
        file(&documents);
    }
}
