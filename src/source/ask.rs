//! Asking the server, and how long an answer is waited for. Everything that is awaited of the driver is awaited here, and
//! `tests/it/tidy.rs` holds the other files to it: the driver itself waits for ever for the answer of a connection that is
//! frozen, where nothing is refused and nothing arrives.
//!
//! # Silent or slow
//!
//! No answer within half of the [`Patience`] may mean that the server has much to do: a sample of a huge collection, a
//! stream that is opened far back in the oplog. So then it is asked, over another connection, whether it works at this
//! (each request bears a comment, which its `getMore`s inherit; a user may always see its own operations). If it does, it
//! is waited for, and asked again after another half. If it does not, or gives no answer to that either, there is the other half
//! for an answer that is on its way, and then the connection is given up: [`Silence`].
//!
//! A majority read also "works" while it waits for a majority that is not there. So the time up to which a majority has
//! everything is looked at, too: if that does not move from one look to the next, though there is more to come to, the
//! request is given up.
//!
//! The deadline is one for each reply, not for a scan: as long as replies come, it may take all day. It is kept in the
//! [`Cursor`], not in a future, so that whoever drops `next()` every second and calls it again does not wait for ever.

use std::{fmt, future::Future, io, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use mongodb::{
    Client,
    bson::{Document, RawBsonRef, RawDocumentBuf, Timestamp, cstr, doc},
    error::{ErrorKind, Result as DriverResult},
    options::ClientOptions,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use tokio::time::{Instant, timeout_at};

use super::{DOCUMENTS_PER_REPLY, Source, error::Request};
use crate::error::Code;

/// How long an answer is waited for in all, unless the URI's `socketTimeoutMS` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited at least once an answer is late.
const GRACE: Duration = Duration::from_secs(1);

/// How long an answer is waited for in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Patience {
    /// Zero is how other drivers write that there is no limit; here it is the default.
    pub(super) fn of(written: Option<Duration>) -> Self {
        Self(written.filter(|written| !written.is_zero()).unwrap_or(PATIENCE))
    }

    fn half(self) -> Duration {
        self.0 / 2
    }
}

/// Why an answer is not waited for any longer: inside of the driver's error, so that all errors take one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// There is none, and the server does not work at one.
    NoAnswer(Duration),
    /// The server waits for a majority of the replica set.
    NoMajority(Duration),
}

impl Silence {
    /// What it is known by.
    pub(super) fn code(self) -> Code {
        match self {
            Self::NoAnswer(_) => Code::SourceSilent,
            Self::NoMajority(_) => Code::SourceWithoutMajority,
        }
    }

    /// Finds it in an error of the driver.
    pub(super) fn of(error: &mongodb::error::Error) -> Option<Self> {
        let ErrorKind::Io(error) = &*error.kind else { return None };
        error.get_ref()?.downcast_ref().copied()
    }

    fn error(self) -> mongodb::error::Error {
        ErrorKind::Io(Arc::new(io::Error::new(io::ErrorKind::TimedOut, self))).into()
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(waited) => write!(
                f,
                "gave no answer in {} s and does not work at one: is the network in between frozen, or the server?",
                waited.as_secs()
            ),
            Self::NoMajority(waited) => write!(
                f,
                "has no majority of its replica set that confirms what is written, for {} s: see rs.status()",
                waited.as_secs()
            ),
        }
    }
}

impl std::error::Error for Silence {}

/// How the replies of a cursor are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replies {
    /// How many documents one has at most.
    pub(super) documents: u32,
    /// How long the server waits for the first document, where it waits.
    pub(super) wait: Option<Duration>,
    /// Whether they must be the primary's, wherever reads go to.
    pub(super) of_primary: bool,
}

/// As large as a reply can be.
impl Default for Replies {
    fn default() -> Self {
        Self { documents: DOCUMENTS_PER_REPLY, wait: None, of_primary: false }
    }
}

/// A cursor whose replies are handed on unread.
pub(super) struct Cursor {
    source: Source,
    request: Request,
    cursor: RawBatchCursor,
    waiting: Waiting,
}

/// How a wait stands: it goes on when a future that waits was dropped and there is another one.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What the server knows the request by. `None`: it is one that is answered at once.
    comment: Option<String>,
    since: Option<Instant>,
    /// See [`Self::end`].
    end: Option<Instant>,
    /// When it was last waited: who does not want the answer for a while does not wait for it.
    seen: Instant,
    /// Whether the server was seen not to work at it.
    is_late: bool,
    /// Up to when a majority had everything, at the last look, if there was more to come to.
    majority: Option<Timestamp>,
}

