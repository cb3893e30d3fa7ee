//! What a collection's tables look like: mapping files, read, checked and written; names; automatic mapping.
//!
//! Nothing here does I/O. A [`MappingSpec`] cannot be wrong: it comes from [`MappingSpec::parse`], which
//! refuses with file, line, key and constraint, or from [`Sample::spec`], and compiling it cannot fail.

mod infer;
mod layout;
mod naming;
mod path;
mod spec;
mod toml_error;
mod write;

pub use infer::Sample;
pub use naming::{MAX_NAME, Names};
pub use path::{FieldPath, Segment};
pub use spec::{
    ColumnSpec, DocumentSpec, JsonForm, KeySpec, MappingSpec, Mask, OnDelete, OnUnfit, TableSpec,
};
pub use toml_error::{nearest, toml_error};
