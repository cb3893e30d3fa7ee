//! Reads a chunk: one scan of a range of the `_id` index, reply by reply.
//!
//! Every document that is in the chunk during the whole scan is read exactly once. Concurrent writes may be
//! seen or not, in any mixture: the change stream repeats them. The scan reads nothing older than the given
//! point in time (`afterClusterTime`), so that documents and stream leave no gap between them.
//!
//! A scan with `min` but without `max` ends before a document whose `_id` is MaxKey (observed on 6.0.5). The
//! last chunk of a collection requests it separately. A chunk without bounds has it, and so has one of a
//! clustered collection, bounds or not (observed, too): then it is not requested.

use mongodb::bson::{RawBson, RawBsonRef, RawDocumentBuf, Timestamp, cstr, rawdoc};

use super::{
    ask::{ReplyCursor, ReplyOptions},
    error::SourceRequest,
    reply::{DOCUMENTS_PER_REPLY, Documents},
    server::Source,
    split::Chunk,
};
use crate::{error::Result, metrics::READ_BYTES, model::change::Namespace};

/// A scan of a chunk.
pub struct ChunkReader {
    cursor: ReplyCursor,
    /// The scan for MaxKey that follows.
    then: Option<NextReply>,
    request: SourceRequest,
}

struct NextReply {
    source: Source,
    database: String,
    find: RawDocumentBuf,
}

impl Source {
    /// Starts to read `chunk` of a collection in its state at `after` or later. Errors: the source is away or
    /// refuses; a scan that fails must be started again. A reply has at most this many documents.
    pub async fn read_chunk(
        &self,
        namespace: &Namespace,
        chunk: &Chunk,
        after: Timestamp,
        documents_per_reply: u32,
    ) -> Result<ChunkReader> {
        let request = self.request_on("read", namespace);
        let read_concern = self.majority_after(after).await?;
        let mut find = find(namespace, read_concern.clone(), documents_per_reply);
        find.append(cstr!("hint"), rawdoc! { "_id": 1 });
        if let Some(min) = &chunk.min {
            find.append(cstr!("min"), min.clone());
        }
        if let Some(max) = &chunk.max {
            find.append(cstr!("max"), max.clone());
        }
        let then = (chunk.min.is_some() && chunk.max.is_none()).then(|| {
            let mut find = self::find(namespace, read_concern, documents_per_reply);
            find.append(cstr!("filter"), rawdoc! { "_id": RawBson::MaxKey });
            NextReply { source: self.clone(), database: namespace.database.clone(), find }
        });
        let replies = ReplyOptions { documents: documents_per_reply, ..ReplyOptions::default() };
        let cursor = self.open_cursor(&request, &namespace.database, find, replies).await;
        let cursor = cursor.map_err(|e| request.failed(&e))?;
        Ok(ChunkReader { cursor, then, request })
    }

    /// Starts to read the `_id`s of all documents of a collection, and nothing else, in the state at `after`
    /// or later, by the same rules as [`Self::read_chunk`]. The server takes them from the `_id` index,
    /// without reading the documents (unless the index has a collation, or the collection is clustered).
    pub async fn read_ids(&self, namespace: &Namespace, after: Timestamp) -> Result<ChunkReader> {
        let request = self.request_on("read the _ids of", namespace);
        let mut find = find(namespace, self.majority_after(after).await?, DOCUMENTS_PER_REPLY);
        find.append(cstr!("hint"), rawdoc! { "_id": 1 });
        find.append(cstr!("projection"), rawdoc! { "_id": 1 });
        let cursor =
            self.cursor(&request, &namespace.database, find).await.map_err(|e| request.failed(&e))?;
        Ok(ChunkReader { cursor, then: None, request })
    }
}

fn find(namespace: &Namespace, read_concern: RawDocumentBuf, documents_per_reply: u32) -> RawDocumentBuf {
    rawdoc! {
        "find": namespace.collection.as_str(),
        "readConcern": read_concern,
        "batchSize": i64::from(documents_per_reply),
    }
}

impl ChunkReader {
    /// The next documents, at most 16 MB of them, perhaps none; `None`: the chunk is complete.
    pub async fn next(&mut self) -> Result<Option<Documents>> {
        loop {
            if let Some(batch) = self.cursor.next().await {
                let documents = Documents::of(batch.map_err(|e| self.request.failed(&e))?);
                READ_BYTES.add_to("snapshot", u64::try_from(documents.byte_len()).unwrap_or(0));
                // In the scan itself, it would come last.
                if self.then.is_some()
                    && let Some(last) = documents.iter()?.last()
                    && matches!(last?.get("_id"), Ok(Some(RawBsonRef::MaxKey)))
                {
                    self.then = None;
                }
                return Ok(Some(documents));
            }
            let Some(NextReply { source, database, find }) = self.then.take() else { return Ok(None) };
            self.cursor =
                source.cursor(&self.request, &database, find).await.map_err(|e| self.request.failed(&e))?;
        }
    }
}
