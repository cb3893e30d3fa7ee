//! Brings every collection to the phase where it can be copied: a mapping, tables, a start position, a chunk plan.
//!
//! The order of the writes makes a crash between any two of them harmless: the mapping and its tables come in one
//! transaction, then the plan and the start position in one. A collection counts as planned only with the latter; until
//! then it is prepared again, with the mapping that is stored.
//!
//! Here, too, is dealt with what happened to whole collections, as it is written down in `docrow.resyncs`: a collection
//! that is to be copied anew gets a new start position and a plan whose chunks replace the rows that are there. What
//! happened before the new start position is of no interest any more. A request is forgotten in the transaction that
//! stores the plan.

use std::sync::{Arc, Mutex};

use indicatif::HumanCount;
use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use tokio::sync::Notify;

use super::{
    Collection, Pipeline,
    mappings::{InForce, Mappings},
    phase::{Evidence, Phase},
};
use crate::{
    change::{CollectionId, Namespace, Position},
    config::OnDrop,
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
    metrics,
    schema::Names,
    sink::{
        Session,
        chunks::{self, StoredChunk},
        ddl, dead_letter,
        progress::{Partition, StoredPosition},
        resyncs::{self, Reason},
        schemas,
    },
    source::{CHUNK_BYTES, Chunk, CollectionInfo, Source},
};

/// The collections, with their tables and plans made, and the mappings they have.
pub(super) struct Prepared {
    pub(super) collections: Arc<[Collection]>,
    pub(super) in_force: Vec<InForce>,
    /// The names of all tables.
    pub(super) tables: Names,
    /// What discoveries notify.
    pub(super) wake: Arc<Notify>,
    /// Those that are complete: their changes can be applied.
    pub(super) live: Vec<CollectionId>,
}

