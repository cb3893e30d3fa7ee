//! The first pass over some documents: compares the rows that they should have with those that arrive. Pure.
//!
//! It only determines whether a document's rows are the same, byte by byte, and in the order of the documents
//! and their elements. Any other document is a suspect, which is the rechecker's concern. So no row is looked
//! up or kept, and nothing is allocated per row or value.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::BytesMut;
use mongodb::bson::{RawDocument, spec::ElementType};
use tokio_postgres::Row;
use xxhash_rust::xxh3::xxh3_64;

use super::{pipeline_state::InForce, suspect::Suspect};
use crate::{
    error::{Error, Result},
    mapping::{Encoder, Framing, Rows, same_value},
    model::{
        document_key::{self, Id},
        table::{Column, Table},
    },
    sink::{Keys, metadata::dead_letters::DeadKeys, rows::read},
};

/// How many documents are compared at a time, and about how many bytes of rows they may have.
pub(super) const DOCUMENTS: usize = 1_000;
const BYTES: usize = 8 << 20;

/// Some documents, and how many of their rows have arrived.
pub(super) struct DocumentBatch {
    in_force: Arc<InForce>,
    encoder: Encoder,
    /// The expected rows.
    wanted: Rows,
    /// The keys of the documents that have one.
    pub(super) keys: Keys,
    key: BytesMut,
    documents: Vec<BatchDocument>,
    /// The bytes of their `_id`s.
    ids: Vec<u8>,
    /// For each document and table, the part of the expected rows that has not arrived yet.
    spans: Vec<Range<usize>>,
    /// The documents by the hashes of their keys.
    places: HashMap<u64, usize>,
    /// Where the last row belonged: usually the next one does, too.
    last: usize,
    pub(super) counts: BatchCounts,
}

/// The counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchCounts {
    pub(super) documents: u64,
    pub(super) rows: u64,
    pub(super) dead_letters: u64,
}

struct BatchDocument {
    id: (ElementType, Range<usize>),
    /// In the bytes of the keys.
    key: Option<Range<usize>>,
    bytes: usize,
    is_suspect: bool,
}

impl DocumentBatch {
    pub(super) fn new(in_force: Arc<InForce>) -> Self {
        let mapping = in_force.mapping.clone();
        Self {
            encoder: Encoder::new(mapping.clone(), Framing::Copy),
            wanted: Rows::new(mapping.tables().len()),
            in_force,
            keys: Keys::default(),
            key: BytesMut::new(),
            documents: Vec::new(),
            ids: Vec::new(),
            spans: Vec::new(),
            places: HashMap::new(),
            last: 0,
            counts: BatchCounts::default(),
        }
    }

    /// The mapping that it encodes with.
    pub(super) fn in_force(&self) -> &Arc<InForce> {
        &self.in_force
    }

    /// The number of its documents.
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    pub(super) fn is_full(&self, documents: usize) -> bool {
        self.documents.len() >= documents || self.wanted.byte_len() >= BYTES
    }

    /// Adds a document. `dead`: the documents of `collection` that have a dead letter.
    pub(super) fn add(&mut self, document: &RawDocument, collection: &str, dead: &DeadKeys) -> Result<bool> {
        self.counts.documents += 1;
        let id = Id::of(document)?;
        let start = self.ids.len();
        self.ids.extend_from_slice(id.bytes);
        let mut of =
            BatchDocument { id: (id.kind, start..self.ids.len()), key: None, bytes: 0, is_suspect: false };
        self.key.clear();
        if self.encoder.encode_key(document, &mut self.key).is_ok() {
            self.keys.push(&self.key);
            of.key = Some(self.keys.bytes.len() - self.key.len()..self.keys.bytes.len());
            // If two have the same hash, neither is found, and both are rechecked.
            if let Some(other) = self.places.insert(xxh3_64(&self.key), self.documents.len()) {
                self.suspect(other);
                of.is_suspect = true;
            }
        }
        let is_dead =
            dead.count(collection) > 0 && dead.contains(collection, &document_key::id_text(document)?);
        let first = self.spans.len();
        self.spans.extend(self.wanted.tables.iter().map(|table| table.bytes.len()..table.bytes.len()));
        if is_dead {
            self.counts.dead_letters += 1;
        } else if self.encoder.encode(document, &mut self.wanted).is_err() {
            of.is_suspect = true;
        }
        for (span, table) in self.spans.iter_mut().skip(first).zip(&self.wanted.tables) {
            span.end = table.bytes.len();
            of.bytes += span.len();
        }
        self.documents.push(of);
        Ok(is_dead)
    }

