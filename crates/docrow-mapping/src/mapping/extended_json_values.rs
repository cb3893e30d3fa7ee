//! Values without fields in Extended JSON (version 2), and docrow's extensions.
//!
//! Values that JSON in PostgreSQL can't hold, or that Extended JSON can't express, have their own form, all
//! under the single key `$docrow`:
//!
//! | BSON | JSON |
//! |---|---|
//! | a string with a NUL or invalid UTF-8 | `{"$docrow":{"string":"<its bytes in base64>"}}` |
//! | a double that is a NaN of unusual bits | `{"$docrow":{"double":"<its 8 bytes>"}}` |
//! | a Decimal128 of unusual bits | `{"$docrow":{"decimal":"<its 16 bytes>"}}` |
//! | a binary of subtype 2 whose two lengths do not agree | `{"$docrow":{"binary":"<the value's bytes>"}}` |
//! | a document that JSON can't say (`extended_json_write`) | `{"$docrow":{"document":"<its BSON>"}}` |
//! | what a mapping withholds | `{"$docrow":{"withheld":true}}` |

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::BytesMut;

use super::bson::{self, EncodeFault, EncodeResult};
use crate::model::bson_number::Decimal;

/// The form of a value that a mapping withholds.
pub(super) const WITHHELD: &[u8] = b"{\"$docrow\":{\"withheld\":true}}";

/// Appends one of docrow's own forms.
pub(super) fn own(out: &mut BytesMut, name: &str, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$docrow\":{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\"}}");
}

/// Appends a string, quoted and escaped, or in docrow's own form.
pub(super) fn string(out: &mut BytesMut, text: &[u8]) {
    if bson::is_text(text) {
        return quoted(out, text);
    }
    own(out, "string", text);
}

/// Appends valid UTF-8 between quotes.
pub(super) fn quoted(out: &mut BytesMut, text: &[u8]) {
    out.extend_from_slice(b"\"");
    escaped(out, text);
    out.extend_from_slice(b"\"");
}

/// Appends valid UTF-8 as it is between quotes.
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

pub(super) fn int(out: &mut BytesMut, value: i32) {
    wrapped_integer(out, b"{\"$numberInt\":\"", value.into(), b"\"}");
}

pub(super) fn long(out: &mut BytesMut, value: i64) {
    wrapped_integer(out, b"{\"$numberLong\":\"", value, b"\"}");
}

pub(super) fn double(out: &mut BytesMut, value: f64) {
    if value.is_nan() && value.to_bits() != f64::NAN.to_bits() {
        return own(out, "double", &value.to_le_bytes());
    }
    let mut buffer = ryu::Buffer::new();
    let text = match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        value if value.is_nan() => "NaN",
        value => buffer.format_finite(value),
    };
    wrapped(out, b"{\"$numberDouble\":\"", text.as_bytes(), b"\"}");
}

/// Appends a finite double as a JSON number with a decimal point, which distinguishes it from an integer.
pub(super) fn relaxed_double(out: &mut BytesMut, value: f64) {
    // Below this, the shortest form has a point or a negative exponent; jsonb keeps either as decimals.
    const LARGE: f64 = 1e16;
    if !value.is_finite() {
        double(out, value);
    } else if value.abs() < LARGE {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        // Writing to a buffer can't fail.
        let _ = write!(out, "{value}.0");
    }
}

