//! Raw BSON: in place, where a value ends and what it holds; and put together. Every read is checked; bytes
//! that are no BSON are an [`EncodeFault`], never a panic.
//!
//! Offsets are into the whole document, so that a type and one offset identify a value. The specification is
//! <https://bsonspec.org/spec.html>.

use std::ops::Range;

/// Why a document can't have rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EncodeFault {
    /// The bytes are no BSON.
    Malformed,
    /// There is no `_id`.
    NoKey,
    /// The `_id` does not fit the key column.
    KeyMisfit,
    /// The `_id` is too long for an index.
    KeyTooLong,
    /// A value is longer than PostgreSQL allows.
    TooLong,
    /// A value does not fit its mapped column or table, and may not go to `extra`.
    Misfit,
    /// No column holds a value, and there is no `extra`.
    Unmapped,
}

impl EncodeFault {
    pub(super) fn reason(self) -> &'static str {
        match self {
            EncodeFault::Malformed => "the bytes are not valid BSON",
            EncodeFault::NoKey => "the document has no _id",
            EncodeFault::KeyMisfit => "the _id does not fit the type of the key column",
            EncodeFault::KeyTooLong => {
                "the _id is longer than the 2,600 bytes that a PostgreSQL index allows"
            }
            EncodeFault::TooLong => "a value is longer than the 256 MB that jsonb allows",
            EncodeFault::Misfit => "the value does not fit its column or table",
            EncodeFault::Unmapped => "no column holds the field, and the mapping has no extra column",
        }
    }
}

pub(super) type EncodeResult<T> = Result<T, EncodeFault>;

pub(super) const DOUBLE: u8 = 0x01;
pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const BINARY: u8 = 0x05;
pub(super) const UNDEFINED: u8 = 0x06;
pub(super) const OBJECT_ID: u8 = 0x07;
pub(super) const BOOLEAN: u8 = 0x08;
pub(super) const DATE: u8 = 0x09;
pub(super) const NULL: u8 = 0x0a;
pub(super) const REGEX: u8 = 0x0b;
pub(super) const DB_POINTER: u8 = 0x0c;
pub(super) const CODE: u8 = 0x0d;
pub(super) const SYMBOL: u8 = 0x0e;
pub(super) const CODE_WITH_SCOPE: u8 = 0x0f;
pub(super) const INT32: u8 = 0x10;
pub(super) const TIMESTAMP: u8 = 0x11;
pub(super) const INT64: u8 = 0x12;
pub(super) const DECIMAL: u8 = 0x13;
pub(super) const MAX_KEY: u8 = 0x7f;
pub(super) const MIN_KEY: u8 = 0xff;

/// The server's name of a type, in `$type`.
pub(super) fn type_name(kind: u8) -> &'static str {
    match kind {
        DOUBLE => "double",
        STRING => "string",
        DOCUMENT => "object",
        ARRAY => "array",
        BINARY => "binData",
        UNDEFINED => "undefined",
        OBJECT_ID => "objectId",
        BOOLEAN => "bool",
        DATE => "date",
        NULL => "null",
        REGEX => "regex",
        DB_POINTER => "dbPointer",
        CODE | CODE_WITH_SCOPE => "javascript",
        SYMBOL => "symbol",
        INT32 => "int",
        TIMESTAMP => "timestamp",
        INT64 => "long",
        DECIMAL => "decimal",
        MAX_KEY => "maxKey",
        MIN_KEY => "minKey",
        _ => "unknown",
    }
}

/// The offset after the value at `at`, within `bytes`.
#[inline]
pub(super) fn end_of(kind: u8, bytes: &[u8], at: usize) -> EncodeResult<usize> {
    let size = match kind {
        DOUBLE | DATE | TIMESTAMP | INT64 => 8,
        STRING | CODE | SYMBOL => 4 + length(bytes, at, 1)?,
        DOCUMENT | ARRAY => length(bytes, at, 5)?,
        INT32 => 4,
        BOOLEAN => 1,
        OBJECT_ID => 12,
        NULL | UNDEFINED | MIN_KEY | MAX_KEY => 0,
        BINARY => 5 + length(bytes, at, 0)?,
        DECIMAL => 16,
        CODE_WITH_SCOPE => length(bytes, at, 14)?,
        DB_POINTER => 16 + length(bytes, at, 1)?,
        REGEX => {
            let options = c_string_end(bytes, at)? + 1;
            return Ok(c_string_end(bytes, options)? + 1);
        }
        _ => return Err(EncodeFault::Malformed),
    };
    let end = at + size;
    if end <= bytes.len() { Ok(end) } else { Err(EncodeFault::Malformed) }
}

