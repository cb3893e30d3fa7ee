//! Arrays in PostgreSQL's binary format, composed of encoded elements, and raw values read back.
//!
//! Header (`src/backend/utils/adt/arrayfuncs.c`, `array_recv`): number of dimensions, flags, the elements'
//! type OID, then for each dimension its length and lower bound, all `i32`. Elements follow, each an `i32`
//! length and its bytes.

use std::{error::Error as StdError, fmt};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::mapping::TableRows;

/// Encoded key values: for each its `i32` length and its bytes, as in the elements of a binary array.
#[derive(Debug, Default, Clone)]
pub struct Keys {
    /// The keys, one after the other.
    pub bytes: BytesMut,
    /// Their number.
    pub count: usize,
}

impl Keys {
    /// Adds a key, given its encoded value. Errors: none that a value of less than 2 GiB can cause.
    pub fn push(&mut self, value: &[u8]) {
        // A key fits an index page, or the server says so: its length needs no further check.
        self.bytes.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.bytes.put_slice(value);
        self.count += 1;
    }

    /// The keys' encoded values.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.bytes;
        std::iter::from_fn(move || {
            let (length, bytes) = rest.split_first_chunk::<4>()?;
            let (value, next) = bytes.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
            rest = next;
            Some(value)
        })
    }

    /// The first half of them, and the rest.
    pub fn halves(&self) -> [Self; 2] {
        let mut halves = [Self::default(), Self::default()];
        for (number, key) in self.iter().enumerate() {
            let [first, rest] = &mut halves;
            if number < self.count / 2 { first.push(key) } else { rest.push(key) }
        }
        halves
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Removes all keys, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

/// An array parameter of encoded elements. Its `Debug` shows no values, because the driver may log it.
#[derive(Clone, Copy)]
pub(super) struct CompositeArray<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> CompositeArray<'a> {
    /// Keys.
    pub(super) fn keys(keys: &'a Keys) -> Self {
        Self { bytes: &keys.bytes, count: keys.count }
    }

    /// Rows in [`Framing::Composite`](crate::mapping::Framing::Composite).
    pub(super) fn rows(rows: &'a TableRows) -> Self {
        Self { bytes: &rows.bytes, count: rows.count }
    }

    /// The number of elements.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Debug for CompositeArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array of {}", self.count)
    }
}

impl ToSql for CompositeArray<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let Kind::Array(element) = ty.kind() else { return Err("not an array parameter".into()) };
        out.reserve(20 + self.bytes.len());
        out.put_i32(i32::from(self.count > 0));
        out.put_i32(0);
        out.put_u32(element.oid());
        if self.count > 0 {
            out.put_i32(i32::try_from(self.count)?);
            out.put_i32(1);
        }
        out.put_slice(self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Array(_))
    }

    to_sql_checked!();
}

/// A column's value as the server encoded it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawValue<'a>(pub &'a [u8]);

impl<'a> FromSql<'a> for RawValue<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Without the value.
impl fmt::Debug for RawValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawValue of {} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(values: &[&[u8]]) -> Keys {
        let mut keys = Keys::default();
        values.iter().for_each(|value| keys.push(value));
        keys
    }

    #[test]
    fn an_array_is_a_header_and_its_elements() {
        let mut out = BytesMut::new();
        CompositeArray::keys(&keys(&[b"ab", b"", b"c"])).to_sql(&Type::BYTEA_ARRAY, &mut out).unwrap();
        let read = Vec::<Vec<u8>>::from_sql(&Type::BYTEA_ARRAY, &out).unwrap();
        assert_eq!(read, [b"ab".to_vec(), b"".to_vec(), b"c".to_vec()]);
    }

    #[test]
    fn an_empty_array_has_no_dimension() {
        let mut out = BytesMut::new();
        CompositeArray::keys(&Keys::default()).to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        assert_eq!(Vec::<String>::from_sql(&Type::TEXT_ARRAY, &out).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn keys_are_read_back() {
        assert_eq!(keys(&[b"ab", b"", b"c"]).iter().collect::<Vec<_>>(), [&b"ab"[..], b"", b"c"]);
    }
}
