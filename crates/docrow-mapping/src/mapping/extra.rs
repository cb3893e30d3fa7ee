//! Values that no column holds: noted during the walk, written at its end as one flat JSON object, the root
//! table's `extra`.
//!
//! - A key is the field's path: names joined by dots, elements of unnested arrays by their index from 0:
//!   `messages.3.foo`. In a name, a dot and a backslash are escaped by a backslash; a byte that is no valid
//!   UTF-8 is `\x` and two hexadecimal digits.
//! - A value is canonical Extended JSON in the form of
//!   [`super::extended_json_write`](super::extended_json_write), without its masked and omitted fields; if
//!   these can't be separated, the form for a withheld value.
//! - A field that occurs several times in one object is legal on the wire. The occurrence that counts has its
//!   column, its rows or the plain key; the others have the key followed by a backslash and their number
//!   among all occurrences, from 1. The missing number belongs to the one that counts, so the order can be
//!   determined without the mapping. Of values, the last one counts; of objects and arrays with their own
//!   tables or columns, the first.
//! - Null, the empty array and the empty object are noted if no column or row represents them, so that they
//!   differ from a missing field.

use std::ops::Range;

use bytes::BytesMut;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    bson::{EncodeFault, EncodeResult, ValueAt},
    compile::MappedNode,
    extended_json_values,
    extended_json_write::JsonWriter,
    mask::{ValueRemainder, censored},
    reclaim::{clear, clear_bytes},
    trail::{TrailStep, render_trail},
};

/// PostgreSQL allows a little less than 256 MB in one `jsonb` (`JENTRY_OFFLENMASK`).
const MAX_JSON: usize = 0x0fff_0000;

/// The values that no column holds, by type and offset.
#[derive(Debug, Default)]
pub(super) struct ExtraNotes {
    /// The notes' paths, escaped for a JSON key.
    paths: BytesMut,
    notes: Vec<ExtraNote>,
    order: Vec<usize>,
    /// The values without their hidden fields.
    censored: Vec<u8>,
}

/// Where a noted value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotePlace {
    Document,
    Censored,
    /// Nowhere: it is withheld.
    Withheld,
}

#[derive(Debug)]
struct ExtraNote {
    path: Range<usize>,
    hash: u64,
    place: NotePlace,
    kind: u8,
    at: usize,
    occurrence: FieldOccurrence,
    /// The number of the occurrence, if it is not the one that counts; for that, 0.
    copy: usize,
}

/// Which of several fields of one name a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldOccurrence {
    /// The one that counts, unless it is noted again.
    Plain,
    /// A later one counts.
    Early,
    /// An earlier one counts.
    Late,
}

/// A value to note.
pub(super) struct NotedValue<'a> {
    /// The path to it, or to the object that contains it.
    pub(super) trail: &'a [TrailStep],
    /// The rest of the path, rendered by [`render`]; may be empty.
    pub(super) inner: &'a [u8],
    pub(super) kind: u8,
    pub(super) at: usize,
    pub(super) occurrence: FieldOccurrence,
}

