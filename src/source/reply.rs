//! Replies of the server, handed on unread.

#[cfg(test)]
use mongodb::bson::{RawArrayBuf, RawDocumentBuf};
use mongodb::{
    bson::{RawArray, RawBsonRef, RawDocument},
    raw_batch_cursor::RawBatch,
};

use crate::error::{Code, Error, Result};

/// So many that the limit of 16 MB ends a reply.
pub(super) const DOCUMENTS_PER_REPLY: u32 = 1_000_000;
/// The target size of a scan's reply. Larger ones are not faster. The allocator returns buffers of 8 MB and
/// more at once and requests them again each time; of smaller ones it keeps more the longer a scan takes.
pub(super) const REPLY_BYTES: u64 = 1 << 20;

/// One reply of the server: some raw documents.
#[derive(Clone, Debug)]
pub struct Documents(Reply);

#[derive(Clone, Debug)]
enum Reply {
    OfServer(RawBatch),
    #[cfg(test)]
    Simulated(RawArrayBuf),
}

impl Documents {
    pub(super) fn of(reply: RawBatch) -> Self {
        Self(Reply::OfServer(reply))
    }

    #[cfg(test)]
    pub(crate) fn simulated(documents: impl IntoIterator<Item = RawDocumentBuf>) -> Self {
        Self(Reply::Simulated(documents.into_iter().collect()))
    }

    /// The documents, in the order of the reply. Errors: the reply does not have MongoDB's form.
    pub fn iter(&self) -> Result<impl Iterator<Item = Result<&RawDocument>>> {
        Ok(each(match &self.0 {
            Reply::OfServer(reply) => reply.doc_slices().map_err(|_| malformed_reply())?,
            #[cfg(test)]
            Reply::Simulated(documents) => documents,
        }))
    }

    /// The size of the whole reply in bytes.
    pub fn byte_len(&self) -> usize {
        match &self.0 {
            Reply::OfServer(reply) => reply.as_raw_document().as_bytes().len(),
            #[cfg(test)]
            Reply::Simulated(documents) => documents.as_bytes().len(),
        }
    }
}

pub(super) fn documents(reply: &RawBatch) -> Result<impl Iterator<Item = Result<&RawDocument>>> {
    Ok(each(reply.doc_slices().map_err(|_| malformed_reply())?))
}

fn each(documents: &RawArray) -> impl Iterator<Item = Result<&RawDocument>> {
    documents.into_iter().map(|document| match document {
        Ok(RawBsonRef::Document(document)) => Ok(document),
        _ => Err(malformed_reply()),
    })
}

pub(super) fn malformed_reply() -> Error {
    Error::new(Code::SourceMalformed, "read a reply of MongoDB: it is malformed")
}
