//! The snapshot: copies the chunks that are left, several at once, each in one transaction with its mark
//! (G5).
//!
//! A chunk whose rows PostgreSQL refuses is copied again document by document, each behind a savepoint, so
//! that only the refused documents become dead letters (G10). [`resync`] handles the chunks that replace
//! rows.

mod chunk;
pub(super) mod completion;
mod progress;
mod resync;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use futures_util::{future::try_join_all, try_join};
use mongodb::bson::{RawDocument, Timestamp};
use tokio::task::JoinSet;

use self::{
    chunk::{ChunkWork, begin_span, end_span},
    progress::{ChunkUnderWay, CopiedChunk, Copying},
};
use super::{
    collection::{Collection, dead_letter_of},
    context::Pipeline,
    counts::Counts,
    ports::{ChunkTransaction, DocumentCursor, DocumentSource, RowCopier, RowTarget, TargetSession},
    throttle::SnapshotThrottle,
};
use crate::{
    error::{Error, Kind, Result},
    mapping::{Encoder, Framing, Mapping, Rows},
    metrics,
    model::change::CollectionId,
    shown,
    shutdown::Shutdown,
    sink::metadata::chunks::{Extent, Marker},
    source::Chunk,
};

/// Rows are sent when a chunk's buffers hold this many bytes for each of its tables, so that a COPY is worth
/// its round trip, or this many in total, however large its documents are (G11). With larger buffers, the
/// allocator keeps more and more memory while copying.
const TABLE_BYTES: usize = 1 << 20;
const BUFFER_BYTES: usize = 8 << 20;

type Queue = Arc<Mutex<VecDeque<ChunkWork>>>;

/// Copies the chunks that are not marked as copied. A chunk that is cut off is rolled back, and remains to be
/// copied.
pub(super) async fn copy(
    pipeline: &Pipeline,
    session: &dyn TargetSession,
    copiers: Vec<Box<dyn RowCopier>>,
    collections: &Arc<[Collection]>,
    extents: &HashMap<String, Extent>,
) -> Result<()> {
    let queue = chunks_left(pipeline, session, collections, extents);
    let number = copiers.len();
    if number == 0 {
        return queue.await.map(drop);
    }
    let (queue, after) = try_join!(queue, pipeline.ports.source.operation_time())?;
    let queue = Arc::new(Mutex::new(queue));
    let mut running = JoinSet::new();
    for copier in copiers {
        let worker = ChunkWorker {
            source: pipeline.ports.source.clone(),
            target: pipeline.ports.target.clone(),
            collections: collections.clone(),
            queue: queue.clone(),
            after,
            counts: pipeline.monitor.counts.clone(),
            throttle: pipeline.throttle.clone(),
            copiers: number,
            shutdown: pipeline.signals.shutdown.clone(),
        };
        running.spawn(worker.run(copier));
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(|e| Error::caused(Kind::Bug, "copying ended unexpectedly", e))??;
    }
    Ok(())
}

impl Pipeline {
    /// Connects for copying: once for each chunk that is left, up to the limit.
    pub(super) async fn copiers(
        &self,
        collections: &[Collection],
        extents: &HashMap<String, Extent>,
    ) -> Result<Vec<Box<dyn RowCopier>>> {
        let left = collections.iter().filter(|c| !c.is_paused()).filter_map(|c| extents.get(c.name()));
        let left: i64 = left.map(|extent| extent.chunks - extent.copied).sum();
        let copiers = usize::try_from(left).unwrap_or(0).min(self.config.parallelism);
        try_join_all((0..copiers).map(|_| self.ports.target.copier())).await
    }
}

