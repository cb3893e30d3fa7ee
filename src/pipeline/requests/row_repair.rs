//! Rewrites rows that `docrow verify --repair` found different, or that docrow did not write.
//!
//! # Why no row goes backwards, and no one else writes (G3, G9)
//!
//! While a process runs the pipeline, it receives a request (`docrow.repairs`), and gives each document to
//! its worker as if it had just been updated, as [`dead_letter_retry`](super::dead_letter_retry) does: the
//! worker looks up its current state, as for any update, and writes that, in order with everything else that
//! it writes of this document. While no process runs the pipeline, [`repair`] takes it, which makes it the
//! only writer, and writes the current states with a [`BatchWriter`]; it stores no position, but records
//! beforehand up to when rows then show states, so that the next run looks up again whatever the stream still
//! has of that time.
//!
//! The rows of a key that no document can have are deleted: there is no worker that could ever write any.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::RequestWatch;
use crate::{
    config::{Config, Order},
    error::{Error, Result},
    mapping::{Mapping, Rows},
    model::{
        change::{Change, CollectionId},
        document_key::{self, DocumentKey, Id},
        partition::Partition,
    },
    pipeline::{
        apply::{document_write::DocumentWrite, writer::BatchWriter},
        collection::Collection,
        counts::Counts,
        ports::{DocumentSource, RowTarget, TargetSession},
        tries::Tries,
    },
    schema::MappingSpec,
    sink::{
        Keys, Target,
        metadata::{
            dead_letters::DeadKey,
            fence::{Holder, OnHeld},
            repair_requests::Repairs,
        },
        rows::upsert::{Batch, CollectionBatch},
    },
    source::{CollectionInfo, Source},
};

/// How many documents are looked up at a time, and about how many bytes of them are written at a time.
const TOGETHER: usize = 500;
const BYTES: usize = 8 << 20;

impl RequestWatch {
    /// Takes up repairs, and returns the changes that they amount to, by partition. Repairs of collections
    /// that are not included are dropped.
    pub(super) async fn repairs(
        &self,
        session: &dyn TargetSession,
        taken: Vec<(String, Repairs)>,
    ) -> Result<BTreeMap<Partition, Vec<Change>>> {
        let mut changes: BTreeMap<Partition, Vec<Change>> = BTreeMap::new();
        for (name, Repairs { documents, keys }) in taken {
            let Some(id) = self.retries.collection(&name) else { continue };
            let Some(collection) = self.collections.get(id.0) else { continue };
            let count = documents.len() + keys.count;
            tracing::info!("{name}: rewriting {count} documents that were found different");
            find_dead(session, collection, &documents).await?;
            for document_key in documents {
                if let Some((partition, change)) =
                    self.retries.update(id, document_key, &self.workers.router)?
                {
                    changes.entry(partition).or_default().push(change);
                }
            }
            if !keys.is_empty() {
                // No document can have these keys, so it does not matter to them how the mapping changes
                // meanwhile.
                let (target, mapping) = (&*self.pipeline.ports.target, collection.mapping().await);
                delete(target, &mapping, &keys, &mut Tries::until(self.stop.clone())).await?;
            }
        }
        Ok(changes)
    }
}

/// Notes which of these documents have dead letters that are not known yet, so that they heal.
async fn find_dead(
    session: &dyn TargetSession,
    collection: &Collection,
    documents: &[RawDocumentBuf],
) -> Result<()> {
    let keys =
        documents.iter().map(|document| document_key::id_text(document)).collect::<Result<Vec<_>>>()?;
    let name = collection.name();
    let dead = session.dead_keys_among(name, &keys).await?;
    for key in keys.into_iter().filter(|key| dead.contains(name, key)) {
        collection.found_dead(DeadKey { collection: name.to_owned(), key });
    }
    Ok(())
}

/// Deletes the rows with these keys, once no one has them locked.
async fn delete(target: &dyn RowTarget, mapping: &Mapping, keys: &Keys, tries: &mut Tries) -> Result<()> {
    let mut applier = target.applier_in_haste().await?;
    let (rows, none) = (Rows::new(mapping.tables().len()), Keys::default());
    let batch = CollectionBatch {
        collection: CollectionId(0),
        tables: mapping.tables(),
        rows: &rows,
        upserted: &none,
        deleted: keys,
    };
    let batch = Batch { collections: vec![batch], ..Batch::default() };
    tries.apply(&mut *applier, &batch, "rows that no document can have").await.map(drop)
}

