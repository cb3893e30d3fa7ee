//! Brings every collection to the phase where it can be copied: a mapping, tables, a start position, a chunk
//! plan.
//!
//! The order of the writes makes a crash between any two of them harmless: the mapping and its tables come in
//! one transaction, then the plan and the start position in another. A collection counts as planned only
//! after the latter; until then it is prepared again, with the stored mapping.
//!
//! What happened to whole collections, as recorded in `docrow.resyncs`, is handled here, too: a collection
//! that must be copied again gets a new start position and a plan whose chunks replace the existing rows.
//! What happened before the new start position no longer matters. A request is deleted in the transaction
//! that stores the plan. ([`whole_collections`])

mod deployment;
mod earlier_keys;
mod tables;
mod whole_collections;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::HumanCount;
use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};

use super::{
    collection::Collection,
    context::Pipeline,
    mappings::active::{Mappings, PreparedMappings},
    pausing,
    ports::{DocumentSource, TargetSession},
};
use crate::{
    config::Config,
    error::{Code, Error, Kind, Result},
    failpoint::{self, Failpoint},
    mapping_files, metrics,
    model::{
        change::{CollectionId, Namespace, Position},
        partition::Partition,
        phase::{Evidence, Phase},
        resync_reason::Reason,
    },
    process_status::Part,
    sink::metadata::{
        chunks::StoredChunk, dead_letters::DeadKeys, mapping_versions, positions::StoredPosition,
    },
    source::{CHUNK_BYTES, Chunk, Source},
};

/// The collections, with their tables and plans made, and their mappings.
pub(super) struct Prepared {
    pub(super) collections: Arc<[Collection]>,
    pub(super) mappings: PreparedMappings,
    /// Collections that are gone, but whose tables another session has locked.
    pub(super) parting: Vec<String>,
    /// The complete collections: their changes can be applied.
    pub(super) live: Vec<CollectionId>,
}

/// Prepares the collections, over a session that can write.
pub(super) struct Preparation<'a> {
    pipeline: &'a Pipeline,
    config: &'a Config,
    source: &'a dyn DocumentSource,
    session: &'a mut dyn TargetSession,
}

impl<'a> Preparation<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, session: &'a mut dyn TargetSession) -> Self {
        Self { pipeline, config: &pipeline.config, source: &*pipeline.ports.source, session }
    }

    /// Does everything up to the point where documents can be copied.
    pub(super) async fn run(mut self) -> Result<Prepared> {
        self.recognise().await?;
        let life = self.register().await?;
        self.pipeline.ports.spool.open()?.reconcile(life).await?;
        failpoint::reach(Failpoint::StateReconciled);
        self.write_down().await?;
        let prepared = self.prepare().await?;
        self.note_deployment().await?;
        Ok(prepared)
    }
}

