//! Forgetting a collection that is no longer followed: all that docrow has stored about it, and, if wanted, its tables.
//!
//! This is asked for by a person, whether or not the pipeline is being run: whoever runs it has noted that it follows the
//! collection no longer, and so writes nothing of it. That is looked at in the very transaction. Should it be included again
//! later, it is new.

use tokio_postgres::Transaction;

use super::{
    connection::{
        session::{Session, Target},
        sqlstate,
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
    /// Whether it is followed: it is included, and it was there when that was last looked at.
    pub is_followed: bool,
}

/// What people need to have collections forgotten.
#[derive(Debug)]
pub struct ForgetSession {
    session: Session,
    target: Target,
}

impl ForgetSession {
    /// Opens it; `None` where docrow has never written to the target.
    pub async fn open(target: &Target) -> Result<Option<Self>> {
        let session = schema::open(target).await?;
        Ok(session.map(|session| Self { session, target: target.clone() }))
    }

    /// The pipeline's collections, sorted by name.
    pub async fn collections(&self) -> Result<Vec<ForgettableCollection>> {
        let fail = |e| sqlstate::error("look for the pipeline's collections", &e);
        let question = "SELECT DISTINCT ON (collection) collection, absent IS NULL FROM docrow.schemas \
            WHERE pipeline = $1 ORDER BY collection, version DESC";
        let rows = self.session.client.query(question, &[&self.target.pipeline()]).await.map_err(fail)?;
        let known = |row: &tokio_postgres::Row| {
            Ok(ForgettableCollection { name: row.try_get(0)?, is_followed: row.try_get(1)? })
        };
        rows.iter().map(known).collect::<Result<_, _>>().map_err(fail)
    }

    /// Forgets one, and says which tables were its. Errors: it is followed; something of somebody's depends on a table that
    /// is to be dropped, or somebody has a lock on one ([`Code::TargetLocked`]): to be tried again.
    pub async fn forget(&mut self, collection: &str, tables: TableFate) -> Result<Vec<String>> {
        let doing = format!("forget {collection}");
        let fail = |e| sqlstate::error(&*doing, &e);
        let transaction = self.session.client.transaction().await.map_err(fail)?;
        require_unfollowed(&transaction, &self.target, collection).await?;
        let named = ddl::part(&transaction, &self.target, &doing, collection, tables).await?;
        transaction.commit().await.map_err(fail)?;
        Ok(named)
    }
}

/// Whoever runs the pipeline notes that it follows a collection again before it writes anything of it, and waits for this
/// transaction then.
async fn require_unfollowed(transaction: &Transaction<'_>, target: &Target, collection: &str) -> Result<()> {
    let fail = |e| sqlstate::error(format!("forget {collection}"), &e);
    let question =
        "SELECT absent IS NULL FROM docrow.schemas WHERE pipeline = $1 AND collection = $2 FOR UPDATE";
    let rows = transaction.query(question, &[&target.pipeline(), &collection]).await.map_err(fail)?;
    for row in &rows {
        if row.try_get(0).map_err(fail)? {
            return Err(still_followed(collection));
        }
    }
    Ok(())
}

/// That a collection can't be forgotten yet, and how it can.
pub fn still_followed(collection: &str) -> Error {
    let advice = "take it out of include, have docrow run read that (systemctl reload docrow, or SIGHUP; or start it \
        again), and then forget it";
    Error::new(Code::StillFollowed, format!("forget {collection}: it is followed: {advice}"))
}
