//! One walk over a raw document, from which its rows fall into their tables' buffers.
//!
//! Walking only finds values: a mapped field's type and offset go into a slot of its table's open row; what
//! is not mapped is skipped by its length and noted for `extra`. When a row closes, its columns are encoded
//! in order, straight into the table's buffer. Nested rows close before the root's, whose last column is
//! `extra`.
//!
//! The invariant: every field of the document is in a column, or implied by a row, or noted. On a fault
//! nothing stays in any buffer.

use std::{fmt, sync::Arc};

use bytes::{BufMut, BytesMut};
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr};

use super::{
    bson::{self, ARRAY, DOCUMENT, Elements, Fault, INT32, INT64, OBJECT_ID, Read},
    compile::{Field, Mapping, Node, Object, SlotId},
    extra::{Noted, Notes, Occurrence, Step, render_trail},
    json::JsonWriter,
    key_column,
    table::{Framing, Rows, Scalar, TableRows},
    value::{self, Fit},
};

/// Why a document can't have rows at all: it is to be kept whole, as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The field, in dotted notation; empty for the document itself.
    pub path: String,
    /// What is wrong with it. Never a value.
    pub reason: &'static str,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

impl std::error::Error for Unfit {}

/// Encodes documents into rows. One per task: it owns the scratch memory, and in the steady state allocates
/// nothing.
#[derive(Debug)]
pub struct Encoder {
    mapping: Arc<Mapping>,
    framing: Framing,
    scratch: Scratch,
    /// What each buffer held before the document.
    marks: Vec<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Scratch {
    /// The slots of each table's open row.
    slots: Vec<Vec<Slot>>,
    /// The way from the document to where the walk is.
    trail: Vec<Step>,
    /// The indexes of the arrays on that way.
    ordinals: Vec<i64>,
    /// The key column's bytes.
    key: BytesMut,
    notes: Notes,
    json: JsonWriter,
}

/// A value that was found, by type and offset. Type 0: none.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    kind: u8,
    at: usize,
}

impl Encoder {
    /// An encoder of `mapping` that lays rows out by `framing`.
    pub fn new(mapping: Arc<Mapping>, framing: Framing) -> Self {
        let slots = mapping.plans.iter().map(|plan| vec![Slot::default(); plan.slots]).collect();
        Self { mapping, framing, scratch: Scratch { slots, ..Scratch::default() }, marks: Vec::new() }
    }

    /// Appends the rows of `document` to `rows`, which has one buffer for each table of the mapping. On an
    /// error nothing is appended.
    pub fn encode(&mut self, document: &RawDocument, rows: &mut Rows) -> Result<(), Unfit> {
        let Self { mapping, framing, scratch, marks } = self;
        let doc = document.as_bytes();
        debug_assert_eq!(rows.tables.len(), mapping.plans.len());
        marks.clear();
        marks.extend(rows.tables.iter().map(|table| (table.bytes.len(), table.count)));
        scratch.trail.clear();
        scratch.ordinals.clear();
        scratch.notes.clear();
        let walked = first_key(doc)
            .and_then(|id| Walk { mapping, framing: *framing, doc, id, scratch, rows }.document());
        walked.map_err(|fault| {
            for (table, &(bytes, count)) in rows.tables.iter_mut().zip(&*marks) {
                table.bytes.truncate(bytes);
                table.count = count;
            }
            let mut path = BytesMut::new();
            render_trail(&mut path, doc, &scratch.trail);
            unfit(String::from_utf8_lossy(&path).into_owned(), fault)
        })
    }

    /// Appends the key column's bytes for `id` to `out`, without a length, in PostgreSQL's binary form of
    /// [`Mapping::key_type`]. On an error nothing is appended.
    pub fn encode_key(&mut self, id: RawBsonRef<'_>, out: &mut BytesMut) -> Result<(), Unfit> {
        let ty = self.mapping.key_type();
        let json = &mut self.scratch.json;
        let start = out.len();
        let encoded = match id {
            RawBsonRef::Int32(value) => key_column::key(out, ty, (&value.to_le_bytes(), INT32, 0), json),
            RawBsonRef::Int64(value) => key_column::key(out, ty, (&value.to_le_bytes(), INT64, 0), json),
            RawBsonRef::ObjectId(value) => key_column::key(out, ty, (&value.bytes(), OBJECT_ID, 0), json),
            other => {
                let mut document = RawDocumentBuf::new();
                document.append(cstr!("_id"), other);
                let doc = document.as_bytes();
                first_key(doc).and_then(|(kind, at)| key_column::key(out, ty, (doc, kind, at), json))
            }
        };
        encoded.map(|_| ()).map_err(|fault| {
            out.truncate(start);
            unfit(String::new(), fault)
        })
    }
}

