//! Rows of the user's tables: written, and read back.
//!
//! `copy` writes snapshot chunks, `upsert` batches of the stream, whose statements `pipelining` sends; `read`
//! and `scan_extra` give rows back, some by a `cursor`.

pub mod copy;
mod cursor;
pub mod pipelining;
pub mod read;
pub mod scan_extra;
pub mod upsert;
