//! The present state of some documents, by `_id`.
//!
//! # When is a state from?
//!
//! A lookup states a time that is not before any state that it returns, so that its caller knows from which event on
//! the stream has news for it. That time is the `operationTime` of the last reply. The server computes it when the
//! command has run, and for a `majority` read it is the last operation that a majority has
//! (`computeOperationTime` in the server's `service_entry_point_common.cpp`). What the read saw was a snapshot of
//! operations that a majority had when it was opened, which is earlier, and that mark never moves back. So each reply's
//! time bounds what is in it, and the last one's bounds all. A router answers with the greatest time of its shards
//! (`OperationTimeTracker`), which bounds each shard's. A test with a writer that never stops holds it to that.

use futures_util::StreamExt;
use mongodb::{
    bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc},
    raw_batch_cursor::RawBatchCursor,
};

use super::{Documents, Source, error::Request, no_operation_time};
use crate::{
    change::Namespace,
    error::{Error, Kind, Result},
    key::Id,
};

/// A lookup, whose replies are yet to be read.
pub struct Lookup {
    source: Source,
    cursor: RawBatchCursor,
    request: Request,
    operation_time: Timestamp,
}

impl Source {
    /// Reads the documents with these keys as they are at `after` or later. A key is an event's `documentKey`.
    pub async fn lookup<'a>(
        &self,
        namespace: &Namespace,
        keys: impl IntoIterator<Item = &'a RawDocument>,
        after: Timestamp,
    ) -> Result<Lookup> {
        let request = self.request_on("look up documents of", namespace);
        let ids = ids(keys)?;
        let ids = ids.get_array("ids").map_err(|e| Error::caused(Kind::Bug, "look up documents", e))?;
        let find = rawdoc! {
            "find": namespace.collection.as_str(),
            "filter": { "_id": { "$in": ids.to_owned() } },
            "readConcern": self.majority_after(after).await?,
            "batchSize": i64::from(super::DOCUMENTS_PER_REPLY),
        };
        let cursor = self.cursor(&namespace.database, find).await.map_err(|e| request.failed(&e))?;
        Ok(Lookup { source: self.clone(), cursor, request, operation_time: after })
    }
}

impl Lookup {
    /// The next documents that exist, at most 16 MB of them, in no particular order. `None`: those that have not come
    /// do not exist.
    pub async fn next(&mut self) -> Result<Option<Documents>> {
        let Some(batch) = self.cursor.next().await else { return Ok(None) };
        let documents = Documents(batch.map_err(|e| self.request.failed(&e))?);
        self.operation_time = self.source.saw(operation_time(&documents, &self.request)?);
        Ok(Some(documents))
    }

    /// No state that has come until now, nor, at the end, the absence of a document, is newer than this.
    pub fn operation_time(&self) -> Timestamp {
        self.operation_time
    }
}

/// `{ids: […]}`. Byte by byte: what stands there need not be valid UTF-8.
fn ids<'a>(keys: impl IntoIterator<Item = &'a RawDocument>) -> Result<RawDocumentBuf> {
    const HEAD: &[u8] = b"\0\0\0\0\x04ids\0\0\0\0\0";
    let mut bytes = HEAD.to_vec();
    for (number, key) in keys.into_iter().enumerate() {
        let id = Id::of(key)?;
        bytes.push(id.kind as u8);
        bytes.extend_from_slice(number.to_string().as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(id.bytes);
    }
    bytes.extend_from_slice(&[0, 0]);
    let too_long = |e| Error::caused(Kind::Bug, "look up documents: their keys are too long", e);
    let array = i32::try_from(bytes.len() - 4 - 6).map_err(too_long)?;
    let whole = i32::try_from(bytes.len()).map_err(too_long)?;
    for (at, length) in [(0, whole), (HEAD.len() - 4, array)] {
        if let Some(place) = bytes.get_mut(at..at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }
    RawDocumentBuf::from_bytes(bytes).map_err(|e| Error::caused(Kind::Bug, "look up documents", e))
}

fn operation_time(documents: &Documents, request: &Request) -> Result<Timestamp> {
    documents.0.as_raw_document().get_timestamp("operationTime").map_err(|_| no_operation_time(request))
}
