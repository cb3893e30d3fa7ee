//! Finds the documents that have something in `extra`, page by page.

use tokio_postgres::{Portal, Transaction};

use super::{
    Keys, Session, failure,
    read::first_column,
    sql::{self, quote},
};
use crate::{
    error::{Error, Result},
    mapping::{Column, Table},
};

/// The keys of documents as they were when the scan began. Holds no lock that keeps anyone from writing.
pub struct Scan<'a> {
    transaction: Transaction<'a>,
    portal: Portal,
}

impl<'a> Scan<'a> {
    /// The documents of `root` that have something in its column `extra`, of which a key matches the regular expression
    /// `pattern` if there is one.
    pub async fn of_extra(
        session: &'a mut Session,
        schema: &str,
        (root, extra): (&Table, &Column),
        pattern: Option<&str>,
    ) -> Result<Self> {
        let Some(key) = root.columns.first() else {
            return Err(Error::bug("look for documents: no key column"));
        };
        let fail = |e| failure::of(format!("look for documents in {}", quote(&root.name)), &e);
        let (key, extra, table) = (quote(&key.name), quote(&extra.name), sql::qualified(schema, &root.name));
        let question = format!(
            "SELECT {key} FROM {table} WHERE {extra} IS NOT NULL \
             AND ($1::text IS NULL OR EXISTS (SELECT FROM jsonb_object_keys({extra}) AS k WHERE k ~ $1))"
        );
        let transaction = session.client.transaction().await.map_err(fail)?;
        let portal = transaction.bind(&question, &[&pattern]).await.map_err(fail)?;
        Ok(Self { transaction, portal })
    }

    /// At most `most` further keys; none: that was all.
    pub async fn next(&mut self, most: u16) -> Result<Keys> {
        let rows = self.transaction.query_portal(&self.portal, most.into()).await;
        first_column(&rows.map_err(|e| failure::of("look for documents", &e))?)
    }
}
