//! Mapping files: `schemas/*.toml`, one for each collection.
//!
//! A [`MappingSpec`] is a mapping that can be compiled and created: its names are unique and not too long, no
//! field is in two places, and every type is one that docrow writes. [`super::check`] sees to that.

use super::{FieldPath, check};
use crate::{
    error::Result,
    model::{change::Namespace, table::ColumnType},
};

/// The name of the `extra` column of automatic mappings.
pub(super) const EXTRA: &str = "_extra";

/// A checked mapping of one collection to its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    pub(super) collection: Namespace,
    pub(super) extra: Option<String>,
    pub(super) on_unfit: OnUnfit,
    pub(super) on_delete: OnDelete,
    pub(super) foreign_keys: bool,
    pub(super) document: Option<DocumentSpec>,
    pub(super) omit: Vec<FieldPath>,
    pub(super) key: KeySpec,
    pub(super) root: TableSpec,
    pub(super) children: Vec<TableSpec>,
}

/// A mapping file's content: a mapping, and what is said of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenMapping {
    /// The mapping.
    pub spec: MappingSpec,
    /// Whether the collection need not be there.
    pub is_optional: bool,
}

impl WrittenMapping {
    /// As [`MappingSpec::parse`].
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        check::read(text, file)
    }

    /// The collection that `text` would be the mapping of, if it is anything like one.
    pub fn collection_of(text: &str) -> Option<String> {
        let table: toml::Table = text.parse().ok()?;
        table.get("collection")?.as_str().map(str::to_owned)
    }
}

/// What becomes of a value that does not fit its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnfit {
    /// It goes to `extra`.
    #[default]
    Extra,
    /// The document becomes a dead letter.
    DeadLetter,
    /// The collection stops.
    Fail,
}

/// What becomes of the rows of a deleted document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay; the root's is marked with the time.
    Soft,
}

/// How a column hides its value before it leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// HMAC-SHA-256 with the key of the environment, in hexadecimal.
    Sha256,
    /// Nothing is left of it.
    Redact,
}

/// The `jsonb` column that holds a whole document, in document mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentSpec {
    /// Its name.
    pub column: String,
    /// The form of Extended JSON.
    pub json: JsonForm,
}

/// The forms of Extended JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonForm {
    /// Numbers and dates as people write them; what that does not tell exactly is in `extra`.
    #[default]
    Relaxed,
    /// Every type told apart.
    Canonical,
}

/// The column that holds a document's `_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Its name in the root table.
    pub column: String,
    /// Its type.
    pub ty: ColumnType,
}

/// A table. The root's `path` and `ordinals` are empty, and its `parent` is the key column's own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table's name.
    pub table: String,
    /// The object or the arrays whose elements are its rows.
    pub path: FieldPath,
    /// The column that holds the document's key.
    pub parent: String,
    /// One column for each array on the path.
    pub ordinals: Vec<String>,
    /// The mapped columns.
    pub columns: Vec<ColumnSpec>,
}

/// A column and the field that it holds; the path is relative to the table's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// The column's name.
    pub name: String,
    /// The field.
    pub path: FieldPath,
    /// The column's type.
    pub ty: ColumnType,
    /// How its values are hidden.
    pub mask: Option<Mask>,
    /// The narrower column whose place it takes once it is filled ([`super::widening`]).
    pub was: Option<Was>,
}

/// A column that is written beside the one that takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Was {
    /// Its name, which the other one gets in the end.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}

impl MappingSpec {
    /// Reads a mapping file. Errors are of kind `Usage` and name `file`, the line, the key and the
    /// constraint.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        check::read(text, file).map(|written| written.spec)
    }

    /// The collection.
    pub fn collection(&self) -> &Namespace {
        &self.collection
    }

    /// The table of the documents themselves.
    pub fn root(&self) -> &TableSpec {
        &self.root
    }

    /// The tables of the objects and arrays in them.
    pub fn children(&self) -> &[TableSpec] {
        &self.children
    }

    /// All tables, the root first.
    pub fn tables(&self) -> impl Iterator<Item = &TableSpec> {
        std::iter::once(&self.root).chain(&self.children)
    }

    /// The key column.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// The name of the root table's `jsonb` column for what no other column holds, if there is one.
    pub fn extra(&self) -> Option<&str> {
        self.extra.as_deref()
    }

    /// What becomes of a value that does not fit.
    pub fn on_unfit(&self) -> OnUnfit {
        self.on_unfit
    }

    /// What becomes of the rows of a deleted document.
    pub fn on_delete(&self) -> OnDelete {
        self.on_delete
    }

    /// Whether child tables refer to the root by foreign keys.
    pub fn foreign_keys(&self) -> bool {
        self.foreign_keys
    }

    /// The column of the whole document, in document mode.
    pub fn document(&self) -> Option<&DocumentSpec> {
        self.document.as_ref()
    }

    /// Fields that never leave the process.
    pub fn omit(&self) -> &[FieldPath] {
        &self.omit
    }

    /// The part of it that is about these top-level fields.
    #[must_use]
    pub fn of_fields(&self, fields: &[Box<str>]) -> Self {
        let concerns = |path: &FieldPath| {
            path.segments().first().is_some_and(|first| fields.iter().any(|field| **field == first.name))
        };
        let mut part = self.clone();
        part.root.columns.retain(|column| concerns(&column.path));
        part.children.retain(|table| concerns(&table.path));
        part.omit.retain(concerns);
        part
    }
}

#[cfg(test)]
mod tests;
