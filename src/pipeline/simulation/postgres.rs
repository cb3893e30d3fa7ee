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

/// A row of a collection's root.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RootRow {
    pub(super) columns: Arc<RowColumns>,
    /// Not docrow's: what it shows.
    pub(super) fields: FieldVersions,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub(super) struct LetterRow {
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
pub(super) struct MappedCollection {
    pub(super) record: mapping_versions::Mapping,
    pub(super) tables: Vec<Table>,
    /// Not docrow's: what is stored, compiled.
    pub(super) mapping: Arc<Mapping>,
}

/// All that is in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct DatabaseContents {
    pub(super) life: Option<String>,
    pub(super) deployment: Option<String>,
    pub(super) mapped: BTreeMap<CollectionName, MappedCollection>,
    /// The tables that have their primary keys.
    pub(super) keyed: BTreeSet<String>,
    pub(super) rows: BTreeMap<(CollectionName, DocumentNumber), RootRow>,
    pub(super) positions: BTreeMap<(Partition, CollectionName), (Position, i64)>,
    /// Up to when rows may show states, as stored with the positions, and besides them.
    pub(super) shown: BTreeMap<(Partition, CollectionName), Timestamp>,
    pub(super) noted: Option<Timestamp>,
    pub(super) plans: BTreeMap<CollectionName, PlannedChunks>,
    pub(super) resyncs: BTreeMap<CollectionName, Reason>,
    pub(super) repairs: BTreeMap<CollectionName, BTreeSet<DocumentNumber>>,
    pub(super) letters: BTreeMap<(CollectionName, DocumentNumber), LetterRow>,
    pub(super) last_letter: i64,
    pub(super) ahead: Option<Timestamp>,
    /// Not docrow's: of each field of a row the place of its state among all that the document had, at the least.
    pub(super) floors: BTreeMap<(CollectionName, DocumentNumber), [usize; FIELD_NAMES.len()]>,
    /// Not docrow's: the rows that were written as of several times, up to which time.
    pub(super) mixed: BTreeMap<(CollectionName, DocumentNumber), u32>,
    /// Not docrow's: the latest state that workers have written.
    pub(super) latest: u32,
    /// Not docrow's: whether a worker wrote last.
    pub(super) by_worker: bool,
    /// Not docrow's: the rows that somebody removed.
    pub(super) removed: BTreeSet<(CollectionName, DocumentNumber)>,
    /// Not docrow's: in the order of commits, that the rows are of one time.
    pub(super) settled: bool,
}

/// The chunks of a collection.
#[derive(Clone, Debug)]
pub(super) struct PlannedChunks {
    pub(super) chunks: Vec<StoredChunk>,
    /// Not docrow's: the first start position.
    pub(super) start: Position,
}

impl PlannedChunks {
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

    /// The collection whose root is this table.
    pub(super) fn name_of_table(&self, table: &str) -> Result<CollectionName> {
        let mut all = self.mapped.iter();
        let found = all.find(|(_, mapped)| mapped.tables.iter().any(|of| of.name == table));
        found
            .map(|(name, _)| *name)
            .ok_or_else(|| Error::new(Code::TargetRefused, format!("no table {table}")))
    }

    pub(super) fn mapping(&self, name: CollectionName) -> Option<&Arc<Mapping>> {
        self.mapped.get(&name).map(|mapped| &mapped.mapping)
    }

    /// The document of an encoded key.
    pub(super) fn doc_of_key(&self, name: CollectionName, key: &[u8]) -> Option<DocumentNumber> {
        self.mapping(name)?.id_of_key(key).map(|document_key| doc_of(&document_key))
    }

    /// Up to when rows may show states, if it is stored of all.
    pub(super) fn shown(&self) -> Option<Timestamp> {
        let of_all = self.positions.keys().map(|place| self.shown.get(place).copied());
        let shown = of_all.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(shown).max(self.noted)
    }

    /// Stores a plan and start positions in place of what there is.
    pub(super) fn plan(&mut self, name: CollectionName, chunks: &[StoredChunk], start: &[StoredPosition]) {
        self.resyncs.remove(&name);
        self.positions.retain(|(_, of), _| *of != name);
        self.shown.retain(|(_, of), _| *of != name);
        // Rows that are not copied anew stay as they are, until an event replaces or removes them.
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

    /// What a row shows.
    pub(super) fn shows(&self, name: CollectionName, doc: DocumentNumber) -> DocumentState {
        self.rows.get(&(name, doc)).map(|row| row.fields)
    }
}

#[derive(Debug)]
pub(super) struct PostgresModel {
    pub(super) now: DatabaseContents,
    /// What it may come back with after a crash: since the last transaction that it brought to its disk.
    pub(super) unsynced: Vec<DatabaseContents>,
    pub(super) copies: Vec<DatabaseContents>,
    pub(super) is_up: bool,
    /// Counts how often all connections were lost.
    pub(super) starts: u32,
}

impl PostgresModel {
    pub(super) fn new() -> Self {
        let copies = vec![DatabaseContents::default()];
        Self { now: DatabaseContents::default(), unsynced: Vec::new(), copies, is_up: true, starts: 0 }
    }

    /// What is on its disk for certain.
    pub(super) fn durable(&self) -> &DatabaseContents {
        self.unsynced.first().unwrap_or(&self.now)
    }
}
