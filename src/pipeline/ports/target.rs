//! Rows, and what is known about them. The server's side is in [`postgres`](super::postgres).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use mongodb::bson::{RawDocumentBuf, Timestamp};
use tokio::{sync::watch, time::Instant};

use crate::{
    error::{Error, Result},
    mapping::{self, Replacement, Rows},
    model::{change::CollectionId, partition::Partition, resync_reason::Reason, table::Table},
    sink::{
        Keys,
        metadata::{
            chunks::{Extent, Marker, SnapshotPlan, StoredChunk},
            dead_letters::{Asked, DeadKeys, DeadLetter},
            fence::{Holder, OnHeld},
            mapping_versions::Mapping,
            misfits::{MisfitCount, Misfits},
            pauses::PauseRequest,
            positions::StoredPosition,
            repair_requests::Repairs,
            requests::Requested,
        },
        rows::{pipelining::AppliedBatch, scan_extra, upsert::Batch},
    },
};

/// Where rows go. See [`Target`](crate::sink::Target); sessions of a target that a [`Hold`] provides can
/// write to the pipeline.
#[async_trait]
pub(crate) trait RowTarget: Send + Sync {
    fn pipeline(&self) -> &str;
    async fn acquire(&self, holder: &Holder, on_held: OnHeld) -> Result<Box<dyn Hold>>;
    async fn connect(&self) -> Result<Box<dyn TargetSession>>;
    async fn connect_in_haste(&self) -> Result<Box<dyn TargetSession>>;
    async fn applier(&self, partition: Partition, fingerprint: i64) -> Result<Box<dyn RowApplier>>;
    async fn applier_in_haste(&self) -> Result<Box<dyn RowApplier>>;
    async fn copier(&self) -> Result<Box<dyn RowCopier>>;
    async fn reader(&self) -> Result<Box<dyn RowReader>>;
    async fn reader_in_haste(&self) -> Result<Box<dyn RowReader>>;
    async fn ask_for_repairs(&self, collection: &str, repairs: &Repairs) -> Result<()>;
}

/// A held pipeline. See [`Fence`](crate::sink::metadata::fence::Fence).
#[async_trait]
pub(crate) trait Hold: Send {
    fn target(&self) -> Arc<dyn RowTarget>;
    fn answered(&self) -> watch::Receiver<Instant>;
    async fn lost(&mut self) -> Error;
}

/// A session that reads what is stored, and changes it. Each method is one transaction, or one query. See the
/// function of [`sink`](crate::sink) that it calls.
pub(crate) trait TargetSession: StateSession + TableSession + RequestSession {
    fn is_closed(&self) -> bool;
}

/// What is stored about the pipeline and its collections.
#[async_trait]
pub(crate) trait StateSession: Send + Sync {
    // Positions.
    async fn register(&self, state_id: &str) -> Result<String>;
    async fn positions(&self) -> Result<Vec<StoredPosition>>;
    async fn reset_positions(&mut self, positions: &[StoredPosition]) -> Result<()>;
    async fn ahead(&self) -> Result<Option<Timestamp>>;
    async fn set_ahead(&mut self, ahead: Option<Timestamp>) -> Result<()>;
    async fn shown(&self) -> Result<Option<Timestamp>>;

    // Chunks.
    async fn chunks(&self, collections: &[&str]) -> Result<HashMap<String, Vec<StoredChunk>>>;
    async fn extents(&self) -> Result<HashMap<String, Extent>>;
    async fn store_chunks(&mut self, plans: &[SnapshotPlan], start: &[StoredPosition]) -> Result<()>;
    async fn replace_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()>;
    async fn set_swept(&mut self, collection: &str) -> Result<()>;

    // Mappings, and what is known about whole collections.
    async fn mappings(&self) -> Result<Vec<Mapping>>;
    async fn set_filled(&mut self, collection: &str, version: u16) -> Result<()>;
    async fn set_stopped(&mut self, collection: &str, reason: Option<&str>) -> Result<()>;
    async fn set_absent(&mut self, dropped: &[String], excluded: &[String]) -> Result<Vec<String>>;
    async fn note_mask_key(&mut self, mapping: &Mapping) -> Result<()>;
    async fn with_earlier_keys(&self) -> Result<HashSet<String>>;
    async fn set_keys_renewed(&mut self, collection: &str) -> Result<()>;
    async fn deployment(&self) -> Result<Option<String>>;
    async fn store_deployment(&mut self, known: &str) -> Result<()>;
    async fn replace_deployment(&mut self, known: &str, state_id: &str, collections: &[String])
    -> Result<()>;
}

