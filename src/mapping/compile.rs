//! A [`MappingSpec`] compiled: the tables it writes, and a trie of the paths it reads.
//!
//! In the trie a field is a column's, or an object or an array that holds mapped ones. Fields are in the
//! order in which the mapping names them, which is mostly the order in which documents have them.

use bytes::BytesMut;

use super::{
    extra::render,
    table::{Column, ColumnType, Scalar, Table},
};
use crate::schema::{FieldPath, MappingSpec, Segment, TableSpec};

/// A compiled [`MappingSpec`]: immutable, to be shared by all tasks.
#[derive(Debug)]
pub struct Mapping {
    tables: Vec<Table>,
    pub(super) plans: Vec<Plan>,
    pub(super) root: Object,
}

/// How a table's rows are encoded.
#[derive(Debug)]
pub(super) struct Plan {
    /// All columns, those of the key and `extra` included.
    pub(super) width: u16,
    pub(super) ordinals: usize,
    pub(super) columns: Vec<PlannedColumn>,
    /// How many slots a row has: one for each column, then one for each object and array of its document
    /// part.
    pub(super) slots: usize,
}

#[derive(Debug)]
pub(super) struct PlannedColumn {
    pub(super) ty: ColumnType,
    pub(super) oid: u32,
    /// The path from the row's own object, as it stands in a key of `extra`.
    pub(super) path: Box<[u8]>,
}

/// An object with mapped fields.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// The table of which it is a row.
    pub(super) table: Option<usize>,
    fields: Vec<Field>,
    /// The fields by length and bytes of their names.
    sorted: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    /// The name and its NUL.
    name: Box<[u8]>,
    pub(super) node: Node,
    /// Where an open row notes the field's value, or that it has been met.
    pub(super) slot: SlotId,
}

/// A slot of the open row of a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlotId {
    pub(super) table: usize,
    pub(super) slot: usize,
}

#[derive(Debug)]
pub(super) enum Node {
    /// The document's `_id`.
    Key,
    Column,
    Object(Object),
    /// An array, and what its elements are.
    Array(Box<Node>),
}

impl Mapping {
    /// Compiles `spec`.
    pub fn compile(spec: &MappingSpec) -> Self {
        let mut root = Object { table: Some(0), ..Object::default() };
        let key = Field { name: (*b"_id\0").into(), node: Node::Key, slot: SlotId::default() };
        root.fields.push(key);
        let mut plans = Vec::new();
        for (table, spec) in spec.tables().enumerate() {
            let object = root.descend(spec.path.segments());
            object.table = Some(table);
            for (slot, column) in spec.columns.iter().enumerate() {
                object.add_column(&column.path, SlotId { table, slot });
            }
            plans.push(plan(spec, table == 0));
        }
        root.finish(0, &mut plans);
        Self {
            tables: spec.tables().enumerate().map(|(i, table)| shape(spec, table, i == 0)).collect(),
            plans,
            root,
        }
    }

    /// The tables: the root first, then the children in the order of the spec.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The type of the key column, which is the first column of every table.
    pub fn key_type(&self) -> ColumnType {
        let key = self.tables.first().and_then(|root| root.columns.first());
        key.map_or(ColumnType::scalar(Scalar::Text), |key| key.ty)
    }
}

fn plan(spec: &TableSpec, root: bool) -> Plan {
    let column = |column: &crate::schema::ColumnSpec| PlannedColumn {
        ty: column.ty,
        oid: column.ty.oid(),
        path: rendered(&column.path),
    };
    let width = 1 + spec.ordinals.len() + spec.columns.len() + usize::from(root);
    Plan {
        width: u16::try_from(width).unwrap_or(u16::MAX),
        ordinals: spec.ordinals.len(),
        columns: spec.columns.iter().map(column).collect(),
        slots: spec.columns.len(),
    }
}

