//! The model of PostgreSQL: rows and docrow's metadata. Atomic transactions change them, and may commit
//! although their answer is lost. The server may be down for a while, lose transactions that it has not
//! synced, and be restored from an old copy.
//!
//! A row is the columns that docrow wrote, as it encoded them; the current mapping makes a document of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::{
    columns::RowColumns,
    document::{DocumentState, FIELD_NAMES, FieldVersions},
    mongo::{CollectionName, DocumentNumber, doc_of},
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
    sink::metadata::{chunks::StoredChunk, mapping_versions, positions::StoredPosition},
};

/// A row of a collection's root table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RootRow {
    pub(super) columns: Arc<RowColumns>,
    /// Only for checks: the fields that it shows.
    pub(super) fields: FieldVersions,
}

/// A row of the dead letters.
#[derive(Clone, Debug)]
pub(super) struct LetterRow {
    pub(super) id: i64,
    pub(super) key: String,
    pub(super) document_key: RawDocumentBuf,
    /// When a retry was requested, until it is answered.
    pub(super) asked: Option<SystemTime>,
    /// Only for faults: whether a retry was ever requested. There is no second request.
    pub(super) was_asked: bool,
}

/// A collection's mapping and tables.
#[derive(Clone, Debug)]
pub(super) struct MappedCollection {
    pub(super) record: mapping_versions::Mapping,
    pub(super) tables: Vec<Table>,
    /// The stored mapping, compiled.
    pub(super) mapping: Arc<Mapping>,
}

/// Everything in the database. Some of it is not docrow's, but records what the checks need to know.
#[derive(Clone, Debug, Default)]
pub(super) struct DatabaseContents {
    pub(super) life: Option<String>,
    pub(super) deployment: Option<String>,
    pub(super) mapped: BTreeMap<CollectionName, MappedCollection>,
    /// The tables that have their primary key.
    pub(super) keyed: BTreeSet<String>,
    pub(super) rows: BTreeMap<(CollectionName, DocumentNumber), RootRow>,
    pub(super) positions: BTreeMap<(Partition, CollectionName), (Position, i64)>,
    /// Up to when rows may show states, as stored with each position.
    pub(super) shown: BTreeMap<(Partition, CollectionName), Timestamp>,
    /// The same, as noted without a position.
    pub(super) noted: Option<Timestamp>,
    pub(super) plans: BTreeMap<CollectionName, PlannedChunks>,
    pub(super) resyncs: BTreeMap<CollectionName, Reason>,
    pub(super) repairs: BTreeMap<CollectionName, BTreeSet<DocumentNumber>>,
    pub(super) letters: BTreeMap<(CollectionName, DocumentNumber), LetterRow>,
    pub(super) last_letter: i64,
    pub(super) ahead: Option<Timestamp>,
    /// Only for checks: for each field of a row, the earliest of the document's states that it may show from
    /// now on.
    pub(super) floors: BTreeMap<(CollectionName, DocumentNumber), [usize; FIELD_NAMES.len()]>,
    /// Only for checks: rows whose fields may be of different times, each with the latest of these.
    pub(super) mixed: BTreeMap<(CollectionName, DocumentNumber), u32>,
    /// Only for checks: the time of the latest state that workers have written.
    pub(super) latest: u32,
    /// Only for checks: whether a worker wrote last.
    pub(super) by_worker: bool,
    /// Only for checks: the rows that someone removed.
    pub(super) removed: BTreeSet<(CollectionName, DocumentNumber)>,
    /// Only for checks: in the order of commits, whether all rows must be of one time.
    pub(super) settled: bool,
}

/// The chunks that a collection is copied in.
#[derive(Clone, Debug)]
pub(super) struct PlannedChunks {
    pub(super) chunks: Vec<StoredChunk>,
    /// Only for checks: the start position.
    pub(super) start: Position,
}

impl PlannedChunks {
    /// Whether the copy replaces rows that are there.
    pub(super) fn replaces(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.replaces)
    }
}

