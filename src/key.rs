//! Document identity: one canonical form for every `_id` that MongoDB takes for the same.
//!
//! MongoDB's unique `_id` index compares numbers by value over all their types, and a symbol as a string;
//! everything else it compares within its type. Embedded documents are compared here by their bytes: field
//! order matters, and numbers inside them keep their type. That is finer than the index, and harmless: a
//! document keeps the `_id` it was inserted with, byte by byte, and all its events carry that.

use mongodb::bson::{Bson, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, spec::ElementType};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{Error, Kind, Result},
    number::{Decimal, Number},
};

/// A document's identity within its collection. Equal exactly when MongoDB's unique `_id` index says so: `1`,
/// `1.0`, `NumberLong(1)` and `Decimal128("1.0")` are one key, `"1"` is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey(Box<[u8]>);

impl DocumentKey {
    /// The key of an `_id`.
    pub fn of(id: RawBsonRef<'_>) -> Self {
        match id {
            RawBsonRef::ObjectId(id) => Self::new(ElementType::ObjectId, &id.bytes()),
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => {
                Self::new(ElementType::String, text.as_bytes())
            }
            RawBsonRef::Int32(value) => Self::number(Number::Int(value.into())),
            RawBsonRef::Int64(value) => Self::number(Number::Int(value)),
            RawBsonRef::Double(value) => Self::number(value.into()),
            RawBsonRef::Decimal128(value) => Self::number(Decimal::from_bytes(value.bytes()).into()),
            other => Self::new(other.element_type(), value_bytes(other).as_ref()),
        }
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A hash that is the same on every machine and in every version: documents are partitioned by it.
    pub fn hash64(&self) -> u64 {
        xxh3_64(&self.0)
    }

    fn new(kind: ElementType, value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(1 + value.len());
        bytes.push(kind as u8);
        bytes.extend_from_slice(value);
        Self(bytes.into_boxed_slice())
    }

    fn number(number: Number) -> Self {
        match number {
            Number::Int(value) => Self::new(ElementType::Int64, &value.to_be_bytes()),
            Number::Double(value) => Self::new(ElementType::Double, &value.to_bits().to_be_bytes()),
            Number::Decimal { negative, coefficient, exponent } => {
                let (exponent, coefficient) = (exponent.to_be_bytes(), coefficient.to_be_bytes());
                Self::new(
                    ElementType::Decimal128,
                    &[&[u8::from(negative)], &exponent[..], &coefficient].concat(),
                )
            }
        }
    }
}

/// The value's bytes as they stand in a document.
fn value_bytes(value: RawBsonRef<'_>) -> Box<[u8]> {
    const BEFORE: usize = 6; // the document's length, the type, the empty name
    let mut document = RawDocumentBuf::new();
    document.append(cstr!(""), value);
    let bytes = document.as_bytes();
    bytes.get(BEFORE..bytes.len() - 1).unwrap_or_default().into()
}

/// The `_id` of a document, or of an event's `documentKey`.
pub fn id_of(document: &RawDocument) -> Result<RawBsonRef<'_>> {
    let missing = || Error::bug("read a document: it has no _id");
    document.get("_id").ok().flatten().ok_or_else(missing)
}

/// An `_id` as text, readable and unique: in canonical Extended JSON.
pub fn id_text(document: &RawDocument) -> Result<String> {
    let unreadable = |e| Error::caused(Kind::Bug, "read a document's _id", e);
    Ok(Bson::try_from(id_of(document)?).map_err(unreadable)?.into_canonical_extjson().to_string())
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{
        Binary, DateTime, Decimal128, RawBson, Timestamp, oid::ObjectId, rawdoc, spec::BinarySubtype,
    };
    use proptest::prelude::*;

    use super::*;

    fn key(id: impl Into<RawBson>) -> DocumentKey {
        DocumentKey::of(id.into().as_raw_bson_ref())
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

    /// The partition of a document must not move between versions.
    #[test]
    fn hashes_do_not_change() {
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
