//! Following the changes of the replicated collections: one change stream, kept open.
//!
//! The position advances with every reply, even an empty one, so that it never grows old in a quiet stream.
//! Whatever happens to the cursor, the stream is opened again after the last position that was returned:
//! nothing is skipped, and at most what was never returned is read twice.
//!
//! # Events that exceed the size of a reply
//!
//! An event contains its document's `_id` three times (in the token as hexadecimal digits), besides the
//! document itself. A document of 16 MB fits with an `_id` of up to a few kilobytes (the server allows itself
//! 16 KB more than a client). Beyond that, 6.0.5 answers with BSONObjectTooLarge (10334), or, if only the
//! whole reply is too large, closes the connection. Then docrow opens the stream without documents, for one
//! reply: every event in it is as good as an update, whose document is looked up. Because that is always
//! correct, docrow also tries it when the stream was lost twice in a row for any reason.
//! (`$changeStreamSplitLargeEvent`, which newer servers have, is not needed for this.) An `_id` of more than
//! three megabytes does not fit even then: that is an error.
//!
//! [`ChangeStream::next`] may be dropped at any point: its state is kept here, not in its future.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream, try_join};
use mongodb::{
    bson::{DateTime, RawDocument, Timestamp},
    error::{Error as DriverError, Result as DriverResult},
    raw_batch_cursor::RawBatch,
};
use tokio::time::{Instant, sleep_until};

use super::{
    ask::{ReplyCursor, ReplyOptions},
    collections::AT_ONCE,
    error::{self, SourceRequest},
    event::{self, Event, IncludedCollections, ReadEvent},
    reply::{documents, malformed_reply},
    scope::{EVENTS_PER_REPLY, StreamEvents, StreamScope, StreamStart},
    server::{Source, no_operation_time},
    split::Chunk,
};
use crate::{
    error::{Code, Disposition, Error, Kind, Result},
    metrics,
    model::change::{Namespace, Position},
    retry::Retry,
};

/// How long the server waits for an event before it returns an empty reply: how often an idle stream's
/// position advances, and how long it may take to see that everything has arrived.
pub(super) const AWAIT: Duration = Duration::from_millis(100);

/// A stream that is lost for longer than this is a problem.
const PASSING: Duration = Duration::from_secs(10);
/// An outage is logged once, and then every so many failures: about every two minutes.
const FAILURES_PER_WARNING: u32 = 10;
/// After so many failures without a success the stream is opened without documents.
const FAILURES_WITH_DOCUMENTS: u32 = 2;

const ID_TOO_LARGE: &str = "has an event that exceeds the size of a reply, even without its document: the \
    document's _id has more than 3 MB, and can't be followed";

/// One reply of a stream.
#[derive(Debug)]
pub struct StreamBatch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// Everything up to this position is in this batch or was in an earlier one.
    pub position: Position,
    /// The cluster's time when the server answered.
    pub operation_time: Timestamp,
    /// When the first of the events happened, by the server's clock, or by the cluster's time if the server
    /// does not report it.
    pub oldest: Option<DateTime>,
    /// How many events had a type that docrow does not know.
    pub unknown: usize,
    /// Whether the server had no event to send: all events up to `position` have been seen. In the middle of
    /// a transaction this is false, although all of its events have the same time.
    pub at_end: bool,
}

/// The change stream of some collections.
pub struct ChangeStream {
    watch: StreamWatch,
    from: StreamStart,
    /// What it is, or was last, opened with.
    events: StreamEvents,
    state: StreamState,
    retry: Retry,
    lost: u64,
    /// Why it is interrupted, and since when.
    trouble: Option<(Instant, String)>,
}

/// The parameters, which stay as long as the stream is followed.
struct StreamWatch {
    source: Source,
    included: IncludedCollections,
    scope: StreamScope,
    request: SourceRequest,
}

enum StreamState {
    /// Nothing is tried until then.
    Waiting(Instant),
    Opening(BoxFuture<'static, DriverResult<ReplyCursor>>),
    Reading {
        /// Boxed, because it is much larger than the other states.
        cursor: Box<ReplyCursor>,
        /// How many replies it has returned.
        replies: usize,
    },
}

impl Source {
    /// The present end of the change stream of `namespaces`. Take and store it before reading anything else.
    ///
    /// It is proven: the server accepts it, and everything before it has reached a majority. (Otherwise a
    /// failover could roll that back, and later writes could lie before the position.) This also proves that
    /// every collection is readable, and that the server accepts how docrow reads.
    pub async fn start_position(&self, namespaces: &[Namespace]) -> Result<Position> {
        self.start_of_copies(namespaces, namespaces).await
    }