impl Waiting {
    fn new(comment: Option<String>) -> Self {
        Self { comment, since: None, end: None, seen: Instant::now(), is_late: false, majority: None }
    }

    /// Begins to wait, or goes on.
    fn resume(&mut self, patience: Patience, now: Instant) {
        if now.saturating_duration_since(self.seen) > patience.half() {
            self.answered();
        }
    }

    /// Since when it is waited.
    fn since(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now)
    }

    /// Until when it is waited, now that the answer is late: an answer that nobody was there to take may lie ready.
    fn end(&mut self, patience: Patience, now: Instant) -> Instant {
        let end = self.since(now) + patience.0;
        *self.end.get_or_insert(end.max(now + GRACE))
    }

    fn answered(&mut self) {
        (self.since, self.end, self.is_late, self.majority) = (None, None, false, None);
    }
}

/// Notes at its end that it was waited until then.
struct Waited<'a>(&'a mut Waiting);

impl Waited<'_> {
    fn get(&mut self) -> &mut Waiting {
        self.0
    }
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        self.0.seen = Instant::now();
    }
}

/// What the server is at.
enum Look {
    /// It works at the request. Up to when a majority has everything, if there is more to come to.
    Working(Option<Timestamp>),
    NotWorking,
}

impl Source {
    /// Runs a command that is answered at once.
    pub(super) async fn command(
        &self,
        request: &Request,
        database: &str,
        command: Document,
    ) -> DriverResult<Document> {
        let database = self.client().database(database);
        let asked = async { database.run_command(command).await };
        self.patiently(request, &mut Waiting::new(None), asked).await
    }

    /// Runs a command that may take long.
    pub(super) async fn long_command(
        &self,
        request: &Request,
        database: &str,
        mut command: Document,
    ) -> DriverResult<Document> {
        let (database, comment) = (self.client().database(database), comment());
        command.insert("comment", &comment);
        let asked = async { database.run_command(command).await };
        self.patiently(request, &mut Waiting::new(Some(comment)), asked).await
    }

    /// Opens a cursor by `command`.
    pub(super) async fn open_cursor(
        &self,
        request: &Request,
        database: &str,
        mut command: RawDocumentBuf,
        Replies { documents, wait, of_primary }: Replies,
    ) -> DriverResult<Cursor> {
        let (database, comment) = (self.client().database(database), comment());
        command.append(cstr!("comment"), comment.as_str());
        let asked = async {
            let mut cursor = database.run_raw_cursor_command(command).batch_size(documents);
            if let Some(wait) = wait {
                cursor = cursor.max_time(wait);
            }
            match self.reads_from().filter(|_| !of_primary) {
                Some(criteria) => cursor.selection_criteria(criteria).batch().await,
                None => cursor.batch().await,
            }
        };
        let mut waiting = Waiting::new(Some(comment));
        let cursor = self.patiently(request, &mut waiting, asked).await?;
        Ok(Cursor { source: self.clone(), request: request.clone(), cursor, waiting })
    }

    /// The same, with replies as large as they can be.
    pub(super) async fn cursor(
        &self,
        request: &Request,
        database: &str,
        command: RawDocumentBuf,
    ) -> DriverResult<Cursor> {
        self.open_cursor(request, database, command, Replies::default()).await
    }

    /// All documents that a cursor brings, of a command that brings few and small ones.
    pub(super) async fn all(
        &self,
        request: &Request,
        database: &str,
        command: RawDocumentBuf,
        replies: Replies,
    ) -> DriverResult<Vec<Document>> {
        let mut cursor = self.open_cursor(request, database, command, replies).await?;
        let mut all = Vec::new();
        while let Some(reply) = cursor.next().await {
            for document in reply?.doc_slices()? {
                if let RawBsonRef::Document(document) = document? {
                    all.push(document.try_into()?);
                }
            }
        }
        Ok(all)
    }

    /// Waits for an answer as long as there may be one.
    async fn patiently<T>(
        &self,
        request: &Request,
        waiting: &mut Waiting,
        asked: impl Future<Output = DriverResult<T>>,
    ) -> DriverResult<T> {
        let (patience, mut asked) = (self.patience, pin!(asked));
        let mut waiting = Waited(waiting);
        let waiting = waiting.get();
        waiting.resume(patience, Instant::now());
        loop {
            let since = waiting.since(Instant::now());
            if let Ok(answer) = timeout_at(since + patience.half(), &mut asked).await {
                waiting.answered();
                return answer;
            }
            let end = waiting.end(patience, Instant::now());
            let look = tokio::select! {
                biased;
                answer = &mut asked => {
                    waiting.answered();
                    return answer;
                }
                look = timeout_at(end, self.look(waiting.comment.as_deref())) => look,
            };
            if let Ok(Look::Working(behind)) = look {
                if behind.is_some() && behind == waiting.majority {
                    return Err(Silence::NoMajority(patience.0).error());
                }
                tracing::debug!("{}: MongoDB at {} still works at it", request.what, request.hosts);
                waiting.answered();
                waiting.majority = behind;
                continue;
            }
            if !std::mem::replace(&mut waiting.is_late, true) {
                let Request { what, hosts, .. } = request;
                tracing::warn!(
                    code = %Code::SourceSilent,
                    "{what}: MongoDB at {hosts} gives no answer for {} s: waiting for as long again",
                    patience.half().as_secs()
                );
            }
            let Ok(answer) = timeout_at(end, &mut asked).await else {
                return Err(Silence::NoAnswer(since.elapsed()).error());
            };
            waiting.answered();
            return answer;
        }
    }

