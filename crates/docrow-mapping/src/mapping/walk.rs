//! Walks a raw document once, and writes its rows into their tables' buffers.
//!
//! The walk only finds values: a mapped field's type and offset go into a slot of its table's open row;
//! unmapped fields are skipped by their length and noted for `extra`. When a row closes, its columns are
//! encoded in order, directly into the table's buffer. Nested rows close before the root row, whose last
//! columns are `extra` and the mark of a deleted document.
//!
//! The invariant: every field of the document is in a column, or implied by a row, or noted, or hidden by the
//! mapping; or the document has a fault. Without an `extra` column, null and empty are equivalent to missing,
//! and equal to exact.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::{
    bson::{self, ARRAY, BsonElements, DOCUMENT, EncodeFault, EncodeResult, NULL, ValueAt, ValueSlot},
    compile::{MappedField, MappedNode, MappedObject, Mapping, SlotId},
    extended_json_write::JsonWriter,
    extra::{ExtraNotes, FieldOccurrence, NotedValue},
    key_column,
    mask::censored_object,
    reclaim::clear,
    rows::{Framing, Rows, TableRows},
    scratch::EncoderMemory,
    trail::TrailStep,
    value::{self, ValueFit},
};
use crate::{
    model::table::Scalar,
    schema::{JsonForm, OnUnfit},
};

/// Appends the rows of the document `doc`. On an error, the appended bytes must be removed.
pub(super) fn walk(
    mapping: &Mapping,
    framing: Framing,
    doc: &[u8],
    scratch: &mut EncoderMemory,
    rows: &mut Rows,
) -> EncodeResult<()> {
    scratch.clear();
    if mapping.document().is_none() || !mapping.root.guarded {
        let id = bson::first_key(doc)?;
        return DocumentWalk { mapping, framing, doc, id, scratch, rows }.document();
    }
    let mut whole = std::mem::take(&mut scratch.whole);
    clear(&mut whole);
    let walked = censored_object(&mapping.root, doc, 0, &mut whole).and_then(|_| {
        let id = bson::first_key(&whole)?;
        DocumentWalk { mapping, framing, doc: &whole, id, scratch, rows }.document()
    });
    scratch.whole = whole;
    walked
}

struct DocumentWalk<'a> {
    mapping: &'a Mapping,
    framing: Framing,
    doc: &'a [u8],
    /// The `_id`.
    id: ValueSlot,
    scratch: &'a mut EncoderMemory,
    rows: &'a mut Rows,
}

impl<'a> DocumentWalk<'a> {
    fn document(mut self) -> EncodeResult<()> {
        let ValueSlot { kind, at } = self.id;
        let EncoderMemory { key, json, .. } = &mut *self.scratch;
        let fit = key_column::key(key, self.mapping.key_type(), ValueAt { doc: self.doc, kind, at }, json)?;
        if self.mapping.document().is_some() {
            // The whole document contains its key.
            return self.close(0);
        }
        if fit == ValueFit::Equal && self.mapping.extra {
            self.note(b"_id", self.id, FieldOccurrence::Plain)?;
        }
        self.row(0, &self.mapping.root, 0)
    }

    /// Reads the object at `at` into a row of `table`.
    fn row(&mut self, table: usize, object: &'a MappedObject, at: usize) -> EncodeResult<()> {
        if let Some(slots) = self.scratch.slots.get_mut(table) {
            slots.fill(ValueSlot::default());
        }
        self.object(object, at)?;
        self.close(table)
    }

    fn object(&mut self, object: &'a MappedObject, at: usize) -> EncodeResult<()> {
        let BsonElements { mut next, end } = BsonElements::at(self.doc, at)?;
        let bytes = self.doc.get(..end).ok_or(EncodeFault::Malformed)?;
        let mut expected = 0;
        while next < end {
            let kind = *bytes.get(next).ok_or(EncodeFault::Malformed)?;
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
            let value = ValueSlot { kind, at: name_end + 1 };
            next = bson::end_of(kind, bytes, value.at)?;
            self.scratch.trail.push(TrailStep::Field(name, name_end));
            match field {
                Some(field) => self.field(field, value)?,
                None => self.unknown(object, name..name_end, value)?,
            }
            self.scratch.trail.pop();
        }
        Ok(())
    }

