//! The model of PostgreSQL: rows and bookkeeping, changed by transactions that are atomic, and may be carried out
//! though their answer is lost. It may be away for a while, forget the transactions that it had not brought to its
//! disk, and be set back to an earlier copy of itself.
//!
//! A row is the columns that docrow wrote, as it encoded them; what it shows is what the mapping in force makes of
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::{
    World,
    columns::{Columns, composites, merge_extra, rebuild},
    document::{Fields, NAMES, State, fields_of},
    source::{Doc, Name, doc_of, name_of},
};
use crate::{
    error::{Code, Error, Result},
    mapping::Mapping,
    model::{
        change::Position,
        partition::Partition,
        phase::{Evidence, Phase},
        resync_reason::Reason,
        table::Table,
    },
    sink::{
        Keys,
        metadata::{chunks::StoredChunk, mapping_versions, repair_requests::Repairs},
        rows::upsert::{Batch, CollectionBatch, PartBatch},
    },
};

/// A row of a collection's root.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) columns: Arc<Columns>,
    /// Not docrow's: what it shows.
    pub(super) fields: Fields,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) id: i64,
    pub(super) key: String,
    pub(super) document_key: RawDocumentBuf,
    /// When it was asked for.
    pub(super) asked: Option<SystemTime>,
    /// Not docrow's: whether it was ever asked for. Nobody asks twice.
    pub(super) was_asked: bool,
}

/// A collection's tables.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) record: mapping_versions::Mapping,
    pub(super) tables: Vec<Table>,
    /// Not docrow's: what is stored, compiled.
    pub(super) mapping: Arc<Mapping>,
}

/// All that is in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) life: Option<String>,
    pub(super) deployment: Option<String>,
    pub(super) mapped: BTreeMap<Name, Mapped>,
    /// The tables that have their primary keys.
    pub(super) keyed: BTreeSet<String>,
    pub(super) rows: BTreeMap<(Name, Doc), Row>,
    pub(super) positions: BTreeMap<(Partition, Name), (Position, i64)>,
    /// Up to when rows may show states, as stored with the positions, and besides them.
    pub(super) shown: BTreeMap<(Partition, Name), Timestamp>,
    pub(super) noted: Option<Timestamp>,
    pub(super) plans: BTreeMap<Name, Plan>,
    pub(super) resyncs: BTreeMap<Name, Reason>,
    pub(super) repairs: BTreeMap<Name, BTreeSet<Doc>>,
    pub(super) letters: BTreeMap<(Name, Doc), Letter>,
    pub(super) last_letter: i64,
    pub(super) ahead: Option<Timestamp>,
    /// Not docrow's: of each field of a row the place of its state among all that the document had, at the least.
    pub(super) floors: BTreeMap<(Name, Doc), [usize; NAMES.len()]>,
    /// Not docrow's: the rows that were written as of several times, up to which time.
    pub(super) mixed: BTreeMap<(Name, Doc), u32>,
    /// Not docrow's: the latest state that workers have written.
    pub(super) latest: u32,
    /// Not docrow's: whether a worker wrote last.
    pub(super) by_worker: bool,
    /// Not docrow's: the rows that somebody removed.
    pub(super) removed: BTreeSet<(Name, Doc)>,
    /// Not docrow's: in the order of commits, that the rows are of one time.
    pub(super) settled: bool,
}

/// The chunks of a collection.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) chunks: Vec<StoredChunk>,
    /// Not docrow's: the first start position.
    pub(super) start: Position,
}

impl Plan {
    pub(super) fn replaces(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.replaces)
    }
}

impl Contents {
    pub(super) fn phase(&self, name: Name) -> Phase {
        let plan = self.plans.get(&name);
        let missing = self.mapped.get(&name).map_or(1, |mapped| {
            mapped.tables.iter().filter(|table| !self.keyed.contains(&table.name)).count()
        });
        Phase::of(Evidence {
            planned: plan.is_some(),
            chunks_left: plan
                .map_or(0, |plan| plan.chunks.iter().filter(|chunk| chunk.copied.is_none()).count()),
            keys_missing: missing,
            replaces: plan.is_some_and(Plan::replaces),
        })
    }

