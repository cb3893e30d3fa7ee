//! The state of some documents, by `_id`: the current one, or the one at a point in time.
//!
//! # The time of a state
//!
//! A lookup of current states reports a time that is not before any state that it returns, so that its caller
//! knows from which event on the stream has news for them. That time is the `operationTime` of the last
//! reply. The server computes it when the command has run, and for a `majority` read it is the last operation
//! that a majority has (`computeOperationTime` in the server's `service_entry_point_common.cpp`). The read
//! saw a snapshot of operations that a majority had when it was opened, which is earlier, and that mark never
//! moves back. So each reply's time bounds its content, and the last one's bounds everything. A router
//! answers with the greatest time of its shards (`OperationTimeTracker`), which bounds each shard's. A test
//! with a writer that never stops checks this.
//!
//! # At one point in time
//!
//! A `snapshot` read at the cluster time of an event sees exactly the writes up to that time, all of a
//! transaction or nothing of it: its writes share one time. Observed on 6.0.5:
//! - The server keeps states for `minSnapshotHistoryWindowInSeconds` (a parameter, 300 by default). It
//!   refuses an earlier time with SnapshotTooOld (239), at once, also in a `getMore` of an older cursor.
//! - It does not wait for a future time: it refuses that with InvalidOptions (72). The time of an event has
//!   passed, and has a majority.
//! - It refuses with SnapshotUnavailable (246) a collection that was created, renamed to its name or dropped
//!   and created since then, and a capped one always. A new index or `collMod` does not matter. A collection
//!   that is dropped and not created again has no documents, whatever the time.
//!
//! So a past state may be gone for good, which is no error: then only the current state exists.

use std::{mem, vec};

use mongodb::{
    bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc},
    raw_batch_cursor::RawBatch,
};

use super::{
    ask::ReplyCursor,
    error::{self, SourceRequest},
    reply::{DOCUMENTS_PER_REPLY, Documents},
    server::{Source, Version, no_operation_time},
};
use crate::{
    error::{Code, Error, Kind, Result},
    metrics::READ_BYTES,
    model::{change::Namespace, document_key::Id},
};

/// A lookup whose replies have not been read yet.
pub struct Lookup {
    source: Source,
    cursor: ReplyCursor,
    /// The remaining searches.
    then: vec::IntoIter<RawDocumentBuf>,
    database: String,
    request: SourceRequest,
    time: LookupTime,
}

/// The bound on the states.
enum LookupTime {
    /// The replies' time; before the first reply, the caller's.
    Present(Timestamp),
    /// They are all of exactly this time.
    Exactly(Timestamp),
}

impl Source {
    /// Reads the documents with these keys in their state at `after` or later. A key is an event's
    /// `documentKey`.
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

    /// Reads the documents with these keys in their state at exactly `at`, which must be an event's time.
    /// `None`: the server no longer has that state.
    ///
    /// The server may discard it while the replies are read. That is an error like any other, to be retried
    /// with a new lookup, which then is `None`. Errors: see [`Self::require_states_of_the_past`].
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
        let (major, minor, _) = self.version;
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
const STATES_OF_THE_PAST: Version = (5, 0, 0);

impl Lookup {
    /// The next documents that exist, at most 16 MB of them, in no particular order. `None`: those not
    /// returned do not exist.
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

    /// No state returned so far, nor, at the end, the absence of a document, is newer than this.
    pub fn operation_time(&self) -> Timestamp {
        match self.time {
            LookupTime::Present(time) | LookupTime::Exactly(time) => time,
        }
    }
}

/// The searches for these keys: the first one, which exists even without keys, and the others.
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

/// A command can have 16 MB, and so can a single `_id`.
const BYTES_OF_IDS: usize = 8 << 20;

/// `{ids: […]}`. Built byte by byte, because its content need not be valid UTF-8.
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
