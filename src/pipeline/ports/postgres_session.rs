//! PostgreSQL's side of a session: each method calls a function of [`sink`](crate::sink).

use std::{
    borrow::BorrowMut,
    collections::{HashMap, HashSet},
};

use async_trait::async_trait;
use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::target::{KeyPages, RequestSession, StateSession, TableSession, TargetSession};
use crate::{
    error::{Error, Result},
    mapping::{self, Replacement},
    model::{resync_reason::Reason, table::Table},
    sink::{
        Session, Target,
        metadata::{
            chunks::{self, Extent, SnapshotPlan, StoredChunk},
            dead_letters::{self, Asked, DeadKeys},
            deployment,
            mapping_versions::{self, Mapping},
            misfits::{self, MisfitCount, Misfits},
            pauses::{self, PauseRequest},
            positions::{self, StoredPosition},
            process_reports,
            repair_requests::{self, Repairs},
            requests::{self, Requested},
            resync_requests,
        },
        rows::scan_extra::{self, Scan},
        tables::{ddl, ddl_batch, locks, widen},
    },
};

/// A session, and its target.
pub(super) struct PostgresSession<S> {
    pub(super) session: S,
    pub(super) target: Target,
}

/// A session that is already open, as the pipeline sees it.
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

impl<S: BorrowMut<Session> + Send + Sync> TargetSession for PostgresSession<S> {
    fn is_closed(&self) -> bool {
        self.session().is_closed()
    }
}

#[async_trait]
impl<S: BorrowMut<Session> + Send + Sync> StateSession for PostgresSession<S> {
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

    async fn chunks(&self, collections: &[&str]) -> Result<HashMap<String, Vec<StoredChunk>>> {
        chunks::load_all(self.session(), self.pipeline(), collections).await
    }

    async fn extents(&self) -> Result<HashMap<String, Extent>> {
        chunks::extents(self.session(), self.pipeline()).await
    }

    async fn store_chunks(&mut self, plans: &[SnapshotPlan], start: &[StoredPosition]) -> Result<()> {
        chunks::store(self.session.borrow_mut(), self.target.pipeline(), plans, start).await
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
        deployment::replace(self.session.borrow_mut(), self.target.pipeline(), known, state_id, collections)
            .await
    }
}

#[async_trait]
impl<S: BorrowMut<Session> + Send + Sync> TableSession for PostgresSession<S> {
    async fn as_wanted(&self, wanted: &[(&str, &[Table])]) -> Result<Vec<bool>> {
        ddl_batch::as_wanted(self.session(), &self.target, wanted).await
    }

    async fn create_tables(&mut self, wanted: &[(&Mapping, &[Table])]) -> Result<bool> {
        ddl_batch::create_tables(self.session.borrow_mut(), &self.target, wanted).await
    }

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

    async fn scan(&mut self, wanted: &scan_extra::WantedDocuments) -> Result<Box<dyn KeyPages + '_>> {
        Ok(Box::new(Scan::new(self.session.borrow_mut(), self.target.schema(), wanted).await?))
    }

    async fn count_misfits(&self, mapping: &mapping::Mapping) -> Result<Vec<Misfits>> {
        misfits::count(self.session(), self.target.schema(), mapping).await
    }

    async fn fits_double(&self, table: &str, column: &str) -> Result<bool> {
        misfits::fits_double(self.session(), self.target.schema(), table, column).await
    }

    async fn misfits(&self) -> Result<HashMap<String, MisfitCount>> {
        misfits::load(self.session(), self.pipeline()).await
    }

    async fn store_misfits(&mut self, collection: &str, found: &[Misfits]) -> Result<()> {
        misfits::store(self.session.borrow_mut(), self.target.pipeline(), collection, found).await
    }
}

#[async_trait]
impl<S: BorrowMut<Session> + Send + Sync> RequestSession for PostgresSession<S> {
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
