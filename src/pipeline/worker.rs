//! One partition's worker: takes its share of the stream, folds it into batches, and makes them durable.
//!
//! The order of one batch: fold; look up the documents of events that don't carry them, or that may be older than what
//! the row shows ([`Ahead`]); encode; write rows and position in one transaction; only then report the position as
//! durable. A document that PostgreSQL refuses is found by halving the batch, and becomes a dead letter (G10).

use std::{collections::HashMap, sync::Arc, time::Duration};

use indicatif::ProgressBar;
use mongodb::bson::RawDocumentBuf;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Counts,
    ahead::Ahead,
    batch::Batch,
    collection::Collection,
    follow::Acknowledge,
    write::{Reach, Write, Writer},
};
use crate::{
    change::{Change, CollectionId, Op, Position},
    error::{Error, Result},
    failpoint::{self, Failpoint},
    key::{DocumentKey, Id},
    sink::progress::Partition,
    source::Source,
};

/// How long the position of a partition may go without being stored for collections that don't change. Without it an
/// idle collection's position would age out of the oplog.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The most that a worker holds of documents that were looked up, besides the reply that they come in (G11).
const HELD_BYTES: usize = 8 << 20;

/// One reply of the change stream, as far as it concerns one partition.
#[derive(Debug)]
pub(super) struct Routed {
    /// The partition's changes, in order.
    pub(super) changes: Vec<Change>,
    /// What is reached with them.
    pub(super) reached: Position,
}

/// What a batch is limited by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) age: Duration,
}

/// A partition's worker.
pub(super) struct Worker {
    pub(super) partition: Partition,
    pub(super) source: Source,
    pub(super) collections: Arc<[Collection]>,
    pub(super) writer: Writer,
    pub(super) ahead: Ahead,
    pub(super) limits: Limits,
    pub(super) incoming: mpsc::Receiver<Routed>,
    pub(super) acknowledge: Acknowledge,
    pub(super) counts: Arc<Counts>,
    pub(super) counter: ProgressBar,
    /// When the position was last stored for every collection.
    pub(super) stored_for_all: Instant,
}

impl Worker {
    /// Works until the stream ends, then writes what is left.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut batch = Batch::default();
        let mut due = Instant::now() + HEARTBEAT;
        loop {
            let routed = tokio::select! {
                biased;
                () = sleep_until(due) => None,
                routed = self.incoming.recv() => match routed {
                    Some(routed) => Some(routed),
                    None => break,
                },
            };
            let Some(Routed { changes, reached }) = routed else {
                self.flush(&mut batch).await?;
                due = Instant::now() + HEARTBEAT;
                continue;
            };
            for change in changes {
                if batch.is_empty() {
                    due = Instant::now() + self.limits.age;
                }
                batch.push(change);
                if batch.is_full(self.limits.rows) {
                    self.flush(&mut batch).await?;
                    due = Instant::now() + HEARTBEAT;
                }
            }
            batch.reach(reached);
        }
        self.flush(&mut batch).await
    }

    /// Makes the batch durable, changes and position, or the position alone.
    async fn flush(&mut self, batch: &mut Batch) -> Result<()> {
        let events = batch.events();
        let (changes, Some(position)) = batch.take() else { return Ok(()) };
        let (mut writes, unknown) = self.sort(changes);
        for (collection, changes) in unknown {
            self.look_up(collection, changes, &position, &mut writes).await?;
        }
        let reach = if events == 0 || self.stored_for_all.elapsed() >= HEARTBEAT {
            self.stored_for_all = Instant::now();
            Reach::All
        } else {
            Reach::Touched
        };
        self.writer.write(&writes, Some((&position, reach))).await?;
        self.ahead.passed(position.cluster_time());
        self.counter.inc(events);
        Counts::add(&self.counts.changes, events);
        failpoint::reach(Failpoint::BatchBeforeAcknowledge);
        self.acknowledge.durable(self.partition, position)?;
        failpoint::reach(Failpoint::BatchAcknowledged);
        Ok(())
    }

    /// What changed documents are to be, where the event says it, and the changes for which they must be looked up.
    fn sort(&self, changes: Vec<Change>) -> (Vec<Write>, HashMap<CollectionId, Vec<Change>>) {
        let mut writes = Vec::with_capacity(changes.len());
        let mut unknown: HashMap<CollectionId, Vec<Change>> = HashMap::new();
        for change in changes {
            let newest = !self.ahead.may_be(&change.key, change.position.cluster_time());
            let Change { collection, document_key, op, .. } = change;
            match op {
                Op::Whole(document) if newest => {
                    writes.push(Write { collection, document_key, document: Some(document) });
                }
                Op::Delete if newest => writes.push(Write { collection, document_key, document: None }),
                op => unknown.entry(collection).or_default().push(Change { document_key, op, ..change }),
            }
        }
        (writes, unknown)
    }

    /// Adds the current documents; one that is gone is to be deleted. What is too much to be held is written on the way,
    /// without a position: whatever comes after it, this is only what a replay would write again.
    async fn look_up(
        &mut self,
        collection: CollectionId,
        changes: Vec<Change>,
        until: &Position,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let namespace = self.collection(collection)?.namespace();
        let keys = changes.iter().map(|change| &*change.document_key);
        let mut lookup = self.source.lookup(namespace, keys, until.cluster_time()).await?;
        let mut missing: HashMap<DocumentKey, RawDocumentBuf> =
            changes.into_iter().map(|change| (change.key, change.document_key)).collect();
        let mut found = Vec::new();
        while let Some(documents) = lookup.next().await? {
            for document in documents.iter()? {
                let document = document?;
                let key = DocumentKey::of(Id::of(document)?);
                let Some(document_key) = missing.remove(&key) else { continue };
                self.ahead.looked_up(&key, lookup.operation_time());
                found.push(Write { collection, document_key, document: Some(document.to_owned()) });
            }
            drop(documents);
            // A reply has up to 16 MB, so this is looked at often enough.
            if byte_len(&found) >= HELD_BYTES {
                self.writer.write(&found, None).await?;
                found.clear();
            }
        }
        for (key, document_key) in missing {
            self.ahead.looked_up(&key, lookup.operation_time());
            found.push(Write { collection, document_key, document: None });
        }
        if byte_len(&found) + byte_len(writes) >= 2 * HELD_BYTES {
            return self.writer.write(&found, None).await;
        }
        writes.append(&mut found);
        Ok(())
    }

    fn collection(&self, id: CollectionId) -> Result<&Collection> {
        self.collections.get(id.0).ok_or_else(|| Error::bug("find a collection by its number: there is none"))
    }
}

fn byte_len(writes: &[Write]) -> usize {
    writes.iter().map(Write::byte_len).sum()
}
