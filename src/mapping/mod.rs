//! From a raw document to encoded rows.
//!
//! ```text
//! MappingSpec ─compile─► Mapping (tables, trie of paths)
//!                           │
//! raw document ──────► Encoder ──► Rows (one buffer per table: binary COPY, or elements of a composite array)
//! ```
//!
//! Pure: bytes in, bytes out. No I/O, no clock, no `async`; malformed bytes are an [`Unfit`], never a panic.
//! Reading order: [`table`] (what is written), `compile` (the plan), `encode` (the walk), `value` (one value,
//! one column), `key_column` (the `_id`), `extra` (what no column holds), `json`, `forms` and `numeric` (forms),
//! `bson` (bytes).

mod bson;
mod compile;
mod encode;
mod extra;
mod forms;
mod json;
mod key_column;
mod numeric;
mod table;
mod tuples;
mod value;

#[cfg(test)]
mod tests;

pub use compile::Mapping;
pub use encode::{Encoder, Unfit};
pub use table::{Column, ColumnType, DELETED_AT, Framing, Reading, Rows, Scalar, Table, TableRows};
pub use tuples::{Tuple, TupleColumns, Tuples, same_value};
