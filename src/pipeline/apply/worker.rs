//! One partition's worker: takes its share of the stream, folds it into batches, and makes them durable.
//!
//! The order of one batch: fold; look up the documents of events that don't carry them, or that may be older
//! than what the row shows ([`Ahead`]); encode; write rows and position in one transaction; only then report
//! the position as durable. Transactions do not wait for PostgreSQL's disk (`synchronous_commit = off`),
//! except for one now and then, and positions are reported after such a transaction: by then, everything
//! before it is on the disk, too. Rows and positions that PostgreSQL loses in a crash have not been reported,
//! and are read again. A document that PostgreSQL refuses is found by halving the batch, and becomes a dead
//! letter (G10).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use indicatif::ProgressBar;
use mongodb::bson::{DateTime, RawDocumentBuf, Timestamp};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    acknowledge::Acknowledge,
    batch::ChangeBatch,
    document_write::DocumentWrite,
    spans,
    staleness::Ahead,
    writer::{BatchWriter, PositionScope, Written},
};
use crate::{
    config::Order,
    error::{Error, Result},
    failpoint::{self, Failpoint},
    metrics,
    model::{
        change::{Change, CollectionId, Op, Position},
        document_key::{DocumentKey, Id},
        partial_update::Patch,
        partition::Partition,
    },
    pipeline::{
        collection::Collection,
        counts::Counts,
        planted::{self, Bug},
        ports::DocumentSource,
        stream::channel::{Ending, ReachedPosition, WorkerMessage},
    },
    process_status::Post,
    trace::Span,
};

/// How long a partition's position may remain unstored for collections that don't change. Without this limit,
/// an idle collection's position would age out of the oplog.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often a transaction waits for PostgreSQL's disk while there is always something to write. Changes then
/// wait, too.
const LASTING: Duration = Duration::from_secs(5);

/// The maximum size of the looked-up documents that a worker holds, besides the reply that contains them
/// (G11).
pub(super) const HELD_BYTES: usize = 8 << 20;

/// A document whose changed fields are larger is written whole.
pub(super) const PART_BYTES: usize = 64 << 10;

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) age: Duration,
}

/// A document to look up.
pub(super) struct PendingLookup {
    pub(super) key: DocumentKey,
    pub(super) document_key: RawDocumentBuf,
    /// When it changed.
    pub(super) at: Timestamp,
    /// What changed, unless all of the document may have.
    pub(super) patch: Option<Patch>,
}

type Unknown = BTreeMap<CollectionId, Vec<PendingLookup>>;

/// A partition's worker.
pub(crate) struct Worker {
    pub(crate) partition: Partition,
    pub(crate) source: Arc<dyn DocumentSource>,
    pub(crate) collections: Arc<[Collection]>,
    pub(crate) writer: BatchWriter,
    pub(crate) ahead: Ahead,
    pub(crate) order: Order,
    pub(crate) limits: Limits,
    pub(crate) incoming: mpsc::Receiver<WorkerMessage>,
    /// Tells the worker to end.
    pub(crate) ending: Ending,
    pub(crate) acknowledge: Acknowledge,
    pub(crate) counts: Arc<Counts>,
    pub(crate) counter: ProgressBar,
    pub(crate) post: Post,
    /// When the position was last stored for every collection.
    pub(crate) stored_for_all: Instant,
    /// When everything written was last known to be on PostgreSQL's disk.
    pub(crate) lasting: Instant,
    /// How long the last batch took to write. A change waits for others about as long: hardly at all where
    /// there is little to do; where there is much, this makes transactions large.
    pub(crate) took: Duration,
    /// The positions that are stored but may not be on PostgreSQL's disk yet.
    pub(crate) unacknowledged: BTreeMap<CollectionId, Position>,
    /// When the oldest change of the current batch happened.
    pub(crate) oldest: Option<DateTime>,
    /// In the order of commits: when each collection last changed.
    pub(crate) changed: HashMap<CollectionId, Timestamp>,
}

