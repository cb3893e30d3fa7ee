//! Completes collections: copies their documents, builds their keys, and sweeps those that were copied again.

use std::sync::Arc;

use super::{copy, resync::sweep};
use crate::{
    error::Result,
    model::phase::Phase,
    pipeline::{
        collection::Collection,
        context::{Pipeline, TaskOutcome},
        mappings::evolution::KeeperOrders,
        stored_states::record_stopped,
        table_keys,
    },
    process_status::Part,
};

/// Completes the collections that are not complete yet.
pub(crate) async fn complete(
    pipeline: Pipeline,
    collections: Arc<[Collection]>,
    keepers: KeeperOrders,
) -> Result<TaskOutcome> {
    let post = pipeline.monitor.reporter.vitals().post(Part::Completion);
    let mut session = pipeline.ports.target.connect().await?;
    post.at("copies");
    // Rows are replaced by key, so the keys must exist.
    table_keys::build_keys_of_replaced(&pipeline, &mut *session, &collections).await?;
    tokio::select! {
        biased;
        copied = copy(&pipeline, &*session, &collections) => copied?,
        never = pipeline.throttle.heed_secondaries(&*pipeline.ports.source) => match never {},
    }
    pipeline.enter(Phase::Indexing, &collections);
    pipeline.note_ahead(&mut *session, &collections).await?;
    post.at("waits for mappings to take up discoveries");
    keepers.settle().await;
    post.at("builds keys");
    table_keys::build_keys(&pipeline, &mut *session, &collections).await?;
    post.at("sweeps");
    sweep(&pipeline, &mut *session, &collections).await?;
    keepers.complete().await;
    record_stopped(&pipeline, &mut *session, &collections).await?;
    Ok(TaskOutcome::Complete)
}
