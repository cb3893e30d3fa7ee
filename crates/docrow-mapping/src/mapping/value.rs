//! Converts one BSON value to the bytes of one column: every type against every type.
//!
//! A value fits exactly, or is equal to what the column holds but would read back as something else (as
//! another type, without the scale of `1E+3` or the sign of `-0`), or does not fit. Nothing is rounded,
//! clamped or truncated.
//!
//! Which values those are, and of which a column says all, is in the table of types
//! ([`column_type`](crate::model::column_type)), and so in docs/mapping.md. An array takes an array of such
//! values and nulls.
//!
//! [`super::column`] reads them back.

use bytes::{BufMut, BytesMut};

use super::{
    bson::{
        self, ARRAY, BINARY, BOOLEAN, BsonElements, DATE, DECIMAL, DOUBLE, EncodeFault, EncodeResult, INT32,
        INT64, NULL, OBJECT_ID, STRING, ValueAt,
    },
    extended_json_values,
    extended_json_write::JsonWriter,
    numeric,
};
use crate::model::{
    bson_number::{self, CanonicalNumber, Decimal},
    table::{ColumnType, Reading, Scalar},
};

/// How a value relates to what its column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueFit {
    /// The column represents the value completely.
    Exact,
    /// The column holds an equal value; the value itself must be noted, too.
    Equal,
    /// The column can't hold the value. The appended bytes must be removed.
    Misfit,
}

pub(super) const OBJECT_ID_BYTES: usize = 12;

/// Appends the column's bytes, without their length.
#[inline]
pub(super) fn column(
    out: &mut BytesMut,
    ty: ColumnType,
    value: ValueAt<'_>,
    json: &mut JsonWriter,
) -> EncodeResult<ValueFit> {
    if ty.array { array(out, ty, value, json) } else { scalar(out, ty, value, json) }
}

fn scalar(
    out: &mut BytesMut,
    ty: ColumnType,
    ValueAt { doc, kind, at }: ValueAt<'_>,
    json: &mut JsonWriter,
) -> EncodeResult<ValueFit> {
    match ty.scalar {
        Scalar::Boolean => match kind {
            BOOLEAN => out.put_u8(bson::boolean(doc, at)?.into()),
            _ => return Ok(ValueFit::Misfit),
        },
        Scalar::Integer => {
            let Some((value, fit)) = integer(ty.reading, doc, kind, at)? else { return Ok(ValueFit::Misfit) };
            let Ok(value) = i32::try_from(value) else { return Ok(ValueFit::Misfit) };
            out.put_i32(value);
            return Ok(fit);
        }
        Scalar::Bigint => {
            let Some((value, fit)) = integer(ty.reading, doc, kind, at)? else { return Ok(ValueFit::Misfit) };
            out.put_i64(value);
            return Ok(fit);
        }
        Scalar::Double => {
            let Some((value, fit)) = double(ty.reading, doc, kind, at)? else { return Ok(ValueFit::Misfit) };
            out.put_f64(value);
            return Ok(fit);
        }
        Scalar::Numeric => return numeric(out, doc, kind, at),
        Scalar::Text => match kind {
            STRING => {
                let text = bson::text(doc, at)?;
                if !bson::is_text(text) {
                    return Ok(ValueFit::Misfit);
                }
                out.extend_from_slice(text);
                return Ok(exact_if(!is_object_id(text)));
            }
            OBJECT_ID => extended_json_values::hex(out, &bson::array_at::<12>(doc, at)?),
            _ => return Ok(ValueFit::Misfit),
        },
        Scalar::Bytea => match kind {
            OBJECT_ID => out.extend_from_slice(&bson::array_at::<12>(doc, at)?),
            BINARY => {
                let (0, bytes) = bson::binary(doc, at)? else { return Ok(ValueFit::Misfit) };
                out.extend_from_slice(bytes);
                return Ok(exact_if(bytes.len() != OBJECT_ID_BYTES));
            }
            _ => return Ok(ValueFit::Misfit),
        },
        Scalar::Uuid => match kind {
            BINARY => match bson::binary(doc, at)? {
                (4, bytes) if bytes.len() == 16 => out.extend_from_slice(bytes),
                _ => return Ok(ValueFit::Misfit),
            },
            _ => return Ok(ValueFit::Misfit),
        },
        Scalar::Timestamptz => match kind {
            DATE => match postgres_micros(bson::int64(doc, at)?) {
                Some(micros) => out.put_i64(micros),
                None => return Ok(ValueFit::Misfit),
            },
            _ => return Ok(ValueFit::Misfit),
        },
        Scalar::Jsonb => {
            out.put_u8(1);
            json.write(out, doc, kind, at)?;
        }
    }
    Ok(ValueFit::Exact)
}

/// PostgreSQL's binary array: dimensions, whether there are nulls, the elements' type, count and lower bound,
/// then the elements.
fn array(
    out: &mut BytesMut,
    ty: ColumnType,
    ValueAt { doc, kind, at }: ValueAt<'_>,
    json: &mut JsonWriter,
) -> EncodeResult<ValueFit> {
    if kind != ARRAY {
        return Ok(ValueFit::Misfit);
    }
    let mut elements = BsonElements::at(doc, at)?;
    out.put_i32(i32::from(!elements.is_empty()));
    let nulls_at = out.len();
    out.put_i32(0);
    out.put_u32(ty.scalar.oid());
    if elements.is_empty() {
        return Ok(ValueFit::Exact);
    }
    let count_at = out.len();
    out.put_i32(0);
    out.put_i32(1);
    let (mut count, mut nulls, mut whole) = (0_i32, 0_i32, ValueFit::Exact);
    while let Some(element) = elements.advance(doc)? {
        count += 1;
        if element.kind == NULL && ty.scalar != Scalar::Jsonb {
            out.put_i32(-1);
            nulls = 1;
            continue;
        }
        let start = begin(out);
        match scalar(out, ty, ValueAt { doc, kind: element.kind, at: element.at }, json)? {
            ValueFit::Exact => {}
            ValueFit::Equal => whole = ValueFit::Equal,
            ValueFit::Misfit => return Ok(ValueFit::Misfit),
        }
        end(out, start)?;
    }
    put_i32_at(out, nulls_at, nulls);
    put_i32_at(out, count_at, count);
    Ok(whole)
}

