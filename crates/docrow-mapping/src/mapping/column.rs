//! Converts the bytes of one column back to a BSON value: the reverse of [`super::value`]. Bytes that docrow
//! does not write are `None`.

use ::bson::{Bson, RawDocumentBuf};

use super::{
    bson::{
        self, ARRAY, BINARY, BOOLEAN, DATE, DECIMAL, DOUBLE, INT32, INT64, NULL, OBJECT_ID, ParsedField,
        STRING,
    },
    extended_json_parse, numeric, tuples,
    value::{self, OBJECT_ID_BYTES},
};
use crate::model::{
    bson_number,
    table::{ColumnType, Reading, Scalar},
};

/// Appends the bytes of the BSON value in a column of type `ty`.
pub(super) fn read(out: &mut Vec<u8>, ty: ColumnType, bytes: &[u8]) -> Option<ParsedField> {
    if ty.array { array(out, ty, bytes).map(ParsedField::Value) } else { scalar(out, ty, bytes) }
}

fn scalar(out: &mut Vec<u8>, ty: ColumnType, bytes: &[u8]) -> Option<ParsedField> {
    let kind = match ty.scalar {
        Scalar::Boolean => put(out, BOOLEAN, &[u8::from(*array_of::<1>(bytes)? != [0])]),
        Scalar::Integer => integer(out, ty.reading, i32::from_be_bytes(*array_of(bytes)?).into()),
        Scalar::Bigint => integer(out, ty.reading, i64::from_be_bytes(*array_of(bytes)?)),
        Scalar::Double => double(out, ty.reading, f64::from_be_bytes(*array_of(bytes)?)),
        Scalar::Numeric => put(out, DECIMAL, &numeric::read(bytes)?.to_bytes()),
        Scalar::Text => text(out, bytes)?,
        Scalar::Bytea if bytes.len() == OBJECT_ID_BYTES => put(out, OBJECT_ID, bytes),
        Scalar::Bytea => bson::put_binary(out, 0, bytes).map(|()| BINARY)?,
        Scalar::Uuid => bson::put_binary(out, 4, array_of::<16>(bytes)?).map(|()| BINARY)?,
        Scalar::Timestamptz => {
            let millis = value::unix_millis(i64::from_be_bytes(*array_of(bytes)?))?;
            put(out, DATE, &millis.to_le_bytes())
        }
        Scalar::Jsonb => return extended_json_parse::value(out, &extended_json_parse::jsonb(bytes)?),
    };
    Some(ParsedField::Value(kind))
}

/// A column's value for people: in relaxed Extended JSON, `jsonb` unchanged; bytes that docrow does not write
/// in hexadecimal.
pub fn value_text(ty: ColumnType, bytes: &[u8]) -> String {
    if let (Scalar::Jsonb, false, Some(json)) = (ty.scalar, ty.array, bytes.strip_prefix(b"\x01")) {
        return String::from_utf8_lossy(json).into_owned();
    }
    let told = || {
        let document = single(b"v", |out| read(out, ty, bytes))?;
        Some(Bson::try_from(document.get("v").ok()??).ok()?.into_relaxed_extjson().to_string())
    };
    told().unwrap_or_else(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A document with one field, whose value `write` appends.
pub(super) fn single(
    name: &[u8],
    write: impl FnOnce(&mut Vec<u8>) -> Option<ParsedField>,
) -> Option<RawDocumentBuf> {
    let mut out = Vec::new();
    let start = bson::begin(&mut out);
    bson::element(&mut out, name, write)?;
    bson::end(&mut out, start)?;
    RawDocumentBuf::from_bytes(out).ok()
}

fn array(out: &mut Vec<u8>, ty: ColumnType, bytes: &[u8]) -> Option<u8> {
    let start = bson::begin(out);
    for (index, element) in tuples::elements(bytes)?.enumerate() {
        let mut name = itoa::Buffer::new();
        bson::element(out, name.format(index).as_bytes(), |out| match element? {
            Some(element) => scalar(out, ty, element),
            None => Some(ParsedField::Value(NULL)),
        })?;
    }
    bson::end(out, start)?;
    Some(ARRAY)
}

fn array_of<const N: usize>(bytes: &[u8]) -> Option<&[u8; N]> {
    bytes.try_into().ok()
}

fn put(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) -> u8 {
    out.extend_from_slice(bytes);
    kind
}

fn integer(out: &mut Vec<u8>, reading: Reading, value: i64) -> u8 {
    match i32::try_from(value) {
        Ok(value) if reading != Reading::Long => put(out, INT32, &value.to_le_bytes()),
        _ => put(out, INT64, &value.to_le_bytes()),
    }
}

fn double(out: &mut Vec<u8>, reading: Reading, value: f64) -> u8 {
    match bson_number::int32(value) {
        Some(value) if reading == Reading::Number => put(out, INT32, &value.to_le_bytes()),
        _ => put(out, DOUBLE, &value.to_le_bytes()),
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) -> Option<u8> {
    if value::is_object_id(text) {
        let hex = std::str::from_utf8(text).ok()?;
        let id = ::bson::oid::ObjectId::parse_str(hex).ok()?;
        return Some(put(out, OBJECT_ID, &id.bytes()));
    }
    bson::put_text(out, text).map(|()| STRING)
}
