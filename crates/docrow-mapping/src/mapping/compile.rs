//! A compiled [`MappingSpec`]: the tables it writes, and a trie of the paths it reads.
//!
//! In the trie, a field belongs to a column, or is omitted, or is an object or an array with such fields.
//! Fields are in the order of the mapping, which is mostly their order in documents.

use bytes::BytesMut;

use super::{
    bson::{ARRAY, BsonElements, DOCUMENT, EncodeResult, NULL},
    mask_key::MaskKey,
    trail::render,
};
use crate::{
    model::table::{Column, ColumnType, DELETED_AT, Scalar, Table},
    schema::{ColumnSpec, FieldPath, JsonForm, MappingSpec, Mask, OnDelete, OnUnfit, Segment, TableSpec},
};

/// A compiled [`MappingSpec`]: immutable, shared by all tasks.
#[derive(Debug)]
pub struct Mapping {
    pub(super) spec: MappingSpec,
    tables: Vec<Table>,
    pub(super) plans: Vec<TablePlan>,
    pub(super) root: MappedObject,
    pub(super) on_unfit: OnUnfit,
    /// Whether the root table has a column for values that no other holds.
    pub(super) extra: bool,
    pub(super) mask_key: Option<MaskKey>,
    document: Option<JsonForm>,
    foreign_keys: bool,
}

/// How a table's rows are encoded.
#[derive(Debug)]
pub(super) struct TablePlan {
    /// All columns, including those that no field is mapped to.
    pub(super) width: u16,
    pub(super) ordinals: usize,
    pub(super) columns: Vec<PlannedColumn>,
    /// How many slots a row has: one for each column, then one for each object and array of its part of the
    /// document.
    pub(super) slots: usize,
}

#[derive(Debug)]
pub(super) struct PlannedColumn {
    pub(super) ty: ColumnType,
    pub(super) oid: u32,
    pub(super) mask: Option<Mask>,
    /// The type of the column that is written beside it until it is replaced.
    pub(super) was: Option<ColumnType>,
    /// The path from the row's own object, in the form of a key of `extra`.
    pub(super) path: Box<[u8]>,
}

/// An object with mapped fields.
#[derive(Debug, Default)]
pub(super) struct MappedObject {
    /// The table of which it is a row.
    pub(super) table: Option<usize>,
    /// Distinguishes the object from all others of the mapping.
    pub(super) id: u32,
    /// Whether it is a row, or fields in it have columns or rows. Otherwise only omitted fields are known.
    mapped: bool,
    /// Whether a field in it, at any depth, is hidden.
    pub(super) guarded: bool,
    fields: Vec<MappedField>,
    /// The fields by length and bytes of their names.
    sorted: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct MappedField {
    /// The name and its NUL.
    name: Box<[u8]>,
    pub(super) node: MappedNode,
    /// Where an open row stores the field's value, or that it was met.
    pub(super) slot: SlotId,
    /// Whether the value is masked or omitted: it may leave the process only in its own column.
    pub(super) hidden: bool,
}

/// A slot of the open row of a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlotId {
    pub(super) table: usize,
    pub(super) slot: usize,
}

#[derive(Debug)]
pub(super) enum MappedNode {
    /// The document's `_id`.
    Key,
    Column,
    Object(MappedObject),
    /// An array, and its elements.
    Array(Box<MappedNode>),
    /// Omitted.
    Omitted,
}

impl Mapping {
    /// Compiles `spec`.
    pub fn compile(spec: &MappingSpec) -> Self {
        let mut root = MappedObject { table: Some(0), ..MappedObject::default() };
        root.fields.push(MappedField::new("_id", MappedNode::Key));
        let mut plans = Vec::new();
        for (table, spec) in spec.tables().enumerate() {
            let object = root.descend(spec.path.segments());
            object.table = Some(table);
            for (slot, column) in spec.columns.iter().enumerate() {
                object.add_column(column, SlotId { table, slot });
            }
            plans.push(plan(spec));
        }
        spec.omit().iter().for_each(|path| root.add_omitted(path));
        root.finish(0, &mut plans, &mut 0);
        let tables: Vec<_> = spec.tables().enumerate().map(|(i, table)| shape(spec, table, i == 0)).collect();
        for (plan, table) in plans.iter_mut().zip(&tables) {
            plan.width = u16::try_from(table.columns.len()).unwrap_or(u16::MAX);
        }
        Self {
            spec: spec.clone(),
            tables,
            plans,
            root,
            on_unfit: spec.on_unfit(),
            extra: spec.extra().is_some(),
            mask_key: None,
            document: spec.document().map(|document| document.json),
            foreign_keys: spec.foreign_keys(),
        }
    }

