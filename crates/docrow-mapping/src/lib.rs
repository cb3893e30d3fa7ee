//! docrow's value layer: from a document's bytes to the bytes of its rows, and back.
//!
//! It knows BSON, mapping files and PostgreSQL's formats, and does no I/O: it compiles, is tested, measured and
//! fuzzed without RocksDB, tokio or servers. `docrow` re-exports all of it; its `lib.rs` is the map of both.

pub mod error;
pub mod mapping;
pub mod model;
pub mod schema;
pub mod shown;
