//! What a session knows and changes.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::{
    super::{
        World,
        check::is_unfilled,
        postgres::{Contents, Mapped, in_extra, to_repairs},
        source::{Name, name_of, namespace},
    },
    link::Link,
    rows::Pages,
};
use crate::{
    error::{Error, Result},
    mapping::{self, Replacement},
    model::{partition::Partition, resync_reason::Reason, table::Table},
    pipeline::ports::{KeyPages, TargetSession},
    sink::{
        metadata::{
            chunks::StoredChunk,
            dead_letters::{Asked, DeadKey, DeadKeys},
            mapping_versions::Mapping,
            misfits::{MisfitCount, Misfits},
            pauses::PauseRequest,
            positions::StoredPosition,
            repair_requests::Repairs,
            requests::{Requested, Throttle},
        },
        rows::scan_extra::Wanted,
    },
};

fn mapped(pg: &mut Contents, collection: &str) -> Result<(Name, Mapped)> {
    let name = name_of(collection);
    let found = pg.mapped.get(&name).cloned();
    found.map(|found| (name, found)).ok_or_else(|| Error::bug("simulation: a collection without a mapping"))
}

#[async_trait]
impl TargetSession for Link {
    fn is_closed(&self) -> bool {
        self.is_lost(&self.sim.lock())
    }

    async fn register(&self, state_id: &str) -> Result<String> {
        let register =
            |_: &mut World, pg: &mut Contents| Ok(pg.life.get_or_insert_with(|| state_id.to_owned()).clone());
        self.change("the pipeline is registered", register).await
    }

    async fn positions(&self) -> Result<Vec<StoredPosition>> {
        let stored =
            |((partition, name), (position, fingerprint)): (&(Partition, Name), &(_, i64))| StoredPosition {
                partition: *partition,
                collection: namespace(*name).to_string(),
                position: Clone::clone(position),
                fingerprint: Some(*fingerprint),
            };
        self.ask(|_, pg| pg.positions.iter().map(stored).collect()).await
    }

