//! What is to become of one document's rows.

use mongodb::bson::{RawDocumentBuf, Timestamp};

use crate::model::change::CollectionId;

/// What a document is to be.
#[derive(Clone, Debug)]
pub(crate) struct DocumentWrite {
    pub(crate) collection: CollectionId,
    /// The event's `documentKey`.
    pub(crate) document_key: RawDocumentBuf,
    /// `None`: gone.
    pub(crate) document: Option<RawDocumentBuf>,
    /// The only fields that are in `document` and are to be written, unless that is all of it.
    pub(crate) fields: Option<Vec<Box<str>>>,
    /// When it changed.
    pub(crate) at: Timestamp,
}

impl DocumentWrite {
    /// How many bytes of documents it holds.
    pub(crate) fn byte_len(&self) -> usize {
        self.document.as_ref().map_or(0, |document| document.as_bytes().len())
    }
}