    /// Looks whether the server works at the request with this comment. Whoever may not look is told that it does not.
    async fn look(&self, comment: Option<&str>) -> Look {
        let Some(comment) = comment else { return Look::NotWorking };
        let own =
            [doc! { "command.comment": comment }, doc! { "cursor.originatingCommand.comment": comment }];
        let operations = doc! {
            "aggregate": 1,
            "pipeline": [
                { "$currentOp": { "allUsers": false } },
                { "$match": { "active": true, "$or": &own[..] } },
                { "$limit": 1 },
            ],
            "cursor": {},
        };
        let Ok(reply) = self.ask_where_reads_go(operations).await else { return Look::NotWorking };
        let found = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        if found.map_or(true, Vec::is_empty) {
            return Look::NotWorking;
        }
        let hello = self.ask_where_reads_go(doc! { "hello": 1 }).await;
        Look::Working(hello.ok().and_then(|hello| majority_behind(&hello)))
    }

    async fn ask_where_reads_go(&self, command: Document) -> DriverResult<Document> {
        let admin = self.client().database("admin");
        match self.reads_from() {
            Some(criteria) => admin.run_command(command).selection_criteria(criteria).await,
            None => admin.run_command(command).await,
        }
    }
}

/// Up to when a majority has everything, if that is not all.
fn majority_behind(hello: &Document) -> Option<Timestamp> {
    let written = hello.get_document("lastWrite").ok()?;
    let time = |of: &str| written.get_document(of).ok()?.get_timestamp("ts").ok();
    let (all, majority) = (time("opTime")?, time("majorityOpTime")?);
    (majority < all).then_some(majority)
}

impl Cursor {
    /// The next reply; `None`: there is none. The future may be dropped: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<DriverResult<RawBatch>> {
        let Self { source, request, cursor, waiting } = self;
        let asked = async { cursor.next().await.transpose() };
        source.patiently(request, waiting, asked).await.transpose()
    }

    /// Whether a reply is waited for that the server does not work at.
    pub(super) fn is_late(&self) -> bool {
        self.waiting.is_late
    }
}

/// Asks a server by itself, for as long as the caller likes: for the diagnosis of what can't be connected to.
pub(super) async fn hello_of(options: ClientOptions) -> DriverResult<Document> {
    Client::with_options(options)?.database("admin").run_command(doc! { "hello": 1 }).await
}

/// What the server is to know a request by.
fn comment() -> String {
    format!("docrow {:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_that_has_everything_is_not_waited_for() {
        let at = |time| doc! { "ts": Timestamp { time, increment: 1 }, "t": 1_i64 };
        let hello =
            |all, majority| doc! { "lastWrite": { "opTime": at(all), "majorityOpTime": at(majority) } };
        assert_eq!(majority_behind(&hello(7, 7)), None);
        assert_eq!(majority_behind(&hello(7, 5)), Some(Timestamp { time: 5, increment: 1 }));
        assert_eq!(majority_behind(&doc! { "msg": "isdbgrid" }), None);
    }

    /// Who is dropped often has waited all the time; who asks again after a while has not waited in between.
    #[test]
    fn waits_add_up_unless_there_is_a_pause() {
        let (patience, mut waiting) = (Patience(Duration::from_secs(60)), Waiting::new(None));
        let began = waiting.since(Instant::now());
        let at = |second| began + Duration::from_secs(second);
        for second in 0..100 {
            waiting.resume(patience, at(second));
            assert_eq!(waiting.since(at(second)), began);
            assert_eq!(waiting.end(patience, at(second)), at(60), "looking again and again puts nothing off");
            waiting.seen = at(second);
        }
        waiting.resume(patience, at(130));
        assert_eq!(waiting.since(at(130)), at(130));
        assert_eq!(waiting.end(patience, at(200)), at(201));
    }
}