    /// The same, when only the collections `copied` are about to be read: a question to each of them.
    pub async fn start_of_copies(&self, namespaces: &[Namespace], copied: &[Namespace]) -> Result<Position> {
        let watch = StreamWatch::new(self.clone(), namespaces);
        let first = watch.first_reply(None).await?;
        let position = watch.read(&first)?.position;
        let start = StreamStart::After(position.clone());
        let resumed = watch.first_reply(Some(&start));
        let chunk = async {
            match copied.first() {
                Some(first) => self.read_chunk(first, &Chunk::whole(), self.latest(), 1).await.map(drop),
                None => Ok(()),
            }
        };
        // Later than anything that was heard of the cluster, which all members can reach.
        let reads: Vec<_> =
            copied.iter().map(|namespace| self.lookup(namespace, [], self.latest()).boxed()).collect();
        let reads = stream::iter(reads).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) });
        try_join!(resumed, chunk, reads)?;
        Ok(position)
    }

    /// Whether the oplog still holds the start of a change stream of `namespaces` at `start`.
    pub async fn holds(&self, namespaces: &[Namespace], start: &StreamStart) -> Result<bool> {
        match StreamWatch::new(self.clone(), namespaces).first_reply(Some(start)).await {
            Err(error) if error.kind() == Kind::HistoryLost => Ok(false),
            reply => reply.map(|_| true),
        }
    }

    /// Follows the changes of `namespaces`, whose order numbers the events' collections. Nothing is opened
    /// before the first [`ChangeStream::next`].
    pub fn change_stream(&self, namespaces: &[Namespace], start: StreamStart) -> ChangeStream {
        let watch = StreamWatch::new(self.clone(), namespaces);
        ChangeStream {
            watch,
            from: start,
            events: StreamEvents::WithDocuments,
            state: StreamState::Waiting(Instant::now()),
            retry: Retry::new(),
            lost: 0,
            trouble: None,
        }
    }
}