impl Worker {
    /// Works until the stream ends, then writes the rest; or until it must leave the rest.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut batch = ChangeBatch::default();
        let mut due = Instant::now() + HEARTBEAT;
        'parcels: loop {
            self.post.rests("waits for changes");
            let routed = tokio::select! {
                biased;
                () = self.ending.ends(), if !self.incoming.is_closed() => {
                    self.incoming.close();
                    continue;
                }
                () = sleep_until(due) => None,
                routed = self.incoming.recv() => match routed {
                    Some(routed) => Some(routed),
                    None => break,
                },
            };
            let Some(WorkerMessage { changes, reached, oldest, ahead_until }) = routed else {
                self.flush(&mut batch).await?;
                due = Instant::now() + HEARTBEAT;
                continue;
            };
            // Requested changes come without a position, and would not be read again.
            let is_of_stream = reached.is_some();
            if is_of_stream && self.leaves() {
                continue;
            }
            if !planted::has(Bug::AheadNotRaised) {
                self.ahead.raise(ahead_until);
            }
            for change in changes {
                if batch.is_full(self.limits.rows) && self.may_end(&batch, &change) {
                    self.flush(&mut batch).await?;
                    due = Instant::now() + HEARTBEAT;
                    if is_of_stream && self.leaves() {
                        continue 'parcels;
                    }
                }
                if batch.is_empty() {
                    due = Instant::now() + self.limits.age.min(self.took);
                    self.oldest = oldest;
                }
                batch.push(change);
            }
            if let Some(ReachedPosition { collections, position, .. }) = reached {
                collections.iter().for_each(|id| batch.reach(*id, &position));
            }
            if batch.is_full(self.limits.rows) {
                self.flush(&mut batch).await?;
                due = Instant::now() + HEARTBEAT;
            }
        }
        self.flush(&mut batch).await?;
        // Stores the remaining positions, and makes everything durable.
        self.flush(&mut batch).await
    }

    /// Whether to leave changes that the stream has sent and that are not in a batch yet.
    fn leaves(&self) -> bool {
        self.ending.leaves()
    }

    /// Whether a transaction of PostgreSQL may end between the batch and `next`.
    fn may_end(&self, batch: &ChangeBatch, next: &Change) -> bool {
        match self.order {
            Order::Document => true,
            // All changes of a MongoDB transaction have one time.
            Order::Commit => batch.ends_before(next.position.cluster_time()),
        }
    }

    /// Makes the batch durable, changes and positions, or the positions alone.
    async fn flush(&mut self, batch: &mut ChangeBatch) -> Result<()> {
        let mut span = spans::batch(self.partition, batch.events());
        let flushed = self.make_durable(batch, &mut span).await;
        span.end(&flushed, "committed");
        flushed
    }

    async fn make_durable(&mut self, batch: &mut ChangeBatch, span: &mut Span) -> Result<()> {
        let events = batch.events();
        let (changes, positions) = batch.take();
        let began = Instant::now();
        let Some(latest) = positions.values().map(Position::cluster_time).max() else { return Ok(()) };
        let (mut writes, mut unknown) = self.sort(changes);
        let reach = if events == 0 || self.lasting.elapsed() >= LASTING {
            PositionScope::Lasting
        } else if self.stored_for_all.elapsed() >= HEARTBEAT {
            PositionScope::All
        } else {
            PositionScope::Touched
        };
        let stored = loop {
            for (collection, wanted) in unknown {
                let mut lookup = spans::lookup(span, &self.collections, collection, wanted.len());
                let looked_up = self.look_up(collection, wanted, &mut writes, &mut lookup).await;
                lookup.end(&looked_up, "done");
                looked_up?;
            }
            spans::writes(span, &writes, &self.collections);
            let shown = self.shown(latest);
            self.post.at("writes a batch to PostgreSQL");
            failpoint::hang(Failpoint::BatchBeforeCommit).await;
            match self.writer.write(&writes, Some((&positions, reach)), shown).await? {
                Written::All(stored) => break stored,
                Written::WholeOnly(numbers) => unknown = take(&mut writes, &numbers)?,
            }
        };
        span.count("docrow.rows", self.writer.take_written());
        let now = Instant::now();
        if reach != PositionScope::Touched {
            self.stored_for_all = now;
        }
        if reach == PositionScope::Lasting {
            self.lasting = now;
        } else {
            // These are stored, perhaps again, with a later batch, or when nothing comes: the spool waits for
            // them.
            positions.iter().for_each(|(id, position)| batch.reach(*id, position));
        }
        if events > 0 {
            // A batch that happened to take long does not count in full.
            self.took = (now - began).min(2 * self.took + Duration::from_millis(1));
        }
        self.ahead.passed(latest);
        self.count(events, now - began);
        self.acknowledge.committed(self.partition, &positions);
        failpoint::reach(Failpoint::BatchBeforeAcknowledge);
        self.unacknowledged.extend(stored);
        if !self.writer.is_forgettable() || planted::has(Bug::AcknowledgedEarly) {
            let durable: Vec<_> = std::mem::take(&mut self.unacknowledged).into_iter().collect();
            self.acknowledge.stored(self.partition, &durable);
        }
        failpoint::reach(Failpoint::BatchAcknowledged);
        Ok(())
    }

    fn count(&mut self, events: u64, took: Duration) {
        self.counter.inc(events);
        Counts::add(&self.counts.changes, events);
        if events > 0 {
            metrics::BATCH_EVENTS.record(metrics::figure(events));
            metrics::BATCH_DURATION.record(took.as_secs_f64());
        }
        if let Some(oldest) = self.oldest.take() {
            metrics::END_TO_END.record(self.source.elapsed_since(oldest).as_secs_f64());
        }
        metrics::EVENTS_APPLIED.add(events);
    }

    /// Returns the new states of changed documents where the event contains them, and the documents that must
    /// be looked up.
    fn sort(&mut self, changes: Vec<Change>) -> (Vec<DocumentWrite>, Unknown) {
        let mut writes = Vec::with_capacity(changes.len());
        let mut unknown = Unknown::new();
        for Change { collection, key, document_key, op, position } in changes {
            let at = position.cluster_time();
            if self.order == Order::Commit {
                let changed = self.changed.entry(collection).or_insert(at);
                *changed = at.max(*changed);
            }
            let newest = !self.ahead.may_be(&key, at);
            let (document, fields) = match op {
                Op::Whole(document) if newest => (Some(document), None),
                Op::Delete if newest => (None, None),
                Op::Patch(Patch { fields, document, is_complete: true })
                    if newest || planted::has(Bug::PatchOfThePast) =>
                {
                    (Some(document), Some(fields))
                }
                op => {
                    let patch = if let Op::Patch(patch) = op { Some(patch) } else { None };
                    unknown.entry(collection).or_default().push(PendingLookup {
                        key,
                        document_key,
                        at,
                        patch,
                    });
                    continue;
                }
            };
            writes.push(DocumentWrite { collection, document_key, document, fields, at });
        }
        (writes, unknown)
    }

    /// Writes all documents that are not just parts, without a position, and takes them out of `found`. Parts
    /// are small.
    pub(super) async fn write_whole(&mut self, found: &mut Vec<DocumentWrite>) -> Result<()> {
        let whole: Vec<_> = found.extract_if(.., |write| write.fields.is_none()).collect();
        let shown = whole.iter().map(|write| write.at).max().and_then(|latest| self.shown(latest));
        self.writer.write(&whole, None, shown).await.map(drop)
    }

    /// Up to when rows will show states, once events up to `latest` and the documents looked up are written.
    /// `None` in the order of commits, where this is stored before it becomes true.
    fn shown(&self, latest: Timestamp) -> Option<Timestamp> {
        let is_bound = !planted::has(Bug::ShownNotRaised);
        let looked_up = if is_bound { self.ahead.latest() } else { latest };
        (self.order == Order::Document).then(|| looked_up.max(latest))
    }

    pub(super) fn collection(&self, id: CollectionId) -> Result<&Collection> {
        self.collections.get(id.0).ok_or_else(|| Error::bug("find a collection by its number: there is none"))
    }
}

/// Takes writes out of the list: their documents are looked up, and written whole.
fn take(writes: &mut Vec<DocumentWrite>, numbers: &[usize]) -> Result<Unknown> {
    let mut unknown = Unknown::new();
    for number in numbers.iter().rev() {
        let DocumentWrite { collection, document_key, at, .. } = writes.swap_remove(*number);
        let key = DocumentKey::of(Id::of(&document_key)?);
        unknown.entry(collection).or_default().push(PendingLookup { key, document_key, at, patch: None });
    }
    Ok(unknown)
}

pub(super) fn byte_len(writes: &[DocumentWrite]) -> usize {
    writes.iter().map(DocumentWrite::byte_len).sum()
}
