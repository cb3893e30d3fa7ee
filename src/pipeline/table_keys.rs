//! Keys of tables: the primary keys are built once everything is copied, several at once, then the foreign
//! keys are added. If another session has a lock on a table, docrow tries again and again, so that no one
//! waits behind it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::JoinSet;

use super::{collection::Collection, context::Pipeline, ports::TargetSession, tries::Tries};
use crate::{
    error::{Code, Error, Kind, Result},
    model::table::Table,
};

/// Builds the primary keys of tables whose rows must be replaced: their first copy was cut off.
pub(super) async fn build_keys_of_replaced(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let mut tables = VecDeque::new();
    for collection in collections.iter().filter(|collection| !collection.is_paused()) {
        let plan = session.chunks(collection.name()).await?;
        if plan.iter().any(|chunk| chunk.replaces) {
            let mapping = collection.mapping().await;
            tables.extend(session.keys_missing(mapping.tables()).await?);
        }
    }
    build_primary_keys(pipeline, tables).await
}

/// Builds the missing primary keys, several at once, then adds the foreign keys.
pub(super) async fn build_keys(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let mut tables = VecDeque::new();
    let complete = || collections.iter().filter(|collection| !collection.rests());
    for collection in complete() {
        let mapping = collection.mapping().await;
        tables.extend(session.keys_missing(mapping.tables()).await?);
    }
    build_primary_keys(pipeline, tables).await?;
    for collection in complete() {
        let mapping = collection.mapping().await;
        if mapping.foreign_keys() {
            add_foreign_keys(session, collection, mapping.tables()).await?;
        }
    }
    Ok(())
}

/// Adds the foreign keys of a collection once no other session has a lock on its tables.
pub(super) async fn add_foreign_keys(
    session: &mut dyn TargetSession,
    collection: &Collection,
    tables: &[Table],
) -> Result<()> {
    let mut tries = Tries::endless();
    loop {
        match session.add_foreign_keys(tables).await {
            Err(error) if error.code() == Code::TargetLocked => {
                let what = format!("{}: foreign keys", collection.name());
                tries.make_way(session, &what, error, tables).await?;
                tries.again().await;
            }
            added => return added,
        }
    }
}

async fn build_primary_keys(pipeline: &Pipeline, tables: VecDeque<Table>) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let total = u64::try_from(tables.len()).unwrap_or(0);
    let bar = pipeline.monitor.reporter.bar("building keys".to_owned(), total, 0, "tables");
    let queue = Arc::new(Mutex::new(tables));
    let mut running = JoinSet::new();
    for _ in 0..pipeline.config.parallelism {
        let (queue, bar) = (queue.clone(), bar.clone());
        let mut session = pipeline.ports.target.connect().await?;
        running.spawn(async move {
            while let Some(table) = next(&queue) {
                build_key(&mut *session, &table).await?;
                bar.inc(1);
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|e| Error::caused(Kind::Bug, "building keys ended unexpectedly", e))??;
    }
    bar.finish_and_clear();
    tracing::info!("primary keys built in {:.1?}", bar.elapsed());
    Ok(())
}

/// Builds a primary key once no other session has a lock on the table.
async fn build_key(session: &mut dyn TargetSession, table: &Table) -> Result<()> {
    let mut tries = Tries::endless();
    loop {
        match session.build_key(table).await {
            Err(error) if error.code() == Code::TargetLocked => {
                let what = format!("{}: keys", table.name);
                tries.make_way(session, &what, error, std::slice::from_ref(table)).await?;
                tries.again().await;
            }
            built => return built,
        }
    }
}

fn next(queue: &Mutex<VecDeque<Table>>) -> Option<Table> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
