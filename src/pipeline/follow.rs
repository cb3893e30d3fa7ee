//! Following the change stream: reads it, spreads it over the partitions' workers, and ends when it is time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use mongodb::bson::Timestamp;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval},
};

use super::{
    Pipeline, Until,
    ahead::Ahead,
    collection::Collection,
    positions,
    retries::Retries,
    router::Router,
    watermark::Watermark,
    worker::{Limits, Routed, Worker},
    write::Writer,
};
use crate::{
    change::{Change, CollectionId, Namespace, Position},
    checkpoint::Checkpoint,
    error::{Error, Kind, Result},
    sink::{
        Session,
        progress::{self, Partition},
    },
    source::{Event, StreamBatch, StreamStart},
};

/// Replies of the stream that wait for a worker. A reply has at most 16 MB for all partitions together, so this many
/// times that is the most that waits (G11).
const WAITING: usize = 2;

/// How often to look whether somebody asks for dead letters to be tried again.
const ASKING: Duration = Duration::from_secs(1);

/// Where a worker reports what is durable.
#[derive(Clone)]
pub(super) struct Acknowledge {
    watermark: Arc<Mutex<Watermark>>,
    checkpoint: Arc<Checkpoint>,
}

impl Acknowledge {
    /// Notes that `partition` is durable up to `position`, and stores the token when that moves the least position.
    pub(super) fn durable(&self, partition: Partition, position: Position) -> Result<()> {
        let Ok(mut watermark) = self.watermark.lock() else { return Ok(()) };
        watermark.advance(partition, position).map_or(Ok(()), |least| self.checkpoint.save_token(least))
    }
}

impl Pipeline<'_> {
    /// Applies changes until told to stop, or until what was written before this call is applied.
    pub(super) async fn follow(
        &self,
        session: &mut Session,
        collections: &Arc<[Collection]>,
        until: Until,
    ) -> Result<()> {
        let (stored, narrowed) = self.positions(session, collections).await?;
        let start =
            stored.values().min().cloned().ok_or_else(|| Error::bug("follow: there is no position"))?;
        let from =
            if narrowed { StreamStart::At(start.cluster_time()) } else { StreamStart::After(start.clone()) };
        self.checkpoint.save_token(&start)?;
        let namespaces: Vec<Namespace> = collections.iter().map(|c| c.namespace().clone()).collect();
        let now = self.source.operation_time().await?;
        let (senders, mut workers) = self.start_workers(collections, &stored, &start, now).await?;
        let router = Router::new(self.config.partitions, stored);
        let mut stream = self.source.change_stream(&namespaces, from);
        let mut retries = Retries::new(collections, start.clone());
        let mut tick = interval(ASKING);
        loop {
            let batch = tokio::select! {
                biased;
                () = self.shutdown.requested() => break,
                Some(ended) = workers.join_next() => return Err(why(ended)),
                _ = tick.tick() => {
                    self.record_stopped(session, collections).await?;
                    for (partition, changes) in retries.asked(session, &self.target, &router).await? {
                        let Some(sender) = senders.get(usize::from(partition.0)) else { continue };
                        let _ = sender.send(Routed { changes, reached: retries.reached.clone() }).await;
                    }
                    continue;
                }
                batch = stream.next() => batch?,
            };
            let (reached, at_end) = (batch.position.clone(), batch.at_end);
            retries.reached = reached.clone();
            let changes = documents_of(batch, collections, &router)?;
            for (sender, changes) in senders.iter().zip(router.route(changes)) {
                // A worker that is gone has ended with an error, which the next round finds.
                let _ = sender.send(Routed { changes, reached: reached.clone() }).await;
            }
            // The start position itself says nothing about the events of its time.
            let arrived = at_end && reached > start && reached.cluster_time() >= now;
            if until == Until::CaughtUp && (arrived || reached.is_past(now)) {
                break;
            }
        }
        drop(senders);
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|e| Error::caused(Kind::Bug, "a partition's worker broke off", e))??;
        }
        Ok(())
    }

    /// The stored position of each partition in each collection. Where they were stored by another number of
    /// partitions, every partition begins at the least of them.
    ///
    /// And whether some of them may be events of a collection that is not replicated any more, because it is excluded or
    /// dropped: the server does not find such a position in a stream without that collection, and takes that for lost
    /// history (error 280). The stream is to begin at the position's time then; what comes twice is dropped by the
    /// [`Router`].
    async fn positions(
        &self,
        session: &mut Session,
        collections: &[Collection],
    ) -> Result<(HashMap<(Partition, CollectionId), Position>, bool)> {
        let pipeline = self.target.pipeline();
        let ids: HashMap<String, CollectionId> =
            (0..).map(CollectionId).zip(collections).map(|(id, c)| (c.name().to_owned(), id)).collect();
        let mut stored = progress::load(session, pipeline).await?;
        if !positions::are_of(&stored, self.config.partitions) {
            stored = positions::spread(&stored, self.config.partitions);
            progress::reset(session, pipeline, &stored).await?;
        }
        let narrowed = stored.iter().any(|position| !ids.contains_key(&position.collection));
        let known =
            stored.into_iter().filter_map(|p| Some(((p.partition, *ids.get(&p.collection)?), p.position)));
        Ok((known.collect(), narrowed))
    }

    async fn start_workers(
        &self,
        collections: &Arc<[Collection]>,
        stored: &HashMap<(Partition, CollectionId), Position>,
        start: &Position,
        now: Timestamp,
    ) -> Result<(Vec<mpsc::Sender<Routed>>, JoinSet<Result<()>>)> {
        let acknowledge = Acknowledge {
            watermark: Arc::new(Mutex::new(Watermark::new(self.config.partitions, start))),
            checkpoint: self.checkpoint.clone(),
        };
        let counter = self.reporter.counter("following, changes applied".to_owned());
        let mut workers = JoinSet::new();
        let mut senders = Vec::new();
        for partition in (0..self.config.partitions).map(Partition) {
            let (sender, incoming) = mpsc::channel(WAITING);
            let worker = Worker {
                partition,
                source: self.source.clone(),
                collections: collections.clone(),
                writer: Writer::start(&self.target, partition, collections, stored, self.counts.clone())
                    .await?,
                ahead: Ahead::new(now),
                limits: Limits { rows: self.config.batch_rows, age: self.config.batch_age },
                incoming,
                acknowledge: acknowledge.clone(),
                counts: self.counts.clone(),
                counter: counter.clone(),
                stored_for_all: Instant::now(),
            };
            workers.spawn(worker.run());
            senders.push(sender);
        }
        Ok((senders, workers))
    }
}

