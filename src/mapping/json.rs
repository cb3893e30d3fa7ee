//! Canonical Extended JSON (version 2), written straight from raw BSON, with a stack of its own: no depth of
//! nesting can overflow the thread's.
//!
//! What JSON in PostgreSQL can't hold has a form of its own, all under the one key `$docrow`:
//!
//! | BSON | JSON |
//! |---|---|
//! | a string with a NUL or invalid UTF-8 | `{"$docrow":{"string":"<its bytes in base64>"}}` |
//! | a document that JSON would change or that would read as something else | `{"$docrow":{"document":"<its BSON in base64>"}}` |
//!
//! The latter are documents with two fields of one name, with a field name of invalid UTF-8, and with one
//! that begins with `$` and is no part of a DBRef.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use xxhash_rust::xxh3::xxh3_64;

use super::bson::{
    self, ARRAY, BINARY, BOOLEAN, CODE, CODE_WITH_SCOPE, DATE, DB_POINTER, DECIMAL, DOCUMENT, DOUBLE,
    Elements, Fault, INT32, INT64, MAX_KEY, MIN_KEY, NULL, OBJECT_ID, REGEX, Read, STRING, SYMBOL, TIMESTAMP,
    UNDEFINED,
};
use crate::number::Decimal;

/// Writes values; keeps only the memory of its stack.
#[derive(Debug, Default)]
pub(super) struct JsonWriter {
    open: Vec<Open>,
    /// Hashes of the field names of one document.
    names: Vec<u64>,
}

/// A document or array that is being written.
#[derive(Debug)]
struct Open {
    next: usize,
    end: usize,
    array: bool,
    /// What closes it: its own bracket, and that of what it is wrapped in.
    tail: &'static [u8],
}

impl JsonWriter {
    /// Appends the value of type `kind` at `at`.
    pub(super) fn write(&mut self, out: &mut BytesMut, doc: &[u8], kind: u8, at: usize) -> Read<()> {
        self.open.clear();
        self.value(out, doc, kind, at)?;
        while let Some(open) = self.open.last_mut() {
            let mut elements = Elements { next: open.next, end: open.end };
            let Some(element) = elements.advance(doc)? else {
                out.extend_from_slice(open.tail);
                self.open.pop();
                continue;
            };
            open.next = elements.next;
            if out.last() != Some(&b'{') && out.last() != Some(&b'[') {
                out.extend_from_slice(b",");
            }
            if !open.array {
                quoted(out, doc.get(element.name.0..element.name.1).ok_or(Fault::Malformed)?);
                out.extend_from_slice(b":");
            }
            self.value(out, doc, element.kind, element.at)?;
        }
        Ok(())
    }

    /// Appends a value; of a document or array only the beginning.
    fn value(&mut self, out: &mut BytesMut, doc: &[u8], kind: u8, at: usize) -> Read<()> {
        match kind {
            DOCUMENT => self.open(out, doc, at, (b"{", b"}"))?,
            ARRAY => self.open(out, doc, at, (b"[", b"]"))?,
            STRING => string(out, bson::text(doc, at)?),
            INT32 => wrapped_integer(out, b"{\"$numberInt\":\"", bson::int32(doc, at)?.into(), b"\"}"),
            INT64 => long(out, bson::int64(doc, at)?),
            DOUBLE => double(out, bson::double(doc, at)?),
            DECIMAL => decimal(out, Decimal::from_bytes(bson::array_at(doc, at)?)),
            BOOLEAN if bson::boolean(doc, at)? => out.extend_from_slice(b"true"),
            BOOLEAN => out.extend_from_slice(b"false"),
            NULL => out.extend_from_slice(b"null"),
            UNDEFINED => out.extend_from_slice(b"{\"$undefined\":true}"),
            MIN_KEY => out.extend_from_slice(b"{\"$minKey\":1}"),
            MAX_KEY => out.extend_from_slice(b"{\"$maxKey\":1}"),
            OBJECT_ID => object_id(out, bson::array_at(doc, at)?),
            DATE => wrapped_integer(out, b"{\"$date\":{\"$numberLong\":\"", bson::int64(doc, at)?, b"\"}}"),
            TIMESTAMP => timestamp(out, bson::array_at(doc, at)?),
            BINARY => binary(out, bson::binary(doc, at)?),
            REGEX => regex(out, doc, at)?,
            CODE => wrapped_string(out, b"{\"$code\":", bson::text(doc, at)?),
            SYMBOL => wrapped_string(out, b"{\"$symbol\":", bson::text(doc, at)?),
            DB_POINTER => db_pointer(out, doc, at)?,
            CODE_WITH_SCOPE => {
                let code = bson::text(doc, at + 4)?;
                out.extend_from_slice(b"{\"$code\":");
                string(out, code);
                out.extend_from_slice(b",\"$scope\":");
                self.open(out, doc, at + 4 + 4 + code.len() + 1, (b"{", b"}}"))?;
            }
            _ => return Err(Fault::Malformed),
        }
        Ok(())
    }

