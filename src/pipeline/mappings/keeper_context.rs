//! What the keepers of all mappings share.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use crate::{
    error::Result,
    pipeline::{collection::Collection, context::Pipeline, ports::TargetSession},
    schema::Names,
    source::SAMPLE_SIZE,
};

/// How many collections are sampled at once.
const SAMPLING: usize = 4;
/// How many collections are filled at once. Each takes three connections, and some memory (G11).
pub(super) const FILLING: usize = 4;

/// What keepers share.
pub(super) struct KeeperContext {
    pub(super) pipeline: Pipeline,
    pub(super) collections: Arc<[Collection]>,
    /// The names of all tables. Held while some tables are changed: PostgreSQL lets docrow do that one after
    /// the other, and a keeper that has its mapping must not wait for another's turn.
    tables: Arc<Mutex<Names>>,
    sampling: Semaphore,
    pub(super) filling: Semaphore,
    /// Held while a document that may be large is filled (G11).
    pub(super) alone: Mutex<()>,
}

impl KeeperContext {
    pub(super) fn new(pipeline: Pipeline, collections: Arc<[Collection]>, tables: Names) -> Self {
        Self {
            pipeline,
            collections,
            tables: Arc::new(Mutex::new(tables)),
            sampling: Semaphore::new(SAMPLING),
            filling: Semaphore::new(FILLING),
            alone: Mutex::default(),
        }
    }

    /// Adds a sample of a collection to its evidence.
    pub(super) async fn sample(&self, collection: &Collection) -> Result<()> {
        let _permit = self.sampling.acquire().await;
        let source = &self.pipeline.ports.source;
        source.sample_documents(collection.namespace(), SAMPLE_SIZE, &mut |d| collection.observe(d)).await
    }

    /// Waits until no other keeper changes tables. Returns a session for changing them, and their names.
    pub(super) async fn make_ready(&self) -> Result<(Box<dyn TargetSession>, OwnedMutexGuard<Names>)> {
        let tables = self.tables.clone().lock_owned().await;
        // Other pipelines change tables, too.
        Ok((self.pipeline.ports.target.connect_in_haste().await?, tables))
    }
}
