//! The stages one by one. Throughput is in events.

use std::{
    collections::HashMap,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use docrow::{
    checkpoint::{Checkpoint, SpoolSpan, SpoolWrite},
    model::{
        change::{Change, CollectionId},
        partition::Partition,
    },
    pipeline::{apply::batch::ChangeBatch, stream::partitioner::Router},
};
use tempfile::TempDir;

use crate::input::{REPLY_EVENTS, inserts, namespace, position, read, updates};

/// Events in a batch, or in a reply with documents.
const EVENTS: u32 = 1000;
const PARTITIONS: u16 = 4;

/// Changes that are taken out of the spool at a time, as in `pipeline::stream::tailer::draining`.
const WINDOW: usize = 2000;
/// Changes in the spool that is drained.
const WAITING: u32 = 100_000;

/// From a raw event to a change; its release is included.
pub(crate) fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event_reading");
    group.throughput(Throughput::Elements(EVENTS.into()));
    for (kind, reply) in [("update", updates(1, EVENTS, EVENTS)), ("insert", inserts(EVENTS).collect())] {
        group.bench_function(kind, |bench| bench.iter(|| read(black_box(&reply))));
    }
}

/// A reply's changes, divided among the partitions.
pub(crate) fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routing");
    group.throughput(Throughput::Elements(REPLY_EVENTS.into()));
    let reply = updates(1, REPLY_EVENTS, REPLY_EVENTS);
    let durable: HashMap<_, _> =
        (0..PARTITIONS).map(|partition| ((Partition(partition), CollectionId(0)), position(0))).collect();
    let router = Router::new(PARTITIONS, durable);
    group.bench_function(BenchmarkId::from_parameter(REPLY_EVENTS), |bench| {
        bench.iter_batched(|| read(&reply), |changes| router.route(changes), BatchSize::PerIteration);
    });
}

/// Changes, some of them of the same document as an earlier one, into one batch.
pub(crate) fn folding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("folding");
    group.throughput(Throughput::Elements(EVENTS.into()));
    for repeats in [0, 50, 90] {
        let reply = updates(1, EVENTS, EVENTS * (100 - repeats) / 100);
        group.bench_function(BenchmarkId::from_parameter(format!("{repeats}%")), |bench| {
            let fold = |changes: Vec<Change>| {
                let mut batch = ChangeBatch::default();
                changes.into_iter().for_each(|change| batch.push(change));
                batch.take()
            };
            bench.iter_batched(|| read(&reply), fold, BatchSize::LargeInput);
        });
    }
}

/// The spool in the folder for temporary files, on disk: each reply is one synced write; and it is read from
/// its beginning to its end.
pub(crate) fn spooling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool");
    group.throughput(Throughput::Elements(REPLY_EVENTS.into()));
    group.bench_function("append", |bench| {
        let mut spool = Spool::new();
        bench.iter_custom(|count| (0..count).map(|_| spool.append_and_trim()).sum());
    });
    group.throughput(Throughput::Elements(WAITING.into()));
    let mut filled = None;
    group.bench_function("drain", |bench| {
        let spool = filled.get_or_insert_with(|| {
            let mut spool = Spool::new();
            for _ in 0..WAITING / REPLY_EVENTS {
                spool.append();
            }
            spool
        });
        bench.iter(|| assert_eq!(spool.drain(), WAITING as usize));
    });
}

struct Spool {
    checkpoint: Checkpoint,
    _dir: TempDir,
    /// The last event in it.
    last: u32,
}

impl Spool {
    /// An open span with nothing in it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(dir.path(), "bench").unwrap();
        checkpoint.reconcile("bench").unwrap();
        let (namespace, start) = (namespace(), position(0));
        let span = SpoolSpan { from: start.clone(), to: None };
        let spans = vec![(&namespace, Some(span))];
        checkpoint.spool(&SpoolWrite { token: Some(&start), spans, ..SpoolWrite::default() }).unwrap();
        Self { checkpoint, _dir: dir, last: 0 }
    }

    /// Appends a reply, and returns how long it took.
    fn append(&mut self) -> Duration {
        let changes = read(&updates(self.last + 1, REPLY_EVENTS, REPLY_EVENTS));
        self.last += REPLY_EVENTS;
        let (namespace, token) = (namespace(), position(self.last));
        let start = Instant::now();
        let changes: Vec<_> =
            changes.iter().map(|change| (&namespace, &change.position, &*change.document_key)).collect();
        let write = SpoolWrite { changes: &changes, token: Some(&token), ..SpoolWrite::default() };
        self.checkpoint.spool(&write).unwrap();
        start.elapsed()
    }

    /// The same; then everything is forgotten, which is not counted, so that the disk does not fill.
    fn append_and_trim(&mut self) -> Duration {
        let taken = self.append();
        self.checkpoint.trim(&namespace(), &position(self.last)).unwrap();
        taken
    }

    fn drain(&self) -> usize {
        let (namespace, mut after, mut found) = (namespace(), position(0), 0);
        loop {
            let waiting = self.checkpoint.waiting(&namespace, &after, WINDOW).unwrap();
            found += waiting.len();
            match waiting.last() {
                Some(last) if waiting.len() == WINDOW => after = last.position.clone(),
                _ => return found,
            }
        }
    }
}
