//! Transactions that write. Unlike the driver's own, one can be sent together with its first statements.

use std::ops::Deref;

use futures_util::{FutureExt, try_join};
use tokio_postgres::{Client, Error as PgError};

/// A transaction of a session that writes. Dropping it rolls it back.
#[derive(Debug)]
pub(crate) struct WriteTransaction<'a> {
    client: &'a Client,
    is_over: bool,
}

impl<'a> WriteTransaction<'a> {
    /// One that is still to begin.
    pub(crate) fn of(client: &'a Client) -> Self {
        Self { client, is_over: false }
    }

    pub(super) async fn begin(&self) -> Result<(), PgError> {
        self.client.batch_execute("START TRANSACTION").await
    }

    /// Begins with these statements, which do not run unless it begins.
    pub(crate) async fn begin_with(&self, first: &str) -> Result<(), PgError> {
        self.client.batch_execute(&format!("START TRANSACTION; {first}")).await
    }

    pub(crate) async fn commit(mut self) -> Result<(), PgError> {
        self.is_over = true;
        self.client.batch_execute("COMMIT").await
    }

    /// Commits, and runs a statement afterwards, in one round trip.
    pub(crate) async fn commit_and(self, then: &str) -> Result<(), PgError> {
        let client = self.client;
        try_join!(self.commit(), client.batch_execute(then)).map(drop)
    }
}

impl Deref for WriteTransaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl Drop for WriteTransaction<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // The driver sends a statement when it is polled first; nothing waits for the answer.
            let _ = self.client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}