    /// The collection whose root is this table.
    pub(super) fn name_of_table(&self, table: &str) -> Result<Name> {
        let mut all = self.mapped.iter();
        let found = all.find(|(_, mapped)| mapped.tables.iter().any(|of| of.name == table));
        found
            .map(|(name, _)| *name)
            .ok_or_else(|| Error::new(Code::TargetRefused, format!("no table {table}")))
    }

    pub(super) fn mapping(&self, name: Name) -> Option<&Arc<Mapping>> {
        self.mapped.get(&name).map(|mapped| &mapped.mapping)
    }

    /// Puts a row in place of what there is. Errors: `refused` says that PostgreSQL does not take it.
    pub(super) fn put(&mut self, world: &World, name: Name, columns: Columns) -> Result<Doc> {
        let mapping = self.mapping(name).ok_or_else(|| Error::bug("simulation: a row without a mapping"))?;
        let document = rebuild(mapping, &columns)?;
        let (doc, fields) = (doc_of(&document), fields_of(&document));
        if world.refuses(&fields) {
            return Err(Error::new(Code::RowConstraint, "simulation: the row violates a constraint"));
        }
        let before = self.rows.insert((name, doc), Row { columns: Arc::new(columns), fields });
        // What is written again as it was may still be of several times.
        if before.is_none_or(|before| before.fields != fields) {
            self.mixed.remove(&(name, doc));
        }
        self.removed.remove(&(name, doc));
        Ok(doc)
    }

    fn remove(&mut self, name: Name, doc: Doc) {
        self.rows.remove(&(name, doc));
        self.mixed.remove(&(name, doc));
        self.removed.remove(&(name, doc));
    }

    /// The document of an encoded key.
    pub(super) fn doc_of_key(&self, name: Name, key: &[u8]) -> Option<Doc> {
        self.mapping(name)?.id_of_key(key).map(|document_key| doc_of(&document_key))
    }

    /// Carries out a batch. Errors: it is refused as a whole.
    pub(super) fn apply(
        &mut self,
        world: &mut World,
        (partition, fingerprint): (Partition, i64),
        batch: &Batch<'_>,
    ) -> Result<u64> {
        let mut written = 0;
        self.by_worker = !batch.reached.is_empty() || batch.shown.is_some();
        if batch.reached.is_empty() {
            // What PostgreSQL refuses breaks up transactions.
            self.settled = false;
        }
        for CollectionBatch { tables, rows, deleted, .. } in &batch.collections {
            let Some(root) = tables.first() else { continue };
            let name = self.name_of_table(&root.name)?;
            for doc in self.docs(name, deleted)? {
                self.remove(name, doc);
                world.looked_up.remove(&(name, doc));
            }
            for columns in composites(root, rows) {
                let doc = self.put(world, name, columns)?;
                if self.by_worker {
                    world.looked_up.remove(&(name, doc));
                }
                written += 1;
            }
        }
        for part in &batch.parts {
            written += self.patch(world, part)?;
        }
        for letter in batch.dead_letters {
            let document_key = RawDocumentBuf::from_bytes(letter.document_key.clone());
            let document_key = document_key.map_err(|_| Error::bug("simulation: a letter's key"))?;
            let place = (name_of(&letter.collection), doc_of(&document_key));
            self.last_letter += 1;
            let (id, key) = (self.last_letter, letter.key.clone());
            self.letters.insert(place, Letter { id, key, document_key, asked: None, was_asked: false });
            let count = self.letters.keys().filter(|(name, _)| *name == place.0).count();
            // That stops the collection, and what waits of it is forgotten.
            world.excused.history |= u64::try_from(count).unwrap() > world.set.most_dead;
        }
        for healed in batch.healed {
            let name = name_of(&healed.collection);
            self.letters.retain(|(of, _), letter| *of != name || letter.key != healed.key);
        }
        for reached in batch.reached {
            let place = (partition, name_of(reached.collection));
            let before = self.positions.insert(place, (reached.position.clone(), fingerprint));
            if before.is_some_and(|(before, _)| before > *reached.position) {
                return Err(Error::new(Code::TargetOvertaken, "simulation: a position would move back"));
            }
            match batch.shown {
                Some(shown) => drop(self.shown.insert(place, shown)),
                None => drop(self.shown.remove(&place)),
            }
        }
        Ok(written)
    }

