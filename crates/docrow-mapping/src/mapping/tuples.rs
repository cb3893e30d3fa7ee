//! Reads encoded rows back, column by column.

use bytes::BufMut;

use super::{extended_json_parse::jsonb, rows::TableRows};
use crate::model::table::{ColumnType, Scalar};

/// Whether a column's bytes, as encoded and as PostgreSQL sends them, are the same value. They are the same
/// bytes, except for `jsonb`, which PostgreSQL writes with its own spaces and its own order of keys.
pub fn same_value(ty: ColumnType, encoded: Option<&[u8]>, stored: Option<&[u8]>) -> bool {
    match (encoded, stored) {
        (Some(encoded), Some(stored)) if ty.scalar == Scalar::Jsonb && encoded != stored => {
            if !ty.array {
                return same_json(encoded, stored);
            }
            let (Some(mut encoded), Some(mut stored)) = (elements(encoded), elements(stored)) else {
                return false;
            };
            loop {
                match (encoded.next(), stored.next()) {
                    (None, None) => return true,
                    (Some(Some(Some(left))), Some(Some(Some(right)))) if same_json(left, right) => {}
                    _ => return false,
                }
            }
        }
        (encoded, stored) => encoded == stored,
    }
}

fn same_json(left: &[u8], right: &[u8]) -> bool {
    jsonb(left).is_some_and(|left| jsonb(right) == Some(left))
}

/// The elements of a binary array of at most one dimension: their bytes, `None` for NULL; a `None` instead of
/// an element that is cut off.
pub(super) fn elements(array: &[u8]) -> Option<impl Iterator<Item = Option<Option<&[u8]>>>> {
    let (head, rest) = array.split_at_checked(12)?;
    let (mut columns, left) = match head.first_chunk()? {
        [0, 0, 0, 0] => (TupleColumns { rest, left: 0 }, 0),
        [0, 0, 0, 1] => {
            let (count, rest) = rest.split_first_chunk()?;
            (TupleColumns { rest: rest.get(4..)?, left: 0 }, u32::from_be_bytes(*count))
        }
        _ => return None,
    };
    Some((0..left).map(move |_| {
        columns.left = 1;
        columns.next()
    }))
}

/// The tuples of rows in [`super::Framing::Copy`].
#[derive(Clone, Debug)]
pub struct Tuples<'a> {
    rest: &'a [u8],
}

/// One tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    bytes: &'a [u8],
}

/// The columns of one tuple: their bytes, `None` for NULL.
#[derive(Clone, Debug)]
pub struct TupleColumns<'a> {
    rest: &'a [u8],
    left: u16,
}

impl TableRows {
    /// The rows, if they were encoded in [`super::Framing::Copy`].
    pub fn tuples(&self) -> Tuples<'_> {
        Tuples::in_rows(&self.bytes)
    }

    /// Appends a row in [`super::Framing::Copy`]: the bytes of its columns, `None` for NULL. False, and
    /// nothing appended, if there are more columns than a table has or more bytes than a value has.
    pub fn push(&mut self, columns: &[Option<&[u8]>]) -> bool {
        let lengths = columns.iter().flatten().all(|column| i32::try_from(column.len()).is_ok());
        let (Ok(count), true) = (i16::try_from(columns.len()), lengths) else { return false };
        self.bytes.put_i16(count);
        for column in columns {
            self.bytes.put_i32(column.map_or(-1, |column| i32::try_from(column.len()).unwrap_or(-1)));
            self.bytes.put_slice(column.unwrap_or_default());
        }
        self.count += 1;
        true
    }
}

impl<'a> Tuples<'a> {
    /// The tuples in `bytes`: the data of `COPY … WITH (FORMAT binary)`, without its header. Ends at the
    /// trailer, and at bytes that are no whole tuple.
    pub fn in_rows(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Tuples<'a> {
    type Item = Tuple<'a>;

    fn next(&mut self) -> Option<Tuple<'a>> {
        let mut columns = Tuple { bytes: self.rest }.columns();
        if columns.left == 0 {
            return None;
        }
        while columns.left > 0 {
            columns.next()?;
        }
        let (bytes, rest) = self.rest.split_at(self.rest.len() - columns.rest.len());
        self.rest = rest;
        Some(Tuple { bytes })
    }
}

impl<'a> Tuple<'a> {
    /// Its columns.
    pub fn columns(&self) -> TupleColumns<'a> {
        let count = self.bytes.first_chunk().map_or(0, |count| u16::from_be_bytes(*count));
        // The trailer is a count of -1.
        let left = if count == u16::MAX { 0 } else { count };
        TupleColumns { rest: self.bytes.get(2..).unwrap_or_default(), left }
    }
}

impl<'a> Iterator for TupleColumns<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.rest.split_first_chunk()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.rest = rest;
            return Some(None);
        };
        let (column, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Some(column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trailer_ends_the_tuples() {
        let bytes = b"\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\0\0\0\xff\xff";
        let tuples: Vec<Vec<_>> = Tuples::in_rows(bytes).map(|tuple| tuple.columns().collect()).collect();
        assert_eq!(tuples, [vec![Some(&b"x"[..]), None], vec![Some(&b""[..])]]);
        assert_eq!(Tuples::in_rows(&bytes[..6]).count(), 0);
    }

    #[test]
    fn json_is_compared_by_value() {
        let json = ColumnType::scalar(Scalar::Jsonb);
        assert!(same_value(json, Some(b"\x01{\"bb\":1,\"a\":[]}"), Some(b"\x01{\"a\": [], \"bb\": 1}")));
        assert!(!same_value(json, Some(b"\x01{}"), Some(b"\x01[]")));
        assert!(!same_value(json, Some(b"\x01{}"), None));
        assert!(!same_value(ColumnType::scalar(Scalar::Text), Some(b"1 "), Some(b"1")));
        let array = |json: &[u8]| {
            [
                &[0, 0, 0, 1][..],
                &[0; 8],
                &[0, 0, 0, 1],
                &[0, 0, 0, 1],
                &u32::try_from(json.len()).unwrap().to_be_bytes(),
                json,
            ]
            .concat()
        };
        let ty = ColumnType { array: true, ..json };
        assert!(same_value(ty, Some(&array(b"\x01[1,2]")), Some(&array(b"\x01[1, 2]"))));
        assert!(!same_value(ty, Some(&array(b"\x01[1,2]")), Some(&array(b"\x01[2, 1]"))));
    }
}