    async fn reset_positions(&mut self, positions: &[StoredPosition]) -> Result<()> {
        let reset = |_: &mut World, pg: &mut Contents| {
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
        self.ask(|_, pg| pg.ahead).await
    }

    async fn set_ahead(&mut self, ahead: Option<Timestamp>) -> Result<()> {
        let set = |_: &mut World, pg: &mut Contents| {
            (pg.ahead, pg.settled) = (if ahead.is_some() { pg.ahead.max(ahead) } else { None }, false);
            Ok(())
        };
        self.change(&format!("rows may be ahead up to {ahead:?}"), set).await
    }

    async fn shown(&self) -> Result<Option<Timestamp>> {
        self.ask(|_, pg| pg.shown()).await
    }

    async fn chunks(&self, collection: &str) -> Result<Vec<StoredChunk>> {
        let name = name_of(collection);
        self.ask(|_, pg| pg.plans.get(&name).map_or_else(Vec::new, |plan| plan.chunks.clone())).await
    }

    async fn store_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()> {
        self.plan(collection, chunks, start, false).await
    }

    async fn replace_chunks(
        &mut self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
    ) -> Result<()> {
        self.plan(collection, chunks, start, true).await
    }

    async fn set_swept(&mut self, collection: &str) -> Result<()> {
        let name = name_of(collection);
        let swept = |_: &mut World, pg: &mut Contents| {
            let chunks = pg.plans.get_mut(&name).into_iter().flat_map(|plan| &mut plan.chunks);
            chunks.for_each(|chunk| chunk.replaces = false);
            Ok(())
        };
        self.change(&format!("c{name} is swept"), swept).await
    }

    async fn mappings(&self) -> Result<Vec<Mapping>> {
        self.ask(|_, pg| pg.mapped.values().map(|mapped| mapped.record.clone()).collect()).await
    }

    async fn set_filled(&mut self, collection: &str, version: u16) -> Result<()> {
        let filled = |world: &mut World, pg: &mut Contents| {
            let (name, mut found) = mapped(pg, collection)?;
            if found.record.version == version {
                found.record.filled = true;
                pg.mapped.insert(name, found);
                if let Some(unfilled) = is_unfilled(pg, name) {
                    world.is_wrong(format!("{unfilled}, when it is stored that all is filled"));
                }
            }
            Ok(())
        };
        self.change(&format!("{collection} is filled"), filled).await
    }

    async fn set_stopped(&mut self, collection: &str, reason: Option<&str>) -> Result<()> {
        let stopped = |_: &mut World, pg: &mut Contents| {
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
        self.ask(|_, pg| pg.deployment.clone()).await
    }

    async fn store_deployment(&mut self, known: &str) -> Result<()> {
        let store = |_: &mut World, pg: &mut Contents| {
            pg.deployment = Some(known.to_owned());
            Ok(())
        };
        self.change("the deployment is noted", store).await
    }

    async fn replace_deployment(&mut self, _: &str, _: &str, _: &[String]) -> Result<()> {
        Err(Error::bug("simulation: there is one deployment"))
    }

    async fn change_tables(&mut self, record: &Mapping, tables: &[Table]) -> Result<()> {
        self.lock()?;
        let change = |world: &mut World, pg: &mut Contents| {
            let name = name_of(&record.collection);
            let mut record = record.clone();
            record.stopped = pg.mapped.get(&name).and_then(|before| before.record.stopped.clone());
            let mapping = world.compile(&record.text)?;
            if pg.mapped.get(&name).is_none_or(|before| before.record.version <= record.version) {
                pg.mapped.insert(name, Mapped { record, tables: tables.to_vec(), mapping });
            }
            Ok(())
        };
        self.change(&format!("{} has version {}", record.collection, record.version), change).await
    }

    async fn relations(&self) -> Result<Vec<String>> {
        let tables = |pg: &Contents| {
            let tables = pg.mapped.values().flat_map(|mapped| &mapped.tables);
            tables.map(|table| table.name.clone()).collect()
        };
        self.ask(|_, pg| tables(pg)).await
    }

    async fn columns(&self, tables: &[Table]) -> Result<Vec<(String, String)>> {
        let of = |pg: &Contents| {
            let there = pg.mapped.values().flat_map(|mapped| &mapped.tables);
            let there = there.filter(|there| tables.iter().any(|table| table.name == there.name));
            let columns = |table: &Table| {
                let name = table.name.clone();
                table.columns.iter().map(|column| (name.clone(), column.name.clone())).collect::<Vec<_>>()
            };
            there.flat_map(columns).collect()
        };
        self.ask(|_, pg| of(pg)).await
    }

    async fn has_earlier_keys(&self, _: &Table) -> Result<bool> {
        self.wait().await.map(|()| false)
    }

    async fn keys_missing(&self, tables: &[Table]) -> Result<Vec<Table>> {
        let missing =
            |pg: &Contents| tables.iter().filter(|table| !pg.keyed.contains(&table.name)).cloned().collect();
        self.ask(|_, pg| missing(pg)).await
    }

    async fn build_key(&mut self, table: &Table) -> Result<()> {
        self.lock()?;
        let build = |_: &mut World, pg: &mut Contents| {
            pg.keyed.insert(table.name.clone());
            Ok(())
        };
        self.change(&format!("{} has its key", table.name), build).await
    }

    async fn add_foreign_keys(&mut self, _: &[Table]) -> Result<()> {
        self.wait().await
    }

    async fn empty_tables(&mut self, collection: &str) -> Result<()> {
        self.lock()?;
        let name = name_of(collection);
        let empty = |_: &mut World, pg: &mut Contents| {
            pg.rows.retain(|(of, _), _| *of != name);
            pg.letters.retain(|(of, _), _| *of != name);
            Ok(())
        };
        self.change(&format!("c{name} is emptied"), empty).await
    }

    async fn drop_tables(&mut self, _: &str) -> Result<()> {
        Err(Error::bug("simulation: no table is dropped"))
    }

    async fn irreplaceable(&self, _: &str, _: &[Replacement]) -> Result<Option<(Vec<Replacement>, Error)>> {
        self.wait().await.map(|()| None)
    }

    async fn replace_columns(&mut self, _: &Mapping, _: &[Replacement]) -> Result<()> {
        Err(Error::bug("simulation: no column becomes wider"))
    }

    async fn make_way(&mut self, error: Error, _: &[Table]) -> Result<Error> {
        self.wait().await.map(|()| error)
    }

    async fn scan(&mut self, wanted: &Wanted) -> Result<Box<dyn KeyPages + '_>> {
        let root = wanted.root.as_ref().ok_or_else(|| Error::bug("simulation: a scan of nothing"))?;
        let keys = |_: &World, pg: &Contents| {
            let name = pg.name_of_table(&root.name)?;
            let rows = pg.rows.iter().filter(|((of, _), _)| *of == name).map(|(_, row)| &row.columns);
            let has_extra = |mapping: &mapping::Mapping, columns: &_| !in_extra(mapping, columns).is_empty();
            let mapping = pg.mapping(name).cloned();
            let found =
                rows.filter(|columns| mapping.as_ref().is_some_and(|mapping| has_extra(mapping, columns)));
            Ok::<_, Error>(
                found.filter_map(|columns| columns.get(&root.columns.first()?.name).cloned()).collect(),
            )
        };
        let keys = self.ask(keys).await??;
        Ok(Box::new(Pages { link: self, keys }))
    }

    async fn count_misfits(&self, _: &mapping::Mapping) -> Result<Vec<Misfits>> {
        self.wait().await.map(|()| Vec::new())
    }

    async fn fits_double(&self, _: &str, _: &str) -> Result<bool> {
        self.wait().await.map(|()| false)
    }

    async fn misfits(&self) -> Result<HashMap<String, MisfitCount>> {
        self.wait().await.map(|()| HashMap::new())
    }

    async fn store_misfits(&mut self, _: &str, _: &[Misfits]) -> Result<()> {
        self.wait().await
    }

    async fn dead_keys(&self) -> Result<DeadKeys> {
        self.ask(|_, pg| dead_keys(pg, |_| true)).await
    }

    async fn dead_keys_among(&self, collection: &str, keys: &[String]) -> Result<DeadKeys> {
        let name = name_of(collection);
        let is_among = |place: (Name, &String)| place.0 == name && keys.contains(place.1);
        self.ask(|_, pg| dead_keys(pg, is_among)).await
    }

    async fn dead_document_keys(&self, collection: &str, after: i64) -> Result<Vec<(i64, RawDocumentBuf)>> {
        let name = name_of(collection);
        let keys = |pg: &Contents| {
            let letters = pg.letters.iter().filter(|((of, _), letter)| *of == name && letter.id > after);
            let mut letters: Vec<_> =
                letters.map(|(_, letter)| (letter.id, letter.document_key.clone())).collect();
            letters.sort_by_key(|(id, _)| *id);
            letters
        };
        self.ask(|_, pg| keys(pg)).await
    }

    async fn dead_letter_counts(&self) -> Result<HashMap<String, u64>> {
        let counts = |pg: &Contents| {
            let mut counts = HashMap::new();
            for (name, _) in pg.letters.keys() {
                *counts.entry(namespace(*name).to_string()).or_default() += 1;
            }
            counts
        };
        self.ask(|_, pg| counts(pg)).await
    }

    async fn rename_dead_letters(&mut self, _: &str) -> Result<()> {
        self.wait().await
    }

    async fn forget_dead_letters(&mut self, ids: &[i64]) -> Result<()> {
        let forget = |_: &mut World, pg: &mut Contents| {
            pg.letters.retain(|_, letter| !ids.contains(&letter.id));
            // It is about to be copied again, and of one time after that.
            pg.settled = false;
            Ok(())
        };
        self.change("dead letters of what is gone are forgotten", forget).await
    }

    async fn requests(&self, later: &[&str]) -> Result<Requested> {
        let later: BTreeSet<_> = later.iter().map(|collection| name_of(collection)).collect();
        let requested = |pg: &Contents| Requested {
            throttle: Throttle::AsConfigured,
            resyncs: pg.resyncs.keys().map(|name| namespace(*name).to_string()).collect(),
            paused: Vec::new(),
            unheard: Vec::new(),
            repairs: pg.repairs.keys().any(|name| !later.contains(name)),
            letters: pg.letters.values().any(|letter| letter.asked.is_some()),
        };
        self.ask(|_, pg| requested(pg)).await
    }

    async fn ask_for_resync(&mut self, collections: &[String], reason: Reason) -> Result<()> {
        let ask = |_: &mut World, pg: &mut Contents| {
            pg.resyncs.extend(collections.iter().map(|collection| (name_of(collection), reason)));
            Ok(())
        };
        self.change(&format!("{collections:?} are to be copied again: {reason:?}"), ask).await
    }

    async fn resyncs_asked(&self) -> Result<Vec<(String, Reason)>> {
        let asked = |pg: &Contents| {
            pg.resyncs.iter().map(|(name, reason)| (namespace(*name).to_string(), *reason)).collect()
        };
        self.ask(|_, pg| asked(pg)).await
    }

    async fn letters_asked(&self) -> Result<Vec<Asked>> {
        let asked = |pg: &Contents| {
            let asked = pg.letters.iter().filter_map(|((name, _), letter)| {
                let (collection, document_key) = (namespace(*name).to_string(), letter.document_key.clone());
                Some(Asked { id: letter.id, collection, document_key, at: letter.asked? })
            });
            asked.collect()
        };
        self.ask(|_, pg| asked(pg)).await
    }

    async fn letters_answered(&mut self, ids: &[i64]) -> Result<()> {
        let answered = |_: &mut World, pg: &mut Contents| {
            let of = pg.letters.values_mut().filter(|letter| ids.contains(&letter.id));
            of.for_each(|letter| letter.asked = None);
            Ok(())
        };
        self.change("letters are answered", answered).await
    }

    async fn take_repairs(&mut self, later: &[&str]) -> Result<Vec<(String, Repairs)>> {
        let later: BTreeSet<_> = later.iter().map(|collection| name_of(collection)).collect();
        let take = |world: &mut World, pg: &mut Contents| {
            let taken: Vec<_> = pg.repairs.extract_if(.., |name, _| !later.contains(name)).collect();
            let repairs = taken.iter().map(|(name, docs)| {
                // Nobody asks for them again, whatever becomes of them.
                world.taken.extend(docs.iter().map(|doc| (*name, *doc)));
                (namespace(*name).to_string(), to_repairs(world, docs))
            });
            Ok(repairs.collect::<Vec<_>>())
        };
        self.change("repairs are taken", take).await
    }

    async fn pauses(&self) -> Result<Vec<PauseRequest>> {
        self.wait().await.map(|()| Vec::new())
    }

    async fn hold_pauses(&mut self, _: &[&str]) -> Result<()> {
        self.wait().await
    }

    async fn store_report(&mut self, _: &str, _: Option<&str>) -> Result<()> {
        self.wait().await
    }
}

impl Link {
    async fn plan(
        &self,
        collection: &str,
        chunks: &[StoredChunk],
        start: &[StoredPosition],
        replaces: bool,
    ) -> Result<()> {
        let name = name_of(collection);
        let chunks: Vec<_> = chunks.iter().map(|chunk| StoredChunk { replaces, ..chunk.clone() }).collect();
        let start: Vec<_> = start
            .iter()
            .map(|stored| (stored.partition, stored.position.clone(), stored.fingerprint.unwrap_or(0)))
            .collect();
        let plan = |_: &mut World, pg: &mut Contents| {
            pg.plan(name, &chunks, &start);
            Ok(())
        };
        let from = start.first().map(|(_, position, _)| position.clone());
        self.change(&format!("c{name} is planned from {from:?}, in place: {replaces}"), plan).await
    }
}

fn dead_keys(pg: &Contents, wanted: impl Fn((Name, &String)) -> bool) -> DeadKeys {
    let mut keys = DeadKeys::default();
    for ((name, _), letter) in pg.letters.iter().filter(|((name, _), letter)| wanted((*name, &letter.key))) {
        keys.insert(DeadKey { collection: namespace(*name).to_string(), key: letter.key.clone() });
    }
    keys
}
