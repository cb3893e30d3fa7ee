//! Requests to the server, and how long to wait for an answer. Everything that awaits the driver does so
//! here, which `crates/tidy` enforces for the other files: the driver itself waits forever for the
//! answer on a frozen connection, where nothing is refused and nothing arrives.
//!
//! # Silent or slow
//!
//! No answer within half of the [`Patience`] may mean that the server has much to do: a sample of a huge
//! collection, a stream that is opened far back in the oplog. So then it is asked, over another connection,
//! whether it works at this (each request bears a comment, which its `getMore`s inherit; a user may always
//! see its own operations). If it does, it is waited for, and asked again after another half. If it does not,
//! or gives no answer to that either, there is the other half for an answer that is on its way, and then the
//! connection is given up: [`SilenceCause`].
//!
//! A majority read also "works" while it waits for a majority that is not there. So docrow also looks at the
//! time up to which a majority has everything: if that does not move from one check to the next, although
//! there is more to replicate, docrow gives the request up.
//!
//! The deadline is one for each reply, not for a scan: as long as replies come, it may take all day. It is
//! kept in the [`ReplyCursor`], not in a future, so that whoever drops `next()` every second and calls it
//! again does not wait for ever.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::StreamExt;
use mongodb::{
    Client,
    bson::{Document, RawBsonRef, RawDocumentBuf, Timestamp, cstr, doc},
    error::Result as DriverResult,
    options::ClientOptions,
    raw_batch_cursor::{RawBatch, RawBatchCursor},
};
use tokio::time::{Instant, timeout_at};

use super::{
    error::SourceRequest,
    reply::DOCUMENTS_PER_REPLY,
    server::Source,
    silence::{AnswerWait, SilenceCause, WaitedGuard},
};
use crate::error::Code;

/// Options for the replies of a cursor.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyOptions {
    /// The maximum number of documents in a reply.
    pub(super) documents: u32,
    /// How long the server waits for the first document, if it waits.
    pub(super) wait: Option<Duration>,
    /// Whether they must come from the primary, wherever reads go.
    pub(super) of_primary: bool,
}

/// As large as a reply can be.
impl Default for ReplyOptions {
    fn default() -> Self {
        Self { documents: DOCUMENTS_PER_REPLY, wait: None, of_primary: false }
    }
}

/// A cursor whose replies are passed on unparsed.
pub(super) struct ReplyCursor {
    source: Source,
    request: SourceRequest,
    cursor: RawBatchCursor,
    waiting: AnswerWait,
}

/// What the server is doing.
enum ServerLook {
    /// It is working on the request. Up to when a majority has everything, if there is more to replicate.
    Working(Option<Timestamp>),
    NotWorking,
}

impl Source {
    /// Runs a command that is answered at once.
    pub(super) async fn command(
        &self,
        request: &SourceRequest,
        database: &str,
        command: Document,
    ) -> DriverResult<Document> {
        let database = self.client().database(database);
        let asked = async { database.run_command(command).await };
        self.patiently(request, &mut AnswerWait::new(None), asked).await
    }

    /// Runs a command that may take long.
    pub(super) async fn long_command(
        &self,
        request: &SourceRequest,
        database: &str,
        mut command: Document,
    ) -> DriverResult<Document> {
        let (database, comment) = (self.client().database(database), comment());
        command.insert("comment", &comment);
        let asked = async { database.run_command(command).await };
        self.patiently(request, &mut AnswerWait::new(Some(comment)), asked).await
    }

    /// Opens a cursor by `command`.
    pub(super) async fn open_cursor(
        &self,
        request: &SourceRequest,
        database: &str,
        mut command: RawDocumentBuf,
        ReplyOptions { documents, wait, of_primary }: ReplyOptions,
    ) -> DriverResult<ReplyCursor> {
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
        let mut waiting = AnswerWait::new(Some(comment));
        let cursor = self.patiently(request, &mut waiting, asked).await?;
        Ok(ReplyCursor { source: self.clone(), request: request.clone(), cursor, waiting })
    }

