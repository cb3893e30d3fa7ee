//! The buffers that rows are encoded into.

use bytes::BytesMut;

/// The byte layout of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Tuples of `COPY … WITH (FORMAT binary)`: an `i16` count of columns, then for each its `i32` length
    /// (-1: NULL) and its bytes. Without the file's header and trailer.
    Copy,
    /// Elements of a binary array of a composite type: the `i32` length of the element, an `i32` count of
    /// columns, then for each its type's `u32` OID, its `i32` length (-1: NULL) and its bytes. Without the
    /// array's header.
    Composite,
}

/// Encoded rows, one buffer for each table of a mapping, in its order. Meant to be reused.
#[derive(Debug, Default)]
pub struct Rows {
    /// One entry per table.
    pub tables: Vec<TableRows>,
}

/// The encoded rows of one table.
#[derive(Debug, Default)]
pub struct TableRows {
    /// The rows, one after the other.
    pub bytes: BytesMut,
    /// Their number.
    pub count: usize,
}

impl Rows {
    /// Buffers for `tables` tables.
    pub fn new(tables: usize) -> Self {
        Self { tables: std::iter::repeat_with(TableRows::default).take(tables).collect() }
    }

    /// The number of bytes.
    pub fn byte_len(&self) -> usize {
        self.tables.iter().map(|table| table.bytes.len()).sum()
    }

    /// The number of rows.
    pub fn row_count(&self) -> usize {
        self.tables.iter().map(|table| table.count).sum()
    }

    /// Removes the rows, and keeps the memory.
    pub fn clear(&mut self) {
        for table in &mut self.tables {
            table.bytes.clear();
            table.count = 0;
        }
    }
}