/// The length at `at`, if it is at least `least`.
#[inline]
fn length(bytes: &[u8], at: usize, least: usize) -> EncodeResult<usize> {
    let length = usize::try_from(int32(bytes, at)?).map_err(|_| EncodeFault::Malformed)?;
    if length >= least { Ok(length) } else { Err(EncodeFault::Malformed) }
}

/// The offset of the NUL that ends the text at `at`.
#[inline]
pub(super) fn c_string_end(bytes: &[u8], at: usize) -> EncodeResult<usize> {
    let rest = bytes.get(at..).ok_or(EncodeFault::Malformed)?;
    rest.iter().position(|&byte| byte == 0).map(|length| at + length).ok_or(EncodeFault::Malformed)
}

#[inline]
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> EncodeResult<[u8; N]> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(EncodeFault::Malformed)
}

#[inline]
pub(super) fn int32(bytes: &[u8], at: usize) -> EncodeResult<i32> {
    array_at(bytes, at).map(i32::from_le_bytes)
}

#[inline]
pub(super) fn int64(bytes: &[u8], at: usize) -> EncodeResult<i64> {
    array_at(bytes, at).map(i64::from_le_bytes)
}

#[inline]
pub(super) fn double(bytes: &[u8], at: usize) -> EncodeResult<f64> {
    array_at(bytes, at).map(f64::from_le_bytes)
}

#[inline]
pub(super) fn boolean(bytes: &[u8], at: usize) -> EncodeResult<bool> {
    match bytes.get(at) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(EncodeFault::Malformed),
    }
}

/// The bytes of a string, code or symbol, in whatever encoding they are.
#[inline]
pub(super) fn text(bytes: &[u8], at: usize) -> EncodeResult<&[u8]> {
    let start = at + 4;
    let end = start + length(bytes, at, 1)?;
    match bytes.get(start..end) {
        Some([text @ .., 0]) => Ok(text),
        _ => Err(EncodeFault::Malformed),
    }
}

/// A binary's subtype and bytes.
pub(super) fn binary(bytes: &[u8], at: usize) -> EncodeResult<(u8, &[u8])> {
    let start = at + 5;
    let content = bytes.get(start..start + length(bytes, at, 0)?).ok_or(EncodeFault::Malformed)?;
    Ok((*bytes.get(at + 4).ok_or(EncodeFault::Malformed)?, content))
}

/// Whether `bytes` can be a PostgreSQL text: valid UTF-8 without NUL.
#[inline]
pub(super) fn is_text(bytes: &[u8]) -> bool {
    // One pass without branches that the compiler turns into vector instructions: most text is ASCII.
    let (all, least) =
        bytes.iter().fold((0, 0xff), |(all, least): (u8, u8), &byte| (all | byte, least.min(byte)));
    least != 0 && (all < 0x80 || std::str::from_utf8(bytes).is_ok())
}

/// A value: the document that it is in, its type, and its offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueAt<'a> {
    pub(super) doc: &'a [u8],
    pub(super) kind: u8,
    pub(super) at: usize,
}

/// A value that was found, by type and offset. Type 0: none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValueSlot {
    pub(super) kind: u8,
    pub(super) at: usize,
}

impl ValueSlot {
    pub(super) fn in_document(self, doc: &[u8]) -> ValueAt<'_> {
        let Self { kind, at } = self;
        ValueAt { doc, kind, at }
    }
}

/// One element of a document or array.
pub(super) struct BsonElement {
    pub(super) kind: u8,
    /// Where the name is, without its NUL.
    pub(super) name: Range<usize>,
    /// Where the value starts.
    pub(super) at: usize,
}

/// The elements of a document or array.
pub(super) struct BsonElements {
    /// Where the next element starts.
    pub(super) next: usize,
    /// Where the terminator is.
    pub(super) end: usize,
}

