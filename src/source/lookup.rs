//! The state of some documents, by `_id`: their present one, or the one at a point in time.
//!
//! # When is a state from?
//!
//! A present-time lookup states a time that is not before any state that it returns, so that its caller knows from which event on
//! the stream has news for it. That time is the `operationTime` of the last reply. The server computes it when the
//! command has run, and for a `majority` read it is the last operation that a majority has
//! (`computeOperationTime` in the server's `service_entry_point_common.cpp`). What the read saw was a snapshot of
//! operations that a majority had when it was opened, which is earlier, and that mark never moves back. So each reply's
//! time bounds what is in it, and the last one's bounds all. A router answers with the greatest time of its shards
//! (`OperationTimeTracker`), which bounds each shard's. A test with a writer that never stops holds it to that.
//!
//! # At one point in time
//!
//! A `snapshot` read at the cluster time of an event sees exactly the writes up to that time, all of a transaction or
//! nothing of it: its writes share one time. On 6.0.5 it was seen that
//! - the server keeps `minSnapshotHistoryWindowInSeconds` (a parameter, 300 by default) of states. A time before that
//!   is refused with SnapshotTooOld (239), at once, by a `getMore` of an older cursor too;
//! - it does not wait for a time that has not come: that is refused with InvalidOptions (72). The time of an event has
//!   come, and it has a majority;
//! - a collection that was created, renamed to its name or dropped and created since then, and a capped one always, is
//!   refused with SnapshotUnavailable (246). A new index or `collMod` is no hindrance. Of a collection that is dropped
//!   and not created again, there are no documents, whatever the time.
//!
//! So a state of the past may be gone for good, which is no error: then the present state is what there is.

use std::{mem, vec};

use mongodb::{
    bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc},
    raw_batch_cursor::RawBatch,
};

use super::{
    ask::ReplyCursor,
    error::{self, SourceRequest},
    reply::{DOCUMENTS_PER_REPLY, Documents},
    server::{Source, no_operation_time},
};
use crate::{
    error::{Code, Error, Kind, Result},
    metrics::READ_BYTES,
    model::{change::Namespace, document_key::Id},
};

/// A lookup, whose replies are yet to be read.
pub struct Lookup {
    source: Source,
    cursor: ReplyCursor,
    /// The searches that follow.
    then: vec::IntoIter<RawDocumentBuf>,
    database: String,
    request: SourceRequest,
    time: LookupTime,
}

/// What bounds the states that come.
enum LookupTime {
    /// The replies' time; before there is one, what the caller gave.
    Present(Timestamp),
    /// They are all of this very time.
    Exactly(Timestamp),
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
        let (first, then) = finds(namespace, keys, &self.majority_after(after).await?)?;
        let cursor =
            self.cursor(&request, &namespace.database, first).await.map_err(|e| request.failed(&e))?;
        let (source, database, time) = (self.clone(), namespace.database.clone(), LookupTime::Present(after));
        Ok(Lookup { source, cursor, then, database, request, time })
    }

    /// Reads the documents with these keys as they were at the very time `at`, which must be an event's. `None`: the
    /// server can't tell any more how they were then.
    ///
    /// The server may forget it while the replies are read. That is an error like any other, to be retried by a new
    /// lookup, which then is `None`. Errors: see [`Self::require_states_of_the_past`].
    pub async fn lookup_at<'a>(
        &self,
        namespace: &Namespace,
        keys: impl IntoIterator<Item = &'a RawDocument>,
        at: Timestamp,
    ) -> Result<Option<Lookup>> {
        self.require_states_of_the_past()?;
        let request = self.request_on("look up documents at one time of", namespace);
        let read_concern = rawdoc! { "level": "snapshot", "atClusterTime": at };
        let (first, then) = finds(namespace, keys, &read_concern)?;
        let cursor = match self.cursor(&request, &namespace.database, first).await {
            Err(e) if error::code_of(&e).is_some_and(|code| error::STATE_GONE.contains(&code)) => {
                return Ok(None);
            }
            cursor => cursor.map_err(|e| request.failed(&e))?,
        };
        let (source, database, time) = (self.clone(), namespace.database.clone(), LookupTime::Exactly(at));
        Ok(Some(Lookup { source, cursor, then, database, request, time }))
    }

    /// Whether [`Self::lookup_at`] can work at all. Error of [`Kind::SourceRefused`]: the server is too old.
    pub fn require_states_of_the_past(&self) -> Result<()> {
        let (major, minor) = self.version;
        if self.version >= STATES_OF_THE_PAST {
            return Ok(());
        }
        let text = format!(
            "read several documents as they were at one time: MongoDB at {} is version {major}.{minor}, and that needs \
             {}.{} or newer: upgrade it, or set [stream] order = \"document\"",
            self.hosts, STATES_OF_THE_PAST.0, STATES_OF_THE_PAST.1
        );
        Err(Error::new(Code::SourceWithoutPast, text))
    }
}

