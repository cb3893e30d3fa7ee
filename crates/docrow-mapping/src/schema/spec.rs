//! Mapping files: `schemas/*.toml`, one for each collection.
//!
//! A [`MappingSpec`] is a mapping that can be compiled and created: its names are unique and not too long, no
//! field is in two places, and docrow supports every type. [`super::check`] ensures that.

use super::FieldPath;
use crate::model::{change::Namespace, table::ColumnType};

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

/// What happens to a value that does not fit its column.
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

/// What happens to the rows of a deleted document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay; the root row is marked with the time.
    Soft,
}

/// How a column masks its value before it leaves the process.
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
    /// Numbers and dates in their natural form; what that does not represent exactly is in `extra`.
    #[default]
    Relaxed,
    /// Every type is distinguished.
    Canonical,
}

/// The column with a document's `_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Its name in the root table.
    pub column: String,
    /// Its type.
    pub ty: ColumnType,
}

/// A table. The root table's `path` and `ordinals` are empty, and its `parent` is the key column's own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table's name.
    pub table: String,
    /// The object or the arrays whose elements are its rows.
    pub path: FieldPath,
    /// The column with the document's key.
    pub parent: String,
    /// One column for each array on the path.
    pub ordinals: Vec<String>,
    /// The mapped columns.
    pub columns: Vec<ColumnSpec>,
}

/// A column and its field; the path is relative to the table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// The column's name.
    pub name: String,
    /// The field.
    pub path: FieldPath,
    /// The column's type.
    pub ty: ColumnType,
    /// How its values are masked.
    pub mask: Option<Mask>,
    /// The narrower column that it replaces once it is filled ([`super::widening`]).
    pub was: Option<ReplacedColumn>,
}

/// A column that is written beside its replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedColumn {
    /// Its name, which the replacement gets in the end.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}

impl MappingSpec {
    /// The collection.
    pub fn collection(&self) -> &Namespace {
        &self.collection
    }

    /// The root table.
    pub fn root(&self) -> &TableSpec {
        &self.root
    }

    /// The child tables, of the objects and arrays in the documents.
    pub fn children(&self) -> &[TableSpec] {
        &self.children
    }

    /// All tables, the root table first.
    pub fn tables(&self) -> impl Iterator<Item = &TableSpec> {
        std::iter::once(&self.root).chain(&self.children)
    }

    /// The key column.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// The name of the root table's `jsonb` column for values without a column, if there is one.
    pub fn extra(&self) -> Option<&str> {
        self.extra.as_deref()
    }

    /// What happens to a value that does not fit.
    pub fn on_unfit(&self) -> OnUnfit {
        self.on_unfit
    }

    /// What happens to the rows of a deleted document.
    pub fn on_delete(&self) -> OnDelete {
        self.on_delete
    }

    /// Whether child tables reference the root table by foreign keys.
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

    /// The part that concerns these top-level fields.
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
