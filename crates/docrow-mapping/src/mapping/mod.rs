//! From a raw document to encoded rows.
//!
//! ```text
//! MappingSpec ─compile─► Mapping (tables, trie of paths)
//!                           │
//! raw document ──────► Encoder ──► Rows (one buffer per table: binary COPY, or elements of a composite
//! array)
//! ```
//!
//! [`Rebuilder`] goes the other way, from a document's rows back to the document.
//!
//! Pure: bytes in, bytes out. No I/O, no clock, no `async`; malformed bytes are an [`EncodeError`], never a
//! panic. Reading order: [`rows`] (what is written), `compile` (the plan), `encode`, `scratch` and `walk` (a
//! document), `value` (one value, one column), `key_column` (the `_id`), `extra` (what no column holds),
//! `trail` (where that is), `mask` and `mask_key` (what never leaves the process), `unknown_fields` (what the
//! mapping does not know), `dry_run` (a dry run), `places` (where a column's values are),
//! `extended_json_write`, `extended_json_values` and `numeric` (forms), `bson` (bytes). And back: `rebuild`
//! and `tree`, `column` (one column, one value), `extended_json_parse` (JSON).

mod bson;
mod column;
mod compile;
mod dry_run;
mod encode;
mod extended_json_parse;
mod extended_json_values;
mod extended_json_write;
mod extra;
mod key_column;
mod mask;
mod mask_key;
mod numeric;
mod places;
mod rebuild;
mod reclaim;
mod rows;
mod scratch;
mod trail;
mod tree;
mod tuples;
mod unknown_fields;
mod value;
mod walk;

#[cfg(test)]
mod tests;

pub use self::{
    column::value_text,
    compile::Mapping,
    dry_run::{DryRun, DryRunResult, NotInColumn, PathTally},
    encode::{EncodeError, Encoder},
    extended_json_write::document_json,
    mask_key::MaskKey,
    places::{ExtraPathStep, MisfitPlaces, Replacement},
    rebuild::{CorruptRow, Rebuilder},
    rows::{Framing, Rows, TableRows},
    tuples::{Tuple, TupleColumns, Tuples, same_value},
};
