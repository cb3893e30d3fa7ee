//! A document's `_id` as the value of the key column: one value for equal `_id`s, different values for
//! different ones.
//!
//! | key | takes |
//! |---|---|
//! | `bigint`, `integer` | every number that is a whole one in range |
//! | `uuid` | binary of subtype 4 |
//! | `bytea` | ObjectId; binary of subtype 0 that is not 12 bytes long |
//! | `text` | everything |
//!
//! In a `text` key an ObjectId is its 24 hexadecimal digits, and a string is itself, unless it could be
//! mistaken for something else: if it begins with `{`, `[` or `"`, is `null`, `true` or `false` or 24
//! hexadecimal digits, or contains a NUL, it is a JSON string with its quotes. Everything else is canonical
//! Extended JSON; numbers in the canonical form of their value, whole ones as `$numberLong`, or within an
//! embedded document as `$numberInt` if they fit. If a key would read back as another type, that is also
//! noted, according to [`Reading`](crate::model::table::Reading) or, in a `text` key, if it is not what the
//! JSON says.

use ::bson::{RawDocumentBuf, spec::ElementType};
use bytes::BytesMut;

use super::{
    bson::{
        self, ARRAY, BsonElements, CODE_WITH_SCOPE, DECIMAL, DOCUMENT, DOUBLE, EncodeFault, EncodeResult,
        INT32, INT64, OBJECT_ID, ParsedField, STRING, SYMBOL, ValueAt, ValueSlot,
    },
    column,
    compile::Mapping,
    extended_json_parse, extended_json_values,
    extended_json_write::JsonWriter,
    value::{self, ValueFit},
};
use crate::model::{
    bson_number::{CanonicalNumber, Decimal},
    document_key::Id,
    table::{ColumnType, Scalar},
};

/// An entry of a B-tree index has at most 2,704 bytes; a child table's also contains its ordinals.
const MAX_LENGTH: usize = 2600;

/// Appends the bytes of the key column, without their length.
pub(super) fn key(
    out: &mut BytesMut,
    ty: ColumnType,
    value: ValueAt<'_>,
    json: &mut JsonWriter,
) -> EncodeResult<ValueFit> {
    let start = out.len();
    let fit = match ty.scalar {
        Scalar::Text => text(out, value, json)?,
        Scalar::Bytea => match value::column(out, ty, value, json)? {
            // It would be an ObjectId's key.
            ValueFit::Equal => ValueFit::Misfit,
            fit => fit,
        },
        Scalar::Integer | Scalar::Bigint | Scalar::Uuid => value::column(out, ty, value, json)?,
        // No mapping has such a key.
        Scalar::Boolean | Scalar::Double | Scalar::Numeric | Scalar::Timestamptz | Scalar::Jsonb => {
            ValueFit::Misfit
        }
    };
    match fit {
        ValueFit::Misfit => Err(EncodeFault::KeyMisfit),
        _ if out.len() - start > MAX_LENGTH => Err(EncodeFault::KeyTooLong),
        fit => Ok(fit),
    }
}

/// Appends the bytes of the `_id` in a key column, unless it is noted otherwise.
pub(super) fn read(out: &mut Vec<u8>, ty: ColumnType, bytes: &[u8]) -> Option<ParsedField> {
    match (ty.scalar, bytes) {
        (Scalar::Text, [b'{' | b'[' | b'"', ..] | b"null" | b"true" | b"false") => {
            extended_json_parse::value(out, &extended_json_parse::json(bytes)?)
        }
        _ => column::read(out, ty, bytes),
    }
}

impl Mapping {
    /// The `_id` of the documents with this key, as `{_id: …}`: to MongoDB they all are equal. `None`: no
    /// document can have such a key.
    pub fn id_of_key(&self, bytes: &[u8]) -> Option<RawDocumentBuf> {
        let ty = self.key_type();
        let document = column::single(b"_id", |out| read(out, ty, bytes))?;
        let (mut again, mut json) = (BytesMut::new(), JsonWriter::default());
        let ValueSlot { kind, at } = bson::first_key(document.as_bytes()).ok()?;
        key(&mut again, ty, ValueAt { doc: document.as_bytes(), kind, at }, &mut json).ok()?;
        (*again == *bytes).then_some(document)
    }
}

