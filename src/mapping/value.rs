//! From one BSON value to the bytes of one column: every type against every type.
//!
//! A value fits exactly, or is equal to what the column holds but more than that (the scale of `1E+3`, the
//! sign of `-0`), or does not fit. Nothing is rounded, clamped or cut.
//!
//! | column | takes |
//! |---|---|
//! | `boolean` | boolean |
//! | `integer`, `bigint` | any number that is a whole one in range |
//! | `double precision` | double; any other number that a double has exactly |
//! | `numeric` | any number of at most 34 significant digits; no infinity (PostgreSQL 13 has none) |
//! | `text` | string without NUL, in valid UTF-8; ObjectId as 24 hexadecimal digits |
//! | `bytea` | binary of subtype 0; ObjectId as 12 bytes |
//! | `uuid` | binary of subtype 4 and 16 bytes |
//! | `timestamptz` | date from 4713 BC to 294276 |
//! | `jsonb` | everything, as canonical Extended JSON; null as JSON's `null` |
//! | an array | an array of such values and nulls |

use bytes::{BufMut, BytesMut};

use super::{
    bson::{
        self, ARRAY, BINARY, BOOLEAN, DATE, DECIMAL, DOUBLE, Elements, Fault, INT32, INT64, NULL, OBJECT_ID,
        Read, STRING,
    },
    json::{self, JsonWriter},
    numeric,
    table::{ColumnType, Scalar},
};
use crate::number::{self, Decimal, Number};

/// How a value relates to what its column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The column says all there is to say.
    Exact,
    /// The column holds an equal value; the value itself is to be noted too.
    Equal,
    /// The column can't hold the value. What was appended is to be taken back.
    Misfit,
}

/// Appends the column's bytes, without their length.
#[inline]
pub(super) fn column(
    out: &mut BytesMut,
    ty: ColumnType,
    (doc, kind, at): (&[u8], u8, usize),
    json: &mut JsonWriter,
) -> Read<Fit> {
    if ty.array {
        array(out, ty, (doc, kind, at), json)
    } else {
        scalar(out, ty.scalar, (doc, kind, at), json)
    }
}

fn scalar(
    out: &mut BytesMut,
    ty: Scalar,
    (doc, kind, at): (&[u8], u8, usize),
    json: &mut JsonWriter,
) -> Read<Fit> {
    match (ty, kind) {
        (Scalar::Text, STRING) => {
            let text = bson::text(doc, at)?;
            if !bson::is_text(text) {
                return Ok(Fit::Misfit);
            }
            out.extend_from_slice(text);
        }
        (Scalar::Text, OBJECT_ID) => json::hex(out, &bson::array_at::<12>(doc, at)?),
        (Scalar::Bytea, OBJECT_ID) => out.extend_from_slice(&bson::array_at::<12>(doc, at)?),
        (Scalar::Bytea | Scalar::Uuid, BINARY) => match (ty, bson::binary(doc, at)?) {
            (Scalar::Bytea, (0, bytes)) => out.extend_from_slice(bytes),
            (Scalar::Uuid, (4, bytes)) if bytes.len() == 16 => out.extend_from_slice(bytes),
            _ => return Ok(Fit::Misfit),
        },
        (Scalar::Boolean, BOOLEAN) => out.put_u8(bson::boolean(doc, at)?.into()),
        (Scalar::Timestamptz, DATE) => match postgres_micros(bson::int64(doc, at)?) {
            Some(micros) => out.put_i64(micros),
            None => return Ok(Fit::Misfit),
        },
        (Scalar::Jsonb, _) => {
            out.put_u8(1);
            json.write(out, doc, kind, at)?;
        }
        (Scalar::Bigint, _) => match integer(doc, kind, at)? {
            Some((value, fit)) => {
                out.put_i64(value);
                return Ok(fit);
            }
            None => return Ok(Fit::Misfit),
        },
        (Scalar::Integer, _) => match integer(doc, kind, at)?.map(|(value, fit)| (i32::try_from(value), fit))
        {
            Some((Ok(value), fit)) => {
                out.put_i32(value);
                return Ok(fit);
            }
            _ => return Ok(Fit::Misfit),
        },
        (Scalar::Double, _) => match double(doc, kind, at)? {
            Some((value, fit)) => {
                out.put_f64(value);
                return Ok(fit);
            }
            None => return Ok(Fit::Misfit),
        },
        (Scalar::Numeric, _) => return numeric(out, doc, kind, at),
        _ => return Ok(Fit::Misfit),
    }
    Ok(Fit::Exact)
}