/// A worker never ends by itself while the stream goes on.
fn why(ended: Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::bug("a partition's worker ended early"),
        Ok(Err(error)) => error,
        Err(error) => Error::caused(Kind::Bug, "a partition's worker broke off", error),
    }
}

/// The changes of documents in a batch of the stream. What happened to whole collections is said, or is an error.
fn documents_of(batch: StreamBatch, collections: &[Collection], router: &Router) -> Result<Vec<Change>> {
    let name = |id: CollectionId| collections.get(id.0).map_or("", Collection::name);
    let is_stopped = |id: CollectionId| collections.get(id.0).is_some_and(|c| c.stopped().is_some());
    if batch.unknown > 0 {
        tracing::warn!("{} events of an unknown type were passed over", batch.unknown);
    }
    let mut changes = Vec::with_capacity(batch.events.len());
    for event in batch.events {
        match event {
            Event::Change(change) if is_stopped(change.collection) => {}
            Event::Change(change) => changes.push(change),
            Event::Dropped { collection, position } => {
                if !router.has_passed(collection, &position) {
                    tracing::warn!("{} was dropped in MongoDB: its rows are kept", name(collection));
                }
            }
            Event::Renamed { from, to, position } => {
                let hit = from.into_iter().chain(to).find(|id| !router.has_passed(*id, &position));
                if let Some(collection) = hit {
                    return Err(renamed(name(collection)));
                }
            }
            Event::DatabaseDropped { .. } | Event::Invalidated { .. } => {}
        }
    }
    Ok(changes)
}

fn renamed(collection: &str) -> Error {
    let advice = "docrow can't follow that yet: drop its tables, delete its rows in docrow.schemas, docrow.chunks and \
                  docrow.progress, and start again to copy it anew";
    Error::new(
        Kind::SourceRefused,
        format!("{collection} was renamed or replaced as a whole in MongoDB: {advice}"),
    )
}
