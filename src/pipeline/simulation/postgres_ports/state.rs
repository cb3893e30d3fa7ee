//! The stored state of the pipeline and its collections.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::Timestamp;

use super::{
    super::{
        check::is_unfilled,
        mongo::{CollectionName, name_of, namespace},
        postgres::{DatabaseContents, MappedCollection, PlannedChunks},
        world::SimulatedWorld,
    },
    connection::SimulatedConnection,
};
use crate::{
    error::{Error, Result},
    model::partition::Partition,
    pipeline::ports::{StateSession, TargetSession},
    sink::metadata::{
        chunks::{Extent, SnapshotPlan, StoredChunk},
        mapping_versions::Mapping,
        positions::StoredPosition,
    },
};

/// A collection, by its namespace.
fn mapped(pg: &mut DatabaseContents, collection: &str) -> Result<(CollectionName, MappedCollection)> {
    let name = name_of(collection);
    let found = pg.mapped.get(&name).cloned();
    found.map(|found| (name, found)).ok_or_else(|| Error::bug("simulation: a collection without a mapping"))
}

impl TargetSession for SimulatedConnection {
    fn is_closed(&self) -> bool {
        self.is_lost(&self.shared.lock())
    }
}

#[async_trait]
impl StateSession for SimulatedConnection {
    async fn register(&self, state_id: &str) -> Result<String> {
        let register = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            Ok(pg.life.get_or_insert_with(|| state_id.to_owned()).clone())
        };
        self.change("the pipeline is registered", register).await
    }

    async fn positions(&self) -> Result<Vec<StoredPosition>> {
        let stored =
            |((partition, name), (position, fingerprint)): (&(Partition, CollectionName), &(_, i64))| {
                StoredPosition {
                    partition: *partition,
                    collection: namespace(*name).to_string(),
                    position: Clone::clone(position),
                    fingerprint: Some(*fingerprint),
                }
            };
        self.query(|_, pg| pg.positions.iter().map(stored).collect()).await
    }

    async fn reset_positions(&mut self, positions: &[StoredPosition]) -> Result<()> {
        let reset = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.shown.clear();
            pg.positions.clear();
            for stored in positions {
                let place = (stored.partition, name_of(&stored.collection));
                pg.positions.insert(place, (stored.position.clone(), stored.fingerprint.unwrap_or(0)));
            }
            Ok(())
        };
        self.change("positions are reset", reset).await
    }

    async fn ahead(&self) -> Result<Option<Timestamp>> {
        self.query(|_, pg| pg.ahead).await
    }

    async fn set_ahead(&mut self, ahead: Option<Timestamp>) -> Result<()> {
        let set = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            (pg.ahead, pg.settled) = (if ahead.is_some() { pg.ahead.max(ahead) } else { None }, false);
            Ok(())
        };
        self.change(&format!("rows may be ahead up to {ahead:?}"), set).await
    }

    async fn shown(&self) -> Result<Option<Timestamp>> {
        self.query(|_, pg| pg.shown()).await
    }

    async fn chunks(&self, collections: &[&str]) -> Result<HashMap<String, Vec<StoredChunk>>> {
        let plan = |pg: &DatabaseContents, name: &str| {
            Some((name.to_owned(), pg.plans.get(&name_of(name))?.chunks.clone()))
        };
        self.query(|_, pg| collections.iter().filter_map(|name| plan(pg, name)).collect()).await
    }

    async fn extents(&self) -> Result<HashMap<String, Extent>> {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let extent = |plan: &PlannedChunks| {
            let copied = || plan.chunks.iter().filter_map(|chunk| chunk.copied);
            Extent {
                chunks: count(plan.chunks.len()),
                copied: count(copied().count()),
                documents: i64::try_from(copied().sum::<u64>()).unwrap_or(i64::MAX),
                replaces: plan.replaces(),
            }
        };
        let all = |pg: &DatabaseContents| {
            pg.plans.iter().map(|(name, plan)| (namespace(*name).to_string(), extent(plan))).collect()
        };
        self.query(|_, pg| all(pg)).await
    }

    async fn store_chunks(&mut self, plans: &[SnapshotPlan], start: &[StoredPosition]) -> Result<()> {
        self.plan(plans, start, false).await
    }

    async fn replace_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()> {
        let plan = SnapshotPlan::new(collection, chunks.to_vec());
        self.plan(&[plan], start, true).await
    }

    async fn set_swept(&mut self, collection: &str) -> Result<()> {
        let name = name_of(collection);
        let swept = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let chunks = pg.plans.get_mut(&name).into_iter().flat_map(|plan| &mut plan.chunks);
            chunks.for_each(|chunk| chunk.replaces = false);
            Ok(())
        };
        self.change(&format!("c{name} is swept"), swept).await
    }

    async fn mappings(&self) -> Result<Vec<Mapping>> {
        self.query(|_, pg| pg.mapped.values().map(|mapped| mapped.record.clone()).collect()).await
    }

    async fn set_filled(&mut self, collection: &str, version: u16) -> Result<()> {
        let filled = |world: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let (name, mut found) = mapped(pg, collection)?;
            if found.record.version == version {
                found.record.filled = true;
                pg.mapped.insert(name, found);
                if let Some(unfilled) = is_unfilled(pg, name) {
                    world.report_violation(format!(
                        "{unfilled}, although it is stored that the backfill is done"
                    ));
                }
            }
            Ok(())
        };
        self.change(&format!("{collection} is backfilled"), filled).await
    }

    async fn set_stopped(&mut self, collection: &str, reason: Option<&str>) -> Result<()> {
        let stopped = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let Ok((name, mut found)) = mapped(pg, collection) else { return Ok(()) };
            pg.settled &= reason.is_none();
            found.record.stopped = reason.map(str::to_owned);
            pg.mapped.insert(name, found);
            Ok(())
        };
        self.change(&format!("{collection} is stopped: {reason:?}"), stopped).await
    }

    async fn set_absent(&mut self, _: &[String], _: &[String]) -> Result<Vec<String>> {
        self.wait().await.map(|()| Vec::new())
    }

    async fn note_mask_key(&mut self, _: &Mapping) -> Result<()> {
        self.wait().await
    }

    async fn with_earlier_keys(&self) -> Result<HashSet<String>> {
        self.wait().await.map(|()| HashSet::new())
    }

    async fn set_keys_renewed(&mut self, _: &str) -> Result<()> {
        self.wait().await
    }

    async fn deployment(&self) -> Result<Option<String>> {
        self.query(|_, pg| pg.deployment.clone()).await
    }

    async fn store_deployment(&mut self, known: &str) -> Result<()> {
        let store = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.deployment = Some(known.to_owned());
            Ok(())
        };
        self.change("the deployment is stored", store).await
    }

    async fn replace_deployment(&mut self, _: &str, _: &str, _: &[String]) -> Result<()> {
        Err(Error::bug("simulation: there is only one deployment"))
    }
}

impl SimulatedConnection {
    /// Stores the chunks of a collection, with its start positions.
    async fn plan(&self, plans: &[SnapshotPlan], start: &[StoredPosition], replaces: bool) -> Result<()> {
        let plan = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            for SnapshotPlan { collection, chunks } in plans {
                let of = |chunk: &StoredChunk| StoredChunk { replaces, ..chunk.clone() };
                let chunks: Vec<_> = chunks.iter().map(of).collect();
                let own = start.iter().filter(|stored| stored.collection == *collection).cloned();
                pg.plan(name_of(collection), &chunks, &own.collect::<Vec<_>>());
            }
            Ok(())
        };
        let from = start.first().map(|stored| &stored.position);
        let names: Vec<&str> = plans.iter().map(|plan| &*plan.collection).collect();
        let names = names.join(", ");
        self.change(
            &format!("the chunks of {names} are planned from {from:?}, replacing rows: {replaces}"),
            plan,
        )
        .await
    }
}
