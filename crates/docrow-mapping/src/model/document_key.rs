//! Document identity: one canonical form for all `_id`s that MongoDB considers equal.
//!
//! MongoDB's unique `_id` index compares numbers by value across all their types, and a symbol like a string;
//! everything else it compares within its type. It does so at any depth of an embedded document, in which the
//! names and the order of fields matter, but not the names of an array's elements. A document may be replaced
//! by one whose `_id` is equal but has other bytes: it is still the same document. `tests/it/live/keys.rs`
//! asks the server.

use bson::{Bson, RawDocument, RawDocumentBuf, doc, spec::ElementType};
use xxhash_rust::xxh3::xxh3_64;

use super::bson_number::CanonicalNumber;
pub use super::id::Id;
use crate::error::Result;

/// A document's identity within its collection. Equal exactly if MongoDB's unique `_id` index considers them
/// equal: `1`, `1.0`, `NumberLong(1)` and `Decimal128("1.0")` are one key, `"1"` is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey(Box<[u8]>);

impl DocumentKey {
    /// The key of an `_id`.
    pub fn of(id: Id<'_>) -> Self {
        if let Some(number) = id.number() {
            return Self::number(number);
        }
        match id.kind {
            ElementType::String | ElementType::Symbol => {
                // Its length precedes the text, a NUL follows it.
                let text = id.bytes.get(4..id.bytes.len().saturating_sub(1)).unwrap_or_default();
                Self::new(ElementType::String, text)
            }
            kind => match id.canonical() {
                Some((kind, bytes)) => Self::new(kind, &bytes),
                None => Self::new(kind, id.bytes),
            },
        }
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A hash that is the same on every machine and in every version: it partitions documents.
    pub fn hash64(&self) -> u64 {
        xxh3_64(&self.0)
    }

    fn new(kind: ElementType, value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(1 + value.len());
        bytes.push(kind as u8);
        bytes.extend_from_slice(value);
        Self(bytes.into_boxed_slice())
    }

    fn number(number: CanonicalNumber) -> Self {
        match number {
            CanonicalNumber::Int(value) => Self::new(ElementType::Int64, &value.to_be_bytes()),
            CanonicalNumber::Double(value) => Self::new(ElementType::Double, &value.to_bits().to_be_bytes()),
            CanonicalNumber::Decimal { negative, coefficient, exponent } => {
                let (exponent, coefficient) = (exponent.to_be_bytes(), coefficient.to_be_bytes());
                Self::new(
                    ElementType::Decimal128,
                    &[&[u8::from(negative)], &exponent[..], &coefficient].concat(),
                )
            }
        }
    }
}

/// An `_id` as readable text, the same for all that are equal: in canonical Extended JSON; if that is
/// ambiguous, its bytes.
pub fn id_text(document: &RawDocument) -> Result<String> {
    let id = Id::of(document)?;
    let canonical = id.canonical();
    let id = canonical.as_ref().map_or(id, |(kind, bytes)| Id { kind: *kind, bytes });
    let alone = id.document()?;
    let value = alone.get("_id").ok().flatten().and_then(|value| Bson::try_from(value).ok());
    let says_all = |value: &Bson| {
        let again = RawDocumentBuf::try_from(&doc! { "_id": value });
        again.is_ok_and(|again| again == alone)
    };
    if let Some(value) = value.filter(says_all) {
        return Ok(value.into_canonical_extjson().to_string());
    }
    let hex: String = id.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{{\"$docrow\":{{\"{:02x}\":\"{hex}\"}}}}", id.kind as u8))
}

#[cfg(test)]
mod tests {
    use bson::{
        Binary, DateTime, Decimal128, RawBson, RawJavaScriptCodeWithScope, Timestamp, cstr, oid::ObjectId,
        rawdoc, spec::BinarySubtype,
    };
    use proptest::prelude::*;

    use super::*;

    fn key(id: impl Into<RawBson>) -> DocumentKey {
        DocumentKey::of(Id::of(&rawdoc! { "x": "y", "_id": id.into() }).unwrap())
    }

    fn decimal(text: &str) -> Decimal128 {
        text.parse().unwrap()
    }

    /// Trap: 1, 1.0, NumberLong(1) and Decimal128("1.0") are one `_id`.
    #[test]
    fn equal_numbers_are_one_key() {
        for same in [key(1), key(1_i64), key(1.0), key(decimal("1.0")), key(decimal("10E-1"))] {
            assert_eq!(same, key(1));
        }
        assert_eq!(key(-0.0), key(0));
        assert_eq!(key(decimal("-0.00")), key(0));
        assert_eq!(key(f64::NAN), key(-f64::NAN));
        assert_eq!(key(f64::NAN), key(decimal("NaN")));
        assert_eq!(key(f64::INFINITY), key(decimal("Infinity")));
        assert_eq!(key(0.5), key(decimal("0.50")));
        assert_eq!(key(decimal("0.1")), key(decimal("0.10")));
        assert_ne!(key(decimal("0.1")), key(0.1));
        assert_ne!(key(decimal("0.1")), key(decimal("-0.1")));
        assert_ne!(key(decimal("1E+300")), key(decimal("1E+301")));
        assert_ne!(key(9_007_199_254_740_993_i64), key(9_007_199_254_740_992.0));
    }

