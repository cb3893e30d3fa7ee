//! A document's `_id` as the value of the key column: one value for equal `_id`s, another for every other.
//!
//! | key | takes |
//! |---|---|
//! | `bigint`, `integer` | every number that is a whole one in range |
//! | `uuid` | binary of subtype 4 |
//! | `bytea` | ObjectId; binary of subtype 0 that is not 12 bytes long |
//! | `text` | everything |
//!
//! In a `text` key an ObjectId is its 24 hexadecimal digits, and a string stands as it is, unless it could be
//! taken for something else: if it begins with `{`, `[` or `"`, is `null`, `true` or `false` or 24 hexadecimal
//! digits, or holds a NUL, it is a JSON string with its quotes. Everything else is canonical Extended JSON;
//! numbers in the canonical form of their value, whole ones as `$numberLong`. What a key says but would read back as
//! another type is noted besides, by [`Reading`](super::Reading) or, in a `text` key, where it is not what the JSON
//! says.

use bytes::BytesMut;
use mongodb::bson::RawDocumentBuf;

use super::{
    bson::{self, BINARY, DECIMAL, DOUBLE, Fault, INT32, INT64, OBJECT_ID, Read, STRING, SYMBOL},
    column,
    compile::Mapping,
    forms,
    json::JsonWriter,
    parse::{self, Told},
    table::{ColumnType, Scalar},
    value::{self, Fit},
    walk::first_key,
};
use crate::number::{Decimal, Number};

/// An entry of a B-tree index has at most 2,704 bytes; a child table's holds its ordinals, too.
const MAX_LENGTH: usize = 2600;

/// Appends the bytes of the key column, without their length.
pub(super) fn key(
    out: &mut BytesMut,
    ty: ColumnType,
    (doc, kind, at): (&[u8], u8, usize),
    json: &mut JsonWriter,
) -> Read<Fit> {
    let start = out.len();
    let fit = match ty.scalar {
        Scalar::Text => text(out, (doc, kind, at), json)?,
        _ => match value::column(out, ty, (doc, kind, at), json)? {
            // It would be an ObjectId's key.
            Fit::Equal if kind == BINARY => Fit::Misfit,
            fit => fit,
        },
    };
    match fit {
        Fit::Misfit => Err(Fault::KeyMisfit),
        _ if out.len() - start > MAX_LENGTH => Err(Fault::KeyTooLong),
        fit => Ok(fit),
    }
}

/// Appends the bytes of the `_id` that a key column holds, unless it is noted otherwise.
pub(super) fn read(out: &mut Vec<u8>, ty: ColumnType, bytes: &[u8]) -> Option<Told> {
    match (ty.scalar, bytes) {
        (Scalar::Text, [b'{' | b'[' | b'"', ..] | b"null" | b"true" | b"false") => {
            parse::value(out, &parse::json(bytes)?)
        }
        _ => column::read(out, ty, bytes),
    }
}

impl Mapping {
    /// The `_id` of the documents with this key, as `{_id: …}`: they all count as one for MongoDB. `None`: no document has
    /// such a key.
    pub fn id_of_key(&self, bytes: &[u8]) -> Option<RawDocumentBuf> {
        let ty = self.key_type();
        let document = column::single(b"_id", |out| read(out, ty, bytes))?;
        let (mut again, mut json) = (BytesMut::new(), JsonWriter::default());
        let (kind, at) = first_key(document.as_bytes()).ok()?;
        key(&mut again, ty, (document.as_bytes(), kind, at), &mut json).ok()?;
        (*again == *bytes).then_some(document)
    }
}

fn text(out: &mut BytesMut, (doc, kind, at): (&[u8], u8, usize), json: &mut JsonWriter) -> Read<Fit> {
    match kind {
        OBJECT_ID => forms::hex(out, &bson::array_at::<12>(doc, at)?),
        STRING => string(out, bson::text(doc, at)?),
        SYMBOL => {
            string(out, bson::text(doc, at)?);
            return Ok(Fit::Equal);
        }
        INT64 => forms::long(out, bson::int64(doc, at)?),
        INT32 => {
            forms::long(out, bson::int32(doc, at)?.into());
            return Ok(Fit::Equal);
        }
        DOUBLE => {
            let value = bson::double(doc, at)?;
            let same = |form| matches!(form, Number::Double(form) if form.to_bits() == value.to_bits());
            return Ok(number(out, value.into(), same));
        }
        DECIMAL => {
            let value = Decimal::from_bytes(bson::array_at(doc, at)?);
            return Ok(number(out, value.into(), |form| same(form, value)));
        }
        _ => json.write(out, doc, kind, at)?,
    }
    Ok(Fit::Exact)
}

/// Whether the canonical form of `value` says everything about it.
fn same(form: Number, value: Decimal) -> bool {
    let Number::Decimal { negative, coefficient, exponent } = form else { return false };
    value == Decimal::Finite { negative, coefficient, exponent }
}

fn number(out: &mut BytesMut, form: Number, exact: impl Fn(Number) -> bool) -> Fit {
    match form {
        Number::Int(value) => forms::long(out, value),
        Number::Double(value) => forms::double(out, value),
        Number::Decimal { negative, coefficient, exponent } => {
            forms::decimal(out, Decimal::Finite { negative, coefficient, exponent });
        }
    }
    if exact(form) { Fit::Exact } else { Fit::Equal }
}

fn string(out: &mut BytesMut, text: &[u8]) {
    let valid = std::str::from_utf8(text).is_ok();
    let nul = text.contains(&0);
    if valid && !nul && !is_ambiguous(text) {
        out.extend_from_slice(text);
    } else if valid {
        // Between quotes a NUL is six plain characters, which text can hold.
        forms::quoted(out, text);
    } else {
        forms::string(out, text);
    }
}

fn is_ambiguous(text: &[u8]) -> bool {
    matches!(text, [b'{' | b'[' | b'"', ..] | b"null" | b"true" | b"false") || value::is_object_id(text)
}