/// Leaves room for a length.
#[inline]
pub(super) fn begin(out: &mut BytesMut) -> usize {
    let at = out.len();
    // Unlike `put_i32`, this is inlined, and it is done for every column.
    out.extend_from_slice(&[0; 4]);
    at
}

/// Fills in the length for which [`begin`] left room.
#[inline]
pub(super) fn end(out: &mut BytesMut, at: usize) -> EncodeResult<()> {
    let length = i32::try_from(out.len() - at - 4).map_err(|_| EncodeFault::TooLong)?;
    put_i32_at(out, at, length);
    Ok(())
}

#[inline]
fn put_i32_at(out: &mut BytesMut, at: usize, value: i32) {
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&value.to_be_bytes());
    }
}

/// 2000, as milliseconds since 1970.
const EPOCH: i64 = 946_684_800_000;

/// Microseconds since 2000, if PostgreSQL has that instant (`src/include/datatype/timestamp.h`).
fn postgres_micros(unix_millis: i64) -> Option<i64> {
    const RANGE: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
    let micros = unix_millis.checked_sub(EPOCH)?.checked_mul(1000)?;
    RANGE.contains(&micros).then_some(micros)
}

/// The reverse: for whole milliseconds.
pub(super) fn unix_millis(postgres_micros: i64) -> Option<i64> {
    (postgres_micros % 1000 == 0).then_some(postgres_micros / 1000 + EPOCH)
}

#[inline]
fn exact_if(exact: bool) -> ValueFit {
    if exact { ValueFit::Exact } else { ValueFit::Equal }
}

/// Whether `text` has the form of an ObjectId in a text column.
#[inline]
pub(super) fn is_object_id(text: &[u8]) -> bool {
    text.len() == 2 * OBJECT_ID_BYTES && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn decimal(doc: &[u8], at: usize) -> EncodeResult<Decimal> {
    bson::array_at(doc, at).map(Decimal::from_bytes)
}

fn integer(reading: Reading, doc: &[u8], kind: u8, at: usize) -> EncodeResult<Option<(i64, ValueFit)>> {
    let long = reading == Reading::Long;
    Ok(match kind {
        INT32 => Some((bson::int32(doc, at)?.into(), exact_if(!long))),
        INT64 => {
            let value = bson::int64(doc, at)?;
            Some((value, exact_if(long || i32::try_from(value).is_err())))
        }
        DOUBLE => bson_number::integer(bson::double(doc, at)?).map(|value| (value, ValueFit::Equal)),
        DECIMAL => match decimal(doc, at)?.into() {
            CanonicalNumber::Int(value) => Some((value, ValueFit::Equal)),
            _ => None,
        },
        _ => None,
    })
}

fn double(reading: Reading, doc: &[u8], kind: u8, at: usize) -> EncodeResult<Option<(f64, ValueFit)>> {
    let number = reading == Reading::Number;
    Ok(match kind {
        DOUBLE => {
            let value = bson::double(doc, at)?;
            Some((value, exact_if(!number || bson_number::int32(value).is_none())))
        }
        INT32 => Some((bson::int32(doc, at)?.into(), exact_if(number))),
        INT64 => bson_number::double(bson::int64(doc, at)?).map(|value| (value, ValueFit::Equal)),
        DECIMAL => match decimal(doc, at)?.into() {
            CanonicalNumber::Int(value) => bson_number::double(value).map(|value| (value, ValueFit::Equal)),
            CanonicalNumber::Double(value) => Some((value, ValueFit::Equal)),
            CanonicalNumber::Decimal { .. } => None,
        },
        _ => None,
    })
}

fn numeric(out: &mut BytesMut, doc: &[u8], kind: u8, at: usize) -> EncodeResult<ValueFit> {
    let whole = |out: &mut BytesMut, value: i64| {
        numeric::finite(out, value < 0, value.unsigned_abs().into(), 0);
        Ok(ValueFit::Equal)
    };
    match kind {
        INT32 => whole(out, bson::int32(doc, at)?.into()),
        INT64 => whole(out, bson::int64(doc, at)?),
        DECIMAL => {
            let bytes = bson::array_at(doc, at)?;
            let value = Decimal::from_bytes(bytes);
            let lossy = match value {
                Decimal::Finite { negative, coefficient, exponent } => {
                    numeric::finite(out, negative, coefficient, exponent);
                    exponent > 0 || (negative && coefficient == 0)
                }
                Decimal::NaN => {
                    numeric::nan(out);
                    false
                }
                Decimal::Infinite { .. } => return Ok(ValueFit::Misfit),
            };
            Ok(exact_if(!lossy && value.to_bytes() == bytes))
        }
        DOUBLE => {
            let value = bson::double(doc, at)?;
            match bson_number::decimal(value) {
                Some((coefficient, exponent)) => numeric::finite(out, value < 0.0, coefficient, exponent),
                None if value.is_nan() => numeric::nan(out),
                None => return Ok(ValueFit::Misfit),
            }
            Ok(ValueFit::Equal)
        }
        _ => Ok(ValueFit::Misfit),
    }
}
