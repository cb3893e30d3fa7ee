//! Keys of tables: the primary keys are built once everything is copied, several at once, then the foreign
//! keys are added. If another session has a lock on a table, docrow tries again and again, so that no one
//! waits behind it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::{collection::Collection, context::Pipeline, ports::TargetSession, tries::Tries};
use crate::{
    error::{Code, Error, Kind, Result},
    model::table::Table,
    sink::metadata::chunks::Extent,
};

/// Builds the primary keys of tables whose rows must be replaced: their first copy was cut off.
pub(super) async fn build_keys_of_replaced(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
    extents: &HashMap<String, Extent>,
) -> Result<()> {
    let is_replaced = |name: &str| extents.get(name).is_some_and(|extent| extent.replaces);
    let replaced: Vec<_> = collections.iter().filter(|c| !c.is_paused() && is_replaced(c.name())).collect();
    let tables = keys_missing(session, &replaced).await?;
    build_primary_keys(pipeline, session, tables).await
}

/// The tables of these collections that have no primary key, the largest first.
pub(super) async fn keys_missing(
    session: &dyn TargetSession,
    collections: &[&Collection],
) -> Result<VecDeque<Table>> {
    let mut tables = Vec::new();
    for collection in collections {
        tables.extend_from_slice(collection.mapping().await.tables());
    }
    if tables.is_empty() {
        return Ok(VecDeque::new());
    }
    session.keys_missing(&tables).await.map(VecDeque::from)
}

/// Builds the missing primary keys, several at once, then adds the foreign keys.
pub(super) async fn build_keys(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let complete: Vec<_> = collections.iter().filter(|collection| !collection.rests()).collect();
    let tables = keys_missing(session, &complete).await?;
    build_primary_keys(pipeline, session, tables).await?;
    for collection in complete {
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

/// Builds them over `session`, and over others if there are several.
async fn build_primary_keys(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    tables: VecDeque<Table>,
) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let total = u64::try_from(tables.len()).unwrap_or(0);
    let bar = pipeline.monitor.reporter.bar("building keys".to_owned(), total, 0, "tables");
    let others = pipeline.config.parallelism.min(tables.len()) - 1;
    let queue = Arc::new(Mutex::new(tables));
    let mut running = JoinSet::new();
    for _ in 0..others {
        let (queue, bar, target) = (queue.clone(), bar.clone(), pipeline.ports.target.clone());
        running.spawn(async move { build_all(&mut *target.connect().await?, &queue, &bar).await });
    }
    build_all(session, &queue, &bar).await?;
    while let Some(ended) = running.join_next().await {
        ended.map_err(|e| Error::caused(Kind::Bug, "building keys ended unexpectedly", e))??;
    }
    bar.finish_and_clear();
    tracing::info!("primary keys built in {:.1?}", bar.elapsed());
    Ok(())
}

/// Builds keys until none is left to build.
async fn build_all(
    session: &mut dyn TargetSession,
    queue: &Mutex<VecDeque<Table>>,
    bar: &ProgressBar,
) -> Result<()> {
    while let Some(table) = next(queue) {
        build_key(session, &table).await?;
        bar.inc(1);
    }
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
