//! Suspects that are rechecked together: their rows as read, and the differences. Pure.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use mongodb::bson::{RawDocument, RawDocumentBuf};

use super::{
    diff::{DiffOptions, DocumentDifferences, FoundDocument, WantedDocument},
    pipeline_state::InForce,
    suspect::Suspect,
};
use crate::{
    error::Result,
    mapping::{Encoder, Framing, Rows},
    model::document_key::{self, DocumentKey, Id},
    sink::{Keys, metadata::dead_letters::DeadKeys},
};

/// Suspects that are rechecked together.
pub(super) struct RecheckBatch {
    in_force: Arc<InForce>,
    encoder: Encoder,
    scratch: Rows,
    collection: String,
    telling: DiffOptions,
    items: Vec<BatchItem>,
    by_document: HashMap<DocumentKey, usize>,
    /// Their keys.
    pub(super) keys: Keys,
    /// Their rows, by key.
    pub(super) rows: HashMap<Vec<u8>, Rows>,
    /// Which of them have dead letters.
    pub(super) dead: DeadKeys,
}

struct BatchItem {
    key: Option<Vec<u8>>,
    document_key: Option<RawDocumentBuf>,
    /// How a dead letter is found.
    text: Option<String>,
    /// `None`: its document has not been read yet.
    differences: Option<DocumentDifferences>,
}

impl RecheckBatch {
    pub(super) fn new<'a>(
        in_force: &Arc<InForce>,
        (collection, telling): (String, DiffOptions),
        suspects: impl Iterator<Item = &'a Suspect>,
    ) -> Result<Self> {
        let mut case = Self {
            in_force: in_force.clone(),
            encoder: Encoder::new(in_force.mapping.clone(), Framing::Copy),
            scratch: Rows::new(in_force.mapping.tables().len()),
            collection,
            telling,
            items: Vec::new(),
            by_document: HashMap::new(),
            keys: Keys::default(),
            rows: HashMap::new(),
            dead: DeadKeys::default(),
        };
        for (number, Suspect { key, document_key, .. }) in suspects.enumerate() {
            let mut text = None;
            let mut own = BytesMut::new();
            if let Some(document_key) = document_key {
                case.by_document.insert(DocumentKey::of(Id::of(document_key)?), number);
                text = Some(document_key::id_text(document_key)?);
                // As in the mapping in force now.
                let _ = case.encoder.encode_key(document_key, &mut own);
            }
            let key = if own.is_empty() { key.as_deref().map(<[u8]>::to_vec) } else { Some(own.to_vec()) };
            key.iter().for_each(|key| case.keys.push(key));
            case.items.push(BatchItem { key, document_key: document_key.clone(), text, differences: None });
        }
        Ok(case)
    }

    /// How their dead letters are found.
    pub(super) fn texts(&self) -> Vec<String> {
        self.items.iter().filter_map(|item| item.text.clone()).collect()
    }

    /// How their documents are looked up.
    pub(super) fn document_keys(&self) -> impl Iterator<Item = &RawDocument> {
        self.items.iter().filter_map(|item| item.document_key.as_deref())
    }

    /// How the document of one of them is looked up.
    pub(super) fn document_key(&self, number: usize) -> Option<RawDocumentBuf> {
        self.items.get(number)?.document_key.clone()
    }

    /// The identity of the document of one of them.
    pub(super) fn identity(&self, number: usize) -> Option<DocumentKey> {
        let document_key = self.items.get(number)?.document_key.as_ref()?;
        Some(DocumentKey::of(Id::of(document_key).ok()?))
    }

    /// Compares a document with its rows.
    pub(super) fn meet(&mut self, document: &RawDocument) -> Result<()> {
        let Some(&number) = self.by_document.get(&DocumentKey::of(Id::of(document)?)) else { return Ok(()) };
        let differences = self.between(number, Some(document));
        if let Some(item) = self.items.get_mut(number) {
            item.differences = Some(differences);
        }
        Ok(())
    }

    /// Compares the rows of those without a document with nothing.
    pub(super) fn rest_is_missing(&mut self) {
        for number in 0..self.items.len() {
            if self.items.get(number).is_some_and(|item| item.differences.is_none()) {
                let differences = self.between(number, None);
                if let Some(item) = self.items.get_mut(number) {
                    item.differences = Some(differences);
                }
            }
        }
    }

    /// Whether the rows of one of them match `document`; `None`: whether there are none.
    pub(super) fn is_as(&mut self, number: usize, document: Option<&RawDocument>) -> bool {
        self.between(number, document).count == 0
    }

    /// The differences of each, in their order.
    pub(super) fn differences(&mut self) -> Vec<DocumentDifferences> {
        self.items.iter_mut().map(|item| item.differences.take().unwrap_or_default()).collect()
    }

    fn between(&mut self, number: usize, document: Option<&RawDocument>) -> DocumentDifferences {
        let Some(item) = self.items.get(number) else { return DocumentDifferences::default() };
        self.scratch.clear();
        let encoded = document.map(|document| self.encoder.encode(document, &mut self.scratch));
        let wanted = match encoded {
            None => WantedDocument::Nothing,
            Some(Ok(())) => WantedDocument::Rows(&self.scratch),
            Some(Err(_)) => WantedDocument::DeadLetter,
        };
        let is_dead = item.text.as_ref().is_some_and(|text| self.dead.contains(&self.collection, text));
        let rows = item.key.as_ref().and_then(|key| self.rows.get(key));
        let (key, id) = (item.key.as_deref(), item.document_key.as_deref());
        let (tables, actual) = (self.in_force.mapping.tables(), FoundDocument { rows, is_dead });
        DocumentDifferences::between(tables, key, id, wanted, actual, self.telling)
    }
}
