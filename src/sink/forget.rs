//! Forgets a collection that is no longer followed: deletes everything that docrow has stored about it, and,
//! if requested, its tables.
//!
//! An operator requests this, whether or not a process runs the pipeline: that process has recorded that it
//! no longer follows the collection, and so writes nothing for it, which is checked in the same transaction.
//! If the collection is included again later, it is new.

use super::{
    connection::{
        round_trip::OneRoundTrip,
        session::{Session, Target},
        sqlstate,
        transaction::WriteTransaction,
    },
    metadata::schema,
    tables::ddl::{self, TableFate},
};
use crate::error::{Code, Error, Result};

/// A collection of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgettableCollection {
    /// `database.collection`.
    pub name: String,
    /// Whether it is followed: it is included, and it existed at the last check.
    pub is_followed: bool,
}

/// A session to forget collections.
#[derive(Debug)]
pub struct ForgetSession {
    session: Session,
    target: Target,
}

impl ForgetSession {
    /// Opens it; `None` if docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = schema::open(target).await?;
        Ok(session.map(|session| Self { session, target: target.clone() }))
    }

    /// The pipeline's collections, sorted by name.
    pub async fn collections(&self) -> Result<Vec<ForgettableCollection>> {
        let fail = |e| sqlstate::error("look for the pipeline's collections", &e);
        let question = "SELECT DISTINCT ON (collection) collection, absent IS NULL FROM docrow.schemas \
            WHERE pipeline = $1 ORDER BY collection, version DESC";
        let rows = self.session.client.fetch(question, &[&self.target.pipeline()]).await.map_err(fail)?;
        let known = |row: &tokio_postgres::Row| {
            Ok(ForgettableCollection { name: row.try_get(0)?, is_followed: row.try_get(1)? })
        };
        rows.iter().map(known).collect::<Result<_, _>>().map_err(fail)
    }

    /// Forgets a collection, and returns the names of its tables. Errors: it is still followed; an object
    /// that is not docrow's depends on a table to be dropped, or another session has a lock on one
    /// ([`Code::TargetLocked`]): retry.
    pub async fn forget(&mut self, collection: &str, tables: TableFate) -> Result<Vec<String>> {
        let doing = format!("forget {collection}");
        let fail = |e| sqlstate::error(&*doing, &e);
        let transaction = self.session.enter_if_fenced(&doing).await?;
        require_unfollowed(&transaction, &self.target, collection).await?;
        let named = ddl::part(&transaction, &self.target, &doing, collection, tables).await?;
        transaction.commit().await.map_err(fail)?;
        Ok(named)
    }
}

/// The process that runs the pipeline records that it follows a collection again before it writes anything
/// for it, and then waits for this transaction.
async fn require_unfollowed(
    transaction: &WriteTransaction<'_>,
    target: &Target,
    collection: &str,
) -> Result<()> {
    let fail = |e| sqlstate::error(format!("forget {collection}"), &e);
    let question =
        "SELECT absent IS NULL FROM docrow.schemas WHERE pipeline = $1 AND collection = $2 FOR UPDATE";
    let rows = transaction.fetch(question, &[&target.pipeline(), &collection]).await.map_err(fail)?;
    for row in &rows {
        if row.try_get(0).map_err(fail)? {
            return Err(still_followed(collection));
        }
    }
    Ok(())
}

/// The error that a collection can't be forgotten yet, with how it can.
pub fn still_followed(collection: &str) -> Error {
    let advice = "remove it from include, reload docrow run (systemctl reload docrow, or SIGHUP) or restart \
        it, and then forget it";
    Error::new(Code::StillFollowed, format!("forget {collection}: it is still followed: {advice}"))
}