/// Tables and their rows.
#[async_trait]
pub(crate) trait TableSession: Send + Sync {
    async fn as_wanted(&self, wanted: &[(&str, &[Table])]) -> Result<Vec<bool>>;
    async fn create_tables(&mut self, wanted: &[(&Mapping, &[Table])]) -> Result<bool>;
    async fn change_tables(&mut self, mapping: &Mapping, tables: &[Table]) -> Result<()>;
    async fn relations(&self) -> Result<Vec<String>>;
    async fn columns(&self, tables: &[Table]) -> Result<Vec<(String, String)>>;
    async fn has_earlier_keys(&self, root: &Table) -> Result<bool>;
    async fn keys_missing(&self, tables: &[Table]) -> Result<Vec<Table>>;
    async fn build_key(&mut self, table: &Table) -> Result<()>;
    async fn add_foreign_keys(&mut self, tables: &[Table]) -> Result<()>;
    async fn empty_tables(&mut self, collection: &str) -> Result<()>;
    async fn drop_tables(&mut self, collection: &str) -> Result<()>;
    async fn irreplaceable(
        &self,
        collection: &str,
        replacements: &[Replacement],
    ) -> Result<Option<(Vec<Replacement>, Error)>>;
    async fn replace_columns(&mut self, next: &Mapping, replacements: &[Replacement]) -> Result<()>;
    async fn make_way(&mut self, error: Error, tables: &[Table]) -> Result<Error>;

    // Rows.
    async fn scan(&mut self, wanted: &scan_extra::WantedDocuments) -> Result<Box<dyn KeyPages + '_>>;
    async fn count_misfits(&self, mapping: &mapping::Mapping) -> Result<Vec<Misfits>>;
    async fn fits_double(&self, table: &str, column: &str) -> Result<bool>;
    async fn misfits(&self) -> Result<HashMap<String, MisfitCount>>;
    async fn store_misfits(&mut self, collection: &str, found: &[Misfits]) -> Result<()>;
}

/// Dead letters, and operators' requests.
#[async_trait]
pub(crate) trait RequestSession: Send + Sync {
    // Dead letters.
    async fn dead_keys(&self) -> Result<DeadKeys>;
    async fn dead_keys_among(&self, collection: &str, keys: &[String]) -> Result<DeadKeys>;
    async fn dead_document_keys(&self, collection: &str, after: i64) -> Result<Vec<(i64, RawDocumentBuf)>>;
    async fn dead_letter_counts(&self) -> Result<HashMap<String, u64>>;
    async fn rename_dead_letters(&mut self, collection: &str) -> Result<()>;
    async fn forget_dead_letters(&mut self, ids: &[i64]) -> Result<()>;

    // Requests.
    async fn requests(&self, later: &[&str]) -> Result<Requested>;
    async fn ask_for_resync(&mut self, collections: &[String], reason: Reason) -> Result<()>;
    async fn resyncs_asked(&self) -> Result<Vec<(String, Reason)>>;
    async fn letters_asked(&self) -> Result<Vec<Asked>>;
    async fn letters_answered(&mut self, ids: &[i64]) -> Result<()>;
    async fn take_repairs(&mut self, later: &[&str]) -> Result<Vec<(String, Repairs)>>;
    async fn pauses(&self) -> Result<Vec<PauseRequest>>;
    async fn hold_pauses(&mut self, collections: &[&str]) -> Result<()>;

    async fn store_report(&mut self, report: &str, details: Option<&str>) -> Result<()>;
}

/// A session that applies batches. See [`Applier`](crate::sink::rows::upsert::Applier).
#[async_trait]
pub(crate) trait RowApplier: Send {
    async fn apply(&mut self, batch: &Batch<'_>) -> Result<AppliedBatch>;
    async fn note_ahead(&mut self, time: Timestamp) -> Result<()>;
    async fn note_shown(&mut self, time: Timestamp) -> Result<()>;
}

/// A session that copies chunks. See [`Copier`](crate::sink::rows::copy::Copier).
#[async_trait]
pub(crate) trait RowCopier: Send {
    async fn begin<'a>(
        &'a mut self,
        collection: CollectionId,
        tables: &[Table],
    ) -> Result<Box<dyn ChunkTransaction + 'a>>;
}

/// An open chunk. Dropping it rolls it back. See [`ChunkWriter`](crate::sink::rows::copy::ChunkWriter).
#[async_trait]
pub(crate) trait ChunkTransaction: Send {
    async fn write(&mut self, rows: &mut Rows) -> Result<u64>;
    async fn dead_letters(&mut self, letters: &[DeadLetter]) -> Result<()>;
    async fn savepoint(&mut self) -> Result<()>;
    async fn release_savepoint(&mut self) -> Result<()>;
    async fn rollback_to_savepoint(&mut self) -> Result<()>;
    async fn commit(self: Box<Self>, marker: Marker<'_>) -> Result<()>;
}

/// A session that reads rows. See [`Reader`](crate::sink::rows::read::Reader).
#[async_trait]
pub(crate) trait RowReader: Send {
    async fn documents(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>>;
    async fn forget_seen(&mut self, root: &Table) -> Result<()>;
    async fn see(&mut self, keys: &Keys) -> Result<()>;
    async fn unseen<'a>(&'a mut self, root: &Table, table: &Table) -> Result<Box<dyn KeyPages + 'a>>;
}

/// Keys, page by page; an empty page: there are no more.
#[async_trait]
pub(crate) trait KeyPages: Send {
    async fn next(&mut self, most: u16) -> Result<Keys>;
}