    fn field(&mut self, field: &'a MappedField, value: ValueSlot) -> EncodeResult<()> {
        match &field.node {
            MappedNode::Column => match self.fill(field.slot, value) {
                earlier if earlier.kind == 0 => Ok(()),
                _ if field.hidden => self.withhold(),
                earlier => self.note(b"", earlier, FieldOccurrence::Early),
            },
            MappedNode::Omitted => Ok(()),
            MappedNode::Key if value.at == self.id.at => Ok(()),
            MappedNode::Key => self.note(b"", value, FieldOccurrence::Late),
            node => {
                if self.fill(field.slot, value).kind != 0 {
                    return self.left(node, value, FieldOccurrence::Late);
                }
                if self.unfold(node, value)? {
                    Ok(())
                } else {
                    self.left(node, value, FieldOccurrence::Plain)
                }
            }
        }
    }

    /// A field without a mapping.
    fn unknown(&mut self, object: &MappedObject, name: Range<usize>, value: ValueSlot) -> EncodeResult<()> {
        if let Some(watch) = &mut self.scratch.watch {
            let name = self.doc.get(name).unwrap_or_default();
            watch.field(object.id, name, value.in_document(self.doc))?;
        }
        self.note(b"", value, FieldOccurrence::Plain)
    }

    /// Puts a value into a slot, and returns the previous one.
    fn fill(&mut self, SlotId { table, slot }: SlotId, value: ValueSlot) -> ValueSlot {
        let slot = self.scratch.slots.get_mut(table).and_then(|slots| slots.get_mut(slot));
        slot.map_or_else(ValueSlot::default, |slot| std::mem::replace(slot, value))
    }

