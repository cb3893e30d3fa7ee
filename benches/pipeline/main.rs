//! The cost of docrow itself while documents stream: the users workload in memory, without servers.
//! Throughput is in documents.
//!
//! ```text
//! replies of the stream ──read──► changes ──route──┬─► worker: fold ──► encode ──► null sink
//!      (raw BSON)                                  └─► worker: fold ──► encode ──► null sink
//! ```
//!
//! The stages are docrow's own, in its order, with its channels, threads and allocator; the sink counts its
//! input and discards it. An event is an insert of a whole document, about 6 KB, that becomes 39 rows of 15
//! tables.
//!
//! Everything from the raw event to the encoded rows is measured, including the one copy of the document that
//! docrow makes (out of the reply) and its release. Replies are made beforehand. Work that needs a server is
//! left out: the driver, lookups, sending, storing positions; and the bookkeeping around the stages (`flow`,
//! `staleness`, `watermark`), a few comparisons per event.
//!
//! [`stages`] measures the stages one by one, and the spool. Encoding has its own bench, `mapping`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may fail loudly")]

mod input;
mod stages;

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Duration};

use bytes::BytesMut;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use docrow::{
    mapping::{Encoder, Framing, Mapping, Rows},
    model::{
        change::{Change, CollectionId, Op},
        partition::Partition,
    },
    pipeline::{apply::batch::ChangeBatch, stream::partitioner::Router},
    schema::MappingSpec,
    sink::Keys,
};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinSet};

use self::input::{Reply, position, read};

/// As in docrow's `main.rs`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Replies that wait for a worker, as in `pipeline::supervisor`.
const WAITING: usize = 2;

/// The parameters of a bench; the defaults are docrow's own.
#[derive(Clone, Copy)]
struct Shape {
    documents: u32,
    workers: u16,
    batch_rows: usize,
    pipelines: u16,
}

impl Default for Shape {
    fn default() -> Self {
        Self { documents: 10_000, workers: 4, batch_rows: 1000, pipelines: 1 }
    }
}

/// One pipeline, from replies to null sinks. Its workers keep their buffers from run to run.
struct Pipeline {
    replies: Arc<[Reply]>,
    router: Router,
    workers: Vec<Worker>,
}

impl Pipeline {
    fn new(shape: Shape, replies: Arc<[Reply]>, mapping: &Arc<Mapping>) -> Self {
        let partitions = (0..shape.workers).map(Partition);
        // In a run, every partition has a position.
        let durable: HashMap<_, _> =
            partitions.clone().map(|partition| ((partition, CollectionId(0)), position(0))).collect();
        let workers = partitions.map(|_| Worker::new(shape.batch_rows, mapping)).collect();
        Self { replies, router: Router::new(shape.workers, durable), workers }
    }

    /// Lets all replies through.
    async fn run(mut self) -> Self {
        let (mut running, mut senders) = (JoinSet::new(), Vec::new());
        for worker in self.workers.drain(..) {
            let (sender, incoming) = mpsc::channel(WAITING);
            running.spawn(worker.run(incoming));
            senders.push(sender);
        }
        for reply in &*self.replies {
            let changes = read(reply);
            let mut permits = Vec::with_capacity(senders.len());
            for sender in &senders {
                permits.push(sender.reserve().await.unwrap());
            }
            for (permit, changes) in permits.into_iter().zip(self.router.route(changes)) {
                permit.send(changes);
            }
        }
        drop(senders);
        self.workers = running.join_all().await;
        let written: usize =
            self.workers.iter_mut().map(|worker| std::mem::take(&mut worker.documents)).sum();
        assert_eq!(written, self.replies.iter().map(Vec::len).sum::<usize>());
        self
    }
}

/// What `pipeline::worker` and its writer do with changes that carry their documents.
struct Worker {
    batch_rows: usize,
    encoder: Encoder,
    rows: Rows,
    keys: Keys,
    key: BytesMut,
    /// The input of the null sink.
    documents: usize,
}