impl DatabaseContents {
    pub(super) fn phase(&self, name: CollectionName) -> Phase {
        let plan = self.plans.get(&name);
        let missing = self.mapped.get(&name).map_or(1, |mapped| {
            mapped.tables.iter().filter(|table| !self.keyed.contains(&table.name)).count()
        });
        Phase::of(Evidence {
            planned: plan.is_some(),
            chunks_left: plan
                .map_or(0, |plan| plan.chunks.iter().filter(|chunk| chunk.copied.is_none()).count()),
            keys_missing: missing,
            replaces: plan.is_some_and(PlannedChunks::replaces),
        })
    }

    /// The collection that has this table.
    pub(super) fn name_of_table(&self, table: &str) -> Result<CollectionName> {
        let mut all = self.mapped.iter();
        let found = all.find(|(_, mapped)| mapped.tables.iter().any(|of| of.name == table));
        found
            .map(|(name, _)| *name)
            .ok_or_else(|| Error::new(Code::TargetRefused, format!("simulation: no table {table}")))
    }

    pub(super) fn mapping(&self, name: CollectionName) -> Option<&Arc<Mapping>> {
        self.mapped.get(&name).map(|mapped| &mapped.mapping)
    }

    /// The document with an encoded key.
    pub(super) fn doc_of_key(&self, name: CollectionName, key: &[u8]) -> Option<DocumentNumber> {
        self.mapping(name)?.id_of_key(key).map(|document_key| doc_of(&document_key))
    }

    /// Up to when rows may show states, if that is stored with every position.
    pub(super) fn shown(&self) -> Option<Timestamp> {
        let of_all = self.positions.keys().map(|place| self.shown.get(place).copied());
        let shown = of_all.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(shown).max(self.noted)
    }

    /// Replaces the planned chunks and the positions of a collection.
    pub(super) fn plan(&mut self, name: CollectionName, chunks: &[StoredChunk], start: &[StoredPosition]) {
        self.resyncs.remove(&name);
        self.positions.retain(|(_, of), _| *of != name);
        self.shown.retain(|(_, of), _| *of != name);
        // A row that is not copied again stays as it is until an event replaces or removes it.
        let mixed = self.mixed.iter_mut().filter(|((of, _), _)| *of == name);
        mixed.for_each(|(_, until)| *until = u32::MAX);
        self.settled = false;
        for StoredPosition { partition, position, fingerprint, .. } in start {
            self.positions.insert((*partition, name), (position.clone(), fingerprint.unwrap_or(0)));
            let plan = PlannedChunks { chunks: chunks.to_vec(), start: position.clone() };
            self.plans.insert(name, plan);
        }
    }

    /// The least position of a collection.
    pub(super) fn least(&self, name: CollectionName) -> Option<&Position> {
        self.positions.iter().filter(|((_, of), _)| *of == name).map(|(_, (position, _))| position).min()
    }

    /// The state that a row shows.
    pub(super) fn shows(&self, name: CollectionName, doc: DocumentNumber) -> DocumentState {
        self.rows.get(&(name, doc)).map(|row| row.fields)
    }
}

/// PostgreSQL: its contents, and what a crash or a restore may bring back.
#[derive(Debug)]
pub(super) struct PostgresModel {
    pub(super) now: DatabaseContents,
    /// What it may have after a crash: the contents before each transaction since the last sync.
    pub(super) unsynced: Vec<DatabaseContents>,
    /// The copies that it may be restored from.
    pub(super) copies: Vec<DatabaseContents>,
    pub(super) is_up: bool,
    /// How often it was started or shut down: each time, all connections are lost.
    pub(super) starts: u32,
}

impl PostgresModel {
    pub(super) fn new() -> Self {
        let copies = vec![DatabaseContents::default()];
        Self { now: DatabaseContents::default(), unsynced: Vec::new(), copies, is_up: true, starts: 0 }
    }

    /// What it has at least after a crash.
    pub(super) fn durable(&self) -> &DatabaseContents {
        self.unsynced.first().unwrap_or(&self.now)
    }
}