impl ExtraNotes {
    pub(super) fn clear(&mut self) {
        clear_bytes(&mut self.paths);
        clear(&mut self.notes);
        clear(&mut self.order);
        clear(&mut self.censored);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    pub(super) fn add(&mut self, doc: &[u8], noted: NotedValue<'_>) -> EncodeResult<()> {
        self.push(doc, noted, NotePlace::Document)
    }

    /// Adds a value where the mapping has `node`, without its hidden parts.
    pub(super) fn add_censored(
        &mut self,
        doc: &[u8],
        noted: NotedValue<'_>,
        node: &MappedNode,
    ) -> EncodeResult<()> {
        let at = self.censored.len();
        let value = ValueAt { doc, kind: noted.kind, at: noted.at };
        match censored(node, value, &mut self.censored)? {
            // For a value without fields, nothing was appended.
            ValueRemainder::Everything if self.censored.len() == at => {
                self.push(doc, noted, NotePlace::Document)
            }
            ValueRemainder::Everything => self.push(doc, NotedValue { at, ..noted }, NotePlace::Censored),
            ValueRemainder::Parts | ValueRemainder::Nothing => {
                self.censored.truncate(at);
                self.push(doc, noted, NotePlace::Withheld)
            }
        }
    }

    /// Adds that an occurrence of a field is withheld, of which a later one counts.
    pub(super) fn withhold(&mut self, doc: &[u8], trail: &[TrailStep]) -> EncodeResult<()> {
        let noted = NotedValue { trail, inner: b"", kind: 0, at: 0, occurrence: FieldOccurrence::Early };
        self.push(doc, noted, NotePlace::Withheld)
    }

    fn push(&mut self, doc: &[u8], noted: NotedValue<'_>, place: NotePlace) -> EncodeResult<()> {
        let NotedValue { trail, inner, kind, at, occurrence } = noted;
        let start = self.paths.len();
        render_trail(&mut self.paths, doc, trail);
        if !inner.is_empty() {
            if self.paths.len() > start {
                self.paths.extend_from_slice(b".");
            }
            self.paths.extend_from_slice(inner);
        }
        if self.paths.len() > MAX_JSON {
            return Err(EncodeFault::TooLong);
        }
        let path = start..self.paths.len();
        let hash = xxh3_64(self.paths.get(path.clone()).unwrap_or_default());
        self.notes.push(ExtraNote { path, hash, place, kind, at, occurrence, copy: 0 });
        Ok(())
    }

    /// Appends the JSON object of all notes.
    pub(super) fn write(
        &mut self,
        out: &mut BytesMut,
        doc: &[u8],
        json: &mut JsonWriter,
    ) -> EncodeResult<()> {
        self.number_copies();
        let start = out.len();
        out.extend_from_slice(b"{");
        for (i, note) in self.notes.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"\"" } else { b",\"" });
            out.extend_from_slice(self.paths.get(note.path.clone()).unwrap_or_default());
            if note.copy > 0 {
                out.extend_from_slice(b"\\\\");
                out.extend_from_slice(itoa::Buffer::new().format(note.copy).as_bytes());
            }
            out.extend_from_slice(b"\":");
            match note.place {
                NotePlace::Document => json.write(out, doc, note.kind, note.at)?,
                NotePlace::Censored => json.write(out, &self.censored, note.kind, note.at)?,
                NotePlace::Withheld => out.extend_from_slice(extended_json_values::WITHHELD),
            }
            if out.len() - start > MAX_JSON {
                return Err(EncodeFault::TooLong);
            }
        }
        out.extend_from_slice(b"}");
        Ok(())
    }

    /// Finds notes of one path, and numbers those that do not count.
    fn number_copies(&mut self) {
        if self.notes.len() < 2 && self.notes.iter().all(|note| note.occurrence == FieldOccurrence::Plain) {
            return;
        }
        let Self { paths, notes, order, .. } = self;
        let path = |note: &ExtraNote| paths.get(note.path.clone()).unwrap_or_default();
        order.clear();
        order.extend(0..notes.len());
        let rank = |&at: &usize| notes.get(at).map(|note| (note.hash, path(note), at));
        order.sort_unstable_by(|left, right| rank(left).cmp(&rank(right)));
        let mut number = 0;
        for (i, &at) in order.iter().enumerate() {
            let next = order.get(i + 1).and_then(|&next| notes.get(next));
            let Some(note) = notes.get(at) else { continue };
            let next = next.filter(|next| next.hash == note.hash && path(next) == path(note));
            if number == 0 && note.occurrence == FieldOccurrence::Late {
                // The one that counts is the first, and not noted.
                number = 1;
            }
            number += 1;
            let plain = |note: &ExtraNote| note.occurrence == FieldOccurrence::Plain;
            let copy = if plain(note) && !next.is_some_and(plain) { 0 } else { number };
            if next.is_none() {
                number = 0;
            }
            if let Some(note) = notes.get_mut(at) {
                note.copy = copy;
            }
        }
    }
}
