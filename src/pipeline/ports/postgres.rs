//! PostgreSQL's side of the target's ports: each method is a function of [`sink`](crate::sink).

use std::{
    borrow::BorrowMut,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use mongodb::bson::{RawDocumentBuf, Timestamp};
use tokio::{sync::watch, time::Instant};

use super::target::{
    ChunkTransaction, Hold, KeyPages, RowApplier, RowCopier, RowReader, RowTarget, TargetSession,
};
use crate::{
    error::{Error, Result},
    mapping::{self, Replacement, Rows},
    model::{change::CollectionId, partition::Partition, resync_reason::Reason, table::Table},
    sink::{
        Keys, Session, Target,
        metadata::{
            chunks::{self, Marker, StoredChunk},
            dead_letters::{self, Asked, DeadKeys, DeadLetter},
            deployment,
            fence::{Fence, Holder, OnHeld},
            mapping_versions::{self, Mapping},
            misfits::{self, MisfitCount, Misfits},
            pauses::{self, PauseRequest},
            positions::{self, StoredPosition},
            process_reports,
            repair_requests::{self, Repairs},
            requests::{self, Requested, Requests},
            resync_requests,
        },
        rows::{
            copy::{ChunkWriter, Copier},
            pipelining::AppliedBatch,
            read::{Reader, UnseenKeys},
            scan_extra::{self, Scan},
            upsert::{Applier, Batch},
        },
        tables::{ddl, locks, widen},
    },
};

/// A session, and the target that it is of.
struct PostgresSession<S> {
    session: S,
    target: Target,
}

/// A session that is open already, as the pipeline sees it.
pub(crate) fn of_postgres(session: &mut Session, target: &Target) -> impl TargetSession {
    PostgresSession { session, target: target.clone() }
}

impl<S: BorrowMut<Session>> PostgresSession<S> {
    fn session(&self) -> &Session {
        self.session.borrow()
    }

    fn pipeline(&self) -> &str {
        self.target.pipeline()
    }
}

#[async_trait]
impl RowTarget for Target {
    fn pipeline(&self) -> &str {
        self.pipeline()
    }

    async fn acquire(&self, holder: &Holder, on_held: OnHeld) -> Result<Box<dyn Hold>> {
        Ok(Box::new(Fence::acquire(self, holder, on_held).await?))
    }

    async fn connect(&self) -> Result<Box<dyn TargetSession>> {
        Ok(Box::new(PostgresSession { session: self.connect().await?, target: self.clone() }))
    }

    async fn connect_in_haste(&self) -> Result<Box<dyn TargetSession>> {
        Ok(Box::new(PostgresSession { session: self.connect_in_haste().await?, target: self.clone() }))
    }

    async fn applier(&self, partition: Partition, fingerprint: i64) -> Result<Box<dyn RowApplier>> {
        Ok(Box::new(Applier::new(self.connect().await?, self, partition, fingerprint).await?))
    }

    async fn applier_in_haste(&self) -> Result<Box<dyn RowApplier>> {
        // It stores no position.
        Ok(Box::new(Applier::new(self.connect_in_haste().await?, self, Partition(0), 0).await?))
    }

    async fn copier(&self) -> Result<Box<dyn RowCopier>> {
        Ok(Box::new(Copier::new(self.connect().await?, self)))
    }

    async fn reader(&self) -> Result<Box<dyn RowReader>> {
        Ok(Box::new(Reader::new(self.connect().await?, self)))
    }

    async fn reader_in_haste(&self) -> Result<Box<dyn RowReader>> {
        Ok(Box::new(Reader::new(self.connect_in_haste().await?, self)))
    }

    async fn ask_for_repairs(&self, collection: &str, repairs: &Repairs) -> Result<()> {
        match Requests::open(self).await? {
            Some(requests) => requests.repair(collection, repairs).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Hold for Fence {
    fn target(&self) -> Arc<dyn RowTarget> {
        Arc::new(self.target().clone())
    }

    fn answered(&self) -> watch::Receiver<Instant> {
        self.answered()
    }

    async fn lost(&mut self) -> Error {
        self.hold().await
    }
}

#[async_trait]
impl<S: BorrowMut<Session> + Send + Sync> TargetSession for PostgresSession<S> {
    fn is_closed(&self) -> bool {
        self.session().is_closed()
    }

    // Positions.
    async fn register(&self, state_id: &str) -> Result<String> {
        positions::register(self.session(), self.pipeline(), state_id).await
    }

    async fn positions(&self) -> Result<Vec<StoredPosition>> {
        positions::load(self.session(), self.pipeline()).await
    }

    async fn reset_positions(&mut self, positions: &[StoredPosition]) -> Result<()> {
        positions::reset(self.session.borrow_mut(), self.target.pipeline(), positions).await
    }

    async fn ahead(&self) -> Result<Option<Timestamp>> {
        positions::ahead(self.session(), self.pipeline()).await
    }

    async fn set_ahead(&mut self, ahead: Option<Timestamp>) -> Result<()> {
        positions::set_ahead(self.session.borrow_mut(), self.target.pipeline(), ahead).await
    }

    async fn shown(&self) -> Result<Option<Timestamp>> {
        positions::shown(self.session(), self.pipeline()).await
    }

    // Chunks.
    async fn chunks(&self, collection: &str) -> Result<Vec<StoredChunk>> {
        chunks::load(self.session(), self.pipeline(), collection).await
    }

    async fn store_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()> {
        chunks::store(self.session.borrow_mut(), self.target.pipeline(), collection, chunks, start).await
    }

    async fn replace_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()> {
        chunks::replace(self.session.borrow_mut(), self.target.pipeline(), collection, chunks, start).await
    }

    async fn set_swept(&mut self, collection: &str) -> Result<()> {
        chunks::swept(self.session.borrow_mut(), self.target.pipeline(), collection).await
    }

    // Mappings, and what is known of whole collections.
    async fn mappings(&self) -> Result<Vec<Mapping>> {
        mapping_versions::load(self.session(), self.pipeline()).await
    }

    async fn set_filled(&mut self, collection: &str, version: u16) -> Result<()> {
        mapping_versions::set_filled(self.session.borrow_mut(), self.target.pipeline(), collection, version)
            .await
    }

    async fn set_stopped(&mut self, collection: &str, reason: Option<&str>) -> Result<()> {
        mapping_versions::set_stopped(self.session.borrow_mut(), self.target.pipeline(), collection, reason)
            .await
    }

    async fn set_absent(&mut self, dropped: &[String], excluded: &[String]) -> Result<Vec<String>> {
        mapping_versions::set_absent(self.session.borrow_mut(), self.target.pipeline(), dropped, excluded)
            .await
    }

    async fn note_mask_key(&mut self, mapping: &Mapping) -> Result<()> {
        mapping_versions::note_mask_key(self.session.borrow_mut(), self.target.pipeline(), mapping).await
    }

    async fn with_earlier_keys(&self) -> Result<HashSet<String>> {
        mapping_versions::with_earlier_keys(self.session(), self.pipeline()).await
    }

    async fn set_keys_renewed(&mut self, collection: &str) -> Result<()> {
        mapping_versions::set_keys_renewed(self.session.borrow_mut(), self.target.pipeline(), collection)
            .await
    }

    async fn deployment(&self) -> Result<Option<String>> {
        deployment::load(self.session(), self.pipeline()).await
    }

    async fn store_deployment(&mut self, known: &str) -> Result<()> {
        deployment::store(self.session.borrow_mut(), self.target.pipeline(), known).await
    }

    async fn replace_deployment(
        &mut self,
        known: &str,
        state_id: &str,
        collections: &[String],
    ) -> Result<()> {
        deployment::replace(self.session.borrow_mut(), self.target.pipeline(), (known, state_id), collections)
            .await
    }

    // Tables.
    async fn change_tables(&mut self, mapping: &Mapping, tables: &[Table]) -> Result<()> {
        ddl::change_tables(self.session.borrow_mut(), &self.target, mapping, tables).await.map(drop)
    }

    async fn relations(&self) -> Result<Vec<String>> {
        ddl::relations(self.session(), self.target.schema()).await
    }

    async fn columns(&self, tables: &[Table]) -> Result<Vec<(String, String)>> {
        ddl::columns(self.session(), self.target.schema(), tables).await
    }

    async fn has_earlier_keys(&self, root: &Table) -> Result<bool> {
        ddl::has_earlier_keys(self.session(), self.target.schema(), root).await
    }

    async fn keys_missing(&self, tables: &[Table]) -> Result<Vec<Table>> {
        let missing = ddl::keys_missing(self.session(), self.target.schema(), tables).await?;
        Ok(missing.into_iter().cloned().collect())
    }

    async fn build_key(&mut self, table: &Table) -> Result<()> {
        ddl::build_key(self.session.borrow_mut(), self.target.schema(), table).await
    }

    async fn add_foreign_keys(&mut self, tables: &[Table]) -> Result<()> {
        ddl::add_foreign_keys(self.session.borrow_mut(), self.target.schema(), tables).await
    }

    async fn empty_tables(&mut self, collection: &str) -> Result<()> {
        ddl::empty_tables(self.session.borrow_mut(), &self.target, collection).await
    }

    async fn drop_tables(&mut self, collection: &str) -> Result<()> {
        ddl::drop_tables(self.session.borrow_mut(), &self.target, collection).await
    }

    async fn irreplaceable(
        &self,
        collection: &str,
        replacements: &[Replacement],
    ) -> Result<Option<(Vec<Replacement>, Error)>> {
        widen::irreplaceable(self.session(), &self.target, collection, replacements).await
    }

    async fn replace_columns(&mut self, next: &Mapping, replacements: &[Replacement]) -> Result<()> {
        widen::replace_columns(self.session.borrow_mut(), &self.target, next, replacements).await
    }

    async fn make_way(&mut self, error: Error, tables: &[Table]) -> Result<Error> {
        let names = ddl::names(self.target.schema(), tables);
        locks::make_way(self.session.borrow_mut(), error, &names).await
    }

    // Rows and dead letters.
    async fn scan(&mut self, wanted: &scan_extra::Wanted) -> Result<Box<dyn KeyPages + '_>> {
        Ok(Box::new(Scan::new(self.session.borrow_mut(), self.target.schema(), wanted).await?))
    }

    async fn count_misfits(&self, mapping: &mapping::Mapping) -> Result<Vec<Misfits>> {
        misfits::count(self.session(), self.target.schema(), mapping).await
    }

    async fn fits_double(&self, table: &str, column: &str) -> Result<bool> {
        misfits::fits_double(self.session(), self.target.schema(), (table, column)).await
    }

    async fn misfits(&self) -> Result<HashMap<String, MisfitCount>> {
        misfits::load(self.session(), self.pipeline()).await
    }

    async fn store_misfits(&mut self, collection: &str, found: &[Misfits]) -> Result<()> {
        misfits::store(self.session.borrow_mut(), self.target.pipeline(), collection, found).await
    }

    async fn dead_keys(&self) -> Result<DeadKeys> {
        dead_letters::keys(self.session(), self.pipeline()).await
    }

    async fn dead_keys_among(&self, collection: &str, keys: &[String]) -> Result<DeadKeys> {
        dead_letters::among(self.session(), self.pipeline(), collection, keys).await
    }

    async fn dead_document_keys(&self, collection: &str, after: i64) -> Result<Vec<(i64, RawDocumentBuf)>> {
        dead_letters::document_keys(self.session(), self.pipeline(), collection, after).await
    }

    async fn dead_letter_counts(&self) -> Result<HashMap<String, u64>> {
        dead_letters::counts(self.session(), self.pipeline()).await
    }

    async fn rename_dead_letters(&mut self, collection: &str) -> Result<()> {
        dead_letters::rename(self.session.borrow_mut(), self.target.pipeline(), collection).await
    }

    async fn forget_dead_letters(&mut self, ids: &[i64]) -> Result<()> {
        dead_letters::forget(self.session.borrow_mut(), self.target.pipeline(), ids).await
    }

    // Requests.
    async fn requests(&self, later: &[&str]) -> Result<Requested> {
        requests::look(self.session(), self.pipeline(), later).await
    }

    async fn ask_for_resync(&mut self, collections: &[String], reason: Reason) -> Result<()> {
        resync_requests::ask(self.session.borrow_mut(), self.target.pipeline(), collections, reason).await
    }

    async fn resyncs_asked(&self) -> Result<Vec<(String, Reason)>> {
        resync_requests::asked(self.session(), self.pipeline()).await
    }

    async fn letters_asked(&self) -> Result<Vec<Asked>> {
        dead_letters::asked(self.session(), self.pipeline()).await
    }

    async fn letters_answered(&mut self, ids: &[i64]) -> Result<()> {
        dead_letters::answered(self.session.borrow_mut(), self.target.pipeline(), ids).await
    }

    async fn take_repairs(&mut self, later: &[&str]) -> Result<Vec<(String, Repairs)>> {
        repair_requests::take(self.session.borrow_mut(), self.target.pipeline(), later).await
    }

    async fn pauses(&self) -> Result<Vec<PauseRequest>> {
        pauses::all(self.session(), self.pipeline()).await
    }

    async fn hold_pauses(&mut self, collections: &[&str]) -> Result<()> {
        pauses::hold(self.session.borrow_mut(), self.target.pipeline(), collections).await
    }

    async fn store_report(&mut self, report: &str, details: Option<&str>) -> Result<()> {
        process_reports::store(self.session.borrow_mut(), self.target.pipeline(), report, details).await
    }
}

#[async_trait]
impl RowApplier for Applier {
    async fn apply(&mut self, batch: &Batch<'_>) -> Result<AppliedBatch> {
        self.apply(batch).await
    }

    async fn note_ahead(&mut self, time: Timestamp) -> Result<()> {
        self.note_ahead(time).await
    }

    async fn note_shown(&mut self, time: Timestamp) -> Result<()> {
        self.note_shown(time).await
    }
}

#[async_trait]
impl RowCopier for Copier {
    async fn begin<'a>(
        &'a mut self,
        collection: CollectionId,
        tables: &[Table],
    ) -> Result<Box<dyn ChunkTransaction + 'a>> {
        Ok(Box::new(self.begin(collection, tables).await?))
    }
}

#[async_trait]
impl ChunkTransaction for ChunkWriter<'_> {
    async fn write(&mut self, rows: &mut Rows) -> Result<u64> {
        self.write(rows).await
    }

    async fn dead_letters(&mut self, letters: &[DeadLetter]) -> Result<()> {
        self.dead_letters(letters).await
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.savepoint().await
    }

    async fn release_savepoint(&mut self) -> Result<()> {
        self.release_savepoint().await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<()> {
        self.rollback_to_savepoint().await
    }

    async fn commit(self: Box<Self>, marker: Marker<'_>) -> Result<()> {
        (*self).commit(marker).await
    }
}

#[async_trait]
impl RowReader for Reader {
    async fn documents(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>> {
        self.documents(tables, keys, most).await
    }

    async fn forget_seen(&mut self, root: &Table) -> Result<()> {
        self.forget_seen(root).await
    }

    async fn see(&mut self, keys: &Keys) -> Result<()> {
        self.see(keys).await
    }

    async fn unseen<'a>(&'a mut self, root: &Table, table: &Table) -> Result<Box<dyn KeyPages + 'a>> {
        Ok(Box::new(self.unseen(root, table).await?))
    }
}

#[async_trait]
impl KeyPages for UnseenKeys<'_> {
    async fn next(&mut self, most: u16) -> Result<Keys> {
        self.next(most).await
    }
}

#[async_trait]
impl KeyPages for Scan<'_> {
    async fn next(&mut self, most: u16) -> Result<Keys> {
        self.next(most).await
    }
}
