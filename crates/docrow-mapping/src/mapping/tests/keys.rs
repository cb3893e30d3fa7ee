//! The `_id` in key columns.

use super::*;

/// Issue: `_id`s of all types arrive unchanged.
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
        "_id: the _id is longer than the 2,600 bytes that a PostgreSQL index allows"
    );
    assert!(encode(&keyed("text", ""), &rawdoc! { "a": 1, "_id": "x".repeat(2600) }).is_ok());
}
