//! Any document: what is encoded says all of it.

use proptest::prelude::*;

use super::*;

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
    /// Every document has a root row, and `extra` is JSON.
    #[test]
    fn every_document_has_rows(document in anything()) {
        let mapping = mapping(NESTED);
        prop_assert_eq!(encode(&mapping, &document).unwrap()["t"].len(), 1);
        prop_assert!(matches!(extra(&mapping, &document), Value::Null | Value::Object(_)));
    }

    /// The mapping of every sample is valid, and can hold the sample.
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

/// Ids that are often equal, or almost equal.
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
