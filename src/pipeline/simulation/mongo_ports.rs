//! The ports to MongoDB, on its model.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use mongodb::bson::{DateTime, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use tokio::time::{Instant, sleep_until};

use super::{
    document::document,
    mongo::{CollectionName, DocumentNumber, doc_of, name_of, namespace, timestamp},
    world::{SharedWorld, SimulatedWorld},
};
use crate::{
    error::{Code, Error, Result},
    model::change::{Namespace, Position},
    pipeline::ports::{ChangeCursor, DocumentCursor, DocumentSource, LookupCursor},
    source::{Chunk, CollectionChoice, CollectionInfo, Deployment, Documents, StreamBatch, StreamStart},
};

/// How long the server waits for events before it replies without any.
const AWAIT: Duration = Duration::from_millis(500);

/// The port for documents and their changes.
pub(super) struct SimulatedSource(pub(super) SharedWorld);

fn name(namespace: &Namespace) -> CollectionName {
    name_of(&namespace.to_string())
}

fn names(namespaces: &[Namespace]) -> Vec<CollectionName> {
    namespaces.iter().map(name).collect()
}

#[async_trait]
impl DocumentSource for SimulatedSource {
    fn hosts(&self) -> &'static str {
        "simulation"
    }

    fn newest(&self) -> Timestamp {
        timestamp(self.0.lock().seen)
    }

    fn elapsed_since(&self, _: DateTime) -> Duration {
        Duration::ZERO
    }

    fn choice(&self, _: &[String], _: &[String]) -> Result<CollectionChoice> {
        CollectionChoice::everything()
    }

    async fn operation_time(&self) -> Result<Timestamp> {
        self.0.pass().await;
        Ok(timestamp(self.0.lock().operation_time()))
    }

    async fn oplog_start(&self) -> Result<Option<Timestamp>> {
        self.0.pass().await;
        Ok(Some(timestamp(self.0.lock().source.cut)))
    }

    async fn secondaries_lag(&self) -> Result<Option<Duration>> {
        self.0.pass().await;
        Ok(None)
    }

    async fn names(&self, _: &[String], _: &[String]) -> Result<Vec<Namespace>> {
        self.0.pass().await;
        let world = self.0.lock();
        Ok(world.source.names().filter(|name| world.source.exists(*name)).map(namespace).collect())
    }

    async fn collections_now(&self, include: &[String], exclude: &[String]) -> Result<Vec<CollectionInfo>> {
        let names = self.names(include, exclude).await?;
        Ok(names.into_iter().map(|namespace| CollectionInfo::simulated(namespace, 1)).collect())
    }

    async fn measured(&self, listed: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>> {
        self.0.pass().await;
        Ok(listed)
    }

    async fn deployment(&self, _: &[String], _: &[String]) -> Result<Deployment> {
        self.0.pass().await;
        Deployment::parse(r#"{"id": "simulation"}"#)
    }

    async fn says_what_became_of(&self, _: &BTreeSet<String>, _: Timestamp) -> Result<bool> {
        self.0.pass().await;
        Ok(true)
    }

    async fn start_of_copies(&self, _: &[Namespace], _: &[Namespace]) -> Result<Position> {
        self.0.pass().await;
        let mut world = self.0.lock();
        let SimulatedWorld { rng, source, .. } = &mut *world;
        let start = source.start(rng);
        world.planned = Some(start.clone());
        Ok(start)
    }

    async fn holds(&self, _: &[Namespace], start: &StreamStart) -> Result<bool> {
        self.0.pass().await;
        Ok(self.0.lock().source.reaches(start))
    }

    fn change_stream(&self, namespaces: &[Namespace], start: StreamStart) -> Box<dyn ChangeCursor> {
        self.0.lock().stream = Some(start.clone());
        let names = names(namespaces);
        Box::new(SimulatedStream { shared: self.0.clone(), names, start, arrives: None, has_waited: false })
    }

    async fn split(&self, _: &CollectionInfo, _: u64) -> Result<Vec<Chunk>> {
        self.0.pass().await;
        let world = self.0.lock();
        let (docs, chunks) = (world.source.docs().end, world.settings.chunks);
        let bound = |number: usize| {
            let doc = i32::try_from(number * docs / chunks).unwrap();
            (0 < number && number < chunks).then(|| rawdoc! { "_id": doc })
        };
        Ok((0..chunks).map(|number| Chunk { min: bound(number), max: bound(number + 1) }).collect())
    }

    async fn sample_documents(
        &self,
        namespace: &Namespace,
        _: u32,
        observe: &mut (dyn for<'d> FnMut(&'d RawDocument) + Send),
    ) -> Result<()> {
        self.0.pass().await;
        let mut world = self.0.lock();
        let (name, after) = (name(namespace), world.seen);
        for doc in world.source.docs() {
            world.read(name, doc, after).inspect(|document| observe(document));
        }
        Ok(())
    }

    async fn read_chunk(
        &self,
        namespace: &Namespace,
        chunk: &Chunk,
        after: Timestamp,
        _: u32,
    ) -> Result<Box<dyn DocumentCursor>> {
        self.0.pass().await;
        let bound = |bound: &Option<RawDocumentBuf>| bound.as_ref().map(|bound| doc_of(bound));
        let docs = self.0.lock().source.docs();
        let docs = bound(&chunk.min).unwrap_or(0)..bound(&chunk.max).unwrap_or(docs.end);
        Ok(Box::new(self.cursor(namespace, docs.collect(), ReadTime::Present(after.time))))
    }

    async fn read_ids(&self, namespace: &Namespace, after: Timestamp) -> Result<Box<dyn DocumentCursor>> {
        self.0.pass().await;
        let docs = self.0.lock().source.docs();
        Ok(Box::new(self.cursor(namespace, docs.collect(), ReadTime::Present(after.time))))
    }

    async fn lookup(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        after: Timestamp,
    ) -> Result<Box<dyn LookupCursor>> {
        self.0.pass().await;
        let docs = keys.iter().map(|key| doc_of(key)).collect();
        Ok(Box::new(SimulatedCursor {
            looks_up: true,
            ..self.cursor(namespace, docs, ReadTime::Present(after.time))
        }))
    }

    async fn lookup_at(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        at: Timestamp,
    ) -> Result<Option<Box<dyn LookupCursor>>> {
        self.0.pass().await;
        let docs = keys.iter().map(|key| doc_of(key)).collect();
        let mut world = self.0.lock();
        let name = name(namespace);
        if at.time > world.source.now + 1 {
            world.report_violation(format!("c{name} is looked up at {}, which is in the future", at.time));
        }
        // A position may be one tick ahead of the present, which has reached it by the time of a lookup.
        world.source.now = at.time.max(world.source.now);
        if !world.source.remembers(name, at.time) || world.rng.u8(..20) == 0 {
            return Ok(None);
        }
        drop(world);
        Ok(Some(Box::new(SimulatedCursor {
            looks_up: true,
            ..self.cursor(namespace, docs, ReadTime::Exactly(at.time))
        })))
    }
}

