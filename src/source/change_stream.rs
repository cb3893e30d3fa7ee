//! Following the changes of the replicated collections: one change stream, kept open.
//!
//! The stream is opened over the database of the collections, or over the whole deployment where they are in several,
//! narrowed by collection name (`ns: {$in}` would be ten times slower than `ns.coll: {$in}`). Events are bare: no
//! `updateLookup`, and only the fields that are read (which makes an update's reply 40 % smaller, at no cost for the
//! server).
//!
//! The position moves with every reply, also with an empty one, so that it never grows old in a quiet stream. Whatever
//! happens to the cursor, the stream is opened again after the last position that was handed out: nothing is left
//! out, and at most what was never handed out is read twice.
//!
//! [`ChangeStream::next`] may be dropped at any point: all that it has begun is kept here, not in its future.

use std::time::Duration;

use futures_util::{StreamExt, future::BoxFuture};
use mongodb::{
    bson::{RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, cstr, rawdoc},
    error::{Error as DriverError, Result as DriverResult},
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use tokio::time::{Instant, sleep_until};

use super::{
    Source, documents,
    error::Request,
    event::{self, Event, Included, Read},
    malformed_reply,
};
use crate::{
    change::{Namespace, Position},
    error::{Disposition, Error, Kind, Result},
    retry::Retry,
};

/// How long the server waits for an event before it answers with none: how often an idle stream's position moves.
const AWAIT: Duration = Duration::from_millis(500);
/// Bounds a reply of small events: such an event takes several times its own size once read.
const EVENTS_PER_REPLY: u32 = 10_000;

/// An outage is told of once, and then again as often as this: about every two minutes.
const FAILURES_PER_WARNING: u32 = 10;

/// Where a stream begins.
#[derive(Clone, Debug)]
pub enum StreamStart {
    /// After this position, which may be one that ended a stream.
    After(Position),
    /// With the first event at this cluster time.
    At(Timestamp),
}

/// One reply of a stream.
#[derive(Debug)]
pub struct StreamBatch {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Everything up to here is in this batch or was in one before it.
    pub position: Position,
    /// The cluster's time when the server answered.
    pub operation_time: Timestamp,
    /// How many events were of a type that docrow does not know.
    pub unknown: usize,
    /// Whether the server had no event to send: all there were up to `position` have been seen. In the middle of a
    /// transaction this is false, though all of its events bear one time.
    pub at_end: bool,
}

/// The change stream of some collections.
pub struct ChangeStream {
    watch: Watch,
    from: StreamStart,
    state: State,
    retry: Retry,
    lost: u64,
}

/// What is captured for as long as the stream is followed.
struct Watch {
    source: Source,
    included: Included,
    /// `None`: the whole deployment.
    database: Option<String>,
    collections: RawArrayBuf,
    request: Request,
}

enum State {
    /// Until then, nothing is tried.
    Waiting(Instant),
    Opening(BoxFuture<'static, DriverResult<RawBatchCursor>>),
    Reading {
        /// Boxed: it is much larger than the other states.
        cursor: Box<RawBatchCursor>,
        /// How many it has given.
        replies: usize,
    },
}

impl Source {
    /// The present end of the change stream of `namespaces`, to be taken, and stored, before anything else is read.
    ///
    /// It is proven: the server accepts it, and everything before it has reached a majority. (Else a failover could
    /// take that back, and what is written afterwards could lie before the position.) On the way every collection is
    /// seen to be readable.
    pub async fn start_position(&self, namespaces: &[Namespace]) -> Result<Position> {
        let watch = Watch::new(self.clone(), namespaces);
        let first = watch.first_reply(None).await?;
        let position = watch.read(&first)?.position;
        watch.first_reply(Some(&StreamStart::After(position.clone()))).await?;
        for namespace in namespaces {
            self.lookup(namespace, [], position.cluster_time()).await?;
        }
        Ok(position)
    }

    /// Follows the changes of `namespaces`, whose order gives the events' collections. Nothing is opened before
    /// the first [`ChangeStream::next`].
    pub fn change_stream(&self, namespaces: &[Namespace], start: StreamStart) -> ChangeStream {
        let watch = Watch::new(self.clone(), namespaces);
        ChangeStream {
            watch,
            from: start,
            state: State::Waiting(Instant::now()),
            retry: Retry::new(),
            lost: 0,
        }
    }
}

impl ChangeStream {
    /// The next reply, perhaps without any event. Waits, and tries again, as long as the source is away. Errors: the
    /// oplog no longer holds the position ([`Kind::HistoryLost`]), or the source refuses. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<StreamBatch> {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Opening(self.watch.open(Some(&self.from)));
                }
                State::Opening(opening) => match opening.await {
                    Ok(cursor) => self.state = State::Reading { cursor: Box::new(cursor), replies: 0 },
                    Err(error) => self.lost(self.watch.request.failed_to_open(&error))?,
                },
                State::Reading { cursor, replies } => match cursor.next().await {
                    Some(Ok(reply)) => {
                        *replies += 1;
                        let proven = *replies > 1;
                        match self.watch.read(&reply) {
                            Ok(batch) => return Ok(self.received(batch, proven)),
                            Err(error) => self.lost(error)?,
                        }
                    }
                    Some(Err(error)) => {
                        let error = self.watch.error(&error, *replies);
                        self.lost(error)?;
                    }
                    None => self.ended()?,
                },
            }
        }
    }

    /// How often the stream was lost, and was, or is being, opened again.
    pub fn times_lost(&self) -> u64 {
        self.lost
    }

    /// `proven`: the stream was not only opened, but has brought something since.
    fn received(&mut self, batch: StreamBatch, proven: bool) -> StreamBatch {
        self.from = StreamStart::After(batch.position.clone());
        if proven && self.retry.failures() > 0 {
            tracing::info!("{}: back after {} failures", self.watch.request.what, self.retry.failures());
            self.retry.succeeded();
        }
        if let Some(Event::Invalidated { .. }) = batch.events.last() {
            // The server ends the stream after this event, and lets it be opened again after it.
            self.state = State::Opening(self.watch.open(Some(&self.from)));
        }
        batch
    }

    fn ended(&mut self) -> Result<()> {
        let what = &self.watch.request.what;
        self.lost(Error::new(Kind::SourceAway, format!("{what}: the server closed it")))
    }

    fn lost(&mut self, error: Error) -> Result<()> {
        self.lost += 1;
        let delay = self.retry.after_failure();
        self.state = State::Waiting(Instant::now() + delay);
        if error.kind().disposition() == Disposition::Halt {
            return Err(error);
        }
        match self.retry.failures() {
            1 => tracing::warn!("{error}: trying again until it works"),
            failures if failures % FAILURES_PER_WARNING == 0 => tracing::warn!("{error}: failure {failures}"),
            failures => tracing::debug!("{error}: failure {failures}, next try in {delay:?}"),
        }
        Ok(())
    }
}