    pub(super) fn docs(&self, name: Name, keys: &Keys) -> Result<Vec<Doc>> {
        let doc =
            |key| self.doc_of_key(name, key).ok_or_else(|| Error::bug("simulation: a key of no document"));
        keys.iter().map(doc).collect()
    }

    /// Writes some fields of rows, and what `extra` has of them. Errors: one of the rows is not there.
    fn patch(&mut self, world: &mut World, part: &PartBatch<'_>) -> Result<u64> {
        let Some(root) = part.tables.first() else { return Ok(0) };
        let name = self.name_of_table(&root.name)?;
        let extra = self.mapping(name).and_then(|mapping| mapping.extra()).map(|extra| extra.name.clone());
        let mut written = 0;
        for new in composites(root, part.rows) {
            let key = root.columns.first().and_then(|key| new.get(&key.name)).cloned().unwrap_or_default();
            let doc =
                self.doc_of_key(name, &key).ok_or_else(|| Error::bug("simulation: a key of no document"))?;
            let Some(row) = self.rows.get(&(name, doc)) else {
                return Err(Error::new(Code::TargetRefusedRows, "simulation: there is no row to be patched"));
            };
            let mut columns = Columns::clone(&row.columns);
            for column in root.columns.iter().skip(1).filter(|column| Some(&column.name) != extra.as_ref()) {
                match new.get(&column.name) {
                    Some(value) => drop(columns.insert(column.name.clone(), value.clone())),
                    None => drop(columns.remove(&column.name)),
                }
            }
            if let Some(extra) = &extra {
                merge_extra(&mut columns, extra, &new, part.fields);
            }
            let before = self.mixed.get(&(name, doc)).copied();
            self.put(world, name, columns)?;
            if let Some(until) = before.max(world.looked_up.remove(&(name, doc))) {
                self.mixed.insert((name, doc), until);
            }
            written += 1;
        }
        Ok(written)
    }

    /// Up to when rows may show states, if it is stored of all.
    pub(super) fn shown(&self) -> Option<Timestamp> {
        let of_all = self.positions.keys().map(|place| self.shown.get(place).copied());
        let shown = of_all.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(shown).max(self.noted)
    }

    /// Stores a plan and start positions in place of what there is.
    pub(super) fn plan(&mut self, name: Name, chunks: &[StoredChunk], start: &[(Partition, Position, i64)]) {
        self.resyncs.remove(&name);
        self.positions.retain(|(_, of), _| *of != name);
        self.shown.retain(|(_, of), _| *of != name);
        // Rows that are not copied anew stay as they are, until an event replaces or removes them.
        let mixed = self.mixed.iter_mut().filter(|((of, _), _)| *of == name);
        mixed.for_each(|(_, until)| *until = u32::MAX);
        self.settled = false;
        for (partition, position, fingerprint) in start {
            self.positions.insert((*partition, name), (position.clone(), *fingerprint));
            let plan = Plan { chunks: chunks.to_vec(), start: position.clone() };
            self.plans.insert(name, plan);
        }
    }

    /// The least position of a collection.
    pub(super) fn least(&self, name: Name) -> Option<&Position> {
        self.positions.iter().filter(|((_, of), _)| *of == name).map(|(_, (position, _))| position).min()
    }

    /// What a row shows.
    pub(super) fn shows(&self, name: Name, doc: Doc) -> State {
        self.rows.get(&(name, doc)).map(|row| row.fields)
    }
}

/// The documents of a collection that are to be repaired.
pub(super) fn to_repairs(world: &World, docs: &BTreeSet<Doc>) -> Repairs {
    let documents = docs.iter().map(|doc| world.source.key(*doc).1.clone()).collect();
    Repairs { documents, keys: Keys::default() }
}

#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) now: Contents,
    /// What it may come back with after a crash: since the last transaction that it brought to its disk.
    pub(super) unsynced: Vec<Contents>,
    pub(super) copies: Vec<Contents>,
    pub(super) is_up: bool,
    /// Counts how often all connections were lost.
    pub(super) starts: u32,
}

impl Postgres {
    pub(super) fn new() -> Self {
        let copies = vec![Contents::default()];
        Self { now: Contents::default(), unsynced: Vec::new(), copies, is_up: true, starts: 0 }
    }

    /// What is on its disk for certain.
    pub(super) fn durable(&self) -> &Contents {
        self.unsynced.first().unwrap_or(&self.now)
    }
}
