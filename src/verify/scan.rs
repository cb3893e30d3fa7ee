//! The first pass: several workers, each with its own session, compare documents as fast as both sides can be
//! read.
//!
//! A unit of work is a chunk of the `_id` index, or some documents of a sample. A worker's counts are added
//! when a chunk is done, because a chunk that is interrupted by a change of the mapping is compared again.

use std::sync::{
    Arc, Mutex as PlainMutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use indicatif::ProgressBar;
use mongodb::bson::{RawDocument, RawDocumentBuf, Timestamp};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
};

use super::{
    batch::{self, BatchCounts, DocumentBatch},
    pipeline_state::{InForce, PipelineState},
    sample::SampleChoice,
    suspect::Suspect,
};
use crate::{
    error::{Error, Kind, Result},
    model::document_key::{self, DocumentKey, Id},
    rate_limit::Pace,
    shutdown::Shutdown,
    sink::{
        Target,
        metadata::dead_letters::{DeadKey, DeadKeys},
        rows::read::Reader,
    },
    source::{CHUNK_BYTES, Chunk, CollectionInfo, Documents, Source},
};

/// How many suspects are passed on together; and how many such groups may wait for the rechecker.
const TOGETHER: usize = 1_000;
pub(super) const WAITING: usize = 8;
/// How many documents of a sample are looked up at a time.
const LOOKED_UP: usize = 250;

/// A unit of work.
enum ScanWork {
    /// The documents of a chunk.
    Chunk(Chunk),
    /// The documents with these `_id`s, `{_id: …}`.
    Documents(Vec<RawDocumentBuf>),
}

/// State that all workers share.
pub(super) struct CollectionScan {
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) info: CollectionInfo,
    pub(super) name: String,
    pub(super) workers: usize,
    pub(super) choice: Option<SampleChoice>,
    pub(super) in_force: watch::Receiver<Arc<InForce>>,
    /// To read the mapping in force if the tables do not match it.
    pub(super) ledger: Arc<Mutex<PipelineState>>,
    /// The documents that had a dead letter at the beginning.
    pub(super) dead: DeadKeys,
    /// Those of them that were read.
    pub(super) met: PlainMutex<DeadKeys>,
    /// Remembers the keys that were read.
    pub(super) seen: Mutex<Reader>,
    pub(super) pace: Arc<Pace<f64>>,
    pub(super) bar: ProgressBar,
    pub(super) shutdown: Shutdown,
    pub(super) totals: ScanTotals,
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct ScanTotals {
    pub(super) documents: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) dead_letters: AtomicU64,
}

impl CollectionScan {
    /// Compares everything once, and passes suspects to the rechecker. Ends early if it is stopped.
    pub(super) async fn run(self: Arc<Self>, rechecker: mpsc::Sender<Vec<Suspect>>) -> Result<()> {
        let after = self.source.operation_time().await?;
        let chunks = match self.choice {
            Some(_) => None,
            None => Some(self.source.split(&self.info, CHUNK_BYTES).await?),
        };
        let workers = chunks.as_ref().map_or(self.workers, |chunks| self.workers.min(chunks.len()));
        let (sender, receiver) = mpsc::channel(2 * self.workers);
        let work = Arc::new(Mutex::new(receiver));
        let mut running = JoinSet::new();
        for _ in 0..workers {
            let worker = ScanWorker {
                scan: self.clone(),
                reader: Reader::by_index(self.target.connect().await?, &self.target).await?,
                batch: DocumentBatch::new(self.in_force.borrow().clone()),
                suspects: Vec::new(),
                rechecker: rechecker.clone(),
                work: work.clone(),
                after,
            };
            running.spawn(worker.run());
        }
        drop((work, rechecker));
        let working = async {
            while let Some(ended) = running.join_next().await {
                ended.map_err(|e| Error::caused(Kind::Bug, "the comparison was interrupted", e))??;
            }
            Ok(())
        };
        tokio::try_join!(self.deal(sender, chunks, after), working).map(|((), ())| ())
    }

    /// Gives the workers the parts to compare.
    async fn deal(
        &self,
        work: mpsc::Sender<ScanWork>,
        chunks: Option<Vec<Chunk>>,
        after: Timestamp,
    ) -> Result<()> {
        let Some(choice) = &self.choice else {
            for chunk in chunks.unwrap_or_default() {
                if self.shutdown.is_requested() || work.send(ScanWork::Chunk(chunk)).await.is_err() {
                    break;
                }
            }
            return Ok(());
        };
        let mut ids = self.source.read_ids(&self.info.namespace, after).await?;
        let mut chosen = Vec::new();
        while let Some(documents) = ids.next().await? {
            for document in documents.iter()? {
                let id = Id::of(document?)?;
                if choice.takes(&DocumentKey::of(id)) {
                    chosen.push(id.document()?);
                }
                if chosen.len() >= LOOKED_UP
                    && work.send(ScanWork::Documents(std::mem::take(&mut chosen))).await.is_err()
                {
                    return Ok(());
                }
            }
            if self.shutdown.is_requested() {
                return Ok(());
            }
        }
        let _ = work.send(ScanWork::Documents(chosen)).await;
        Ok(())
    }