/// Rewrites documents of a collection, and deletes the rows of keys that no document can have. Errors:
/// [`Kind::Fenced`](crate::error::Kind) if a process runs the pipeline: then that process must be asked
/// instead.
pub async fn repair(
    config: &Config,
    source: &Source,
    info: &CollectionInfo,
    repairs: &Repairs,
) -> Result<()> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let mut held = RowTarget::acquire(&target, &Holder::new(), OnHeld::Refuse).await?;
    let repairing = Repairing { config, source, target: held.target() };
    tokio::select! {
        biased;
        lost = held.lost() => Err(lost),
        repaired = repairing.run(info, repairs) => repaired,
    }
}

/// Returns the mapping in force of a collection.
async fn mapping_of(config: &Config, session: &dyn TargetSession, name: &str) -> Result<Mapping> {
    let stored = session.mappings().await?;
    let stored = stored.into_iter().find(|mapping| mapping.collection == name);
    let stored = stored.ok_or_else(|| Error::bug(format!("repair {name}: it has no mapping")))?;
    config.compile(&MappingSpec::parse(&stored.text, "docrow.schemas")?)
}

/// Repairs rows while this process holds the pipeline.
struct Repairing<'a> {
    config: &'a Config,
    source: &'a dyn DocumentSource,
    target: Arc<dyn RowTarget>,
}

impl Repairing<'_> {
    async fn run(&self, info: &CollectionInfo, repairs: &Repairs) -> Result<()> {
        let session = self.target.connect().await?;
        let mapping = mapping_of(self.config, &*session, &info.namespace.to_string()).await?;
        if !repairs.keys.is_empty() {
            delete(&*self.target, &mapping, &repairs.keys, &mut Tries::endless()).await?;
        }
        let dead = session.dead_keys().await?;
        let collection = Collection::new(info.clone(), mapping, Arc::new(Mutex::new(dead)), usize::MAX);
        let collections: Arc<[Collection]> = [collection].into();
        let counts = Arc::new(Counts::default());
        // It stores no position.
        let mut writer =
            BatchWriter::start(&*self.target, Partition(0), &collections, 0, &HashMap::new(), counts).await?;
        for documents in repairs.documents.chunks(TOGETHER) {
            let after = self.source.operation_time().await?;
            let keys: Vec<_> = documents.iter().map(|document| &**document).collect();
            let mut lookup = self.source.lookup(&info.namespace, &keys, after).await?;
            let mut missing = HashMap::new();
            for document_key in documents {
                missing.insert(DocumentKey::of(Id::of(document_key)?), document_key);
            }
            let mut writes = Vec::new();
            while let Some(found) = lookup.next().await? {
                let at = lookup.operation_time();
                for document in found.iter()? {
                    let document = document?;
                    let Some(key) = missing.remove(&DocumentKey::of(Id::of(document)?)) else { continue };
                    let (document_key, document) = (key.clone(), Some(document.to_owned()));
                    writes.push(DocumentWrite {
                        collection: CollectionId(0),
                        document_key,
                        document,
                        fields: None,
                        at,
                    });
                }
                if writes.iter().map(DocumentWrite::byte_len).sum::<usize>() >= BYTES {
                    self.write(&mut writer, &mut writes, at).await?;
                }
            }
            let at = lookup.operation_time();
            writes.extend(missing.into_values().map(|document_key| DocumentWrite {
                collection: CollectionId(0),
                document_key: document_key.clone(),
                document: None,
                fields: None,
                at,
            }));
            self.write(&mut writer, &mut writes, at).await?;
        }
        Ok(())
    }

    async fn write(
        &self,
        writer: &mut BatchWriter,
        writes: &mut Vec<DocumentWrite>,
        at: Timestamp,
    ) -> Result<()> {
        let shown = (self.config.order == Order::Document).then_some(at);
        writer.write(writes, None, shown).await?;
        writes.clear();
        Ok(())
    }
}