    /// Trap: strings never collide with other types; field order matters.
    #[test]
    fn different_ids_are_different_keys() {
        let oid = ObjectId::from_bytes([0x61; 12]);
        let binary = |subtype| RawBson::Binary(Binary { subtype, bytes: vec![0x61; 12] });
        let ids: Vec<RawBson> = vec![
            1.into(),
            "1".into(),
            oid.into(),
            oid.to_hex().into(),
            "aaaaaaaaaaaa".into(),
            binary(BinarySubtype::Generic),
            binary(BinarySubtype::Uuid),
            RawBson::Null,
            RawBson::Undefined,
            RawBson::MinKey,
            RawBson::MaxKey,
            true.into(),
            false.into(),
            rawdoc! { "a": 1, "b": 2 }.into(),
            rawdoc! { "b": 2, "a": 1 }.into(),
            DateTime::from_millis(1).into(),
            Timestamp { time: 0, increment: 1 }.into(),
            0.5.into(),
            decimal("0.1").into(),
            f64::NAN.into(),
            "".into(),
        ];
        for (i, left) in ids.iter().enumerate() {
            for (j, right) in ids.iter().enumerate() {
                assert_eq!(key(left.clone()) == key(right.clone()), i == j, "{left:?} {right:?}");
            }
        }
        assert_eq!(key(RawBson::Symbol("a".into())), key("a"));
    }

    /// Trap: invalid UTF-8 in old data.
    #[test]
    fn ids_that_are_no_text_are_keys_too() {
        let document = |byte: u8| {
            let bytes =
                [&[19, 0, 0, 0, 2][..], b"_id\0", &[5, 0, 0, 0, b'a', byte, 0xff, b'b', 0, 0]].concat();
            RawDocumentBuf::from_bytes(bytes).unwrap()
        };
        let key = |byte| DocumentKey::of(Id::of(&document(byte)).unwrap());
        assert_eq!(key(b'x').as_bytes(), b"\x02ax\xffb");
        assert_ne!(key(b'x'), key(0xfe));
        assert_eq!(Id::of(&document(b'x')).unwrap().document().unwrap(), document(b'x'));
        assert_eq!(id_text(&document(b'x')).unwrap(), r#"{"$docrow":{"02":"050000006178ff6200"}}"#);
    }

    fn text(id: impl Into<RawBson>) -> String {
        id_text(&rawdoc! { "_id": id.into() }).unwrap()
    }

    /// Trap: numbers are equal by value also within an embedded document.
    #[test]
    fn equal_values_in_documents_are_one_key() {
        let of = |value: RawBson| rawdoc! { "a": { "b": [value, "x"] } };
        let ones = [RawBson::from(1), 1_i64.into(), 1.0.into(), decimal("1.00").into()];
        for one in &ones {
            assert_eq!(key(of(one.clone())), key(of(1.into())));
            assert_eq!(text(of(one.clone())), r#"{"a":{"b":[{"$numberInt":"1"},"x"]}}"#);
            assert_eq!(text(one.clone()), r#"{"$numberInt":"1"}"#);
        }
        assert_eq!(key(rawdoc! { "a": RawBson::Symbol("x".into()) }), key(rawdoc! { "a": "x" }));
        let code = |x: RawBson| {
            let scope = rawdoc! { "x": x };
            rawdoc! { "c": RawBson::JavaScriptCodeWithScope(RawJavaScriptCodeWithScope { code: "f".into(), scope }) }
        };
        assert_eq!(key(code(1.into())), key(code(1_i64.into())));
        assert_ne!(key(code(1.into())), key(code(2.into())));
        for other in [rawdoc! { "a": 1, "b": 2_i64 }, rawdoc! { "b": 2, "a": 1 }, rawdoc! { "a": [1, 2] }] {
            assert_ne!(key(other), key(rawdoc! { "a": 1, "b": 1 }));
        }
    }

    /// Trap: two fields of one name. What readable text can't represent is represented by bytes.
    #[test]
    fn text_tells_all_ids_apart() {
        let mut twice = rawdoc! { "a": 1 };
        twice.append(cstr!("a"), 2);
        assert_ne!(text(twice.clone()), text(rawdoc! { "a": 2 }));
        assert!(text(twice).starts_with(r#"{"$docrow":{"03":""#));
        assert_eq!(text(RawBson::Symbol("x".into())), r#""x""#);
    }

    /// Trap: deep nesting. Bytes that are no document stay as they are.
    #[test]
    fn deep_and_broken_ids_are_keys() {
        let deep =
            |value: RawBson| (0..5000).fold(rawdoc! { "x": value }, |inner, _| rawdoc! { "a": [inner] });
        assert_eq!(key(deep(1.into())), key(deep(1.0.into())));
        let mut bytes = rawdoc! { "_id": { "a": 1.0 } }.into_bytes();
        // The length of its content.
        bytes[9] = 200;
        let broken = Id { kind: ElementType::EmbeddedDocument, bytes: &bytes[9..] };
        assert_eq!(DocumentKey::of(broken).as_bytes()[1..], bytes[9..]);
    }

    /// The partition of a document must not move between versions.
    #[test]
    fn hashes_do_not_change() {
        assert_eq!(key(rawdoc! { "a": 1 }).as_bytes(), [&[3][..], rawdoc! { "a": 1 }.as_bytes()].concat());
        assert_eq!(key(1).as_bytes(), [0x12, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(key(1).hash64(), 16_724_423_220_529_880_318);
    }

    proptest! {
        #[test]
        fn integers_of_both_kinds_and_doubles_agree(value in any::<i32>()) {
            prop_assert_eq!(key(value), key(i64::from(value)));
            prop_assert_eq!(key(value), key(f64::from(value)));
        }
    }
}