async fn chunks_left(
    pipeline: &Pipeline,
    session: &dyn TargetSession,
    collections: &[Collection],
    extents: &HashMap<String, Extent>,
) -> Result<VecDeque<ChunkWork>> {
    let mut queue = VecDeque::new();
    let is_left = |name: &str| extents.get(name).is_some_and(|extent| extent.copied < extent.chunks);
    let names: Vec<&str> =
        collections.iter().filter(|c| !c.is_paused() && is_left(c.name())).map(Collection::name).collect();
    let mut plans = if names.is_empty() { HashMap::new() } else { session.chunks(&names).await? };
    for (id, collection) in collections.iter().enumerate().filter(|(_, c)| !c.is_paused()) {
        let name = collection.name().to_owned();
        let extent = extents.get(&name);
        let copied = extent.map_or(0, |extent| extent.documents.unsigned_abs());
        let done = metrics::SNAPSHOT_DONE.of(&[&name]);
        done.set(metrics::figure(copied));
        let estimated = metrics::SNAPSHOT_ESTIMATED.of(&[&name]);
        let Some(plan) = plans.remove(&name) else {
            estimated.set(metrics::figure(copied));
            continue;
        };
        estimated.set(metrics::figure(copied.max(collection.info.documents)));
        let left: Vec<_> = plan.iter().filter(|chunk| chunk.copied.is_none()).collect();
        if left.len() < plan.len() {
            tracing::info!("{name}: continuing, {} of {} chunks are left", left.len(), plan.len());
        }
        let vitals = pipeline.monitor.reporter.vitals().clone();
        vitals.copying(&name, collection.info.documents, copied);
        let copying = Arc::new(Copying {
            vitals,
            bar: pipeline.monitor.reporter.bar(name.clone(), collection.info.documents, copied, "documents"),
            done,
            chunks_left: AtomicUsize::new(left.len()),
            rows: AtomicU64::new(0),
            replaces: left.iter().any(|chunk| chunk.replaces),
            name,
        });
        for stored in left {
            let chunk = Chunk::from_bytes(stored.min.as_deref(), stored.max.as_deref())?;
            let (collection, copying) = (CollectionId(id), copying.clone());
            let (number, replaces) = (stored.number, stored.replaces);
            queue.push_back(ChunkWork { collection, number, chunk, replaces, copying });
        }
    }
    Ok(queue)
}

pub(super) fn next<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue.lock().ok()?.pop_front()
}

/// Copies chunks until none is left.
struct ChunkWorker {
    pub(super) source: Arc<dyn DocumentSource>,
    pub(super) target: Arc<dyn RowTarget>,
    pub(super) collections: Arc<[Collection]>,
    queue: Queue,
    /// Nothing older than this is read.
    pub(super) after: Timestamp,
    pub(super) counts: Arc<Counts>,
    pub(super) throttle: Arc<SnapshotThrottle>,
    /// How many workers copy.
    copiers: usize,
    pub(super) shutdown: Shutdown,
}

/// One collection's encoder and buffers, reused from chunk to chunk as long as its mapping stays the same.
struct ChunkEncoder<'a> {
    collection: &'a Collection,
    mapping: Arc<Mapping>,
    encoder: Encoder,
    rows: Rows,
}

/// How a chunk's rows are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CopyMode {
    /// Many documents at a time.
    Together,
    /// Each document behind a savepoint.
    OneByOne,
}