impl Preparation<'_> {
    /// Records in PostgreSQL what happened to whole collections.
    async fn write_down(&mut self) -> Result<()> {
        let resyncs = self.pipeline.signals.tailer_events.borrow().resyncs.clone();
        for (namespace, reason) in &resyncs {
            self.session.ask_for_resync(&[namespace.to_string()], *reason).await?;
        }
        if !resyncs.is_empty() {
            failpoint::reach(Failpoint::ResyncNoted);
        }
        self.pipeline
            .signals
            .tailer_events
            .send_modify(|events| events.resyncs.retain(|namespace, _| !resyncs.contains_key(namespace)));
        Ok(())
    }

    /// Returns all collections with their mappings. Those that are new or must be copied again now have their
    /// tables and their plan; those whose mapping file was changed, their new tables and columns.
    async fn prepare(&mut self) -> Result<Prepared> {
        let post = self.pipeline.monitor.reporter.vitals().post(Part::Attempt);
        post.at("lists the collections");
        self.pipeline.monitor.refused.hide();
        self.renew_keys().await?;
        let found = self.source.collections_now(&self.config.include, &self.config.exclude).await?;
        let stored = self.session.mappings().await?;
        let (stored, parting) = self.part_from_gone(stored, &found).await?;
        // As they are now: the file for a new collection may be new as well.
        let files = mapping_files::read(&self.config.mapping_dir)?;
        let mut mappings = Mappings::load(&stored, self.config, &files)?;
        let asked = self.session.resyncs_asked().await?;
        let paused = pausing::paused(self.session).await?;
        let dead = Arc::<Mutex<DeadKeys>>::default();
        let most_dead = usize::try_from(self.config.max_dead_letters).unwrap_or(usize::MAX);
        let (mut collections, mut in_force) =
            (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        let (mut pending, mut refused) = (HashMap::new(), Vec::new());
        for info in &found {
            post.at(format!("prepares the tables of {}", info.namespace));
            let name = info.namespace.to_string();
            let reason = reason_for(&name, &asked);
            let made = match self.map_collection(&mut mappings, info, reason).await {
                // What prevents the tables of one collection does not affect the others.
                Err(error) if matches!(error.code(), Code::TableInTheWay | Code::TableInUse) => {
                    refused.push((name, error));
                    continue;
                }
                made => made?,
            };
            pending.extend(made.later.map(|later| (name.clone(), later)));
            let collection = Collection::new(info.clone(), made.mapping, dead.clone(), most_dead);
            let is_paused = paused.contains(&name);
            let collection = if is_paused { collection.paused() } else { collection };
            if let Some(stopped) = self
                .still_stopped(&stored, &name)
                .filter(|_| reason.is_none() && !pausing::is_resumed(self.pipeline, &collection))
            {
                collection.stay_stopped(stopped);
            }
            let evolves = made.in_force.is_automatic && self.config.evolve;
            collections.push(if evolves { collection.evolving() } else { collection });
            in_force.push(made.in_force);
        }
        post.at("plans what must be copied");
        self.refuse(refused, collections.len()).await?;
        let keys = self.session.dead_keys().await?;
        collections.iter().for_each(|collection| collection.show_dead(keys.count(collection.name())));
        *dead.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        let live = self.plan_all(&collections, &asked).await?;
        pausing::note_paused(self.pipeline, self.session, &collections).await?;
        Ok(Prepared {
            collections: collections.into(),
            mappings: PreparedMappings { in_force, pending, tables: mappings.tables },
            parting,
            live,
        })
    }

    /// Returns why a collection is stopped, if it already was when this process began its last turn. A
    /// process that has only just started tries all of them.
    fn still_stopped<'a>(&self, stored: &'a [mapping_versions::Mapping], name: &str) -> Option<&'a str> {
        if self.pipeline.signals.apply_state.borrow().attempt == 0 {
            return None;
        }
        stored.iter().find(|mapping| mapping.collection == name)?.stopped.as_deref()
    }

    /// Plans the collections that have no plan or must be copied again, and returns which ones are complete.
    async fn plan_all(
        &mut self,
        collections: &[Collection],
        asked: &[(String, Reason)],
    ) -> Result<Vec<CollectionId>> {
        let namespaces: Vec<Namespace> = collections.iter().map(|c| c.namespace().clone()).collect();
        let mut live = Vec::new();
        // One for all of them: taking it queries every collection.
        let mut start = None;
        for (id, collection) in (0..).map(CollectionId).zip(collections) {
            if collection.stopped().is_none() {
                self.session.set_stopped(collection.name(), None).await?;
            }
            let reason = reason_for(collection.name(), asked);
            let phase = stored_phase(self.session, collection).await?;
            collection.enter(phase);
            let purpose = match (phase, reason) {
                (Phase::New, _) => Purpose::Copy,
                (_, Some(reason)) => Purpose::Replace(reason),
                (Phase::Live, None) => {
                    live.push(id);
                    continue;
                }
                (Phase::Copying | Phase::Indexing | Phase::Sweeping, None) => continue,
            };
            let taken = match start.take() {
                Some(taken) => taken,
                None => self.source.start_position(&namespaces).await?,
            };
            failpoint::reach(Failpoint::StartTaken);
            let fingerprint = Source::fingerprint(&namespaces);
            self.plan(collection, purpose, &taken, fingerprint).await?;
            collection.enter(Phase::Copying);
            start = Some(taken);
        }
        Ok(live)
    }

    /// Cuts the collection into chunks, then stores them with the start position, which was taken before.
    async fn plan(
        &mut self,
        collection: &Collection,
        purpose: Purpose,
        start: &Position,
        fingerprint: i64,
    ) -> Result<()> {
        let (name, chunks) = (collection.name(), self.cut(collection, purpose).await?);
        let stored: Vec<_> = (0..).zip(&chunks).map(|(number, chunk)| to_stored(number, chunk)).collect();
        let positions: Vec<_> = (0..self.config.partitions)
            .map(|number| StoredPosition {
                partition: Partition(number),
                collection: name.to_owned(),
                position: start.clone(),
                fingerprint: Some(fingerprint),
            })
            .collect();
        let documents = HumanCount(collection.info.documents);
        match purpose {
            Purpose::Copy => {
                self.session.store_chunks(name, &stored, &positions).await?;
                tracing::info!("{name}: about {documents} documents to copy (chunks: {})", chunks.len());
            }
            Purpose::Replace(reason) => {
                self.forget_vanished(collection, start.cluster_time()).await?;
                self.session.replace_chunks(name, &stored, &positions).await?;
                metrics::RESYNCS.add_to(reason.label(), 1);
                tracing::info!("{name}: about {documents} documents to copy again, in place: {reason}");
            }
        }
        Ok(())
    }

    /// Returns the chunks of a collection. A first copy uses those that were cut before a crash, because
    /// cutting a large collection takes long. Old chunks are as good as new ones: they cover all possible
    /// keys.
    async fn cut(&self, collection: &Collection, purpose: Purpose) -> Result<Vec<Chunk>> {
        let namespace = collection.namespace();
        if purpose == Purpose::Copy
            && let Some(plan) = self.pipeline.ports.spool.open()?.plan(namespace.clone()).await?
            && let Ok(chunks) = decode(&plan)
        {
            return Ok(chunks);
        }
        let chunks = self.source.split(&collection.info, CHUNK_BYTES).await?;
        match self
            .pipeline
            .ports
            .spool
            .open()?
            .save_plan(namespace.clone(), encode(&chunks).into_bytes())
            .await
        {
            // This only spares a restart the cutting, and what continues from here may free space.
            Err(error) if error.kind() == Kind::StateFull => {
                tracing::debug!("{error}: the chunk plan of {namespace} is not saved");
            }
            saved => saved?,
        }
        failpoint::reach(Failpoint::CutSaved);
        Ok(chunks)
    }
}

