//! Keys of tables: primary keys are built once all is copied, several at once, then the foreign keys are added. A table that
//! somebody has a lock on is tried again and again, so that nobody waits behind docrow.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::task::JoinSet;

use super::next;
use crate::{
    error::{Code, Error, Kind, Result},
    model::table::Table,
    pipeline::{collection::Collection, context::Pipeline, tries::Tries},
    sink::{Session, metadata::chunks, tables::ddl},
};

impl Pipeline {
    /// Builds the primary keys of tables whose rows are to be replaced: their first copy was cut off.
    pub(crate) async fn build_keys_of_replaced(
        &self,
        session: &mut Session,
        collections: &[Collection],
    ) -> Result<()> {
        let mut tables = VecDeque::new();
        for collection in collections.iter().filter(|collection| !collection.is_paused()) {
            let plan = chunks::load(session, self.target.pipeline(), collection.name()).await?;
            if plan.iter().any(|chunk| chunk.replaces) {
                let (mapping, schema) = (collection.mapping().await, self.target.schema());
                tables
                    .extend(ddl::keys_missing(session, schema, mapping.tables()).await?.into_iter().cloned());
            }
        }
        self.build_primary_keys(tables).await
    }

    /// Builds the primary keys that are missing, several at once, then the foreign keys.
    pub(crate) async fn build_keys(&self, session: &mut Session, collections: &[Collection]) -> Result<()> {
        let schema = self.target.schema();
        let mut tables = VecDeque::new();
        let complete = || collections.iter().filter(|collection| !collection.rests());
        for collection in complete() {
            let mapping = collection.mapping().await;
            tables.extend(ddl::keys_missing(session, schema, mapping.tables()).await?.into_iter().cloned());
        }
        self.build_primary_keys(tables).await?;
        for collection in complete() {
            let mapping = collection.mapping().await;
            if mapping.foreign_keys() {
                self.add_foreign_keys(session, collection, mapping.tables()).await?;
            }
        }
        Ok(())
    }

    /// Adds the foreign keys of a collection once nobody has a lock on its tables.
    pub(crate) async fn add_foreign_keys(
        &self,
        session: &mut Session,
        collection: &Collection,
        tables: &[Table],
    ) -> Result<()> {
        let schema = self.target.schema();
        let mut tries = Tries::endless();
        loop {
            match ddl::add_foreign_keys(session, schema, tables).await {
                Err(error) if error.code() == Code::TargetLocked => {
                    let (what, names) =
                        (format!("{}: foreign keys", collection.name()), ddl::names(schema, tables));
                    tries.make_way(session, (&what, error), &names).await?;
                    tries.again().await;
                }
                added => return added,
            }
        }
    }

    async fn build_primary_keys(&self, tables: VecDeque<Table>) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        let total = u64::try_from(tables.len()).unwrap_or(0);
        let bar = self.reporter.bar("building keys".to_owned(), total, 0, "tables");
        let queue = Arc::new(Mutex::new(tables));
        let mut running = JoinSet::new();
        for _ in 0..self.config.parallelism {
            let (queue, bar, target) = (queue.clone(), bar.clone(), self.target.clone());
            let mut session = target.connect().await?;
            running.spawn(async move {
                while let Some(table) = next(&queue) {
                    build_key(&mut session, target.schema(), &table).await?;
                    bar.inc(1);
                }
                Ok::<_, Error>(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|e| Error::caused(Kind::Bug, "building keys broke off", e))??;
        }
        bar.finish_and_clear();
        tracing::info!("primary keys built in {:.1?}", bar.elapsed());
        Ok(())
    }
}

/// Builds a primary key once nobody has a lock on the table.
async fn build_key(session: &mut Session, schema: &str, table: &Table) -> Result<()> {
    let mut tries = Tries::endless();
    loop {
        match ddl::build_key(session, schema, table).await {
            Err(error) if error.code() == Code::TargetLocked => {
                let what = format!("{}: keys", table.name);
                let names = ddl::names(schema, std::slice::from_ref(table));
                tries.make_way(session, (&what, error), &names).await?;
                tries.again().await;
            }
            built => return built,
        }
    }
}