impl SimulatedSource {
    fn cursor(&self, namespace: &Namespace, docs: Vec<DocumentNumber>, time: ReadTime) -> SimulatedCursor {
        SimulatedCursor { shared: self.0.clone(), name: name(namespace), docs, time, looks_up: false }
    }
}

/// The time that documents are read as of.
#[derive(Clone, Copy)]
enum ReadTime {
    /// Each document is read as of this time or later.
    Present(u32),
    Exactly(u32),
}

/// A cursor over documents.
struct SimulatedCursor {
    shared: SharedWorld,
    name: CollectionName,
    docs: Vec<DocumentNumber>,
    time: ReadTime,
    looks_up: bool,
}

#[async_trait]
impl DocumentCursor for SimulatedCursor {
    async fn next(&mut self) -> Result<Option<Documents>> {
        self.shared.pass().await;
        let mut world = self.shared.lock();
        if self.docs.is_empty() {
            return Ok(None);
        }
        let some = world.rng.usize(1..=self.docs.len());
        let (name, mut found, mut latest) = (self.name, Vec::new(), 0);
        for doc in self.docs.drain(..some) {
            let time = match self.time {
                ReadTime::Present(after) => world.read_time(after),
                ReadTime::Exactly(time) => time,
            };
            latest = latest.max(time);
            found.extend(world.document(name, doc, time));
            if self.looks_up {
                let looked_up = world.looked_up.entry((name, doc)).or_default();
                *looked_up = time.max(*looked_up);
            }
        }
        if let ReadTime::Present(after) = &mut self.time {
            // The server may report a later time than that of any document.
            let now = world.source.now;
            *after = world.rng.u32(latest.max(*after).min(now)..=now);
            world.seen = world.seen.max(*after);
        }
        Ok(Some(Documents::simulated(found)))
    }
}