fn unfit(path: String, fault: Fault) -> Unfit {
    let path = if matches!(fault, Fault::KeyMisfit | Fault::KeyTooLong) { "_id".to_owned() } else { path };
    Unfit { path, reason: fault.reason() }
}

/// The type and offset of the document's `_id`: mostly its first field.
fn first_key(doc: &[u8]) -> Read<(u8, usize)> {
    let mut elements = Elements::of(doc, 0)?;
    while let Some(element) = elements.advance(doc)? {
        if doc.get(element.name.0..element.name.1) == Some(b"_id") {
            return Ok((element.kind, element.at));
        }
    }
    Err(Fault::NoKey)
}

struct Walk<'a> {
    mapping: &'a Mapping,
    framing: Framing,
    doc: &'a [u8],
    /// The type and offset of the `_id`.
    id: (u8, usize),
    scratch: &'a mut Scratch,
    rows: &'a mut Rows,
}

impl<'a> Walk<'a> {
    fn document(mut self) -> Read<()> {
        let (kind, at) = self.id;
        let Scratch { key, json, .. } = &mut *self.scratch;
        key.clear();
        let ty = self.mapping.key_type();
        if key_column::key(key, ty, (self.doc, kind, at), json)? == Fit::Equal {
            self.note(b"_id", Slot { kind, at }, Occurrence::Plain)?;
        }
        self.row(0, &self.mapping.root, 0)
    }

    /// Reads the object at `at` into a row of `table`.
    fn row(&mut self, table: usize, object: &'a Object, at: usize) -> Read<()> {
        if let Some(slots) = self.scratch.slots.get_mut(table) {
            slots.fill(Slot::default());
        }
        self.object(object, at)?;
        self.close(table)
    }

    fn object(&mut self, object: &'a Object, at: usize) -> Read<()> {
        let Elements { mut next, end } = Elements::of(self.doc, at)?;
        let bytes = self.doc.get(..end).ok_or(Fault::Malformed)?;
        let mut expected = 0;
        while next < end {
            let kind = *bytes.get(next).ok_or(Fault::Malformed)?;
            let name = next + 1;
            let (field, name_end) = match object.field(bytes, name, expected) {
                Some((index, field, name_end)) => {
                    expected = index + 1;
                    (Some(field), name_end)
                }
                None => {
                    let name_end = bson::c_string_end(bytes, name)?;
                    let found = object.find(bytes.get(name..=name_end).unwrap_or_default());
                    if let Some((index, _)) = found {
                        expected = index + 1;
                    }
                    (found.map(|(_, field)| field), name_end)
                }
            };
            let value = Slot { kind, at: name_end + 1 };
            next = bson::end_of(kind, bytes, value.at)?;
            self.scratch.trail.push(Step::Field(name, name_end));
            match field {
                Some(field) => self.field(field, value)?,
                None => self.note(b"", value, Occurrence::Plain)?,
            }
            self.scratch.trail.pop();
        }
        Ok(())
    }

    fn field(&mut self, field: &'a Field, value: Slot) -> Read<()> {
        match &field.node {
            Node::Column => match self.fill(field.slot, value) {
                Slot { kind: 0, .. } => Ok(()),
                earlier => self.note(b"", earlier, Occurrence::Early),
            },
            Node::Key if value.at == self.id.1 => Ok(()),
            Node::Key => self.note(b"", value, Occurrence::Late),
            node => {
                if self.fill(field.slot, value).kind != 0 {
                    return self.note(b"", value, Occurrence::Late);
                }
                if self.unfold(node, value)? { Ok(()) } else { self.note(b"", value, Occurrence::Plain) }
            }
        }
    }

    /// Puts a value into a slot; what was there before.
    fn fill(&mut self, SlotId { table, slot }: SlotId, value: Slot) -> Slot {
        let slot = self.scratch.slots.get_mut(table).and_then(|slots| slots.get_mut(slot));
        slot.map_or_else(Slot::default, |slot| std::mem::replace(slot, value))
    }

