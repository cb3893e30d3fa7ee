//! The layout of a collection's tables: mapping files, read, checked and written; names; automatic mapping.
//!
//! Nothing here does I/O. A [`MappingSpec`] can't be wrong: it comes from [`MappingSpec::parse`], whose
//! errors name file, line, key and constraint, from [`Sample::spec`] or from [`evolve`], by which it only
//! grows; and compiling it can't fail.

mod change;
mod check;
mod describe;
mod document;
mod evolve;
mod infer;
mod naming;
mod path;
mod path_conflicts;
mod phrases;
mod sample;
mod spec;
mod toml_comments;
mod toml_error;
mod toml_text;
mod widening;
mod write;

pub use self::{
    change::{MappingAdditions, additions},
    check::WrittenMapping,
    evolve::evolve,
    naming::{MAX_NAME, Names},
    path::{FieldPath, Segment},
    sample::Sample,
    spec::{
        ColumnSpec, DocumentSpec, JsonForm, KeySpec, MappingSpec, Mask, OnDelete, OnUnfit, ReplacedColumn,
        TableSpec,
    },
    toml_error::{nearest, toml_error},
};