/// Returns the phase of a collection, according to PostgreSQL.
pub(super) async fn stored_phase(session: &dyn TargetSession, collection: &Collection) -> Result<Phase> {
    let plan = session.chunks(collection.name()).await?;
    let mapping = collection.mapping().await;
    let missing = session.keys_missing(mapping.tables()).await?;
    Ok(Phase::of(Evidence {
        planned: !plan.is_empty(),
        chunks_left: plan.iter().filter(|chunk| chunk.copied.is_none()).count(),
        replaces: plan.iter().any(|chunk| chunk.replaces),
        keys_missing: missing.len(),
    }))
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// There are no rows yet.
    Copy,
    /// There are rows, which must be replaced.
    Replace(Reason),
}

/// Returns why a collection must be copied again, if it must.
fn reason_for(name: &str, asked: &[(String, Reason)]) -> Option<Reason> {
    asked.iter().find(|(asked, _)| asked == name).map(|(_, reason)| *reason)
}

fn to_stored(number: u32, chunk: &Chunk) -> StoredChunk {
    let bytes = |bound: &Option<RawDocumentBuf>| bound.as_ref().map(|bound| bound.as_bytes().to_vec());
    StoredChunk { number, min: bytes(&chunk.min), max: bytes(&chunk.max), copied: None, replaces: false }
}

/// `{bounds: […]}`: where one chunk ends and the next begins.
fn encode(chunks: &[Chunk]) -> RawDocumentBuf {
    let mut bounds = RawArrayBuf::new();
    for bound in chunks.iter().filter_map(|chunk| chunk.max.clone()) {
        bounds.push(bound);
    }
    let mut plan = RawDocumentBuf::new();
    plan.append(cstr!("bounds"), bounds);
    plan
}

fn decode(plan: &[u8]) -> Result<Vec<Chunk>> {
    let corrupt =
        |e: bson::error::Error| Error::caused(Code::StoredUnreadable, "read a stored chunk plan", e);
    let plan = RawDocument::from_bytes(plan).map_err(corrupt)?;
    let bounds = plan.get_array("bounds").map_err(corrupt)?;
    let mut chunks = Vec::new();
    let mut min: Option<Vec<u8>> = None;
    for bound in bounds {
        let bound = bound.map_err(corrupt)?;
        let max = bound.as_document().map(|bound| bound.as_bytes().to_vec());
        chunks.push(Chunk::from_bytes(min.as_deref(), max.as_deref())?);
        min = max;
    }
    chunks.push(Chunk::from_bytes(min.as_deref(), None)?);
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_plan_reads_back() {
        let bound = |id: i32| Some(rawdoc! { "_id": id });
        let chunks = vec![
            Chunk { min: None, max: bound(1) },
            Chunk { min: bound(1), max: bound(5) },
            Chunk { min: bound(5), max: None },
        ];
        assert_eq!(decode(encode(&chunks).as_bytes()).unwrap(), chunks);
        assert_eq!(decode(encode(&[Chunk::whole()]).as_bytes()).unwrap(), [Chunk::whole()]);
    }
}
