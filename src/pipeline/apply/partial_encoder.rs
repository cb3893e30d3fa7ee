//! The parts of a collection's mapping that updates need: one for each set of fields that changed together.
//!
//! There are few such sets in practice, and each costs prepared statements, so their number is limited; an
//! update beyond the limit is written as a whole document.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use mongodb::bson::RawDocument;

use crate::{
    mapping::{Encoder, Framing, Mapping, Rows},
    model::change::CollectionId,
    pipeline::collection::Collection,
    sink::{Keys, rows::upsert::PartBatch},
};

/// The maximum number of parts of one collection.
const MOST: usize = 32;

/// The parts of one mapping.
#[derive(Default)]
pub(super) struct PartialEncoders {
    parts: Vec<PartialEncoder>,
    numbers: HashMap<Vec<Box<str>>, usize>,
}

/// A part, and its current batch.
struct PartialEncoder {
    fields: Vec<Box<str>>,
    mapping: Arc<Mapping>,
    encoder: Encoder,
    rows: Rows,
    keys: Keys,
}

impl PartialEncoders {
    /// Adds the `fields` of a document whose encoded key is `key`. `false`: they can't be written as a part,
    /// and nothing is added.
    pub(super) fn add(
        &mut self,
        collection: &Collection,
        mapping: &Mapping,
        fields: &[Box<str>],
        document: &RawDocument,
        key: &BytesMut,
    ) -> bool {
        let Some(part) = self.part(collection, mapping, fields) else { return false };
        let encoded = part.encoder.encode(document, &mut part.rows);
        if part.encoder.discovered() {
            collection.discovered(document);
        }
        if encoded.is_err() {
            return false;
        }
        part.keys.push(key);
        true
    }

    fn part(
        &mut self,
        collection: &Collection,
        mapping: &Mapping,
        fields: &[Box<str>],
    ) -> Option<&mut PartialEncoder> {
        let number = match self.numbers.get(fields) {
            Some(number) => *number,
            None if self.parts.len() >= MOST => return None,
            None => {
                let mapping = Arc::new(mapping.of_fields(fields)?);
                let encoder = collection.encoder(&mapping, Framing::Composite);
                let (rows, keys) = (Rows::new(mapping.tables().len()), Keys::default());
                self.numbers.insert(fields.to_vec(), self.parts.len());
                self.parts.push(PartialEncoder { fields: fields.to_vec(), mapping, encoder, rows, keys });
                self.parts.len() - 1
            }
        };
        self.parts.get_mut(number)
    }

    /// The number of documents added.
    pub(super) fn documents(&self) -> usize {
        self.parts.iter().map(|part| part.keys.count).sum()
    }

    /// Returns how many values did not fit since the last call.
    pub(super) fn take_misfits(&mut self) -> u64 {
        self.parts.iter_mut().map(|part| part.encoder.take_misfits()).sum()
    }

    pub(super) fn clear(&mut self) {
        for part in &mut self.parts {
            part.rows.clear();
            part.keys.clear();
        }
    }

    /// The batches to apply.
    pub(super) fn batches(&self, collection: CollectionId) -> impl Iterator<Item = PartBatch<'_>> {
        let used = self.parts.iter().enumerate().filter(|(_, part)| !part.keys.is_empty());
        used.map(move |(number, part)| PartBatch {
            part: (collection, number),
            fields: &part.fields,
            tables: part.mapping.tables(),
            rows: &part.rows,
            keys: &part.keys,
        })
    }
}
