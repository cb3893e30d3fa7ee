//! docrow's value layer: from a document's bytes to the bytes of its rows, and back.
//!
//! It knows BSON, mapping files and PostgreSQL's formats, and does no I/O: it compiles, is tested, measured
//! and fuzzed without RocksDB, tokio or servers. `docrow` re-exports all of it.
//!
//! - [`model`]: what everything is about: changes, positions, keys, numbers, tables.
//! - [`schema`]: what a mapping says: read, written, checked, inferred, evolved.
//! - [`mapping`]: a mapping at work: documents into rows, and rows back into documents.
//! - [`error`]: what can go wrong, with a code for each case; [`shown`]: names and values in messages.

pub mod error;
pub mod mapping;
pub mod model;
pub mod schema;
pub mod shown;