fn text(
    out: &mut BytesMut,
    ValueAt { doc, kind, at }: ValueAt<'_>,
    json: &mut JsonWriter,
) -> EncodeResult<ValueFit> {
    match kind {
        OBJECT_ID => extended_json_values::hex(out, &bson::array_at::<12>(doc, at)?),
        STRING => string(out, bson::text(doc, at)?),
        SYMBOL => {
            string(out, bson::text(doc, at)?);
            return Ok(ValueFit::Equal);
        }
        INT64 => extended_json_values::long(out, bson::int64(doc, at)?),
        INT32 => {
            extended_json_values::long(out, bson::int32(doc, at)?.into());
            return Ok(ValueFit::Equal);
        }
        DOUBLE => {
            let value = bson::double(doc, at)?;
            let same =
                |form| matches!(form, CanonicalNumber::Double(form) if form.to_bits() == value.to_bits());
            return Ok(number(out, value.into(), same));
        }
        DECIMAL => {
            let value = Decimal::from_bytes(bson::array_at(doc, at)?);
            return Ok(number(out, value.into(), |form| same(form, value)));
        }
        DOCUMENT | ARRAY | CODE_WITH_SCOPE => {
            if let Some((kind, bytes)) = canonical(doc, kind, at)? {
                json.write(out, &bytes, kind as u8, 0)?;
                return Ok(ValueFit::Equal);
            }
            json.write(out, doc, kind, at)?;
        }
        _ => json.write(out, doc, kind, at)?,
    }
    Ok(ValueFit::Exact)
}

/// The canonical one of all that are equal to this one, if it differs.
fn canonical(doc: &[u8], kind: u8, at: usize) -> EncodeResult<Option<(ElementType, Vec<u8>)>> {
    let bytes = doc.get(at..bson::end_of(kind, doc, at)?).ok_or(EncodeFault::Malformed)?;
    let kind = ElementType::from(kind).ok_or(EncodeFault::Malformed)?;
    Ok(Id { kind, bytes }.canonical())
}

/// Appends the value of type `kind` with the fields of `values`, in the order of those of `key`, which is
/// equal to it. `None`: it is not.
pub(super) fn in_order(out: &mut Vec<u8>, kind: u8, key: &[u8], values: &[u8]) -> Option<()> {
    let (mut key_at, mut values_at, start) = (0, 0, out.len());
    if kind == CODE_WITH_SCOPE {
        let scope = |bytes: &[u8]| Some(8 + bson::text(bytes, 4).ok()?.len() + 1);
        (key_at, values_at) = (scope(key)?, scope(values)?);
        out.extend_from_slice(values.get(..values_at)?);
    }
    let (ours, theirs) = (all(key, key_at)?, all(values, values_at)?);
    // Fields of one name are in their order.
    let is_in_order = ours.iter().map(|field| field.0).eq(theirs.iter().map(|field| field.0));
    let scope = bson::begin(out);
    if ours.len() != theirs.len() {
        return None;
    }
    for (number, (name, own, key)) in ours.into_iter().enumerate() {
        let field =
            if is_in_order { theirs.get(number) } else { theirs.iter().find(|field| field.0 == name) };
        let &(_, kind, values) = field?;
        bson::element(out, name, |out| {
            match kind {
                DOCUMENT | ARRAY | CODE_WITH_SCOPE if kind == own => in_order(out, kind, key, values)?,
                _ => out.extend_from_slice(values),
            }
            Some(ParsedField::Value(kind))
        })?;
    }
    bson::end(out, scope)?;
    if kind == CODE_WITH_SCOPE { bson::fill_in(out, start) } else { Some(()) }
}

/// The names, types and values in a document or array.
type NamedValues<'a> = Vec<(&'a [u8], u8, &'a [u8])>;

/// Those at `at`.
fn all(bytes: &[u8], at: usize) -> Option<NamedValues<'_>> {
    let (mut elements, mut all) = (BsonElements::at(bytes, at).ok()?, Vec::new());
    while let Some(element) = elements.advance(bytes).ok()? {
        let name = bytes.get(element.name)?;
        all.push((name, element.kind, bytes.get(element.at..elements.next)?));
    }
    Some(all)
}

/// Whether the canonical form of `value` represents it completely.
fn same(form: CanonicalNumber, value: Decimal) -> bool {
    let CanonicalNumber::Decimal { negative, coefficient, exponent } = form else { return false };
    value == Decimal::Finite { negative, coefficient, exponent }
}

fn number(out: &mut BytesMut, form: CanonicalNumber, exact: impl Fn(CanonicalNumber) -> bool) -> ValueFit {
    match form {
        CanonicalNumber::Int(value) => extended_json_values::long(out, value),
        CanonicalNumber::Double(value) => extended_json_values::double(out, value),
        CanonicalNumber::Decimal { negative, coefficient, exponent } => {
            extended_json_values::decimal(out, Decimal::Finite { negative, coefficient, exponent });
        }
    }
    if exact(form) { ValueFit::Exact } else { ValueFit::Equal }
}

fn string(out: &mut BytesMut, text: &[u8]) {
    let valid = std::str::from_utf8(text).is_ok();
    let nul = text.contains(&0);
    if valid && !nul && !is_ambiguous(text) {
        out.extend_from_slice(text);
    } else if valid {
        // Between quotes a NUL is six plain characters, which text can hold.
        extended_json_values::quoted(out, text);
    } else {
        extended_json_values::string(out, text);
    }
}

fn is_ambiguous(text: &[u8]) -> bool {
    matches!(text, [b'{' | b'[' | b'"', ..] | b"null" | b"true" | b"false") || value::is_object_id(text)
}
