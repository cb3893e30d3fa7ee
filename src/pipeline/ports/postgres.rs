//! PostgreSQL's side of the target's ports: each method calls a function of [`sink`](crate::sink).

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use mongodb::bson::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    postgres_session::PostgresSession,
    target::{ChunkTransaction, Hold, KeyPages, RowApplier, RowCopier, RowReader, RowTarget, TargetSession},
};
use crate::{
    error::{Error, Result},
    mapping::Rows,
    model::{change::CollectionId, partition::Partition, table::Table},
    sink::{
        Keys, Target,
        metadata::{
            chunks::Marker,
            dead_letters::DeadLetter,
            fence::{Fence, Holder, OnHeld},
            repair_requests::Repairs,
            requests::Requests,
        },
        rows::{
            copy::{ChunkWriter, Copier},
            pipelining::AppliedBatch,
            read::{Reader, UnseenKeys},
            scan_extra::Scan,
            upsert::{Applier, Batch},
        },
    },
};

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
        // It stores no positions.
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