impl Worker {
    fn new(batch_rows: usize, mapping: &Arc<Mapping>) -> Self {
        let encoder = Encoder::new(mapping.clone(), Framing::Composite);
        let rows = Rows::new(mapping.tables().len());
        Self { batch_rows, encoder, rows, keys: Keys::default(), key: BytesMut::new(), documents: 0 }
    }

    async fn run(mut self, mut incoming: mpsc::Receiver<Vec<Change>>) -> Self {
        let mut batch = ChangeBatch::default();
        while let Some(changes) = incoming.recv().await {
            for change in changes {
                if batch.is_full(self.batch_rows) {
                    self.flush(&mut batch);
                }
                batch.push(change);
            }
            if batch.is_full(self.batch_rows) {
                self.flush(&mut batch);
            }
        }
        self.flush(&mut batch);
        self
    }

    fn flush(&mut self, batch: &mut ChangeBatch) {
        let (changes, positions) = batch.take();
        for change in &changes {
            let Op::Whole(document) = &change.op else { unreachable!("an insert carries its document") };
            self.key.clear();
            self.encoder.encode_key(&change.document_key, &mut self.key).unwrap();
            self.encoder.encode(document, &mut self.rows).unwrap();
            self.keys.push(&self.key);
        }
        self.documents += self.keys.count;
        black_box((&self.rows, &self.keys, positions));
        self.rows.clear();
        self.keys.clear();
    }
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, parameter: impl std::fmt::Display, shape: Shape) {
    group.throughput(Throughput::Elements(u64::from(shape.documents) * u64::from(shape.pipelines)));
    // Up to 600 MB, so only the requested ones are made, and discarded before the next.
    let mut made = None;
    group.bench_function(BenchmarkId::from_parameter(parameter), |bench| {
        let (runtime, pipelines) = made.get_or_insert_with(|| {
            let spec = MappingSpec::parse(include_str!("../../schemas/users.toml"), "users.toml").unwrap();
            let mapping = Arc::new(Mapping::compile(&spec));
            let replies: Arc<[Reply]> = input::replies(input::inserts(shape.documents)).into();
            let new = |_| Pipeline::new(shape, replies.clone(), &mapping);
            (Runtime::new().unwrap(), (0..shape.pipelines).map(new).collect::<Vec<_>>())
        });
        bench.iter(|| {
            runtime.block_on(async {
                let running: JoinSet<_> = pipelines.drain(..).map(Pipeline::run).collect();
                pipelines.extend(running.join_all().await);
            });
        });
    });
}

fn pipelines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_sizes");
    for batch_rows in [10, 50, 100, 500, 1000] {
        bench(&mut group, batch_rows, Shape { batch_rows, ..Shape::default() });
    }
    group.finish();
    let mut group = criterion.benchmark_group("worker_counts");
    for workers in [1, 2, 4, 8] {
        bench(&mut group, workers, Shape { workers, ..Shape::default() });
    }
    group.finish();
    let mut group = criterion.benchmark_group("data_volumes");
    for documents in [100, 1_000, 10_000, 100_000] {
        bench(&mut group, documents, Shape { documents, ..Shape::default() });
    }
    group.finish();
    let mut group = criterion.benchmark_group("parallel_pipelines");
    for pipelines in [1, 2, 4] {
        bench(&mut group, pipelines, Shape { pipelines, ..Shape::default() });
    }
}

fn a_few_minutes() -> Criterion {
    let (warm_up, measured) = (Duration::from_secs(1), Duration::from_secs(4));
    Criterion::default().sample_size(20).warm_up_time(warm_up).measurement_time(measured)
}

criterion_group! {
    name = benches;
    config = a_few_minutes();
    targets = pipelines, stages::reading, stages::routing, stages::folding, stages::spooling
}
criterion_main!(benches);