impl Pipeline<'_> {
    /// Writes down in PostgreSQL what happened to whole collections.
    pub(super) async fn write_down(&self, session: &mut Session) -> Result<()> {
        let anew = self.notices.borrow().anew.clone();
        for (namespace, reason) in &anew {
            resyncs::ask(session, self.target.pipeline(), &[namespace.to_string()], *reason).await?;
        }
        if !anew.is_empty() {
            failpoint::reach(Failpoint::ResyncNoted);
        }
        self.notices.send_modify(|notices| notices.anew.retain(|namespace, _| !anew.contains_key(namespace)));
        Ok(())
    }

    /// All collections with their mappings. Those that were new, or are to be copied anew, have got their tables and
    /// their plan; those whose mapping file was changed, their new tables and columns.
    pub(super) async fn prepare(&self, session: &mut Session) -> Result<Prepared> {
        let pipeline = self.target.pipeline();
        let found = self.source.collections_now(&self.config.include, &self.config.exclude).await?;
        let stored = schemas::load(session, pipeline).await?;
        let stored = self.part_from_gone(session, stored, &found).await?;
        let mut mappings = Mappings::load(&stored, self.config)?;
        let dead = Arc::new(Mutex::new(dead_letter::keys(session, pipeline).await?));
        let most_dead = usize::try_from(self.config.max_dead_letters).unwrap_or(usize::MAX);
        let wake = Arc::new(Notify::new());
        let (mut collections, mut in_force) =
            (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        for info in &found {
            let wanted = mappings.of(&self.source, &info.namespace).await?;
            let mapping = self.config.compile(&wanted.spec)?;
            let record = wanted.record(&mapping);
            ddl::change_tables(session, &self.target, &record, mapping.tables()).await?;
            schemas::note_mask_key(session, pipeline, &record).await?;
            let collection = Collection::new(info.clone(), mapping, dead.clone(), most_dead);
            collection.show_dead(dead.lock().map_or(0, |dead| dead.count(collection.name())));
            let evolves = wanted.is_automatic && self.config.evolve;
            collections.push(if evolves { collection.evolving(wake.clone()) } else { collection });
            in_force.push(wanted);
        }
        let live = self.plan_all(session, &collections).await?;
        Ok(Prepared { collections: collections.into(), in_force, tables: mappings.tables, wake, live })
    }

    /// Plans what has no plan, or is to be copied anew, and says which collections are complete.
    async fn plan_all(&self, session: &mut Session, collections: &[Collection]) -> Result<Vec<CollectionId>> {
        let pipeline = self.target.pipeline();
        let asked = resyncs::asked(session, pipeline).await?;
        let namespaces: Vec<Namespace> = collections.iter().map(|c| c.namespace().clone()).collect();
        let mut live = Vec::new();
        // One for all that are new: taking it asks every collection.
        let mut start = None;
        for (id, collection) in (0..).map(CollectionId).zip(collections) {
            schemas::set_stopped(session, pipeline, collection.name(), None).await?;
            let reason = asked.iter().find(|(name, _)| name == collection.name()).map(|(_, reason)| *reason);
            let phase = self.phase(session, collection).await?;
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
            self.plan(session, collection, purpose, (&taken, fingerprint)).await?;
            collection.enter(Phase::Copying);
            start = Some(taken);
        }
        Ok(live)
    }

    /// Does what the configuration says about collections that are no more. Returns the mappings that are left.
    async fn part_from_gone(
        &self,
        session: &mut Session,
        stored: Vec<schemas::Mapping>,
        found: &[CollectionInfo],
    ) -> Result<Vec<schemas::Mapping>> {
        let pipeline = self.target.pipeline();
        let asked = resyncs::asked(session, pipeline).await?;
        let mut left = Vec::with_capacity(stored.len());
        for mapping in stored {
            let name = mapping.collection.clone();
            let is_there = found.iter().any(|info| info.namespace.to_string() == name);
            if is_there || !self.source.includes(&self.config.include, &self.config.exclude, &name)? {
                left.push(mapping);
                continue;
            }
            let is_known = asked.iter().any(|(asked, reason)| *asked == name && *reason == Reason::Recreated);
            match self.config.on_drop {
                OnDrop::Drop => {
                    ddl::drop_tables(session, &self.target, &name).await?;
                    tracing::warn!(
                        "{name} is no more in MongoDB: its tables are dropped (on_drop = \"drop\")"
                    );
                    continue;
                }
                OnDrop::Truncate if !is_known => {
                    ddl::empty_tables(session, &self.target, &name).await?;
                    tracing::warn!(
                        "{name} is no more in MongoDB: its tables are emptied (on_drop = \"truncate\")"
                    );
                }
                OnDrop::Keep if !is_known => {
                    tracing::warn!("{name} is no more in MongoDB: its rows are kept (on_drop = \"keep\")");
                }
                OnDrop::Truncate | OnDrop::Keep => {}
            }
            // Should it come back, it is another collection of that name.
            resyncs::ask(session, pipeline, std::slice::from_ref(&name), Reason::Recreated).await?;
            left.push(mapping);
        }
        Ok(left)
    }

    /// Where a collection stands, by what PostgreSQL says.
    pub(super) async fn phase(&self, session: &Session, collection: &Collection) -> Result<Phase> {
        let plan = chunks::load(session, self.target.pipeline(), collection.name()).await?;
        let mapping = collection.hold().await;
        let missing = ddl::keys_missing(session, self.target.schema(), mapping.tables()).await?;
        Ok(Phase::of(Evidence {
            planned: !plan.is_empty(),
            chunks_left: plan.iter().filter(|chunk| chunk.copied.is_none()).count(),
            replaces: plan.iter().any(|chunk| chunk.replaces),
            keys_missing: missing.len(),
        }))
    }

    /// Cuts the collection into chunks, then stores them with the start position, which was taken before.
    async fn plan(
        &self,
        session: &mut Session,
        collection: &Collection,
        purpose: Purpose,
        (start, fingerprint): (&Position, i64),
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
        let (pipeline, documents) = (self.target.pipeline(), HumanCount(collection.info.documents));
        match purpose {
            Purpose::Copy => {
                chunks::store(session, pipeline, name, &stored, &positions).await?;
                tracing::info!("{name}: about {documents} documents to copy (chunks: {})", chunks.len());
            }
            Purpose::Replace(reason) => {
                chunks::replace(session, pipeline, name, &stored, &positions).await?;
                metrics::RESYNCS.add_to(reason.label(), 1);
                tracing::info!("{name}: about {documents} documents to copy anew, in place: {reason}");
            }
        }
        Ok(())
    }

    /// The chunks of a collection: those that were cut before a crash, for on a large collection that takes long. Old
    /// chunks are as good as new ones: they cover all keys there can be.
    async fn cut(&self, collection: &Collection, purpose: Purpose) -> Result<Vec<Chunk>> {
        let namespace = collection.namespace();
        if purpose == Purpose::Copy
            && let Some(chunks) = self.checkpoint()?.plan(namespace)?.and_then(|plan| decode(&plan).ok())
        {
            return Ok(chunks);
        }
        let chunks = self.source.split(&collection.info, CHUNK_BYTES).await?;
        self.checkpoint()?.save_plan(namespace, encode(&chunks).as_bytes())?;
        failpoint::reach(Failpoint::CutSaved);
        Ok(chunks)
    }
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// There are no rows yet.
    Copy,
    /// There are rows, which are to be replaced.
    Replace(Reason),
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
