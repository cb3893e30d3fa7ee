//! What happens to one document's rows.

use mongodb::bson::{RawDocumentBuf, Timestamp};

use crate::model::change::CollectionId;

/// The state in which a document is written, or its deletion.
#[derive(Clone, Debug)]
pub(crate) struct DocumentWrite {
    pub(crate) collection: CollectionId,
    /// The event's `documentKey`.
    pub(crate) document_key: RawDocumentBuf,
    /// `None`: the document is gone.
    pub(crate) document: Option<RawDocumentBuf>,
    /// The only fields that are in `document` and are written; `None`: all of it.
    pub(crate) fields: Option<Vec<Box<str>>>,
    /// When it changed.
    pub(crate) at: Timestamp,
}

impl DocumentWrite {
    /// The size of its document in bytes.
    pub(crate) fn byte_len(&self) -> usize {
        self.document.as_ref().map_or(0, |document| document.as_bytes().len())
    }
}