impl LookupCursor for SimulatedCursor {
    fn operation_time(&self) -> Timestamp {
        match self.time {
            ReadTime::Present(time) | ReadTime::Exactly(time) => timestamp(time),
        }
    }
}

/// A change stream.
struct SimulatedStream {
    shared: SharedWorld,
    names: Vec<CollectionName>,
    start: StreamStart,
    /// When the next reply arrives. It is kept here because the future that waits for it may be dropped.
    arrives: Option<Instant>,
    /// Whether the server has waited for events to come.
    has_waited: bool,
}

#[async_trait]
impl ChangeCursor for SimulatedStream {
    async fn next(&mut self) -> Result<StreamBatch> {
        loop {
            let delay = || self.shared.delay().unwrap_or_default();
            let arrives = *self.arrives.get_or_insert_with(|| Instant::now() + delay());
            sleep_until(arrives).await;
            self.arrives = None;
            let mut world = self.shared.lock();
            let SimulatedWorld { rng, source, .. } = &mut *world;
            let Some(reply) = source.read(rng, &self.names, &self.start) else {
                if !world.excused.history {
                    world.report_violation("docrow reads events that the log no longer has".to_owned());
                }
                return Err(Error::new(Code::HistoryLost, "simulation: the log no longer has these events"));
            };
            if reply.at_end && !std::mem::replace(&mut self.has_waited, true) {
                self.arrives = Some(Instant::now() + AWAIT);
                continue;
            }
            self.has_waited = false;
            self.start = StreamStart::After(reply.position.clone());
            world.stream = Some(self.start.clone());
            let events = reply.events.len();
            if events > 0 {
                world.say(|_| format!("the stream gives {events} events, up to {:?}", reply.position));
            }
            return Ok(StreamBatch {
                events: reply.events,
                position: reply.position,
                operation_time: timestamp(world.operation_time()),
                oldest: None,
                unknown: 0,
                at_end: reply.at_end,
            });
        }
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

impl SimulatedWorld {
    /// MongoDB's present time, which docrow gets to know.
    fn operation_time(&mut self) -> u32 {
        self.seen = self.source.now;
        self.source.now
    }

    /// Draws the time that a document is read as of: not before `after`, nor before any time that docrow
    /// knows.
    fn read_time(&mut self, after: u32) -> u32 {
        let after = after.max(self.seen).min(self.source.now);
        if self.rng.bool() { self.source.now } else { self.rng.u32(after..=self.source.now) }
    }

    /// A document as of `time`.
    fn document(&self, name: CollectionName, doc: DocumentNumber, time: u32) -> Option<RawDocumentBuf> {
        let fields = self.source.state(name, doc, time)?;
        Some(document(self.source.document_key(doc), &fields))
    }

    /// A document as of `after` or later.
    fn read(&mut self, name: CollectionName, doc: DocumentNumber, after: u32) -> Option<RawDocumentBuf> {
        let time = self.read_time(after);
        self.document(name, doc, time)
    }
}
