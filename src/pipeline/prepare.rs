//! Brings every collection to the phase where it can be copied: a mapping, tables, a start position, a chunk plan.
//!
//! The order of the writes makes a crash between any two of them harmless: the mapping and its tables come in one
//! transaction, then the plan and the start position in one. A collection counts as planned only with the latter; until
//! then it is prepared again, with the mapping that is stored.

use std::sync::Arc;

use indicatif::HumanCount;
use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use tokio::sync::Notify;

use super::{
    Collection, Pipeline,
    mappings::{InForce, Mappings},
    phase::{Evidence, Phase},
};
use crate::{
    change::{Namespace, Position},
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
    schema::Names,
    sink::{
        Session,
        chunks::{self, StoredChunk},
        ddl, dead_letter,
        progress::{Partition, StoredPosition},
        schemas,
    },
    source::{CHUNK_BYTES, Chunk, CollectionInfo},
};

/// The collections, with their tables and plans made, and the mappings they have.
pub(super) struct Prepared {
    pub(super) collections: Arc<[Collection]>,
    pub(super) in_force: Vec<InForce>,
    /// The names of all tables.
    pub(super) tables: Names,
    /// What discoveries notify.
    pub(super) wake: Arc<Notify>,
}

impl Pipeline<'_> {
    /// All collections with their mappings. Those that were new have got their tables and their plan; those whose mapping
    /// file was changed, their new tables and columns.
    pub(super) async fn prepare(&self, session: &mut Session, found: &[CollectionInfo]) -> Result<Prepared> {
        let pipeline = self.target.pipeline();
        let stored = schemas::load(session, pipeline).await?;
        let mut mappings = Mappings::load(&stored, self.config)?;
        let dead = dead_letter::keys(session, pipeline).await?;
        let wake = Arc::new(Notify::new());
        let (mut collections, mut in_force) =
            (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        for info in found {
            let wanted = mappings.of(&self.source, &info.namespace).await?;
            let mapping = self.config.compile(&wanted.spec)?;
            ddl::change_tables(session, &self.target, &wanted.record(), mapping.tables()).await?;
            let dead = u64::try_from(dead.count(&info.namespace.to_string())).unwrap_or(u64::MAX);
            let collection = Collection::new(info.clone(), mapping, dead, self.config.max_dead_letters);
            let evolves = wanted.is_automatic && self.config.evolve;
            collections.push(if evolves { collection.evolving(wake.clone()) } else { collection });
            in_force.push(wanted);
        }
        let namespaces: Vec<Namespace> = collections.iter().map(|c| c.namespace().clone()).collect();
        // One for all that are new: taking it asks every collection.
        let mut start = None;
        for collection in &collections {
            schemas::set_stopped(session, pipeline, collection.name(), None).await?;
            if self.phase(session, collection).await? == Phase::New {
                let taken = match start.take() {
                    Some(taken) => taken,
                    None => self.source.start_position(&namespaces).await?,
                };
                failpoint::reach(Failpoint::StartTaken);
                self.plan(session, collection, &taken).await?;
                start = Some(taken);
            }
        }
        Ok(Prepared { collections: collections.into(), in_force, tables: mappings.tables, wake })
    }

    /// Where a collection stands, by what PostgreSQL says.
    async fn phase(&self, session: &Session, collection: &Collection) -> Result<Phase> {
        let plan = chunks::load(session, self.target.pipeline(), collection.name()).await?;
        let mapping = collection.hold().await;
        let missing = ddl::keys_missing(session, self.target.schema(), mapping.tables()).await?;
        Ok(Phase::of(Evidence {
            planned: !plan.is_empty(),
            chunks_left: plan.iter().filter(|chunk| chunk.copied.is_none()).count(),
            keys_missing: missing.len(),
        }))
    }

    /// Cuts the collection into chunks, then stores them with the start position, which was taken before.
    async fn plan(&self, session: &mut Session, collection: &Collection, start: &Position) -> Result<()> {
        let (name, chunks) = (collection.name(), self.cut(collection).await?);
        let stored: Vec<_> = (0..).zip(&chunks).map(|(number, chunk)| to_stored(number, chunk)).collect();
        let positions = start_positions(name, start, self.config.partitions);
        chunks::store(session, self.target.pipeline(), name, &stored, &positions).await?;
        let documents = HumanCount(collection.info.documents);
        tracing::info!("{name}: about {documents} documents to copy (chunks: {})", chunks.len());
        Ok(())
    }

    /// The chunks of a collection: those that were cut before a crash, for on a large collection that takes long. Old
    /// chunks are as good as new ones: they cover all keys there can be.
    async fn cut(&self, collection: &Collection) -> Result<Vec<Chunk>> {
        let namespace = collection.namespace();
        if let Some(chunks) = self.checkpoint.plan(namespace)?.and_then(|plan| decode(&plan).ok()) {
            return Ok(chunks);
        }
        let chunks = self.source.split(&collection.info, CHUNK_BYTES).await?;
        self.checkpoint.save_plan(namespace, encode(&chunks).as_bytes())?;
        failpoint::reach(Failpoint::CutSaved);
        Ok(chunks)
    }
}

fn start_positions(collection: &str, start: &Position, partitions: u16) -> Vec<StoredPosition> {
    let stored = |number| StoredPosition {
        partition: Partition(number),
        collection: collection.to_owned(),
        position: start.clone(),
    };
    (0..partitions).map(stored).collect()
}

fn to_stored(number: u32, chunk: &Chunk) -> StoredChunk {
    let bytes = |bound: &Option<RawDocumentBuf>| bound.as_ref().map(|bound| bound.as_bytes().to_vec());
    StoredChunk { number, min: bytes(&chunk.min), max: bytes(&chunk.max), copied: None }
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
    let corrupt = |e: bson::error::Error| Error::caused(Kind::StateCorrupt, "read a stored chunk plan", e);
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