/// Appends a Decimal128 by its bytes.
pub(super) fn decimal_of(out: &mut BytesMut, bytes: [u8; 16]) {
    let value = Decimal::from_bytes(bytes);
    if value.to_bytes() == bytes { decimal(out, value) } else { own(out, "decimal", &bytes) }
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

pub(super) fn date(out: &mut BytesMut, millis: i64) {
    wrapped_integer(out, b"{\"$date\":{\"$numberLong\":\"", millis, b"\"}}");
}

/// Appends a date in ISO 8601 from 1970 to 9999, as specified, else in canonical form.
pub(super) fn relaxed_date(out: &mut BytesMut, millis: i64) {
    const END: i64 = 253_402_300_800_000;
    if !(0..END).contains(&millis) {
        return date(out, millis);
    }
    let (year, month, day) = civil(millis / 86_400_000);
    let (hour, minute) = (millis / 3_600_000 % 24, millis / 60_000 % 60);
    let (second, milli) = (millis / 1000 % 60, millis % 1000);
    // Writing to a buffer can't fail.
    let _ = write!(out, "{{\"$date\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let _ = if milli == 0 { out.write_str("Z\"}") } else { write!(out, ".{milli:03}Z\"}}") };
}

/// The year, month and day of a number of days after 1970, in the Gregorian calendar. Years are counted from
/// March here, so that the leap day is the last one, and the lengths of months follow one line.
pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    const TO_YEAR_0: i64 = 719_468;
    let (era, day) = ((days + TO_YEAR_0) / 146_097, (days + TO_YEAR_0) % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, next_year) = (day - (153 * month + 2) / 5 + 1, i64::from(month >= 10));
    (era * 400 + year + next_year, month + 3 - 12 * next_year, day)
}

pub(super) fn object_id(out: &mut BytesMut, id: [u8; 12]) {
    out.extend_from_slice(b"{\"$oid\":\"");
    hex(out, &id);
    out.extend_from_slice(b"\"}");
}

pub(super) fn timestamp(out: &mut BytesMut, [i0, i1, i2, i3, t0, t1, t2, t3]: [u8; 8]) {
    wrapped_integer(out, b"{\"$timestamp\":{\"t\":", u32::from_le_bytes([t0, t1, t2, t3]).into(), b",\"i\":");
    wrapped_integer(out, b"", u32::from_le_bytes([i0, i1, i2, i3]).into(), b"}}");
}

/// Appends the binary at `at`. The old subtype 2 has a second length, which the standard's form leaves out.
pub(super) fn binary(out: &mut BytesMut, doc: &[u8], at: usize) -> EncodeResult<()> {
    let (subtype, mut bytes) = bson::binary(doc, at)?;
    if subtype == 2 {
        match bytes.split_first_chunk() {
            Some((length, inner)) if usize::try_from(i32::from_le_bytes(*length)) == Ok(inner.len()) => {
                bytes = inner;
            }
            _ => {
                let whole = doc.get(at..at + 5 + bytes.len()).ok_or(EncodeFault::Malformed)?;
                own(out, "binary", whole);
                return Ok(());
            }
        }
    }
    out.extend_from_slice(b"{\"$binary\":{\"base64\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\",\"subType\":\"");
    hex(out, &[subtype]);
    out.extend_from_slice(b"\"}}");
    Ok(())
}

pub(super) fn regex(out: &mut BytesMut, doc: &[u8], at: usize) -> EncodeResult<()> {
    let pattern_end = bson::c_string_end(doc, at)?;
    let options_end = bson::c_string_end(doc, pattern_end + 1)?;
    out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
    string(out, doc.get(at..pattern_end).ok_or(EncodeFault::Malformed)?);
    out.extend_from_slice(b",\"options\":");
    string(out, doc.get(pattern_end + 1..options_end).ok_or(EncodeFault::Malformed)?);
    out.extend_from_slice(b"}}");
    Ok(())
}

pub(super) fn db_pointer(out: &mut BytesMut, doc: &[u8], at: usize) -> EncodeResult<()> {
    let namespace = bson::text(doc, at)?;
    out.extend_from_slice(b"{\"$dbPointer\":{\"$ref\":");
    string(out, namespace);
    out.extend_from_slice(b",\"$id\":");
    object_id(out, bson::array_at(doc, at + 4 + namespace.len() + 1)?);
    out.extend_from_slice(b"}}");
    Ok(())
}

pub(super) fn wrapped_string(out: &mut BytesMut, head: &[u8], text: &[u8]) {
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
