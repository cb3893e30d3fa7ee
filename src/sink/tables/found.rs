//! What is there of a collection's tables, as far as it concerns the collection. `catalog` finds it out.

use super::sql;
use crate::{
    model::table::{ColumnType, Scalar, Table},
    sink::metadata::mapping_versions::TableOwnership,
};

/// The existing state, as far as it concerns a collection's tables.
#[derive(Clone, Debug, Default)]
pub struct FoundTables {
    /// The relations that have the name of a wanted table.
    pub relations: Vec<FoundRelation>,
    /// All tables of the stored versions of the collection's mapping.
    pub own: Vec<OwnTable>,
    /// The foreign keys that reference the root table.
    pub references: Vec<ForeignKey>,
}

/// A foreign key of one column.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// The table that has it.
    pub table: String,
    /// The column.
    pub column: String,
}

/// A table that a stored version of the collection's mapping names.
#[derive(Clone, Debug)]
pub struct OwnTable {
    /// Its name, with its schema.
    pub name: String,
    /// Whether it exists.
    pub exists: bool,
}

/// A relation that has the name of a wanted table.
#[derive(Clone, Debug)]
pub struct FoundRelation {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub whose: TableOwnership,
    /// What keeps docrow from writing to it, whatever its columns are.
    pub barrier: Option<Obstacle>,
    /// Whether it has rows; only checked if it has no owner.
    pub has_rows: bool,
    /// Its size.
    pub bytes: u64,
    /// Its columns.
    pub columns: Vec<FoundColumn>,
    /// Its primary key.
    pub key: Option<PrimaryKey>,
    /// Whether a key can be added to it: its owner can.
    pub alterable: bool,
}

/// An existing column.
#[derive(Clone, Debug)]
pub struct FoundColumn {
    /// Its name.
    pub name: String,
    /// Its SQL type.
    pub ty: String,
    /// The type's OID.
    pub oid: u32,
    /// Whether it holds all values of the type, and distinguishes them: it has no precision, no length, and
    /// no collation in which different texts are equal.
    pub plain: bool,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// Whether a row can be inserted without a value for it, despite `not_null`.
    pub default: bool,
    /// Whether it generates its own values: generated, or an identity.
    pub generated: bool,
    /// Whether it contains a value that is no int32; only checked if it would be widened to `double
    /// precision`.
    pub beyond_int4: bool,
}

/// An existing primary key.
#[derive(Clone, Debug)]
pub struct PrimaryKey {
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether it is deferrable; then no upsert can use it.
    pub deferrable: bool,
}

/// A mismatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The result.
    pub there: String,
    /// What is wanted.
    pub wanted: String,
}

impl ForeignKey {
    /// Whether it is the one from a child table to its root table.
    pub(super) fn is_of(&self, child: &Table) -> bool {
        self.table == child.name && child.columns.first().is_some_and(|column| column.name == self.column)
    }
}

impl FoundColumn {
    /// Its SQL definition.
    pub(super) fn shown(&self) -> String {
        let Self { name, ty, not_null, .. } = self;
        format!("{} {ty}{}", sql::quote(name), if *not_null { " NOT NULL" } else { "" })
    }
}

impl Obstacle {
    /// The mismatch of `there` and `wanted`.
    pub(super) fn new(there: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self { there: there.into(), wanted: wanted.into() }
    }
}

/// A change of type that changes no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnWidening {
    Always,
    /// If all values are within int32: as these, not as int64, a double reads back.
    IfSmall,
}

/// How an existing column can get a wanted type.
pub(super) fn widening(wanted: ColumnType, there: &FoundColumn) -> Option<ColumnWidening> {
    let oid = |scalar, array| ColumnType { array, ..ColumnType::scalar(scalar) }.oid();
    match (wanted.scalar, wanted.array) {
        (Scalar::Bigint, array) if there.oid == oid(Scalar::Integer, array) => Some(ColumnWidening::Always),
        (Scalar::Double, false) if there.oid == oid(Scalar::Bigint, false) => Some(ColumnWidening::IfSmall),
        _ => None,
    }
}