impl ChunkWorker {
    async fn run(self, mut copier: Box<dyn RowCopier>) -> Result<()> {
        let mut encoders: HashMap<CollectionId, ChunkEncoder<'_>> = HashMap::new();
        let mut writer = None;
        while let Some(work) = next(&self.queue) {
            let Some(collection) = self.collections.get(work.collection.0) else { continue };
            let span = begin_span(&work, collection);
            let copied = if work.replaces {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none => none.insert(self.writer().await?),
                };
                self.replace(&work, collection, writer, &mut *copier).await
            } else {
                let mapping = collection.hold().await;
                let encoder = match encoders.remove(&work.collection) {
                    Some(encoder) if Arc::ptr_eq(&encoder.mapping, &mapping) => encoder,
                    _ => ChunkEncoder::new(collection, &mapping),
                };
                let encoder = encoders.entry(work.collection).insert_entry(encoder).into_mut();
                self.copy(&work, encoder, &mut *copier).await
            };
            end_span(span, &copied);
            copied?;
        }
        Ok(())
    }

    /// Copies a chunk, and returns what it held. `None`: its collection is stopped.
    async fn copy(
        &self,
        work: &ChunkWork,
        encoder: &mut ChunkEncoder<'_>,
        copier: &mut dyn RowCopier,
    ) -> Result<Option<CopiedChunk>> {
        let copied = match self.attempt(work, encoder, copier, CopyMode::Together).await {
            Err(error) if error.kind() == Kind::TargetRefusedRows => {
                metrics::retried(error.kind());
                let (name, number) = (encoder.collection.name(), work.number);
                tracing::warn!(code = %error.code(), "{name}: chunk {number} is copied document by document: {error}");
                self.attempt(work, encoder, copier, CopyMode::OneByOne).await?
            }
            copied => copied?,
        };
        let Some((copied, under_way)) = copied else { return Ok(None) };
        let letters = u64::try_from(copied.letters.len()).unwrap_or(0);
        Counts::add(&self.counts.documents, copied.documents);
        Counts::add(&self.counts.rows, copied.rows);
        Counts::add(&self.counts.dead_letters, letters);
        encoder.collection.record_dead_letters(&copied.letters);
        let name = [encoder.collection.name()];
        metrics::DOCUMENTS_COPIED.of(&name).increment(copied.documents);
        metrics::MISFITS.of(&name).increment(encoder.collection.misfits.note(encoder.encoder.take_misfits()));
        under_way.committed(&copied);
        Ok(Some(copied))
    }

    /// Begins to read a chunk.
    pub(super) async fn read(
        &self,
        work: &ChunkWork,
        collection: &Collection,
    ) -> Result<Box<dyn DocumentCursor>> {
        let most = collection.info.documents_per_reply();
        let documents = self.throttle.documents_per_reply(most, self.copiers);
        self.source.read_chunk(collection.namespace(), &work.chunk, self.after, documents).await
    }

    /// Copies a chunk in one transaction. `None`: its collection is stopped, and the chunk is rolled back.
    async fn attempt<'a>(
        &self,
        work: &'a ChunkWork,
        encoder: &mut ChunkEncoder<'_>,
        copier: &mut dyn RowCopier,
        mode: CopyMode,
    ) -> Result<Option<(CopiedChunk, ChunkUnderWay<'a>)>> {
        let (collection, mapping) = (encoder.collection, encoder.mapping.clone());
        let (mut copied, mut under_way) = (CopiedChunk::default(), work.copying.chunk());
        let enough = (mapping.tables().len() * TABLE_BYTES).min(BUFFER_BYTES);
        encoder.rows.clear();
        encoder.encoder.take_misfits();
        if collection.stopped().is_some() {
            return Ok(None);
        }
        let (mut reader, mut writer) =
            try_join!(self.read(work, collection), copier.begin(work.collection, mapping.tables()))?;
        while let Some(documents) = reader.next().await? {
            let before = copied.documents;
            for document in documents.iter()? {
                let document = document?;
                copied.documents += 1;
                copied.bytes += u64::try_from(document.as_bytes().len()).unwrap_or(0);
                encoder.encode(document, &mut copied)?;
                if mode == CopyMode::OneByOne {
                    encoder.send_alone(document, &mut *writer, &mut copied).await?;
                } else if encoder.rows.byte_len() >= enough {
                    copied.rows += writer.write(&mut encoder.rows).await?;
                    under_way.written(copied.documents, copied.bytes);
                }
            }
            if collection.stopped().is_some() {
                return Ok(None);
            }
            let read = copied.documents.saturating_sub(before);
            self.throttle.read(read, documents.byte_len(), &self.shutdown).await;
        }
        copied.rows += writer.write(&mut encoder.rows).await?;
        writer.dead_letters(&copied.letters).await?;
        let marker =
            Marker { collection: collection.name(), number: work.number, documents: copied.documents };
        writer.commit(marker).await?;
        Ok(Some((copied, under_way)))
    }
}

impl<'a> ChunkEncoder<'a> {
    fn new(collection: &'a Collection, mapping: &Arc<Mapping>) -> Self {
        let encoder = collection.encoder(mapping, Framing::Copy);
        Self { collection, mapping: mapping.clone(), encoder, rows: Rows::new(mapping.tables().len()) }
    }

    fn encode(&mut self, document: &RawDocument, copied: &mut CopiedChunk) -> Result<()> {
        let encoded = self.encoder.encode(document, &mut self.rows);
        if self.encoder.discovered() {
            self.collection.discovered(document);
        }
        match encoded {
            Ok(()) => {}
            Err(unfit) if unfit.stops => self.collection.stop(&format!("{unfit} (on_unfit = \"fail\")")),
            Err(unfit) => self.dead_letter(document, &unfit.path, unfit.reason, copied)?,
        }
        Ok(())
    }

    /// Makes a document a dead letter. One too many stops the collection: then this chunk's dead letters are
    /// not stored, but the next run meets them again, unless the mapping is fixed.
    fn dead_letter(
        &self,
        document: &RawDocument,
        path: &str,
        reason: &str,
        copied: &mut CopiedChunk,
    ) -> Result<()> {
        copied.letters.push(dead_letter_of(self.collection, &self.mapping, document, path, reason)?);
        if self.collection.would_stop(copied.letters.len()) {
            let place = if path.is_empty() { String::new() } else { format!("{}: ", shown::name(path)) };
            self.collection.stop_for_letters(&format!("{place}{reason}"));
        }
        Ok(())
    }

    /// Sends the rows of one document, or makes it a dead letter.
    async fn send_alone(
        &mut self,
        document: &RawDocument,
        writer: &mut dyn ChunkTransaction,
        copied: &mut CopiedChunk,
    ) -> Result<()> {
        writer.savepoint().await?;
        match writer.write(&mut self.rows).await {
            Ok(rows) => {
                copied.rows += rows;
                writer.release_savepoint().await
            }
            Err(error) if error.kind() == Kind::TargetRefusedRows => {
                writer.rollback_to_savepoint().await?;
                self.dead_letter(document, "", &error.to_string(), copied)
            }
            Err(error) => Err(error),
        }
    }
}