    /// Reads the mapped fields in an object or array; false if the value is something else, or no column and
    /// no row represents its existence.
    fn unfold(&mut self, node: &'a MappedNode, ValueSlot { kind, at }: ValueSlot) -> EncodeResult<bool> {
        match node {
            MappedNode::Object(object) if kind == DOCUMENT => match object.table {
                Some(table) => self.row(table, object, at)?,
                None if !node.is_mapped() => return Ok(false),
                None => {
                    let bare = object.is_bare(self.doc, at)?;
                    self.object(object, at)?;
                    return Ok(!bare);
                }
            },
            MappedNode::Array(element)
                if kind == ARRAY && element.is_mapped() && !BsonElements::at(self.doc, at)?.is_empty() =>
            {
                self.elements(element, at)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn elements(&mut self, node: &'a MappedNode, at: usize) -> EncodeResult<()> {
        let mut elements = BsonElements::at(self.doc, at)?;
        let mut index = 0;
        while let Some(element) = elements.advance(self.doc)? {
            let value = ValueSlot { kind: element.kind, at: element.at };
            self.scratch.trail.push(TrailStep::Element(index));
            self.scratch.ordinals.push(i64::try_from(index).unwrap_or(i64::MAX));
            if !self.unfold(node, value)? {
                self.left(node, value, FieldOccurrence::Plain)?;
            }
            self.scratch.ordinals.pop();
            self.scratch.trail.pop();
            index += 1;
        }
        Ok(())
    }

    /// Notes a value that was not unnested: of an unexpected type, bare, or not the first of its name.
    fn left(&mut self, node: &MappedNode, value: ValueSlot, occurrence: FieldOccurrence) -> EncodeResult<()> {
        let ValueSlot { kind, at } = value;
        let counts = occurrence == FieldOccurrence::Plain;
        let bare = node.is_bare(self.doc, kind, at)?;
        if counts && !bare && node.is_mapped() {
            if self.mapping.on_unfit != OnUnfit::Extra {
                return Err(EncodeFault::Misfit);
            }
            self.scratch.misfits += 1;
        }
        if counts && bare && !self.mapping.extra {
            return Ok(());
        }
        if !node.is_guarded() || !self.mapping.extra {
            return self.note(b"", value, occurrence);
        }
        let EncoderMemory { trail, notes, .. } = &mut *self.scratch;
        notes.add_censored(self.doc, NotedValue { trail, inner: b"", kind, at, occurrence }, node)
    }

    /// Notes a value at the end of the trail and `inner`, a rendered path.
    fn note(
        &mut self,
        inner: &[u8],
        ValueSlot { kind, at }: ValueSlot,
        occurrence: FieldOccurrence,
    ) -> EncodeResult<()> {
        if !self.mapping.extra {
            return Err(EncodeFault::Unmapped);
        }
        let EncoderMemory { trail, notes, .. } = &mut *self.scratch;
        notes.add(self.doc, NotedValue { trail, inner, kind, at, occurrence })
    }

    /// Notes that a hidden field of the document occurred before, and nothing of its value: an update of the
    /// field does not determine its column alone.
    fn withhold(&mut self) -> EncodeResult<()> {
        let EncoderMemory { trail, notes, .. } = &mut *self.scratch;
        if self.mapping.extra && trail.len() == 1 { notes.withhold(self.doc, trail) } else { Ok(()) }
    }

    /// Encodes the open row of `table`.
    fn close(&mut self, table: usize) -> EncodeResult<()> {
        let Self { mapping, framing, doc, scratch, rows, .. } = self;
        let EncoderMemory {
            slots, trail, culprit, ordinals, key, notes, watch, misfits, masker, json, ..
        } = &mut **scratch;
        let found = mapping.plans.get(table).zip(slots.get(table)).zip(rows.tables.get_mut(table));
        let Some(((plan, slots), TableRows { bytes: out, count })) = found else { return Ok(()) };
        let row = begin_row(out, *framing, plan.width);
        framing.header(out, mapping.key_type().oid());
        out.put_i32(i32::try_from(key.len()).map_err(|_| EncodeFault::KeyTooLong)?);
        out.extend_from_slice(key);
        for ordinal in ordinals.iter().take(plan.ordinals) {
            framing.header(out, Scalar::Bigint.oid());
            out.put_i32(8);
            out.put_i64(*ordinal);
        }
        for (column, &slot) in plan.columns.iter().zip(slots) {
            let ValueSlot { kind, at } = slot;
            framing.header(out, column.oid);
            let start = value::begin(out);
            let value = slot.in_document(doc);
            let fit = match kind {
                0 => ValueFit::Misfit,
                _ if column.mask.is_some() => {
                    masker.column(out, column, mapping.mask_key.as_ref(), value, json)?
                }
                _ => value::column(out, column.ty, value, json)?,
            };
            if fit != ValueFit::Exact && kind != 0 && column.mask.is_none() {
                if fit == ValueFit::Misfit && kind != NULL {
                    if let Some(watch) = watch {
                        watch.misfit(table, column, kind);
                    }
                    if mapping.on_unfit != OnUnfit::Extra {
                        culprit.extend_from_slice(&column.path);
                        return Err(EncodeFault::Misfit);
                    }
                    *misfits += 1;
                }
                if mapping.extra {
                    let occurrence = FieldOccurrence::Plain;
                    notes.add(doc, NotedValue { trail, inner: &column.path, kind, at, occurrence })?;
                }
            }
            end_column(out, start, fit)?;
            if let Some(was) = column.was {
                framing.header(out, was.oid());
                let start = value::begin(out);
                let fit = if kind == 0 { ValueFit::Misfit } else { value::column(out, was, value, json)? };
                end_column(out, start, fit)?;
            }
        }
        if table == 0 {
            special(mapping, *framing, doc, notes, json, out)?;
        }
        if *framing == Framing::Composite {
            value::end(out, row)?;
        }
        *count += 1;
        Ok(())
    }
}

/// Appends the root table's columns without a field.
fn special(
    mapping: &Mapping,
    framing: Framing,
    doc: &[u8],
    notes: &mut ExtraNotes,
    json: &mut JsonWriter,
    out: &mut BytesMut,
) -> EncodeResult<()> {
    if let Some(form) = mapping.document() {
        framing.header(out, Scalar::Jsonb.oid());
        let start = value::begin(out);
        out.put_u8(1);
        let mut noted = Ok(());
        match form {
            JsonForm::Canonical => json.write(out, doc, DOCUMENT, 0)?,
            JsonForm::Relaxed => json.relaxed(out, doc, &mut |trail, kind, at| {
                if mapping.extra && noted.is_ok() {
                    let occurrence = FieldOccurrence::Plain;
                    noted = notes.add(doc, NotedValue { trail, inner: b"", kind, at, occurrence });
                }
            })?,
        }
        noted?;
        value::end(out, start)?;
    }
    if mapping.extra {
        framing.header(out, Scalar::Jsonb.oid());
        let start = value::begin(out);
        let fit = if notes.is_empty() { ValueFit::Misfit } else { ValueFit::Exact };
        if fit == ValueFit::Exact {
            out.put_u8(1);
            notes.write(out, doc, json)?;
        }
        end_column(out, start, fit)?;
    }
    if mapping.soft_delete() {
        framing.header(out, Scalar::Timestamptz.oid());
        out.put_i32(-1);
    }
    Ok(())
}

impl Framing {
    /// Appends what precedes a column's length.
    #[inline]
    fn header(self, out: &mut BytesMut, oid: u32) {
        if self == Framing::Composite {
            out.extend_from_slice(&oid.to_be_bytes());
        }
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
fn end_column(out: &mut BytesMut, start: usize, fit: ValueFit) -> EncodeResult<()> {
    if fit == ValueFit::Misfit {
        out.truncate(start);
        out.put_i32(-1);
        return Ok(());
    }
    value::end(out, start)
}