    /// Reads the mapped fields in an object or array; false if the value is something else, or is empty and
    /// no row says so.
    fn unfold(&mut self, node: &'a Node, Slot { kind, at }: Slot) -> Read<bool> {
        match node {
            Node::Object(object) if kind == DOCUMENT => match object.table {
                Some(table) => self.row(table, object, at)?,
                None if Elements::of(self.doc, at)?.is_empty() => return Ok(false),
                None => self.object(object, at)?,
            },
            Node::Array(element) if kind == ARRAY && !Elements::of(self.doc, at)?.is_empty() => {
                self.elements(element, at)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn elements(&mut self, node: &'a Node, at: usize) -> Read<()> {
        let mut elements = Elements::of(self.doc, at)?;
        let mut index = 0;
        while let Some(element) = elements.advance(self.doc)? {
            let value = Slot { kind: element.kind, at: element.at };
            self.scratch.trail.push(Step::Element(index));
            self.scratch.ordinals.push(i64::try_from(index).unwrap_or(i64::MAX));
            if !self.unfold(node, value)? {
                self.note(b"", value, Occurrence::Plain)?;
            }
            self.scratch.ordinals.pop();
            self.scratch.trail.pop();
            index += 1;
        }
        Ok(())
    }

    /// Notes a value at the end of the trail and `inner`, a rendered path.
    fn note(&mut self, inner: &[u8], Slot { kind, at }: Slot, occurrence: Occurrence) -> Read<()> {
        let Scratch { trail, notes, .. } = &mut *self.scratch;
        notes.add(self.doc, Noted { trail, inner, kind, at, occurrence })
    }

    /// Encodes the open row of `table`.
    fn close(&mut self, table: usize) -> Read<()> {
        let Self { mapping, framing, doc, scratch, rows, .. } = self;
        let Scratch { slots, trail, ordinals, key, notes, json } = &mut **scratch;
        let found = mapping.plans.get(table).zip(slots.get(table)).zip(rows.tables.get_mut(table));
        let Some(((plan, slots), TableRows { bytes: out, count })) = found else { return Ok(()) };
        let row = begin_row(out, *framing, plan.width);
        let header = |out: &mut BytesMut, oid| {
            if *framing == Framing::Composite {
                out.put_u32(oid);
            }
        };
        header(out, mapping.key_type().oid());
        out.put_i32(i32::try_from(key.len()).map_err(|_| Fault::KeyTooLong)?);
        out.extend_from_slice(key);
        for ordinal in ordinals.iter().take(plan.ordinals) {
            header(out, Scalar::Bigint.oid());
            out.put_i32(8);
            out.put_i64(*ordinal);
        }
        for (column, &Slot { kind, at }) in plan.columns.iter().zip(slots) {
            header(out, column.oid);
            let start = value::begin(out);
            let fit = match kind {
                0 => Fit::Misfit,
                _ => value::column(out, column.ty, (doc, kind, at), json)?,
            };
            if fit != Fit::Exact && kind != 0 {
                let occurrence = Occurrence::Plain;
                notes.add(doc, Noted { trail, inner: &column.path, kind, at, occurrence })?;
            }
            end_column(out, start, fit)?;
        }
        if table == 0 {
            header(out, Scalar::Jsonb.oid());
            let start = value::begin(out);
            let fit = if notes.is_empty() { Fit::Misfit } else { Fit::Exact };
            if fit == Fit::Exact {
                out.put_u8(1);
                notes.write(out, doc, json)?;
            }
            end_column(out, start, fit)?;
        }
        if *framing == Framing::Composite {
            value::end(out, row)?;
        }
        *count += 1;
        Ok(())
    }
}

fn begin_row(out: &mut BytesMut, framing: Framing, width: u16) -> usize {
    let row = out.len();
    match framing {
        Framing::Copy => out.put_u16(width),
        Framing::Composite => {
            out.put_i32(0);
            out.put_u32(width.into());
        }
    }
    row
}

/// Fills in the length of a column, or makes it NULL.
#[inline]
fn end_column(out: &mut BytesMut, start: usize, fit: Fit) -> Read<()> {
    if fit == Fit::Misfit {
        out.truncate(start);
        out.put_i32(-1);
        return Ok(());
    }
    value::end(out, start)
}