impl BsonElements {
    /// The elements of the document or array at `at`.
    #[inline]
    pub(super) fn at(bytes: &[u8], at: usize) -> EncodeResult<Self> {
        let end = at + length(bytes, at, 5)? - 1;
        match bytes.get(end) {
            Some(0) => Ok(Self { next: at + 4, end }),
            _ => Err(EncodeFault::Malformed),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.end
    }

    #[inline]
    pub(super) fn advance(&mut self, bytes: &[u8]) -> EncodeResult<Option<BsonElement>> {
        if self.is_empty() {
            return Ok(None);
        }
        let bytes = bytes.get(..self.end).ok_or(EncodeFault::Malformed)?;
        let kind = *bytes.get(self.next).ok_or(EncodeFault::Malformed)?;
        let name = self.next + 1..c_string_end(bytes, self.next + 1)?;
        let at = name.end + 1;
        self.next = end_of(kind, bytes, at)?;
        Ok(Some(BsonElement { kind, name, at }))
    }
}

/// The document's `_id`: mostly its first field.
pub(super) fn first_key(doc: &[u8]) -> EncodeResult<ValueSlot> {
    let mut elements = BsonElements::at(doc, 0)?;
    while let Some(element) = elements.advance(doc)? {
        if doc.get(element.name) == Some(b"_id") {
            return Ok(ValueSlot { kind: element.kind, at: element.at });
        }
    }
    Err(EncodeFault::NoKey)
}

/// What was appended for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParsedField {
    /// A value of this type.
    Value(u8),
    /// The mapping withholds the value.
    Withheld,
}

/// Appends a string's value, or a code's or symbol's.
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    out.extend_from_slice(&i32::try_from(text.len() + 1).ok()?.to_le_bytes());
    out.extend_from_slice(text);
    out.push(0);
    Some(())
}

/// Appends a binary's value.
pub(super) fn put_binary(out: &mut Vec<u8>, subtype: u8, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&i32::try_from(bytes.len()).ok()?.to_le_bytes());
    out.push(subtype);
    out.extend_from_slice(bytes);
    Some(())
}

/// Leaves room for a length.
pub(super) fn begin(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len() - 4
}

/// Appends an element whose value `write` appends; nothing if it is withheld.
pub(super) fn element(
    out: &mut Vec<u8>,
    name: &[u8],
    write: impl FnOnce(&mut Vec<u8>) -> Option<ParsedField>,
) -> Option<ParsedField> {
    let start = out.len();
    out.push(0);
    out.extend_from_slice(name);
    out.push(0);
    let told = write(out)?;
    match (told, out.get_mut(start)) {
        (ParsedField::Value(kind), Some(place)) => *place = kind,
        _ => out.truncate(start),
    }
    Some(told)
}

/// Ends the document or array that began at `start`.
pub(super) fn end(out: &mut Vec<u8>, start: usize) -> Option<()> {
    out.push(0);
    fill_in(out, start)
}

/// Fills in the length of what began at `start`, including itself.
pub(super) fn fill_in(out: &mut [u8], start: usize) -> Option<()> {
    let length = i32::try_from(out.len().checked_sub(start)?).ok()?;
    out.get_mut(start..start + 4)?.copy_from_slice(&length.to_le_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use ::bson::rawdoc;

    use super::*;

    #[test]
    fn finds_every_element() {
        let document = rawdoc! { "a": 1, "bc": "x", "d": { "e": [] } };
        let bytes = document.as_bytes();
        let mut elements = BsonElements::at(bytes, 0).unwrap();
        let mut seen = Vec::new();
        while let Some(element) = elements.advance(bytes).unwrap() {
            seen.push((element.kind, &bytes[element.name]));
        }
        assert_eq!(seen, [(INT32, &b"a"[..]), (STRING, b"bc"), (DOCUMENT, b"d")]);
    }

    #[test]
    fn text_is_utf8_without_nul() {
        for good in ["", "a", "é", "plain ascii, longer than one vector register of any kind", "日本語"] {
            assert!(is_text(good.as_bytes()), "{good}");
        }
        for bad in [&b"\0"[..], b"a\0b", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", "é\0".as_bytes()] {
            assert!(!is_text(bad), "{bad:?}");
        }
    }
}