    fn open(
        &mut self,
        out: &mut BytesMut,
        doc: &[u8],
        at: usize,
        (head, tail): (&'static [u8], &'static [u8]),
    ) -> Read<()> {
        let Elements { next, end } = Elements::of(doc, at)?;
        // A scope must end where the value around it does; only then is it sure to end within what surrounds
        // that.
        if self.open.last().is_some_and(|outer| end >= outer.next) {
            return Err(Fault::Malformed);
        }
        let array = head == b"[";
        if !array && !self.is_plain(doc, at)? {
            out.extend_from_slice(b"{\"$docrow\":{\"document\":\"");
            base64(out, doc.get(at..=end).ok_or(Fault::Malformed)?);
            out.extend_from_slice(b"\"}");
            out.extend_from_slice(tail);
            return Ok(());
        }
        self.open.push(Open { next, end, array, tail });
        out.extend_from_slice(head);
        Ok(())
    }

    /// Whether JSON says all there is to say about the names of the document's fields.
    fn is_plain(&mut self, doc: &[u8], at: usize) -> Read<bool> {
        self.names.clear();
        let mut elements = Elements::of(doc, at)?;
        while let Some(element) = elements.advance(doc)? {
            let name = doc.get(element.name.0..element.name.1).ok_or(Fault::Malformed)?;
            let reserved = name.first() == Some(&b'$') && !matches!(name, b"$ref" | b"$id" | b"$db");
            if reserved || std::str::from_utf8(name).is_err() {
                return Ok(false);
            }
            self.names.push(xxh3_64(name));
        }
        // Equal hashes of different names would do no harm: the other form is as exact.
        self.names.sort_unstable();
        Ok(self.names.windows(2).all(|pair| pair.first() != pair.last()))
    }
}

/// Appends a string, quoted and escaped, or in docrow's own form.
pub(super) fn string(out: &mut BytesMut, text: &[u8]) {
    if bson::is_text(text) {
        return quoted(out, text);
    }
    out.extend_from_slice(b"{\"$docrow\":{\"string\":\"");
    base64(out, text);
    out.extend_from_slice(b"\"}}");
}

/// Appends valid UTF-8 between quotes.
pub(super) fn quoted(out: &mut BytesMut, text: &[u8]) {
    out.extend_from_slice(b"\"");
    escaped(out, text);
    out.extend_from_slice(b"\"");
}

