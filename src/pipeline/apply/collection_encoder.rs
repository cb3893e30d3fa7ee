//! One collection's part of a partition's writes: its encoder and buffers.

use std::sync::Arc;

use bytes::BytesMut;
use mongodb::bson::RawDocument;

use super::{document_write::DocumentWrite, partial_encoder::PartialEncoders};
use crate::{
    error::{Error, Result},
    mapping::{Encoder, Framing, Mapping, Rows},
    metrics,
    model::change::{CollectionId, Position},
    pipeline::{
        collection::{Collection, dead_letter_of},
        planted::{self, Bug},
    },
    sink::{Keys, metadata::dead_letters::DeadLetter, rows::upsert::CollectionBatch},
};

/// What the target has refused for a document, and why.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing.
    Not,
    /// The rows that it should have. Its existing rows are removed.
    Rows(String),
    /// The removal of its rows: they stay, perhaps because a foreign key of the user's own refers to them.
    Removal(String),
}

impl Refusal {
    pub(super) fn once(write: &DocumentWrite, error: &Error) -> Self {
        match write.document {
            Some(_) => Self::Rows(error.to_string()),
            None => Self::Removal(error.to_string()),
        }
    }
}

/// One collection's encoder and buffers, reused from batch to batch until its mapping changes.
pub(super) struct CollectionEncoder {
    collections: Arc<[Collection]>,
    pub(super) id: CollectionId,
    mapping: Arc<Mapping>,
    encoder: Encoder,
    rows: Rows,
    upserted: Keys,
    deleted: Keys,
    pub(super) parts: PartialEncoders,
    counted: ::metrics::Counter,
    misfits: ::metrics::Counter,
    key: BytesMut,
    /// The stored position. After a restart it may be ahead of the stream, which begins at the least of all
    /// positions; then it stays as it is until the stream has reached it.
    pub(super) stored: Option<Position>,
}

impl CollectionEncoder {
    pub(super) async fn new(
        collections: &Arc<[Collection]>,
        id: CollectionId,
        stored: Option<Position>,
    ) -> Self {
        let collections = collections.clone();
        let collection = collection_of(&collections, id);
        let mapping = collection.hold().await.clone();
        let encoder = collection.encoder(&mapping, Framing::Composite);
        let rows = Rows::new(mapping.tables().len());
        let (upserted, deleted, key) = (Keys::default(), Keys::default(), BytesMut::new());
        let parts = PartialEncoders::default();
        let name = [collection_of(&collections, id).name()];
        let (counted, misfits) = (metrics::DOCUMENTS_WRITTEN.of(&name), metrics::MISFITS.of(&name));
        Self {
            collections,
            id,
            mapping,
            encoder,
            rows,
            upserted,
            deleted,
            parts,
            counted,
            misfits,
            key,
            stored,
        }
    }

    pub(super) fn collection(&self) -> &Collection {
        collection_of(&self.collections, self.id)
    }

    /// Whether to store `position`: the position of a stopped collection stays where it is.
    pub(super) fn may_reach(&self, position: &Position) -> bool {
        self.collection().stopped().is_none() && self.stored.as_ref().is_none_or(|stored| stored < position)
    }

    /// Whether `position` is the stored one.
    pub(super) fn is_at(&self, position: &Position) -> bool {
        self.collection().stopped().is_none() && self.stored.as_ref() == Some(position)
    }

    /// Encodes with `mapping` from now on; the caller must hold it.
    pub(super) fn follow(&mut self, mapping: &Arc<Mapping>) {
        if !Arc::ptr_eq(&self.mapping, mapping) && !planted::has(Bug::MappingCached) {
            self.encoder = self.collection().encoder(mapping, Framing::Composite);
            self.rows = Rows::new(mapping.tables().len());
            self.parts = PartialEncoders::default();
            self.mapping = mapping.clone();
        }
    }

    /// Counts what was written since the last [`Self::clear`].
    pub(super) fn count(&mut self) {
        let documents = self.upserted.count + self.deleted.count + self.parts.documents();
        if documents > 0 {
            self.counted.increment(u64::try_from(documents).unwrap_or(0));
            let misfits = self.encoder.take_misfits() + self.parts.take_misfits();
            self.misfits.increment(self.collection().misfits.note(misfits));
        }
    }

    pub(super) fn clear(&mut self) {
        self.encoder.take_misfits();
        self.parts.take_misfits();
        self.parts.clear();
        self.rows.clear();
        self.upserted.clear();
        self.deleted.clear();
    }

    /// Encodes one write. A document that can't have rows loses its existing rows, and its dead letter is
    /// returned: rows that can't be brought up to date do not stay as if they were, unless the target refuses
    /// their removal, too.
    pub(super) fn add(&mut self, write: &DocumentWrite, refused: &Refusal) -> Result<Option<DeadLetter>> {
        // Only the key is left of a document that is gone.
        let whole = write.document.as_ref().unwrap_or(&write.document_key);
        if let Refusal::Removal(reason) = refused {
            return self.letter(whole, "", reason).map(Some);
        }
        self.key.clear();
        let encoded = self.encoder.encode_key(&write.document_key, &mut self.key);
        let letter = match (&write.document, refused) {
            (None, _) => None,
            (Some(document), Refusal::Rows(reason)) => Some(self.letter(document, "", reason)?),
            (Some(document), _) => self.encode(document)?,
        };
        if encoded.is_ok() {
            let written = write.document.is_some() && letter.is_none();
            let keys = if written { &mut self.upserted } else { &mut self.deleted };
            keys.push(&self.key);
        }
        Ok(letter)
    }

    /// Encodes some fields of a document. `false`: it must be written whole, for example if it has no rows.
    pub(super) fn add_part(
        &mut self,
        key: &RawDocument,
        fields: &[Box<str>],
        document: &RawDocument,
    ) -> Result<bool> {
        self.key.clear();
        if self.collection().dead_key(key)?.is_some() || self.encoder.encode_key(key, &mut self.key).is_err()
        {
            return Ok(false);
        }
        let Self { collections, id, mapping, parts, key, .. } = self;
        Ok(parts.add(collection_of(collections, *id), mapping, fields, document, key))
    }

    fn encode(&mut self, document: &RawDocument) -> Result<Option<DeadLetter>> {
        let encoded = self.encoder.encode(document, &mut self.rows);
        if self.encoder.discovered() {
            self.collection().discovered(document);
        }
        match encoded {
            Ok(()) => Ok(None),
            Err(unfit) if unfit.stops => {
                self.collection().stop(&format!("{unfit} (on_unfit = \"fail\")"));
                Ok(None)
            }
            Err(unfit) => self.letter(document, &unfit.path, unfit.reason).map(Some),
        }
    }

    fn letter(&self, document: &RawDocument, path: &str, reason: &str) -> Result<DeadLetter> {
        dead_letter_of(self.collection(), &self.mapping, document, path, reason)
    }

    /// The batch to apply, if there is one.
    pub(super) fn batch(&self) -> Option<CollectionBatch<'_>> {
        let Self { id, mapping, rows, upserted, deleted, .. } = self;
        (!upserted.is_empty() || !deleted.is_empty()).then_some(CollectionBatch {
            collection: *id,
            tables: mapping.tables(),
            rows,
            upserted,
            deleted,
        })
    }
}

fn collection_of(collections: &[Collection], id: CollectionId) -> &Collection {
    collections.get(id.0).expect("an encoder's collection is in the list")
}
