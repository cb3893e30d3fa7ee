//! The rows of a query, page by page, without a transaction that stays open: PostgreSQL keeps them, as they were when the
//! cursor was opened, in a file if they are many.
//!
//! A transaction that stays open has a lock on the table: whoever wants to change it waits until the last page, and whoever
//! comes then waits behind him. That may be another session of docrow, for which the next page waits: PostgreSQL would not
//! see that nobody can go on.

use tokio_postgres::{Error as PgError, Row, types::ToSql};

use crate::sink::Session;

/// An open cursor.
pub(super) struct RowCursor<'a> {
    session: &'a Session,
    name: String,
}

impl<'a> RowCursor<'a> {
    /// Asks `question`, once `prepare` is done, which is for this alone. Takes as long as reading all of the answer does.
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
