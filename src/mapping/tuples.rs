//! Reads encoded rows back, column by column.

use super::table::{ColumnType, Scalar, TableRows};

/// Whether a column's bytes, as encoded and as PostgreSQL sends them, are the same value. They are the same
/// bytes, but for `jsonb`, which PostgreSQL writes with its own spaces and its own order of keys.
pub fn same_value(ty: ColumnType, encoded: Option<&[u8]>, stored: Option<&[u8]>) -> bool {
    match (encoded, stored) {
        (Some(encoded), Some(stored)) if ty.scalar == Scalar::Jsonb && encoded != stored => {
            let (encoded, stored) =
                if ty.array { (elements(encoded), elements(stored)) } else { (vec![encoded], vec![stored]) };
            encoded.len() == stored.len()
                && encoded.iter().zip(stored).all(|(left, right)| same_json(left, right))
        }
        (encoded, stored) => encoded == stored,
    }
}

fn same_json(left: &[u8], right: &[u8]) -> bool {
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes.get(1..)?).ok();
    json(left).is_some_and(|left| json(right) == Some(left))
}

/// The elements of a binary array; those of `jsonb` are never NULL.
fn elements(array: &[u8]) -> Vec<&[u8]> {
    const HEAD: usize = 20;
    TupleColumns { rest: array.get(HEAD..).unwrap_or_default(), left: u16::MAX }.flatten().collect()
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
        Tuples::of(&self.bytes)
    }
}

impl<'a> Tuples<'a> {
    /// The tuples in `bytes`: what `COPY … WITH (FORMAT binary)` takes and gives, without its header. Ends at
    /// the trailer, and at bytes that are no whole tuple.
    pub fn of(bytes: &'a [u8]) -> Self {
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
        let tuples: Vec<Vec<_>> = Tuples::of(bytes).map(|tuple| tuple.columns().collect()).collect();
        assert_eq!(tuples, [vec![Some(&b"x"[..]), None], vec![Some(&b""[..])]]);
        assert_eq!(Tuples::of(&bytes[..6]).count(), 0);
    }

    #[test]
    fn json_is_compared_by_value() {
        let json = ColumnType::scalar(Scalar::Jsonb);
        assert!(same_value(json, Some(b"\x01{\"bb\":1,\"a\":[]}"), Some(b"\x01{\"a\": [], \"bb\": 1}")));
        assert!(!same_value(json, Some(b"\x01{}"), Some(b"\x01[]")));
        assert!(!same_value(json, Some(b"\x01{}"), None));
        assert!(!same_value(ColumnType::scalar(Scalar::Text), Some(b"1 "), Some(b"1")));
        let array = |json: &[u8]| {
            [&[0; 19][..], &[1], &u32::try_from(json.len()).unwrap().to_be_bytes(), json].concat()
        };
        let ty = ColumnType { array: true, ..json };
        assert!(same_value(ty, Some(&array(b"\x01[1,2]")), Some(&array(b"\x01[1, 2]"))));
        assert!(!same_value(ty, Some(&array(b"\x01[1,2]")), Some(&array(b"\x01[2, 1]"))));
    }
}