impl Watch {
    fn new(source: Source, namespaces: &[Namespace]) -> Self {
        let mut databases: Vec<_> = namespaces.iter().map(|namespace| namespace.database.as_str()).collect();
        databases.sort_unstable();
        databases.dedup();
        let database = match databases.as_slice() {
            [database] => Some((*database).to_owned()),
            _ => None,
        };
        let mut names: Vec<_> = namespaces.iter().map(|namespace| namespace.collection.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let collections = RawArrayBuf::from_iter(names);
        let over =
            database.as_deref().map_or("all databases".to_owned(), |name| format!("the database {name}"));
        let request = source.request(format!("follow the changes of {over}"), database.as_deref());
        Self { source, included: Included::new(namespaces), database, collections, request }
    }

    fn open(&self, start: Option<&StreamStart>) -> BoxFuture<'static, DriverResult<RawBatchCursor>> {
        let command = self.command(start);
        let database = self.source.client.database(self.database.as_deref().unwrap_or("admin"));
        let reads_from = self.source.reads_from();
        Box::pin(async move {
            let cursor =
                database.run_raw_cursor_command(command).batch_size(EVENTS_PER_REPLY).max_time(AWAIT);
            match reads_from {
                Some(criteria) => cursor.selection_criteria(criteria).batch().await,
                None => cursor.batch().await,
            }
        })
    }

    fn command(&self, start: Option<&StreamStart>) -> RawDocumentBuf {
        let mut stream = RawDocumentBuf::new();
        match start {
            Some(StreamStart::After(position)) => {
                stream.append(cstr!("startAfter"), position.token().to_owned())
            }
            Some(StreamStart::At(time)) => stream.append(cstr!("startAtOperationTime"), *time),
            None => {}
        }
        if self.database.is_none() {
            stream.append(cstr!("allChangesForCluster"), true);
        }
        let names = || rawdoc! { "$in": self.collections.clone() };
        let of_all = ["dropDatabase", "invalidate"];
        rawdoc! {
            "aggregate": 1,
            "pipeline": [
                { "$changeStream": stream },
                { "$match": { "$or": [
                    { "ns.coll": names() },
                    { "to.coll": names() },
                    { "operationType": { "$in": RawArrayBuf::from_iter(of_all) } },
                ] } },
                { "$project": { "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "fullDocument": 1 } },
            ],
            "cursor": { "batchSize": i64::from(EVENTS_PER_REPLY) },
            "readConcern": { "level": "majority" },
        }
    }

    /// The answer to the opening of a stream, which is left again at once.
    async fn first_reply(&self, start: Option<&StreamStart>) -> Result<RawBatch> {
        let failed = |error: DriverError| self.request.failed_to_open(&error);
        let mut cursor = self.open(start).await.map_err(failed)?;
        cursor.next().await.ok_or_else(malformed_reply)?.map_err(failed)
    }

    fn read(&self, reply: &RawBatch) -> Result<StreamBatch> {
        let position = position_of(reply.as_raw_document())?;
        let operation_time = reply.as_raw_document().get_timestamp("operationTime");
        let operation_time = operation_time.map_err(|_| super::no_operation_time(&self.request))?;
        self.source.saw(operation_time);
        let mut batch =
            StreamBatch { events: Vec::new(), position, operation_time, unknown: 0, at_end: true };
        for event in documents(reply)? {
            batch.at_end = false;
            match event::read(event?, &self.included)? {
                Read::Event(event) => batch.events.push(event),
                Read::Foreign => {}
                Read::Unknown => batch.unknown += 1,
            }
        }
        Ok(batch)
    }

    fn error(&self, error: &DriverError, replies: usize) -> Error {
        if replies == 0 { self.request.failed_to_open(error) } else { self.request.failed(error) }
    }
}

/// The position that a reply reaches.
fn position_of(reply: &RawDocument) -> Result<Position> {
    let token = reply.get_document("cursor").and_then(|cursor| cursor.get_document("postBatchResumeToken"));
    Position::from_token(token.map_err(|_| malformed_reply())?)
}