    /// The part that concerns these top-level fields, with which rows are encoded from these fields alone:
    /// its root table has fewer columns, and some of its other tables are missing. `None`: there is no such
    /// part, because a document counts only as a whole.
    pub fn of_fields(&self, fields: &[Box<str>]) -> Option<Self> {
        let in_parts = self.extra && self.on_unfit == OnUnfit::Extra && self.document.is_none();
        let part = in_parts.then(|| Self::compile(&self.spec.of_fields(fields)))?;
        Some(Self { mask_key: self.mask_key.clone(), ..part })
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

    /// In document mode, how the root table's second column holds the whole document.
    pub fn document(&self) -> Option<JsonForm> {
        self.document
    }

    /// The root table's column for values that no other holds, if there is one.
    pub fn extra(&self) -> Option<&Column> {
        let columns = &self.tables.first()?.columns;
        columns.iter().nth_back(usize::from(self.soft_delete())).filter(|_| self.extra)
    }

    /// Whether the child tables refer to the root by foreign keys.
    pub fn foreign_keys(&self) -> bool {
        self.foreign_keys
    }

    /// Whether a column is masked by a hash, which requires a key.
    pub fn needs_mask_key(&self) -> bool {
        let mut columns = self.plans.iter().flat_map(|plan| &plan.columns);
        columns.any(|column| column.mask == Some(Mask::Sha256))
    }

    /// The mapping with its mask key. Without one, a column masked by a hash is NULL.
    #[must_use]
    pub fn with_mask_key(self, key: MaskKey) -> Self {
        Self { mask_key: Some(key), ..self }
    }

    /// The fingerprint of the key of its hashes, if there are any.
    pub fn masked_by(&self) -> Option<String> {
        self.mask_key.as_ref().filter(|_| self.needs_mask_key()).map(MaskKey::fingerprint)
    }

    /// Whether the root rows are marked when their document is deleted.
    pub(super) fn soft_delete(&self) -> bool {
        self.tables.first().is_some_and(|root| root.soft_delete)
    }
}

fn plan(spec: &TableSpec) -> TablePlan {
    let column = |column: &ColumnSpec| PlannedColumn {
        ty: column.ty,
        oid: column.ty.oid(),
        mask: column.mask,
        was: column.was.as_ref().map(|was| was.ty),
        path: rendered(&column.path),
    };
    TablePlan {
        width: 0,
        ordinals: spec.ordinals.len(),
        columns: spec.columns.iter().map(column).collect(),
        slots: spec.columns.len(),
    }
}

fn shape(spec: &MappingSpec, table: &TableSpec, root: bool) -> Table {
    let column = |name: &String, ty| Column { name: name.clone(), ty };
    let key = column(&table.parent, spec.key().ty);
    let ordinals = table.ordinals.iter().map(|name| column(name, ColumnType::scalar(Scalar::Bigint)));
    let mapped = table.columns.iter().flat_map(|mapped| {
        let was = mapped.was.as_ref().map(|was| column(&was.name, was.ty));
        std::iter::once(column(&mapped.name, mapped.ty)).chain(was)
    });
    let json = |name: &str| Column { name: name.to_owned(), ty: ColumnType::scalar(Scalar::Jsonb) };
    let document = spec.document().filter(|_| root).map(|document| json(&document.column));
    let extra = spec.extra().filter(|_| root).map(json);
    let soft_delete = root && spec.on_delete() == OnDelete::Soft;
    let deleted_at = Column { name: DELETED_AT.to_owned(), ty: ColumnType::scalar(Scalar::Timestamptz) };
    let special = document.into_iter().chain(extra).chain(soft_delete.then_some(deleted_at));
    Table {
        name: table.table.clone(),
        columns: std::iter::once(key).chain(ordinals).chain(mapped).chain(special).collect(),
        key_columns: 1 + table.ordinals.len(),
        soft_delete,
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

impl MappedField {
    /// The field's name.
    pub(super) fn name(&self) -> &[u8] {
        self.name.strip_suffix(b"\0").unwrap_or_default()
    }
}

impl MappedObject {
    /// The mapped fields.
    pub(super) fn fields(&self) -> &[MappedField] {
        &self.fields
    }

    /// The field whose name is at `at`, and the offset of the name's NUL. `expected` is the index of the
    /// field to try first.
    #[inline]
    pub(super) fn field(
        &self,
        bytes: &[u8],
        at: usize,
        expected: usize,
    ) -> Option<(usize, &MappedField, usize)> {
        let field = self.fields.get(expected)?;
        let matches = bytes.get(at..).is_some_and(|rest| rest.starts_with(&field.name));
        matches.then(|| (expected, field, at + field.name.len() - 1))
    }

    /// The field of that name; `name` ends with its NUL.
    pub(super) fn find(&self, name: &[u8]) -> Option<(usize, &MappedField)> {
        let named = |&index: &usize| self.fields.get(index).map(|field| (field.name.len(), &*field.name));
        let found = self.sorted.binary_search_by(|index| named(index).cmp(&Some((name.len(), name)))).ok()?;
        let index = *self.sorted.get(found)?;
        Some((index, self.fields.get(index)?))
    }

    /// The object at a path, created if it does not exist yet.
    fn descend(&mut self, path: &[Segment]) -> &mut Self {
        let Some((segment, rest)) = path.split_first() else { return self };
        let arrays = segment.arrays;
        let node = self.node(&segment.name, || {
            (0..arrays).fold(MappedNode::Object(Self::default()), |node, _| MappedNode::Array(Box::new(node)))
        });
        innermost(node).descend(rest)
    }

    fn add_column(&mut self, column: &ColumnSpec, slot: SlotId) {
        self.add(&column.path, MappedNode::Column, slot, column.mask.is_some());
    }

    fn add_omitted(&mut self, path: &FieldPath) {
        self.add(path, MappedNode::Omitted, SlotId::default(), true);
    }

    fn add(&mut self, path: &FieldPath, node: MappedNode, slot: SlotId, hidden: bool) {
        let Some((last, way)) = path.segments().split_last() else { return };
        self.descend(way).fields.push(MappedField { slot, hidden, ..MappedField::new(&last.name, node) });
    }

    fn node(&mut self, name: &str, new: impl FnOnce() -> MappedNode) -> &mut MappedNode {
        let terminated = terminated(name);
        let there = self.fields.iter().position(|field| field.name == terminated);
        let index = there.unwrap_or_else(|| {
            self.fields.push(MappedField::new(name, new()));
            self.fields.len() - 1
        });
        self.fields.get_mut(index).map(|field| &mut field.node).expect("the field is there or was just added")
    }

    /// Sorts the fields, gives those without a column a slot in the row of `table` or of the object's own,
    /// and completes the object.
    fn finish(&mut self, table: usize, plans: &mut [TablePlan], ids: &mut u32) {
        let table = self.table.unwrap_or(table);
        (self.id, *ids) = (*ids, *ids + 1);
        self.sorted = (0..self.fields.len()).collect();
        let fields = &self.fields;
        self.sorted
            .sort_by_key(|&index| fields.get(index).map(|field| (field.name.len(), field.name.clone())));
        for field in &mut self.fields {
            if let (MappedNode::Object(_) | MappedNode::Array(_), Some(plan)) =
                (&field.node, plans.get_mut(table))
            {
                field.slot = SlotId { table, slot: plan.slots };
                plan.slots += 1;
                innermost(&mut field.node).finish(table, plans, ids);
            }
        }
        self.guarded = self.fields.iter().any(|field| field.hidden || field.node.is_guarded());
        self.mapped = self.table.is_some() || self.fields.iter().any(|field| field.node.is_mapped());
    }

    /// Whether the object at `at` contains only hidden fields.
    pub(super) fn is_bare(&self, doc: &[u8], at: usize) -> EncodeResult<bool> {
        let mut elements = BsonElements::at(doc, at)?;
        if !self.guarded {
            return Ok(elements.is_empty());
        }
        while let Some(element) = elements.advance(doc)? {
            let found = self.find(doc.get(element.name.start..=element.name.end).unwrap_or_default());
            if !found.is_some_and(|(_, field)| field.hidden) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl MappedField {
    fn new(name: &str, node: MappedNode) -> Self {
        Self { name: terminated(name), node, slot: SlotId::default(), hidden: false }
    }
}

impl MappedNode {
    /// Whether something in it, at any depth, has a column or rows.
    pub(super) fn is_mapped(&self) -> bool {
        match self {
            MappedNode::Object(object) => object.mapped,
            MappedNode::Array(element) => element.is_mapped(),
            MappedNode::Key | MappedNode::Column => true,
            MappedNode::Omitted => false,
        }
    }

    /// Whether something in it, at any depth, is hidden.
    pub(super) fn is_guarded(&self) -> bool {
        match self {
            MappedNode::Object(object) => object.guarded,
            MappedNode::Array(element) => element.is_guarded(),
            MappedNode::Key | MappedNode::Column | MappedNode::Omitted => false,
        }
    }

    /// Whether a value where an object or an array is expected says nothing but that it is there.
    pub(super) fn is_bare(&self, doc: &[u8], kind: u8, at: usize) -> EncodeResult<bool> {
        Ok(match self {
            _ if kind == NULL => true,
            MappedNode::Object(object) if kind == DOCUMENT => object.is_bare(doc, at)?,
            MappedNode::Array(_) if kind == ARRAY => BsonElements::at(doc, at)?.is_empty(),
            _ => false,
        })
    }
}

/// The object in an array, or in an array of arrays. Paths were checked when the spec was made: a node is
/// never passed as one kind and mapped as another.
fn innermost(node: &mut MappedNode) -> &mut MappedObject {
    match node {
        MappedNode::Object(object) => object,
        MappedNode::Array(element) => innermost(element),
        MappedNode::Key | MappedNode::Column | MappedNode::Omitted => {
            unreachable!("a spec never passes through a column or an omitted field")
        }
    }
}

fn terminated(name: &str) -> Box<[u8]> {
    [name.as_bytes(), b"\0"].concat().into()
}
