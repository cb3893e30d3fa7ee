//! The rows of a query, page by page, without a transaction that stays open: PostgreSQL stores them, as of
//! when the cursor was opened, in a file if there are many.
//!
//! An open transaction holds a lock on the table: a session that wants to change the table waits until the
//! last page, and later sessions queue behind it. One of those may be another session of docrow, for which
//! the next page waits: PostgreSQL would not detect this deadlock.

use tokio_postgres::{Error as PgError, Row, types::ToSql};

use crate::sink::Session;

/// An open cursor.
pub(super) struct RowCursor<'a> {
    session: &'a Session,
    name: String,
}

impl<'a> RowCursor<'a> {
    /// Runs the query `question`, after `prepare`, which applies only to it. Takes as long as reading the
    /// whole result.
    pub(super) async fn open(
        session: &'a mut Session,
        prepare: &str,
        question: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Self, PgError> {
        let name = format!("docrow_{:016x}", fastrand::u64(..));
        let transaction = session.client.transaction().await?;
        transaction.batch_execute(prepare).await?;
        let declare = format!("DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {question}");
        transaction.execute(&declare, parameters).await?;
        transaction.commit().await?;
        Ok(Self { session, name })
    }

    /// At most `most` further rows; none: that was all, and the cursor is closed.
    pub(super) async fn next(&self, most: u16) -> Result<Vec<Row>, PgError> {
        let Self { session, name } = self;
        let rows = session.client.query(&format!("FETCH {most} FROM {name}"), &[]).await?;
        if rows.is_empty() {
            session.client.batch_execute(&format!("CLOSE {name}")).await?;
        }
        Ok(rows)
    }
}