    /// Compares a row of the table with this number and these columns with the expected next row.
    pub(super) fn take(&mut self, number: usize, table: &Table, row: &Row) -> Result<()> {
        self.counts.rows += 1;
        let Some(place) = self.place(read::value(row, 0)?.unwrap_or_default()) else {
            return Err(Error::bug("compare rows: there is one that was not requested"));
        };
        let at = place * self.wanted.tables.len() + number;
        let (Some(span), Some(wanted)) = (self.spans.get_mut(at), self.wanted.tables.get(number)) else {
            return Ok(());
        };
        match same_row(wanted.bytes.get(span.clone()).unwrap_or_default(), &table.columns, row)? {
            Some(length) => span.start += length,
            None => self.suspect(place),
        }
        Ok(())
    }

    /// Which document has this key.
    fn place(&mut self, key: &[u8]) -> Option<usize> {
        let is = |place: usize| {
            let range = self.documents.get(place)?.key.clone()?;
            (self.keys.bytes.get(range)? == key).then_some(place)
        };
        let place = is(self.last).or_else(|| is(self.last + 1));
        let place = place.or_else(|| self.places.get(&xxh3_64(key)).copied())?;
        self.last = place;
        Some(place)
    }

    fn suspect(&mut self, place: usize) {
        if let Some(document) = self.documents.get_mut(place) {
            document.is_suspect = true;
        }
    }

    /// Adds documents that are not entirely equal to `suspects`, once all rows have arrived, and starts over.
    pub(super) fn finish(&mut self, suspects: &mut Vec<Suspect>) -> Result<()> {
        let tables = self.wanted.tables.len().max(1);
        for (document, spans) in self.documents.iter().zip(self.spans.chunks(tables)) {
            if !document.is_suspect && spans.iter().all(Range::is_empty) {
                continue;
            }
            let (kind, id) = &document.id;
            let id = Id { kind: *kind, bytes: self.ids.get(id.clone()).unwrap_or_default() };
            let key = document.key.clone().and_then(|range| self.keys.bytes.get(range));
            suspects.push(Suspect {
                key: key.map(Box::from),
                document_key: Some(id.document()?),
                bytes: document.bytes,
            });
        }
        self.keys.clear();
        self.wanted.clear();
        self.documents.clear();
        self.ids.clear();
        self.spans.clear();
        self.places.clear();
        self.last = 0;
        Ok(())
    }

    /// Encodes with this mapping from now on. If it is another one, the content is discarded.
    pub(super) fn follow(&mut self, in_force: &Arc<InForce>) {
        if !Arc::ptr_eq(&self.in_force, in_force) {
            *self = Self { counts: self.counts, ..Self::new(in_force.clone()) };
        }
    }
}

/// If a row is the first of `wanted`, tuples of [`Framing::Copy`], returns its length in bytes.
fn same_row(wanted: &[u8], columns: &[Column], row: &Row) -> Result<Option<usize>> {
    let Some((_, mut rest)) = wanted.split_first_chunk::<2>() else { return Ok(None) };
    for (number, column) in columns.iter().enumerate() {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let (value, after) = match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => match after.split_at_checked(length) {
                Some((value, after)) => (Some(value), after),
                None => return Ok(None),
            },
            Err(_) => (None, after),
        };
        if !same_value(column.ty, value, read::value(row, number)?) {
            return Ok(None);
        }
        rest = after;
    }
    Ok(Some(wanted.len() - rest.len()))
}
