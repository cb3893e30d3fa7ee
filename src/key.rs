//! Document identity: one canonical form for every `_id` that MongoDB takes for the same.
//!
//! MongoDB's unique `_id` index compares numbers by value over all their types, and a symbol as a string;
//! everything else it compares within its type. Embedded documents are compared here by their bytes: field
//! order matters, and numbers inside them keep their type. That is finer than the index, and harmless: a
//! document keeps the `_id` it was inserted with, byte by byte, and all its events carry that.

use mongodb::bson::{Bson, RawDocument, RawDocumentBuf, spec::ElementType};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{Error, Kind, Result},
    number::{Decimal, Number},
};

/// An `_id` as it stands in a document, in whatever encoding its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// Its type.
    pub kind: ElementType,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Id<'a> {
    /// The `_id` of a document, or of an event's `documentKey`.
    pub fn of(document: &'a RawDocument) -> Result<Self> {
        let missing = || Error::bug("read a document: it has no _id");
        // A document begins with its length, an element with its type and name.
        let mut at = 4;
        for element in document.iter_elements() {
            let element = element.map_err(|e| Error::caused(Kind::Bug, "read a document", e))?;
            let start = at + 1 + element.key().as_str().len() + 1;
            at = start + element.size();
            if element.key().as_str() == "_id" {
                let bytes = document.as_bytes().get(start..at).ok_or_else(missing)?;
                return Ok(Self { kind: element.element_type(), bytes });
            }
        }
        Err(missing())
    }

    /// A document with this `_id` and nothing else.
    pub fn document(&self) -> Result<RawDocumentBuf> {
        let element = [&[self.kind as u8], b"_id\0".as_slice(), self.bytes, &[0]].concat();
        let too_long = |e| Error::caused(Kind::Bug, "keep an _id: it is too long", e);
        let length = i32::try_from(4 + element.len()).map_err(too_long)?;
        let document = RawDocumentBuf::from_bytes([&length.to_le_bytes(), &*element].concat());
        document.map_err(|e| Error::caused(Kind::Bug, "keep an _id", e))
    }

    fn array<const N: usize>(&self) -> [u8; N] {
        self.bytes.first_chunk().copied().unwrap_or([0; N])
    }
}

/// A document's identity within its collection. Equal exactly when MongoDB's unique `_id` index says so: `1`,
/// `1.0`, `NumberLong(1)` and `Decimal128("1.0")` are one key, `"1"` is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey(Box<[u8]>);

impl DocumentKey {
    /// The key of an `_id`.
    pub fn of(id: Id<'_>) -> Self {
        match id.kind {
            ElementType::String | ElementType::Symbol => {
                // Its length stands before the text, a NUL after it.
                let text = id.bytes.get(4..id.bytes.len().saturating_sub(1)).unwrap_or_default();
                Self::new(ElementType::String, text)
            }
            ElementType::Int32 => Self::number(Number::Int(i32::from_le_bytes(id.array()).into())),
            ElementType::Int64 => Self::number(Number::Int(i64::from_le_bytes(id.array()))),
            ElementType::Double => Self::number(f64::from_le_bytes(id.array()).into()),
            ElementType::Decimal128 => Self::number(Decimal::from_bytes(id.array()).into()),
            kind => Self::new(kind, id.bytes),
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

/// An `_id` as text, readable and unique: in canonical Extended JSON; of one that is not valid UTF-8, its bytes.
pub fn id_text(document: &RawDocument) -> Result<String> {
    let id = Id::of(document)?;
    match document.get("_id").ok().flatten().map(Bson::try_from) {
        Some(Ok(id)) => Ok(id.into_canonical_extjson().to_string()),
        _ => {
            let hex: String = id.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(format!("{{\"$docrow\":{{\"{:02x}\":\"{hex}\"}}}}", id.kind as u8))
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{
        Binary, DateTime, Decimal128, RawBson, Timestamp, oid::ObjectId, rawdoc, spec::BinarySubtype,
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
