//! Document identity: one canonical form for every `_id` that MongoDB takes for the same.
//!
//! MongoDB's unique `_id` index compares numbers by value over all their types, and a symbol as a string; everything else
//! it compares within its type. So it does at any depth in an embedded document, in which the names and the order of
//! fields matter, those of an array's elements not. A document may be replaced by one whose `_id` is equal and has other
//! bytes: it is the same document still. `tests/it/live/keys.rs` asks the server.

use bson::{Bson, RawDocument, RawDocumentBuf, doc, raw::RawIter, spec::ElementType};
use xxhash_rust::xxh3::xxh3_64;

use super::bson_number::{Decimal, Number};
use crate::error::{Error, Kind, Result};

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

    /// The one that stands for all `_id`s that are equal to this, if it is another: a whole number in an int32 if it fits,
    /// else in an int64; another number in a double if that has it, else in a `Decimal128`; a string for a symbol; and so
    /// within embedded documents and arrays. What is no BSON stands for itself.
    pub(crate) fn canonical(&self) -> Option<(ElementType, Vec<u8>)> {
        if self.is_plain() {
            return None;
        }
        let canonical = Canonical::of(*self)?;
        (canonical.0 != self.kind || canonical.1 != self.bytes).then_some(canonical)
    }

    /// Whether it is canonical for sure, by its type alone or those of its fields: most are.
    fn is_plain(&self) -> bool {
        use ElementType as T;
        let is_plain = |kind| {
            matches!(
                kind,
                T::Int32 | T::String | T::ObjectId | T::Boolean | T::Null | T::DateTime | T::Binary
            )
        };
        match self.kind {
            ElementType::EmbeddedDocument => RawDocument::from_bytes(self.bytes).is_ok_and(|document| {
                document.iter_elements().all(|field| field.is_ok_and(|field| is_plain(field.element_type())))
            }),
            kind => is_plain(kind),
        }
    }

    fn number(&self) -> Option<Number> {
        Some(match self.kind {
            ElementType::Int32 => Number::Int(i32::from_le_bytes(self.array()).into()),
            ElementType::Int64 => Number::Int(i64::from_le_bytes(self.array())),
            ElementType::Double => f64::from_le_bytes(self.array()).into(),
            ElementType::Decimal128 => Decimal::from_bytes(self.array()).into(),
            _ => return None,
        })
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
        if let Some(number) = id.number() {
            return Self::number(number);
        }
        match id.kind {
            ElementType::String | ElementType::Symbol => {
                // Its length stands before the text, a NUL after it.
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

/// The canonical form of a value, as far as it is written.
#[derive(Default)]
struct Canonical<'a> {
    out: Vec<u8>,
    open: Vec<Open<'a>>,
}

/// A document or array that is being read, and where its canonical form begins.
struct Open<'a> {
    elements: RawIter<'a>,
    bytes: &'a [u8],
    /// Where in its bytes the next element is.
    next: usize,
    /// How many elements of an array there were.
    index: Option<usize>,
    start: usize,
    /// Where the code begins whose scope it is.
    code: Option<usize>,
}

impl<'a> Canonical<'a> {
    fn of(id: Id<'a>) -> Option<(ElementType, Vec<u8>)> {
        let mut writer = Self::default();
        let kind = writer.value(id)?;
        // With a stack of its own: no depth of nesting can overflow the thread's.
        while let Some(open) = writer.open.last_mut() {
            let Some(element) = open.elements.next() else {
                let (start, code) = (open.start, open.code);
                writer.open.pop();
                writer.out.push(0);
                [Some(start), code].into_iter().flatten().try_for_each(|start| writer.fill_in(start))?;
                continue;
            };
            let element = element.ok()?;
            let (name, start) = (element.key().as_str(), open.next);
            // An element begins with its type and name.
            let at = start + 1 + name.len() + 1;
            open.next = at + element.size();
            let id = Id { kind: element.element_type(), bytes: open.bytes.get(at..open.next)? };
            let place = writer.out.len();
            writer.out.push(0);
            match &mut open.index {
                None => writer.out.extend_from_slice(name.as_bytes()),
                Some(index) => {
                    writer.out.extend_from_slice(index.to_string().as_bytes());
                    *index += 1;
                }
            }
            writer.out.push(0);
            let kind = writer.value(id)?;
            *writer.out.get_mut(place)? = kind as u8;
        }
        Some((kind, writer.out))
    }

    /// Appends a value; of a document or array only the beginning. Its type.
    fn value(&mut self, id: Id<'a>) -> Option<ElementType> {
        if let Some(number) = id.number() {
            return Some(self.number(number));
        }
        match id.kind {
            ElementType::EmbeddedDocument => self.open(id.bytes, None, None)?,
            ElementType::Array => self.open(id.bytes, Some(0), None)?,
            ElementType::JavaScriptCodeWithScope => {
                // Its length, then the code, with its own length, and the scope.
                let length = id.bytes.get(4..8)?.first_chunk().copied().map(i32::from_le_bytes)?;
                let scope = usize::try_from(length).ok()?.checked_add(8)?;
                let (code, scope) = id.bytes.split_at_checked(scope)?;
                let start = self.out.len();
                self.out.extend_from_slice(code);
                self.open(scope, None, Some(start))?;
            }
            ElementType::Symbol => {
                self.out.extend_from_slice(id.bytes);
                return Some(ElementType::String);
            }
            _ => self.out.extend_from_slice(id.bytes),
        }
        Some(id.kind)
    }

    fn open(&mut self, bytes: &'a [u8], index: Option<usize>, code: Option<usize>) -> Option<()> {
        let elements = RawDocument::from_bytes(bytes).ok()?.iter_elements();
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.open.push(Open { elements, bytes, next: 4, index, start, code });
        Some(())
    }

    fn number(&mut self, number: Number) -> ElementType {
        let mut put = |bytes: &[u8]| self.out.extend_from_slice(bytes);
        match number {
            Number::Int(value) => match i32::try_from(value) {
                Ok(value) => {
                    put(&value.to_le_bytes());
                    ElementType::Int32
                }
                Err(_) => {
                    put(&value.to_le_bytes());
                    ElementType::Int64
                }
            },
            Number::Double(value) => {
                put(&value.to_le_bytes());
                ElementType::Double
            }
            Number::Decimal { negative, coefficient, exponent } => {
                put(&Decimal::Finite { negative, coefficient, exponent }.to_bytes());
                ElementType::Decimal128
            }
        }
    }

    /// Fills in the length of what begins at `start`.
    fn fill_in(&mut self, start: usize) -> Option<()> {
        let length = i32::try_from(self.out.len() - start).ok()?;
        self.out.get_mut(start..start + 4)?.copy_from_slice(&length.to_le_bytes());
        Some(())
    }
}

/// An `_id` as text, readable, and one for all that are equal: in canonical Extended JSON; where that does not say all
/// there is to say, its bytes.
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

    /// Trap: within an embedded document, too, numbers are equal by their values.
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

    /// Trap: two fields of one name. What readable text does not tell is told by bytes.
    #[test]
    fn text_tells_all_ids_apart() {
        let mut twice = rawdoc! { "a": 1 };
        twice.append(cstr!("a"), 2);
        assert_ne!(text(twice.clone()), text(rawdoc! { "a": 2 }));
        assert!(text(twice).starts_with(r#"{"$docrow":{"03":""#));
        assert_eq!(text(RawBson::Symbol("x".into())), r#""x""#);
    }

    /// Trap: deep nesting. Bytes that are no document stand for themselves.
    #[test]
    fn deep_and_broken_ids_are_keys() {
        let deep =
            |value: RawBson| (0..5000).fold(rawdoc! { "x": value }, |inner, _| rawdoc! { "a": [inner] });
        assert_eq!(key(deep(1.into())), key(deep(1.0.into())));
        let mut bytes = rawdoc! { "_id": { "a": 1.0 } }.into_bytes();
        // The length of what is in it.
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