impl ChangeStream {
    /// The next reply, perhaps without events. Waits and retries while the source is away. Errors: the oplog
    /// no longer holds the position ([`Kind::HistoryLost`](crate::error::Kind)), or the source refuses.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<StreamBatch> {
        loop {
            match &mut self.state {
                StreamState::Waiting(until) => {
                    sleep_until(*until).await;
                    let again = self.retry.failures() >= FAILURES_WITH_DOCUMENTS;
                    self.open(if again {
                        StreamEvents::WithoutDocuments
                    } else {
                        StreamEvents::WithDocuments
                    });
                }
                StreamState::Opening(opening) => match opening.await {
                    Ok(cursor) => self.state = StreamState::Reading { cursor: Box::new(cursor), replies: 0 },
                    Err(error) => self.failed(&error, 0)?,
                },
                StreamState::Reading { cursor, replies } => match cursor.next().await {
                    Some(Ok(reply)) => {
                        *replies += 1;
                        let first = *replies == 1;
                        match self.watch.read(&reply) {
                            Ok(batch) => {
                                count(&reply, &batch);
                                return Ok(self.received(batch, first));
                            }
                            Err(error) => self.lost(error)?,
                        }
                    }
                    Some(Err(error)) => {
                        let replies = *replies;
                        self.failed(&error, replies)?;
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

    /// Why it delivers nothing, if that lasts longer than it takes to open it again.
    pub fn trouble(&self) -> Option<String> {
        if let StreamState::Reading { cursor, .. } = &self.state
            && cursor.is_late()
        {
            let SourceRequest { what, hosts, .. } = &self.watch.request;
            return Some(format!("{what}: {hosts} gives no answer"));
        }
        let (since, why) = self.trouble.as_ref()?;
        (since.elapsed() >= PASSING).then(|| why.clone())
    }

    fn open(&mut self, events: StreamEvents) {
        self.events = events;
        self.state = StreamState::Opening(self.watch.open(Some(&self.from), events));
    }

    /// `first`: the stream was only just opened, which proves nothing unless there was an event.
    fn received(&mut self, batch: StreamBatch, first: bool) -> StreamBatch {
        // A router may answer before it knows its shards.
        let moved = match &self.from {
            StreamStart::After(position) => batch.position > *position,
            StreamStart::At(_) => false,
        };
        self.from = StreamStart::After(batch.position.clone());
        self.trouble = None;
        if (!first || !batch.at_end) && self.retry.failures() > 0 {
            tracing::info!("{}: back after {} failures", self.watch.request.what, self.retry.failures());
            self.retry.succeeded();
        }
        // The server ends the stream after this event, but allows it to be opened again after it.
        let invalidated = matches!(batch.events.last(), Some(Event::Invalidated { .. }));
        let past_it = self.events == StreamEvents::WithoutDocuments && (moved || !batch.at_end);
        if invalidated || past_it {
            self.open(StreamEvents::WithDocuments);
        }
        batch
    }

    fn failed(&mut self, error: &DriverError, replies: usize) -> Result<()> {
        if error::code_of(error) != Some(error::TOO_LARGE) {
            return self.lost(self.watch.error(error, replies));
        }
        if self.events == StreamEvents::WithoutDocuments {
            return Err(self.watch.request.refused(Code::SourceIdTooLarge, ID_TOO_LARGE));
        }
        tracing::info!(
            "{}: an event exceeds the size of a reply: its document is looked up",
            self.watch.request.what
        );
        self.lost += 1;
        self.open(StreamEvents::WithoutDocuments);
        Ok(())
    }

    fn ended(&mut self) -> Result<()> {
        let what = &self.watch.request.what;
        self.lost(Error::new(Code::SourceLost, format!("{what}: the server closed it")))
    }

    fn lost(&mut self, error: Error) -> Result<()> {
        self.lost += 1;
        metrics::retried(error.kind());
        let since = self.trouble.take().map_or_else(Instant::now, |(since, _)| since);
        self.trouble = Some((since, error.to_string()));
        let delay = self.retry.after_failure();
        self.state = StreamState::Waiting(Instant::now() + delay);
        if error.kind().disposition() == Disposition::Halt {
            return Err(error);
        }
        match self.retry.failures() {
            1 => tracing::warn!(code = %error.code(), "{error}: trying again until it works"),
            failures if failures % FAILURES_PER_WARNING == 0 => {
                tracing::warn!(code = %error.code(), "{error}: failure {failures}");
            }
            failures => tracing::debug!("{error}: failure {failures}, next try in {delay:?}"),
        }
        Ok(())
    }
}

impl StreamWatch {
    fn new(source: Source, namespaces: &[Namespace]) -> Self {
        let scope = StreamScope::new(namespaces);
        let over = scope.database().map_or("all databases".to_owned(), |name| format!("the database {name}"));
        let request = source.request(format!("follow the changes of {over}"), scope.database());
        Self { source, included: IncludedCollections::new(namespaces), scope, request }
    }

    fn open(
        &self,
        start: Option<&StreamStart>,
        events: StreamEvents,
    ) -> BoxFuture<'static, DriverResult<ReplyCursor>> {
        let command = self.scope.command(start, events);
        let database = self.scope.database().unwrap_or("admin").to_owned();
        let (source, request) = (self.source.clone(), self.request.clone());
        let replies =
            ReplyOptions { documents: EVENTS_PER_REPLY, wait: Some(AWAIT), ..ReplyOptions::default() };
        Box::pin(async move { source.open_cursor(&request, &database, command, replies).await })
    }

    /// The answer to opening a stream, which is closed again at once.
    async fn first_reply(&self, start: Option<&StreamStart>) -> Result<RawBatch> {
        let failed = |error: DriverError| self.request.failed_to_open(&error);
        let mut cursor = self.open(start, StreamEvents::WithoutDocuments).await.map_err(failed)?;
        cursor.next().await.ok_or_else(malformed_reply)?.map_err(failed)
    }

    fn read(&self, reply: &RawBatch) -> Result<StreamBatch> {
        let position = position_of(&self.request, reply.as_raw_document())?;
        let operation_time = reply.as_raw_document().get_timestamp("operationTime");
        let operation_time = operation_time.map_err(|_| no_operation_time(&self.request))?;
        self.source.saw(operation_time);
        let mut batch = StreamBatch {
            events: Vec::new(),
            position,
            operation_time,
            oldest: None,
            unknown: 0,
            at_end: true,
        };
        for event in documents(reply)? {
            batch.at_end = false;
            let event = event?;
            match event::read(event, &self.included)? {
                ReadEvent::Event(read) => {
                    if batch.events.is_empty() {
                        batch.oldest = Some(happened(event, read.position()));
                    }
                    batch.events.push(read);
                }
                ReadEvent::Foreign => {}
                ReadEvent::Unknown => batch.unknown += 1,
            }
        }
        Ok(batch)
    }

    fn error(&self, error: &DriverError, replies: usize) -> Error {
        if replies == 0 { self.request.failed_to_open(error) } else { self.request.failed(error) }
    }
}

fn count(reply: &RawBatch, batch: &StreamBatch) {
    let number = |count| u64::try_from(count).unwrap_or(0);
    metrics::READ_BYTES.add_to("stream", number(reply.as_raw_document().as_bytes().len()));
    metrics::EVENTS_READ.add(number(batch.events.len()));
    metrics::EVENTS_PASSED_OVER.add(number(batch.unknown));
    metrics::LAST_REPLY.set(metrics::unix_seconds());
}

/// When an event happened. Only 6.0 and later report it in milliseconds.
fn happened(event: &RawDocument, position: &Position) -> DateTime {
    let seconds = i64::from(position.cluster_time().time);
    event.get_datetime("wallTime").unwrap_or_else(|_| DateTime::from_millis(seconds * 1000))
}

/// The position that a reply reaches. Errors: a compatible service has none, or one that tells no time.
pub(super) fn position_of(request: &SourceRequest, reply: &RawDocument) -> Result<Position> {
    let token = reply.get_document("cursor").and_then(|cursor| cursor.get_document("postBatchResumeToken"));
    let position = token.ok().and_then(|token| Position::from_token(token).ok());
    position.ok_or_else(|| {
        let SourceRequest { what, hosts, .. } = request;
        let text = format!(
            "{what}: the answer of {hosts} has no postBatchResumeToken of MongoDB's form: docrow can't do without it"
        );
        Error::new(Code::SourceLacks, text)
    })
}