    fn count(&self, BatchCounts { documents, rows, dead_letters }: BatchCounts) {
        self.totals.documents.fetch_add(documents, Ordering::Relaxed);
        self.totals.rows.fetch_add(rows, Ordering::Relaxed);
        self.totals.dead_letters.fetch_add(dead_letters, Ordering::Relaxed);
    }
}

struct ScanWorker {
    scan: Arc<CollectionScan>,
    reader: Reader,
    batch: DocumentBatch,
    suspects: Vec<Suspect>,
    rechecker: mpsc::Sender<Vec<Suspect>>,
    work: Arc<Mutex<mpsc::Receiver<ScanWork>>>,
    after: Timestamp,
}

impl ScanWorker {
    async fn run(mut self) -> Result<()> {
        loop {
            let next = self.work.lock().await.recv().await;
            let Some(work) = next else { return Ok(()) };
            loop {
                let in_force = self.scan.in_force.borrow().clone();
                self.batch.follow(&in_force);
                match self.compare_all(&work).await {
                    // The tables may belong to another mapping by now.
                    Err(error) if error.kind() == Kind::TargetRefused => {
                        if !self.scan.ledger.lock().await.has_changed(self.batch.in_force()).await? {
                            return Err(error);
                        }
                        let session = self.scan.target.connect().await?;
                        self.reader = Reader::by_index(session, &self.scan.target).await?;
                        self.batch = DocumentBatch::new(in_force);
                        self.suspects.clear();
                    }
                    compared => break compared?,
                }
            }
            self.scan.count(std::mem::take(&mut self.batch.counts));
            self.hand_over().await;
            if self.scan.shutdown.is_requested() {
                return Ok(());
            }
        }
    }

    async fn compare_all(&mut self, work: &ScanWork) -> Result<()> {
        let scan = self.scan.clone();
        let together = scan.pace.together(batch::DOCUMENTS, scan.workers);
        let namespace = &scan.info.namespace;
        match work {
            ScanWork::Chunk(chunk) => {
                let most = if together < batch::DOCUMENTS { u32::try_from(together).ok() } else { None };
                let reply = scan.info.documents_per_reply().min(most.unwrap_or(u32::MAX));
                let mut documents = scan.source.read_chunk(namespace, chunk, self.after, reply).await?;
                while let Some(reply) = documents.next().await? {
                    self.add(&reply, together).await?;
                    if scan.shutdown.is_requested() {
                        break;
                    }
                }
            }
            ScanWork::Documents(ids) => {
                for ids in ids.chunks(together) {
                    let keys = ids.iter().map(|id| &**id);
                    let mut documents = scan.source.lookup(namespace, keys, self.after).await?;
                    while let Some(reply) = documents.next().await? {
                        self.add(&reply, together).await?;
                    }
                    if scan.shutdown.is_requested() {
                        break;
                    }
                }
            }
        }
        self.compare().await
    }

    async fn add(&mut self, reply: &Documents, together: usize) -> Result<()> {
        for document in reply.iter()? {
            let document = document?;
            if self.batch.add(document, &self.scan.name, &self.scan.dead)? {
                self.meet(document)?;
            }
            if self.batch.is_full(together) {
                self.compare().await?;
            }
        }
        Ok(())
    }

    fn meet(&self, document: &RawDocument) -> Result<()> {
        let key = DeadKey { collection: self.scan.name.clone(), key: document_key::id_text(document)? };
        self.scan.met.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Ok(())
    }

    /// Compares the documents in the batch with their rows.
    async fn compare(&mut self) -> Result<()> {
        let Self { scan, reader, batch, suspects, .. } = self;
        let count = batch.len();
        if count == 0 {
            return Ok(());
        }
        let mapping = batch.in_force().mapping.clone();
        let (tables, keys) = (mapping.tables(), batch.keys.clone());
        let mut take = |number: usize, row: &_| match tables.get(number) {
            Some(table) => batch.take(number, table, row),
            None => Ok(()),
        };
        reader.live_rows_of_all(tables, &keys, &mut take).await?;
        batch.finish(suspects)?;
        if scan.choice.is_none() {
            scan.seen.lock().await.see(&keys).await?;
        }
        scan.bar.inc(u64::try_from(count).unwrap_or(0));
        scan.pace.done(count, &scan.shutdown).await;
        if suspects.len() >= TOGETHER {
            self.hand_over().await;
        }
        Ok(())
    }

    async fn hand_over(&mut self) {
        if !self.suspects.is_empty() {
            // If the rechecker is gone, it has an error to report.
            let _ = self.rechecker.send(std::mem::take(&mut self.suspects)).await;
        }
    }
}
