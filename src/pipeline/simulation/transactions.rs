//! What docrow's transactions do to the contents of PostgreSQL.

use std::{collections::BTreeSet, sync::Arc};

use mongodb::bson::RawDocumentBuf;

use super::{
    columns::{RowColumns, composites, merge_extra, rebuild},
    document::fields_of,
    mongo::{CollectionName, DocumentNumber, doc_of, name_of},
    postgres::{DatabaseContents, LetterRow, RootRow},
    world::SimulatedWorld,
};
use crate::{
    error::{Code, Error, Result},
    model::partition::Partition,
    sink::{
        Keys,
        metadata::repair_requests::Repairs,
        rows::upsert::{Batch, CollectionBatch, PartBatch},
    },
};

impl DatabaseContents {
    /// Inserts a row, or replaces it. Errors: PostgreSQL refuses it.
    pub(super) fn put(
        &mut self,
        world: &SimulatedWorld,
        name: CollectionName,
        columns: RowColumns,
    ) -> Result<DocumentNumber> {
        let mapping = self.mapping(name).ok_or_else(|| Error::bug("simulation: a row without a mapping"))?;
        let document = rebuild(mapping, &columns)?;
        let (doc, fields) = (doc_of(&document), fields_of(&document));
        if world.refuses(&fields) {
            return Err(Error::new(Code::RowConstraint, "simulation: the row violates a constraint"));
        }
        let before = self.rows.insert((name, doc), RootRow { columns: Arc::new(columns), fields });
        // The same fields, written again, may still be of different times.
        if before.is_none_or(|before| before.fields != fields) {
            self.mixed.remove(&(name, doc));
        }
        self.removed.remove(&(name, doc));
        Ok(doc)
    }

    fn remove(&mut self, name: CollectionName, doc: DocumentNumber) {
        self.rows.remove(&(name, doc));
        self.mixed.remove(&(name, doc));
        self.removed.remove(&(name, doc));
    }

    /// Applies a batch. Errors: PostgreSQL refuses all of it.
    pub(super) fn apply(
        &mut self,
        world: &mut SimulatedWorld,
        partition: Partition,
        fingerprint: i64,
        batch: &Batch<'_>,
    ) -> Result<u64> {
        let mut written = 0;
        self.by_worker = !batch.reached.is_empty() || batch.shown.is_some();
        if batch.reached.is_empty() {
            // PostgreSQL has refused rows, which breaks up transactions.
            self.settled = false;
        }
        for CollectionBatch { tables, rows, deleted, .. } in &batch.collections {
            let Some(root) = tables.first() else { continue };
            let name = self.name_of_table(&root.name)?;
            for doc in self.docs_of_keys(name, deleted)? {
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
            let document_key =
                document_key.map_err(|_| Error::bug("simulation: a dead letter has no valid key"))?;
            let place = (name_of(&letter.collection), doc_of(&document_key));
            self.last_letter += 1;
            let (id, key) = (self.last_letter, letter.key.clone());
            self.letters.insert(place, LetterRow { id, key, document_key, asked: None, was_asked: false });
            let count = self.letters.keys().filter(|(name, _)| *name == place.0).count();
            // Too many stop the collection, and docrow drops its changes in the spool.
            world.excused.history |= u64::try_from(count).unwrap() > world.settings.most_dead;
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

    fn docs_of_keys(&self, name: CollectionName, keys: &Keys) -> Result<Vec<DocumentNumber>> {
        let doc = |key| {
            self.doc_of_key(name, key).ok_or_else(|| Error::bug("simulation: the key belongs to no document"))
        };
        keys.iter().map(doc).collect()
    }

    /// Writes some fields of rows, in their columns or in `extra`. Errors: a row is missing.
    fn patch(&mut self, world: &mut SimulatedWorld, part: &PartBatch<'_>) -> Result<u64> {
        let Some(root) = part.tables.first() else { return Ok(0) };
        let name = self.name_of_table(&root.name)?;
        let extra = self.mapping(name).and_then(|mapping| mapping.extra()).map(|extra| extra.name.clone());
        let mut written = 0;
        for new in composites(root, part.rows) {
            let key = root.columns.first().and_then(|key| new.get(&key.name)).cloned().unwrap_or_default();
            let doc = self
                .doc_of_key(name, &key)
                .ok_or_else(|| Error::bug("simulation: the key belongs to no document"))?;
            let Some(row) = self.rows.get(&(name, doc)) else {
                return Err(Error::new(Code::TargetRefusedRows, "simulation: there is no row to patch"));
            };
            let mut columns = RowColumns::clone(&row.columns);
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
}

/// The request to repair these documents.
pub(super) fn repairs_of(world: &SimulatedWorld, docs: &BTreeSet<DocumentNumber>) -> Repairs {
    let documents = docs.iter().map(|doc| world.source.document_key(*doc).clone()).collect();
    Repairs { documents, keys: Keys::default() }
}