    /// The same, with replies as large as possible.
    pub(super) async fn cursor(
        &self,
        request: &SourceRequest,
        database: &str,
        command: RawDocumentBuf,
    ) -> DriverResult<ReplyCursor> {
        self.open_cursor(request, database, command, ReplyOptions::default()).await
    }

    /// All documents of a cursor, for a command that returns few and small ones.
    pub(super) async fn all(
        &self,
        request: &SourceRequest,
        database: &str,
        command: RawDocumentBuf,
        replies: ReplyOptions,
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
        request: &SourceRequest,
        waiting: &mut AnswerWait,
        asked: impl Future<Output = DriverResult<T>>,
    ) -> DriverResult<T> {
        let (patience, mut asked) = (self.patience, pin!(asked));
        let mut waiting = WaitedGuard(waiting);
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
            if let Ok(ServerLook::Working(behind)) = look {
                if behind.is_some() && behind == waiting.majority {
                    return Err(SilenceCause::NoMajority(patience.whole()).error());
                }
                tracing::debug!("{}: MongoDB at {} is still working on it", request.what, request.hosts);
                waiting.answered();
                waiting.majority = behind;
                continue;
            }
            if !std::mem::replace(&mut waiting.is_late, true) {
                let SourceRequest { what, hosts, .. } = request;
                tracing::warn!(
                    code = %Code::SourceSilent,
                    "{what}: MongoDB at {hosts} gives no answer for {} s: waiting for as long again",
                    patience.half().as_secs()
                );
            }
            let Ok(answer) = timeout_at(end, &mut asked).await else {
                return Err(SilenceCause::NoAnswer(since.elapsed()).error());
            };
            waiting.answered();
            return answer;
        }
    }

    /// Checks whether the server is working on the request with this comment. If the user may not see that,
    /// the answer is no.
    async fn look(&self, comment: Option<&str>) -> ServerLook {
        let Some(comment) = comment else { return ServerLook::NotWorking };
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
        let Ok(reply) = self.ask_where_reads_go(operations).await else { return ServerLook::NotWorking };
        let found = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        if found.map_or(true, Vec::is_empty) {
            return ServerLook::NotWorking;
        }
        let hello = self.ask_where_reads_go(doc! { "hello": 1 }).await;
        ServerLook::Working(hello.ok().and_then(|hello| majority_behind(&hello)))
    }

    pub(super) async fn ask_where_reads_go(&self, command: Document) -> DriverResult<Document> {
        let admin = self.client().database("admin");
        match self.reads_from() {
            Some(criteria) => admin.run_command(command).selection_criteria(criteria).await,
            None => admin.run_command(command).await,
        }
    }
}

/// Up to when a majority has everything, if that is not everything.
pub(super) fn majority_behind(hello: &Document) -> Option<Timestamp> {
    let written = hello.get_document("lastWrite").ok()?;
    let time = |of: &str| written.get_document(of).ok()?.get_timestamp("ts").ok();
    let (all, majority) = (time("opTime")?, time("majorityOpTime")?);
    (majority < all).then_some(majority)
}

impl ReplyCursor {
    /// The next reply; `None`: there is none. The future may be dropped: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<DriverResult<RawBatch>> {
        let Self { source, request, cursor, waiting } = self;
        let asked = async { cursor.next().await.transpose() };
        source.patiently(request, waiting, asked).await.transpose()
    }

    /// Whether it is waiting for a reply that the server is not working on.
    pub(super) fn is_late(&self) -> bool {
        self.waiting.is_late
    }
}

/// Asks a server directly, for as long as the caller likes: to diagnose why connecting fails.
pub(super) async fn hello_of(options: ClientOptions) -> DriverResult<Document> {
    Client::with_options(options)?.database("admin").run_command(doc! { "hello": 1 }).await
}

/// What identifies a request at the server.
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
}
