//! `_id`s of every type that MongoDB allows there.

use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, Timestamp, Uuid, doc, oid::ObjectId,
    spec::BinarySubtype,
};

/// All different, in no order.
pub(crate) fn ids_of_all_types() -> Vec<Bson> {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    let binary = |subtype| Bson::Binary(Binary { subtype, bytes: vec![7; 16] });
    let mut ids = vec![
        Bson::MaxKey,
        Bson::MinKey,
        Bson::Null,
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(1.5),
        Bson::Int32(1),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        decimal("2.50"),
        decimal("1E+6000"),
        Bson::String(String::new()),
        Bson::String("1".to_owned()),
        Bson::String("a\0b".to_owned()),
        Bson::Symbol("symbol".to_owned()),
        Bson::ObjectId(ObjectId::from_bytes([0x31; 12])),
        Bson::String("313131313131313131313131".to_owned()),
        Bson::Binary(Uuid::from_bytes([9; 16]).into()),
        binary(BinarySubtype::Generic),
        binary(BinarySubtype::UuidOld),
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::DateTime(DateTime::MIN),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::DateTime(DateTime::MAX),
        Bson::Timestamp(Timestamp { time: 0, increment: 1 }),
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: 0 }),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "a": 1, "b": 2 }),
        Bson::Document(doc! { "b": 2, "a": 1 }),
        Bson::Document(doc! { "a": { "b": [1, Bson::MaxKey] } }),
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "g()".to_owned(),
            scope: doc! { "x": 1 },
        }),
    ];
    ids.extend((100..140).map(Bson::Int32));
    ids.extend((0..40).map(|n| Bson::String(format!("id {n:02}"))));
    ids
}