fn shape(spec: &MappingSpec, table: &TableSpec, root: bool) -> Table {
    let column = |name: &String, ty| Column { name: name.clone(), ty };
    let key = column(&table.parent, spec.key().ty);
    let ordinals = table.ordinals.iter().map(|name| column(name, ColumnType::scalar(Scalar::Bigint)));
    let mapped = table.columns.iter().map(|mapped| column(&mapped.name, mapped.ty));
    let extra = spec.extra().filter(|_| root);
    let extra = extra.map(|name| Column { name: name.to_owned(), ty: ColumnType::scalar(Scalar::Jsonb) });
    Table {
        name: table.table.clone(),
        columns: std::iter::once(key).chain(ordinals).chain(mapped).chain(extra).collect(),
        key_columns: 1 + table.ordinals.len(),
        soft_delete: false,
    }
}

fn rendered(path: &FieldPath) -> Box<[u8]> {
    let mut out = BytesMut::new();
    for (i, segment) in path.segments().iter().enumerate() {
        if i > 0 {
            out.extend_from_slice(b".");
        }
        render(&mut out, segment.name.as_bytes());
    }
    (*out).into()
}

impl Object {
    /// The field whose name stands at `at`, and where the name's NUL is. `expected` is the index of the field
    /// to try first.
    #[inline]
    pub(super) fn field(&self, bytes: &[u8], at: usize, expected: usize) -> Option<(usize, &Field, usize)> {
        let field = self.fields.get(expected)?;
        let matches = bytes.get(at..).is_some_and(|rest| rest.starts_with(&field.name));
        matches.then(|| (expected, field, at + field.name.len() - 1))
    }

    /// The field of that name; `name` ends with its NUL.
    pub(super) fn find(&self, name: &[u8]) -> Option<(usize, &Field)> {
        let named = |&index: &usize| self.fields.get(index).map(|field| (field.name.len(), &*field.name));
        let found = self.sorted.binary_search_by(|index| named(index).cmp(&Some((name.len(), name)))).ok()?;
        let index = *self.sorted.get(found)?;
        Some((index, self.fields.get(index)?))
    }

    /// The object at a path, made if it is not there yet.
    fn descend(&mut self, path: &[Segment]) -> &mut Self {
        let Some((segment, rest)) = path.split_first() else { return self };
        let arrays = segment.arrays;
        let node = self.node(&segment.name, || {
            (0..arrays).fold(Node::Object(Self::default()), |node, _| Node::Array(Box::new(node)))
        });
        innermost(node).descend(rest)
    }

    fn add_column(&mut self, path: &FieldPath, slot: SlotId) {
        let Some((last, way)) = path.segments().split_last() else { return };
        let object = self.descend(way);
        object.fields.push(Field { name: terminated(&last.name), node: Node::Column, slot });
    }

    fn node(&mut self, name: &str, new: impl FnOnce() -> Node) -> &mut Node {
        let name = terminated(name);
        let there = self.fields.iter().position(|field| field.name == name);
        let index = there.unwrap_or_else(|| {
            self.fields.push(Field { name, node: new(), slot: SlotId::default() });
            self.fields.len() - 1
        });
        self.fields.get_mut(index).map(|field| &mut field.node).expect("the field is there or was just added")
    }

    /// Sorts the fields, and gives those that are no column a slot in the row of `table` or of the object's
    /// own.
    fn finish(&mut self, table: usize, plans: &mut [Plan]) {
        let table = self.table.unwrap_or(table);
        self.sorted = (0..self.fields.len()).collect();
        let fields = &self.fields;
        self.sorted
            .sort_by_key(|&index| fields.get(index).map(|field| (field.name.len(), field.name.clone())));
        for field in &mut self.fields {
            if let (Node::Object(_) | Node::Array(_), Some(plan)) = (&field.node, plans.get_mut(table)) {
                field.slot = SlotId { table, slot: plan.slots };
                plan.slots += 1;
                innermost(&mut field.node).finish(table, plans);
            }
        }
    }
}

/// The object in an array, or in an array of arrays. Paths were checked when the spec was made: a node is
/// never passed as one thing and mapped as another.
fn innermost(node: &mut Node) -> &mut Object {
    match node {
        Node::Object(object) => object,
        Node::Array(element) => innermost(element),
        Node::Key | Node::Column => unreachable!("a spec never passes through a column"),
    }
}

fn terminated(name: &str) -> Box<[u8]> {
    [name.as_bytes(), b"\0"].concat().into()
}
