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

mod chunk_plan;
mod deployment;
mod earlier_keys;
mod tables;
mod whole_collections;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream, try_join};
use indicatif::HumanCount;

use super::{
    collection::Collection,
    context::Pipeline,
    mappings::active::{Mappings, PreparedMappings},
    pausing,
    ports::{DocumentSource, TargetSession},
    table_keys::keys_missing,
};
use crate::{
    config::Config,
    error::{Code, Result},
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
        chunks::{Extent, SnapshotPlan},
        dead_letters::DeadKeys,
        mapping_versions,
        positions::StoredPosition,
    },
    source::{Chunk, CollectionInfo, Source},
};

/// How many collections are cut into chunks at once.
const CUT_AT_ONCE: usize = 16;

/// The collections, with their tables and plans made, and their mappings.
pub(super) struct Prepared {
    pub(super) collections: Arc<[Collection]>,
    pub(super) mappings: PreparedMappings,
    /// Collections that are gone, but whose tables another session has locked.
    pub(super) parting: Vec<String>,
    /// The complete collections: their changes can be applied.
    pub(super) live: Vec<CollectionId>,
    /// How much of each collection is copied.
    pub(super) extents: HashMap<String, Extent>,
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
        let known = self.recognise().await?;
        self.pipeline.ports.spool.open()?.reconcile(known.life).await?;
        failpoint::reach(Failpoint::StateReconciled);
        self.write_down().await?;
        self.prepare(known.deployment, known.earlier_keys).await
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
    async fn prepare(
        &mut self,
        deployment: Option<String>,
        earlier_keys: HashSet<String>,
    ) -> Result<Prepared> {
        let post = self.pipeline.monitor.reporter.vitals().post(Part::Attempt);
        post.at("lists the collections");
        self.pipeline.monitor.refused.hide();
        self.renew_keys(earlier_keys).await?;
        let session = &*self.session;
        let (found, stored, asked, paused, extents) = try_join!(
            self.source.collections_now(&self.config.include, &self.config.exclude),
            session.mappings(),
            session.resyncs_asked(),
            pausing::paused(session),
            session.extents()
        )?;
        let found = self.with_sizes(found, &extents, &asked).await?;
        let (stored, parting) = self.part_from_gone(stored, &found, &asked).await?;
        // As they are now: the file for a new collection may be new as well.
        let files = mapping_files::read(&self.config.mapping_dir)?;
        let mut mappings = Mappings::load(&stored, self.config, &files)?;
        let dead = Arc::<Mutex<DeadKeys>>::default();
        let most_dead = usize::try_from(self.config.max_dead_letters).unwrap_or(usize::MAX);
        let (mut collections, mut in_force) =
            (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        let (mut pending, mut refused) = (HashMap::new(), Vec::new());
        let mut prepared = self.unchanged(&mappings, &stored, &found, &asked).await?;
        prepared.extend(self.create_tables(&mut mappings, &found, &asked, &post).await?);
        for info in &found {
            post.at(format!("prepares the tables of {}", info.namespace));
            let name = info.namespace.to_string();
            let reason = reason_for(&name, &asked);
            let made = match prepared.remove(&name) {
                Some(made) => Ok(made),
                None => self.map_collection(&mut mappings, info, reason).await,
            };
            let made = match made {
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
        let (keys, (mut extents, phases)) =
            try_join!(self.session.dead_keys(), stored_phases(&*self.session, &collections))?;
        collections.iter().for_each(|collection| collection.show_dead(keys.count(collection.name())));
        *dead.lock().unwrap_or_else(PoisonError::into_inner) = keys;
        let live = self.plan_all(&collections, phases, &stored, &asked, &mut extents).await?;
        self.note_deployment(deployment).await?;
        pausing::note_paused(self.pipeline, self.session, &collections).await?;
        Ok(Prepared {
            collections: collections.into(),
            mappings: PreparedMappings { in_force, pending, tables: mappings.tables },
            parting,
            live,
            extents,
        })
    }

    /// Measures the collections of which something is left to be copied: nothing depends on the sizes of the
    /// others.
    async fn with_sizes(
        &self,
        found: Vec<CollectionInfo>,
        extents: &HashMap<String, Extent>,
        asked: &[(String, Reason)],
    ) -> Result<Vec<CollectionInfo>> {
        let is_copied = |info: &CollectionInfo| {
            let name = info.namespace.to_string();
            extents.get(&name).is_some_and(|extent| extent.is_complete())
                && reason_for(&name, asked).is_none()
        };
        let (mut found, left): (Vec<_>, Vec<_>) = found.into_iter().partition(is_copied);
        if !left.is_empty() {
            found.extend(self.source.measured(left).await?);
            found.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        }
        Ok(found)
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
        phases: Vec<Phase>,
        stored: &[mapping_versions::Mapping],
        asked: &[(String, Reason)],
        extents: &mut HashMap<String, Extent>,
    ) -> Result<Vec<CollectionId>> {
        let was_stopped: HashSet<&str> = stored
            .iter()
            .filter(|mapping| mapping.stopped.is_some())
            .map(|mapping| &*mapping.collection)
            .collect();
        let namespaces: Vec<Namespace> = collections.iter().map(|c| c.namespace().clone()).collect();
        let (mut live, mut purposes) = (Vec::new(), Vec::new());
        for ((id, collection), phase) in (0..).map(CollectionId).zip(collections).zip(phases) {
            if collection.stopped().is_none() && was_stopped.contains(collection.name()) {
                self.session.set_stopped(collection.name(), None).await?;
            }
            collection.enter(phase);
            match (phase, reason_for(collection.name(), asked)) {
                (Phase::New, _) => purposes.push((collection, Purpose::Copy)),
                (_, Some(reason)) => purposes.push((collection, Purpose::Replace(reason))),
                (Phase::Live, None) => live.push(id),
                (Phase::Copying | Phase::Indexing | Phase::Sweeping, None) => {}
            }
        }
        if purposes.is_empty() {
            return Ok(live);
        }
        // One for all of them: taking it queries each.
        let copied: Vec<_> = purposes.iter().map(|(collection, _)| collection.namespace().clone()).collect();
        let taken = self.source.start_of_copies(&namespaces, &copied).await?;
        failpoint::reach(Failpoint::StartTaken);
        let cuts: Vec<_> =
            purposes.iter().map(|(collection, purpose)| self.cut(collection, *purpose).boxed()).collect();
        let cuts: Vec<Vec<Chunk>> = stream::iter(cuts).buffered(CUT_AT_ONCE).try_collect().await?;
        let (mut plans, mut positions) = (Vec::new(), Vec::new());
        for ((collection, purpose), chunks) in purposes.into_iter().zip(cuts) {
            let name = collection.name();
            let chunks = Self::stored_form(&chunks);
            let own = self.start_of(name, &taken, Source::fingerprint(&namespaces));
            let documents = HumanCount(collection.info.documents);
            let replaces = matches!(purpose, Purpose::Replace(_));
            extents.insert(name.to_owned(), Extent::of_new(chunks.len(), replaces));
            match purpose {
                Purpose::Copy => {
                    tracing::info!("{name}: about {documents} documents to copy (chunks: {})", chunks.len());
                    plans.push(SnapshotPlan::new(name, chunks));
                    positions.extend(own);
                }
                Purpose::Replace(reason) => {
                    self.forget_vanished(collection, taken.cluster_time()).await?;
                    self.session.replace_chunks(name, &chunks, &own).await?;
                    metrics::RESYNCS.add_to(reason.label(), 1);
                    tracing::info!("{name}: about {documents} documents to copy again, in place: {reason}");
                }
            }
            collection.enter(Phase::Copying);
        }
        if !plans.is_empty() {
            self.session.store_chunks(&plans, &positions).await?;
        }
        Ok(live)
    }

    /// Returns the positions of a collection's partitions at the start.
    fn start_of(&self, collection: &str, start: &Position, fingerprint: i64) -> Vec<StoredPosition> {
        let position = |number| StoredPosition {
            partition: Partition(number),
            collection: collection.to_owned(),
            position: start.clone(),
            fingerprint: Some(fingerprint),
        };
        (0..self.config.partitions).map(position).collect()
    }
}

/// Returns the phases of the collections, according to PostgreSQL, which is asked about all of them at once.
pub(super) async fn stored_phases(
    session: &dyn TargetSession,
    collections: &[Collection],
) -> Result<(HashMap<String, Extent>, Vec<Phase>)> {
    let all: Vec<_> = collections.iter().collect();
    let (extents, missing) = try_join!(session.extents(), keys_missing(session, &all))?;
    let missing: HashSet<&str> = missing.iter().map(|table| &*table.name).collect();
    let mut phases = Vec::with_capacity(collections.len());
    for collection in collections {
        let extent = extents.get(collection.name());
        let mapping = collection.mapping().await;
        phases.push(Phase::of(Evidence {
            planned: extent.is_some(),
            chunks_left: extent.is_some_and(|extent| extent.copied < extent.chunks).into(),
            replaces: extent.is_some_and(|extent| extent.replaces),
            keys_missing: mapping.tables().iter().filter(|table| missing.contains(&*table.name)).count(),
        }));
    }
    Ok((extents, phases))
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
