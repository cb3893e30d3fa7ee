//! The shape of what a mapping writes: tables and their columns.

pub use super::column_type::{ColumnType, Reading, Scalar};

/// A table of a mapped collection. The first table of a mapping is its root: one row per document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's name, unquoted, at most 63 bytes.
    pub name: String,
    /// All columns in the order in which rows are encoded. In the root: the key, the mapped columns, `extra`.
    /// In a child: the parent's key, one `bigint` ordinal per array on the path, the mapped columns.
    pub columns: Vec<Column>,
    /// How many leading columns make the primary key.
    pub key_columns: usize,
    /// Whether the last column, [`DELETED_AT`], holds the time at which the document was deleted. Only in a
    /// root: its rows are then marked, and stay.
    pub soft_delete: bool,
}

impl Table {
    /// Of the root of a part of a mapping: the columns of its fields, and `extra`. `None`: it has no `extra`.
    pub fn patched(&self) -> Option<(&[Column], &Column)> {
        let rest = self.columns.get(self.key_columns..self.columns.len() - usize::from(self.soft_delete))?;
        rest.split_last().map(|(extra, columns)| (columns, extra))
    }
}

/// The column that marks deleted documents where they stay: NULL in every row that is written.
pub const DELETED_AT: &str = "_deleted_at";

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, unquoted, at most 63 bytes.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}
