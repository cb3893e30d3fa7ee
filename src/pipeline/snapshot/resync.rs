//! Copies a collection again, in place (G8): its documents replace the existing rows, chunk by chunk, then
//! the rows of documents that no longer exist are swept. Readers never see an empty table.
//!
//! The documents of a chunk are written like changes, and the chunk is marked once all of them are written:
//! writing some of them twice does no harm. For the sweep, the `_id`s of all documents are read, and rows
//! whose key is not among them are deleted, as if the document had been deleted. A document that came or went
//! meanwhile has an event, which waits in the spool and is applied afterwards. So nothing is lost if a row is
//! swept too early or too late, and a sweep that is cut off is repeated: it is over when the plan says so.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use indicatif::HumanCount;

use super::{ChunkWorker, chunk::ChunkWork, progress::CopiedChunk};
use crate::{
    error::Result,
    failpoint::{self, Failpoint},
    mapping::{Framing, Mapping, Rows},
    metrics,
    model::{change::CollectionId, document_key::Id, partition::Partition, phase::Phase},
    pipeline::{
        apply::{document_write::DocumentWrite, writer::BatchWriter},
        collection::Collection,
        context::Pipeline,
        counts::Counts,
        ports::{RowCopier, RowReader, TargetSession},
        prepare::stored_phases,
        tries::Tries,
    },
    sink::{
        Keys,
        metadata::chunks::Marker,
        rows::upsert::{Batch, CollectionBatch},
    },
};

/// The maximum number of documents that are replaced in one transaction.
const TOGETHER: usize = 2_000;

/// How many keys are sent at a time.
const PAGE: u16 = 2_000;

impl ChunkWorker {
    pub(super) async fn writer(&self) -> Result<BatchWriter> {
        let (collections, counts) = (&self.collections, self.counts.clone());
        // It stores no position.
        BatchWriter::start(&*self.target, Partition(0), collections, 0, &HashMap::new(), counts).await
    }

    /// Writes a chunk's documents in place of their existing rows.
    pub(super) async fn replace(
        &self,
        work: &ChunkWork,
        collection: &Collection,
        writer: &mut BatchWriter,
        copier: &mut dyn RowCopier,
    ) -> Result<Option<CopiedChunk>> {
        if collection.stopped().is_some() {
            return Ok(None);
        }
        let mut reader = self.read(work, collection).await?;
        let (mut copied, mut under_way) = (CopiedChunk::default(), work.copying.chunk());
        while let Some(documents) = reader.next().await? {
            let mut writes = Vec::new();
            for document in documents.iter()? {
                let document = document?;
                writes.push(DocumentWrite {
                    fields: None,
                    at: self.after,
                    collection: work.collection,
                    document_key: Id::of(document)?.document()?,
                    document: Some(document.to_owned()),
                });
            }
            for writes in writes.chunks(TOGETHER) {
                writer.write(writes, None, None).await?;
                copied.documents += u64::try_from(writes.len()).unwrap_or(0);
                let bytes: usize = writes.iter().map(DocumentWrite::byte_len).sum();
                copied.bytes += u64::try_from(bytes).unwrap_or(0);
                under_way.written(copied.documents, copied.bytes);
            }
            let read = u64::try_from(writes.len()).unwrap_or(0);
            self.throttle.read(read, documents.byte_len(), &self.shutdown).await;
            if collection.stopped().is_some() {
                return Ok(None);
            }
        }
        let marker =
            Marker { collection: collection.name(), number: work.number, documents: copied.documents };
        failpoint::reach(Failpoint::ChunkReplaced);
        copier.begin(work.collection, &[]).await?.commit(marker).await?;
        copied.rows = writer.take_written();
        Counts::add(&self.counts.replaced, copied.documents);
        Counts::add(&self.counts.rewritten, copied.rows);
        metrics::DOCUMENTS_COPIED.of(&[collection.name()]).increment(copied.documents);
        under_way.committed(&copied);
        Ok(Some(copied))
    }
}

/// Sweeps the collections that were copied again.
pub(super) async fn sweep(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let (_, phases) = stored_phases(session, collections).await?;
    for (collection, phase) in collections.iter().zip(phases) {
        if collection.rests() || phase != Phase::Sweeping {
            continue;
        }
        collection.enter(Phase::Sweeping);
        let mapping = collection.mapping().await;
        let swept = sweep_one(pipeline, collection, &mapping).await?;
        failpoint::reach(Failpoint::SweptBeforeNoted);
        pipeline.note_ahead(session, collections).await?;
        session.set_swept(collection.name()).await?;
        failpoint::reach(Failpoint::SweptNoted);
        let name = collection.name();
        tracing::info!(
            "{name}: copied again; swept the rows of {} documents that are gone",
            HumanCount(swept)
        );
    }
    Ok(())
}

async fn sweep_one(pipeline: &Pipeline, collection: &Collection, mapping: &Arc<Mapping>) -> Result<u64> {
    let Some(root) = mapping.tables().first() else { return Ok(0) };
    let mut reader = pipeline.ports.target.reader().await?;
    reader.forget_seen(root).await?;
    let label = format!("{}: looking for documents that are gone", collection.name());
    let bar = pipeline.monitor.reporter.bar(label, collection.info.documents, 0, "documents");
    let mut encoder = collection.encoder(mapping, Framing::Composite);
    let after = pipeline.ports.source.operation_time().await?;
    let mut ids = pipeline.ports.source.read_ids(collection.namespace(), after).await?;
    let (mut keys, mut key) = (Keys::default(), BytesMut::new());
    while let Some(documents) = ids.next().await? {
        for document in documents.iter()? {
            key.clear();
            // A document that can't have a key has no rows.
            if encoder.encode_key(document?, &mut key).is_ok() {
                keys.push(&key);
            }
            bar.inc(1);
            if keys.count >= usize::from(PAGE) {
                reader.see(&keys).await?;
                keys.clear();
            }
        }
    }
    reader.see(&keys).await?;
    bar.finish_and_clear();
    delete_unseen(pipeline, collection, mapping, &mut *reader).await
}

async fn delete_unseen(
    pipeline: &Pipeline,
    collection: &Collection,
    mapping: &Mapping,
    reader: &mut dyn RowReader,
) -> Result<u64> {
    let Some(root) = mapping.tables().first() else { return Ok(0) };
    let mut applier = pipeline.ports.target.applier_in_haste().await?;
    let mut tries = Tries::endless();
    let (rows, none, mut swept) = (Rows::new(mapping.tables().len()), Keys::default(), 0);
    for table in mapping.tables() {
        let mut pages = reader.unseen(root, table).await?;
        loop {
            let unseen = pages.next(PAGE).await?;
            if unseen.count == 0 {
                break;
            }
            let change = CollectionBatch {
                collection: CollectionId(0),
                tables: mapping.tables(),
                rows: &rows,
                upserted: &none,
                deleted: &unseen,
            };
            let batch = Batch { collections: vec![change], ..Batch::default() };
            // If this is cut off it must not happen later: the row may be a document's again by then.
            tries
                .apply(&mut *applier, &batch, &format!("{}: rows without a document", collection.name()))
                .await?;
            swept += u64::try_from(unseen.count).unwrap_or(0);
        }
    }
    tracing::debug!("{}: swept {swept} documents", collection.name());
    Ok(swept)
}
