//! Completes collections: copies their documents, builds their keys, and sweeps those that were copied again.

use std::{collections::HashMap, sync::Arc};

use super::{copy, resync::sweep};
use crate::{
    error::Result,
    model::phase::Phase,
    pipeline::{
        collection::Collection,
        context::{Pipeline, TaskOutcome},
        mappings::evolution::KeeperOrders,
        ports::{RowCopier, TargetSession},
        stored_states::record_stopped,
        table_keys,
    },
    process_status::Part,
    sink::metadata::chunks::Extent,
};

/// Completes the collections that are not complete yet.
pub(crate) struct Completion {
    pub(crate) pipeline: Pipeline,
    pub(crate) session: Box<dyn TargetSession>,
    /// As many as there are chunks to copy at once.
    pub(crate) copiers: Vec<Box<dyn RowCopier>>,
    pub(crate) collections: Arc<[Collection]>,
    /// How much of each is copied.
    pub(crate) extents: HashMap<String, Extent>,
}

impl Completion {
    pub(crate) async fn run(self, keepers: KeeperOrders) -> Result<TaskOutcome> {
        let Self { pipeline, mut session, copiers, collections, extents } = self;
        let post = pipeline.monitor.reporter.vitals().post(Part::Completion);
        post.at("copies");
        // Rows are replaced by key, so the keys must exist.
        table_keys::build_keys_of_replaced(&pipeline, &mut *session, &collections, &extents).await?;
        tokio::select! {
            biased;
            copied = copy(&pipeline, &*session, copiers, &collections, &extents) => copied?,
            never = pipeline.throttle.heed_secondaries(&*pipeline.ports.source) => match never {},
        }
        pipeline.enter(Phase::Indexing, &collections);
        pipeline.note_ahead(&mut *session, &collections).await?;
        post.at("waits for mappings to take up discoveries");
        keepers.settle().await;
        post.at("builds keys");
        table_keys::build_keys(&pipeline, &mut *session, &collections).await?;
        post.at("sweeps");
        if extents.values().any(|extent| extent.replaces) {
            sweep(&pipeline, &mut *session, &collections).await?;
        }
        keepers.complete().await;
        record_stopped(&pipeline, &mut *session, &collections).await?;
        Ok(TaskOutcome::Complete)
    }
}
