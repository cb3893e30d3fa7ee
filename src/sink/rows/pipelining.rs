//! The statements of a batch: all on their way before the first answer is awaited.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use tokio_postgres::{Client, Error as PgError, Statement};

use crate::{
    error::{Error, Result},
    failpoint::{self, Failpoint},
    model::table::Table,
    sink::{composite_array::CompositeArray, connection::sqlstate, identifiers::quote},
};

/// The result of applying a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedBatch {
    /// Rows inserted and updated.
    pub written: u64,
    /// Rows deleted, or marked as deleted, except those of arrays that became shorter but not empty.
    pub deleted: u64,
}

/// The purpose of a statement of a batch.
#[derive(Clone, Copy)]
pub(super) enum BatchStatement<'a> {
    Begin,
    Delete(&'a Table),
    Write(&'a Table),
    Bookkeeping,
    Commit,
}

impl BatchStatement<'_> {
    /// Only statements on user tables can be refused for the content of a row; and COMMIT, by a deferred
    /// constraint.
    fn failure(&self, error: &PgError) -> Error {
        match self {
            BatchStatement::Delete(_) | BatchStatement::Write(_) | BatchStatement::Commit => {
                sqlstate::row_error(self.to_string(), error)
            }
            BatchStatement::Begin | BatchStatement::Bookkeeping => sqlstate::error(self.to_string(), error),
        }
    }
}

impl fmt::Display for BatchStatement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchStatement::Begin => f.write_str("begin a batch"),
            BatchStatement::Delete(table) => write!(f, "delete rows from {}", quote(&table.name)),
            BatchStatement::Write(table) => write!(f, "write rows to {}", quote(&table.name)),
            BatchStatement::Bookkeeping => f.write_str("write positions and dead letters"),
            BatchStatement::Commit => f.write_str("commit a batch"),
        }
    }
}

type PendingAnswer<'a> = Pin<Box<dyn Future<Output = Result<u64, PgError>> + Send + 'a>>;

/// Statements whose messages are sent one after the other before any answer is awaited.
#[derive(Default)]
pub(super) struct StatementPipe<'a> {
    statements: Vec<(BatchStatement<'a>, PendingAnswer<'a>)>,
}

impl<'a> StatementPipe<'a> {
    pub(super) fn text(&mut self, what: BatchStatement<'a>, client: &'a Client, text: &'a str) {
        self.add(what, async move { client.batch_execute(text).await.map(|()| 0) });
    }

    pub(super) fn array(
        &mut self,
        what: BatchStatement<'a>,
        client: &'a Client,
        statement: &'a Statement,
        array: CompositeArray<'a>,
    ) {
        if array.count() > 0 {
            self.add(what, async move { client.execute(statement, &[&array]).await });
        }
    }

    pub(super) fn add(
        &mut self,
        what: BatchStatement<'a>,
        answer: impl Future<Output = Result<u64, PgError>> + Send + 'a,
    ) {
        self.statements.push((what, Box::pin(answer)));
    }

    /// Sends everything, then awaits every answer up to the first error. The driver encodes and sends a
    /// prepared statement when its future is polled for the first time, and nothing here yields to another
    /// task before all are sent: dropping this future leaves no transaction open.
    pub(super) async fn run(self) -> Result<AppliedBatch> {
        let mut sent = Vec::with_capacity(self.statements.len());
        for (what, mut answer) in self.statements {
            if matches!(what, BatchStatement::Commit) {
                failpoint::reach(Failpoint::BatchBeforeCommit);
            }
            let early = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
            sent.push((what, answer, early));
        }
        failpoint::reach(Failpoint::BatchSent);
        let mut applied = AppliedBatch::default();
        for (what, answer, early) in sent {
            let answer = match early {
                Poll::Ready(answer) => answer,
                Poll::Pending => answer.await,
            };
            let count = answer.map_err(|e| what.failure(&e))?;
            match what {
                BatchStatement::Write(_) => applied.written += count,
                BatchStatement::Delete(_) => applied.deleted += count,
                BatchStatement::Begin | BatchStatement::Bookkeeping | BatchStatement::Commit => {}
            }
        }
        failpoint::reach(Failpoint::BatchCommitted);
        Ok(applied)
    }
}
