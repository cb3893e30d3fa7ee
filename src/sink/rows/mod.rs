//! Rows of the user's tables: written, and read back.
//!
//! `copy` writes snapshot chunks, `upsert` batches of the stream, `composite_array` encodes their parameters; `read` and
//! `scan_extra` give rows back, some by a `cursor`.

pub(super) mod composite_array;
pub mod copy;
mod cursor;
pub mod read;
pub mod scan_extra;
pub mod upsert;