/// Appends valid UTF-8 as it stands between quotes.
pub(super) fn escaped(out: &mut BytesMut, text: &[u8]) {
    let mut rest = text;
    while let Some(plain) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (before, after) = rest.split_at(plain);
        out.extend_from_slice(before);
        let Some((&byte, after)) = after.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                hex(out, &[byte]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

pub(super) fn hex(out: &mut BytesMut, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

fn base64(out: &mut BytesMut, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    let written = BASE64_STANDARD.encode_slice(bytes, target);
    debug_assert_eq!(written, Ok(target.len()));
}

pub(super) fn long(out: &mut BytesMut, value: i64) {
    wrapped_integer(out, b"{\"$numberLong\":\"", value, b"\"}");
}

pub(super) fn double(out: &mut BytesMut, value: f64) {
    let mut buffer = ryu::Buffer::new();
    let text = match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        value if value.is_nan() => "NaN",
        value => buffer.format_finite(value),
    };
    wrapped(out, b"{\"$numberDouble\":\"", text.as_bytes(), b"\"}");
}

pub(super) fn decimal(out: &mut BytesMut, value: Decimal) {
    out.extend_from_slice(b"{\"$numberDecimal\":\"");
    match value {
        Decimal::NaN => out.extend_from_slice(b"NaN"),
        Decimal::Infinite { negative: false } => out.extend_from_slice(b"Infinity"),
        Decimal::Infinite { negative: true } => out.extend_from_slice(b"-Infinity"),
        Decimal::Finite { negative, coefficient, exponent } => finite(out, negative, coefficient, exponent),
    }
    out.extend_from_slice(b"\"}");
}

/// The string form of the Decimal128 specification, which keeps coefficient and exponent apart.
fn finite(out: &mut BytesMut, negative: bool, coefficient: u128, exponent: i32) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(coefficient).as_bytes();
    let count = i32::try_from(digits.len()).unwrap_or(0);
    let scientific = exponent + count - 1;
    if negative {
        out.extend_from_slice(b"-");
    }
    if exponent > 0 || scientific < -6 {
        let (first, rest) = digits.split_at(1);
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.extend_from_slice(b".");
            out.extend_from_slice(rest);
        }
        out.extend_from_slice(if scientific < 0 { b"E" } else { b"E+" });
        integer(out, scientific.into());
    } else if exponent == 0 {
        out.extend_from_slice(digits);
    } else {
        let whole = usize::try_from(count + exponent).unwrap_or(0);
        let zeros = usize::try_from(-(count + exponent)).unwrap_or(0);
        let (before, after) = digits.split_at(whole);
        out.extend_from_slice(if before.is_empty() { b"0" } else { before });
        out.extend_from_slice(b".");
        out.resize(out.len() + zeros, b'0');
        out.extend_from_slice(after);
    }
}

fn object_id(out: &mut BytesMut, id: [u8; 12]) {
    out.extend_from_slice(b"{\"$oid\":\"");
    hex(out, &id);
    out.extend_from_slice(b"\"}");
}

fn timestamp(out: &mut BytesMut, [i0, i1, i2, i3, t0, t1, t2, t3]: [u8; 8]) {
    wrapped_integer(out, b"{\"$timestamp\":{\"t\":", u32::from_le_bytes([t0, t1, t2, t3]).into(), b",\"i\":");
    wrapped_integer(out, b"", u32::from_le_bytes([i0, i1, i2, i3]).into(), b"}}");
}

fn binary(out: &mut BytesMut, (subtype, bytes): (u8, &[u8])) {
    out.extend_from_slice(b"{\"$binary\":{\"base64\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\",\"subType\":\"");
    hex(out, &[subtype]);
    out.extend_from_slice(b"\"}}");
}

fn regex(out: &mut BytesMut, doc: &[u8], at: usize) -> Read<()> {
    let pattern_end = bson::c_string_end(doc, at)?;
    let options_end = bson::c_string_end(doc, pattern_end + 1)?;
    out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
    string(out, doc.get(at..pattern_end).ok_or(Fault::Malformed)?);
    out.extend_from_slice(b",\"options\":");
    string(out, doc.get(pattern_end + 1..options_end).ok_or(Fault::Malformed)?);
    out.extend_from_slice(b"}}");
    Ok(())
}

fn db_pointer(out: &mut BytesMut, doc: &[u8], at: usize) -> Read<()> {
    let namespace = bson::text(doc, at)?;
    out.extend_from_slice(b"{\"$dbPointer\":{\"$ref\":");
    string(out, namespace);
    out.extend_from_slice(b",\"$id\":");
    object_id(out, bson::array_at(doc, at + 4 + namespace.len() + 1)?);
    out.extend_from_slice(b"}}");
    Ok(())
}

fn wrapped_string(out: &mut BytesMut, head: &[u8], text: &[u8]) {
    out.extend_from_slice(head);
    string(out, text);
    out.extend_from_slice(b"}");
}

fn wrapped_integer(out: &mut BytesMut, head: &[u8], value: i64, tail: &[u8]) {
    wrapped(out, head, itoa::Buffer::new().format(value).as_bytes(), tail);
}

fn wrapped(out: &mut BytesMut, head: &[u8], text: &[u8], tail: &[u8]) {
    out.extend_from_slice(head);
    out.extend_from_slice(text);
    out.extend_from_slice(tail);
}

pub(super) fn integer(out: &mut BytesMut, value: i64) {
    wrapped_integer(out, b"", value, b"");
}