/// The oldest server that reads at a point in time outside of a transaction.
const STATES_OF_THE_PAST: (u32, u32) = (5, 0);

impl Lookup {
    /// The next documents that exist, at most 16 MB of them, in no particular order. `None`: those that have not come
    /// do not exist.
    pub async fn next(&mut self) -> Result<Option<Documents>> {
        let batch = loop {
            if let Some(batch) = self.cursor.next().await {
                break batch;
            }
            let Some(find) = self.then.next() else { return Ok(None) };
            let cursor = self.source.cursor(&self.request, &self.database, find).await;
            self.cursor = cursor.map_err(|e| self.request.failed(&e))?;
        };
        let batch = batch.map_err(|e| self.request.failed(&e))?;
        let now = self.source.saw(operation_time(&batch, &self.request)?);
        let documents = Documents::of(batch);
        READ_BYTES.add_to("lookup", u64::try_from(documents.byte_len()).unwrap_or(0));
        if let LookupTime::Present(time) = &mut self.time {
            *time = now;
        }
        Ok(Some(documents))
    }

    /// No state that has come until now, nor, at the end, the absence of a document, is newer than this.
    pub fn operation_time(&self) -> Timestamp {
        match self.time {
            LookupTime::Present(time) | LookupTime::Exactly(time) => time,
        }
    }
}

/// The searches for these keys: the first, which there is even without keys, and those that follow.
fn finds<'a>(
    namespace: &Namespace,
    keys: impl IntoIterator<Item = &'a RawDocument>,
    read_concern: &RawDocument,
) -> Result<(RawDocumentBuf, vec::IntoIter<RawDocumentBuf>)> {
    let find = |ids: IdList| {
        let ids = ids.finish()?;
        let ids = ids.get_array("ids").map_err(|e| Error::caused(Kind::Bug, "look up documents", e))?;
        Ok(rawdoc! {
            "find": namespace.collection.as_str(),
            "filter": { "_id": { "$in": ids.to_owned() } },
            "readConcern": read_concern.to_owned(),
            "batchSize": i64::from(DOCUMENTS_PER_REPLY),
        })
    };
    let (mut ids, mut all) = (IdList::new(), Vec::new());
    for key in keys {
        let id = Id::of(key)?;
        if ids.count > 0 && ids.bytes.len() + id.bytes.len() > BYTES_OF_IDS {
            all.push(find(mem::replace(&mut ids, IdList::new()))?);
        }
        ids.push(id);
    }
    all.push(find(ids)?);
    let mut all = all.into_iter();
    let first = all.next().ok_or_else(|| Error::bug("look up documents: no search is made"))?;
    Ok((first, all))
}

/// A command has 16 MB, and so has one `_id` at most.
const BYTES_OF_IDS: usize = 8 << 20;

/// `{ids: […]}`. Byte by byte: what stands there need not be valid UTF-8.
struct IdList {
    bytes: Vec<u8>,
    count: usize,
}

impl IdList {
    const HEAD: &[u8] = b"\0\0\0\0\x04ids\0\0\0\0\0";

    fn new() -> Self {
        Self { bytes: Self::HEAD.to_vec(), count: 0 }
    }

    fn push(&mut self, id: Id<'_>) {
        self.bytes.push(id.kind as u8);
        self.bytes.extend_from_slice(self.count.to_string().as_bytes());
        self.bytes.push(0);
        self.bytes.extend_from_slice(id.bytes);
        self.count += 1;
    }

    fn finish(self) -> Result<RawDocumentBuf> {
        let mut bytes = self.bytes;
        bytes.extend_from_slice(&[0, 0]);
        let too_long = |e| Error::caused(Kind::Bug, "look up documents: their keys are too long", e);
        let array = i32::try_from(bytes.len() - 4 - 6).map_err(too_long)?;
        let whole = i32::try_from(bytes.len()).map_err(too_long)?;
        for (at, length) in [(0, whole), (Self::HEAD.len() - 4, array)] {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&length.to_le_bytes());
            }
        }
        RawDocumentBuf::from_bytes(bytes).map_err(|e| Error::caused(Kind::Bug, "look up documents", e))
    }
}

fn operation_time(reply: &RawBatch, request: &SourceRequest) -> Result<Timestamp> {
    reply.as_raw_document().get_timestamp("operationTime").map_err(|_| no_operation_time(request))
}