/// PostgreSQL's binary array: dimensions, whether there are nulls, the elements' type, count and lower bound,
/// then the elements.
fn array(
    out: &mut BytesMut,
    ty: ColumnType,
    (doc, kind, at): (&[u8], u8, usize),
    json: &mut JsonWriter,
) -> Read<Fit> {
    if kind != ARRAY {
        return Ok(Fit::Misfit);
    }
    let mut elements = Elements::of(doc, at)?;
    out.put_i32(i32::from(!elements.is_empty()));
    let nulls_at = out.len();
    out.put_i32(0);
    out.put_u32(ty.scalar.oid());
    if elements.is_empty() {
        return Ok(Fit::Exact);
    }
    let count_at = out.len();
    out.put_i32(0);
    out.put_i32(1);
    let (mut count, mut nulls, mut whole) = (0_i32, 0_i32, Fit::Exact);
    while let Some(element) = elements.advance(doc)? {
        count += 1;
        if element.kind == NULL && ty.scalar != Scalar::Jsonb {
            out.put_i32(-1);
            nulls = 1;
            continue;
        }
        let start = begin(out);
        match scalar(out, ty.scalar, (doc, element.kind, element.at), json)? {
            Fit::Exact => {}
            Fit::Equal => whole = Fit::Equal,
            Fit::Misfit => return Ok(Fit::Misfit),
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
    out.put_i32(0);
    at
}

/// Fills in the length for which [`begin`] left room.
#[inline]
pub(super) fn end(out: &mut BytesMut, at: usize) -> Read<()> {
    let length = i32::try_from(out.len() - at - 4).map_err(|_| Fault::TooLong)?;
    put_i32_at(out, at, length);
    Ok(())
}

#[inline]
fn put_i32_at(out: &mut BytesMut, at: usize, value: i32) {
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&value.to_be_bytes());
    }
}

/// Microseconds since 2000, if PostgreSQL has that instant (`src/include/datatype/timestamp.h`).
fn postgres_micros(unix_millis: i64) -> Option<i64> {
    const EPOCH: i64 = 946_684_800_000;
    const RANGE: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
    let micros = unix_millis.checked_sub(EPOCH)?.checked_mul(1000)?;
    RANGE.contains(&micros).then_some(micros)
}

fn decimal(doc: &[u8], at: usize) -> Read<Decimal> {
    bson::array_at(doc, at).map(Decimal::from_bytes)
}

fn integer(doc: &[u8], kind: u8, at: usize) -> Read<Option<(i64, Fit)>> {
    Ok(match kind {
        INT32 => Some((bson::int32(doc, at)?.into(), Fit::Exact)),
        INT64 => Some((bson::int64(doc, at)?, Fit::Exact)),
        DOUBLE => {
            let value = bson::double(doc, at)?;
            let fit = if value == 0.0 && value.is_sign_negative() { Fit::Equal } else { Fit::Exact };
            number::integer(value).map(|integer| (integer, fit))
        }
        DECIMAL => match decimal(doc, at)?.into() {
            Number::Int(value) => Some((value, Fit::Equal)),
            _ => None,
        },
        _ => None,
    })
}

fn double(doc: &[u8], kind: u8, at: usize) -> Read<Option<(f64, Fit)>> {
    Ok(match kind {
        DOUBLE => Some((bson::double(doc, at)?, Fit::Exact)),
        INT32 => Some((bson::int32(doc, at)?.into(), Fit::Exact)),
        INT64 => number::double(bson::int64(doc, at)?).map(|value| (value, Fit::Exact)),
        DECIMAL => match decimal(doc, at)?.into() {
            Number::Int(value) => number::double(value).map(|value| (value, Fit::Equal)),
            Number::Double(value) => Some((value, Fit::Equal)),
            Number::Decimal { .. } => None,
        },
        _ => None,
    })
}

fn numeric(out: &mut BytesMut, doc: &[u8], kind: u8, at: usize) -> Read<Fit> {
    let whole =
        |out: &mut BytesMut, value: i64| numeric::finite(out, value < 0, value.unsigned_abs().into(), 0);
    match kind {
        INT32 => whole(out, bson::int32(doc, at)?.into()),
        INT64 => whole(out, bson::int64(doc, at)?),
        DECIMAL => match decimal(doc, at)? {
            Decimal::Finite { negative, coefficient, exponent } => {
                numeric::finite(out, negative, coefficient, exponent);
                let lossy = exponent > 0 || (negative && coefficient == 0);
                return Ok(if lossy { Fit::Equal } else { Fit::Exact });
            }
            Decimal::NaN => numeric::nan(out),
            Decimal::Infinite { .. } => return Ok(Fit::Misfit),
        },
        DOUBLE => {
            let value = bson::double(doc, at)?;
            match number::decimal(value) {
                Some(_) if value == 0.0 && value.is_sign_negative() => {
                    numeric::finite(out, false, 0, 0);
                    return Ok(Fit::Equal);
                }
                Some((coefficient, exponent)) => numeric::finite(out, value < 0.0, coefficient, exponent),
                None if value.is_nan() => numeric::nan(out),
                None => return Ok(Fit::Misfit),
            }
        }
        _ => return Ok(Fit::Misfit),
    }
    Ok(Fit::Exact)
}
