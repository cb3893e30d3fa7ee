//! From a raw document to encoded rows.
//!
//! ```text
//! MappingSpec ─compile─► Mapping (tables, trie of paths)
//!                           │
//! raw document ──────► Encoder ──► Rows (one buffer per table: binary COPY, or elements of a composite array)
//! ```
//!
//! [`Rebuilder`] goes the other way, from a document's rows back to the document.
//!
//! Pure: bytes in, bytes out. No I/O, no clock, no `async`; malformed bytes are an [`Unfit`], never a panic.
//! Reading order: [`rows`] (what is written), `compile` (the plan), `encode` and `walk` (a document), `value` (one
//! value, one column), `key_column` (the `_id`), `extra` (what no column holds), `mask` (what never leaves the
//! process), `watch` (what the mapping does not know), `trial` (a dry run), `places` (where a column's values are), `json`, `forms` and `numeric` (forms), `bson` (bytes).
//! And back: `rebuild` and `tree`, `column` (one column, one value), `parse` (JSON).

mod bson;
mod column;
mod compile;
mod encode;
mod extra;
mod forms;
mod json;
mod key_column;
mod mask;
mod numeric;
mod parse;
mod places;
mod rebuild;
mod rows;
mod tree;
mod trial;
mod tuples;
mod value;
mod walk;
mod watch;

#[cfg(test)]
mod tests;

pub use self::{
    column::value_text,
    compile::Mapping,
    encode::{Encoder, Unfit},
    json::document_json,
    mask::MaskKey,
    places::{Places, Replacement, Step},
    rebuild::{Corrupt, Rebuilder},
    rows::{Framing, Rows, TableRows},
    trial::{Left, Tally, Trial, Tried},
    tuples::{Tuple, TupleColumns, Tuples, same_value},
};
