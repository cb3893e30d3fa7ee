//! The spool: which documents changed, and when, in collections whose changes can't be applied yet; in
//! `RocksDB`, on disk before the token that says so is stored (G6).
//!
//! A document's content is not kept: it is looked up when the spool is drained.
//! [`spool_index`](super::spool_index) states what must hold for writes. All of this blocks.
//!
//! ```text
//! head                 token, fingerprint, seal
//! span/<namespace>     id, from, to, the number of the first change and of the next
//! c<id><token _data>   a change: its number, the token if there is more to it than `_data`, documentKey
//! ```

use std::collections::HashMap;

use rocksdb::{DBRawIterator, ReadOptions, WriteBatch};

use super::{
    directory::{Checkpoint, database_of},
    failure::{StoreFailure, StoreResult},
    garbage::{SWEEP, SpoolGarbage},
    spool_index::{IndexDraft, IndexWritten, SpanRecord, SpoolSpan, SpoolWrite, span_key},
    spooled_change::{Waiting, after, end, key, number_of, read, start, value},
    store::{StateStore, bytes},
};
use crate::{
    error::{self, Code, Error, Kind},
    model::change::{Namespace, Position},
};

impl Checkpoint {
    /// All spans.
    pub fn spans(&self) -> error::Result<HashMap<Namespace, SpoolSpan>> {
        self.with("read", |store| {
            Ok(store
                .book()
                .records
                .iter()
                .map(|(name, record)| (name.clone(), record.span.clone()))
                .collect())
        })
    }

    /// How far the stream was read into the spool: where the open spans end. Without an open span it has no
    /// meaning.
    pub fn token(&self) -> error::Result<Option<Position>> {
        self.with("read", |store| Ok(store.book().token.clone()))
    }

    /// The fingerprint of the stream that the token came from.
    pub fn fingerprint(&self) -> error::Result<Option<i64>> {
        self.with("read", |store| Ok(store.book().fingerprint))
    }

    /// Distinguishes this database from an earlier one that was lost.
    pub fn life(&self) -> error::Result<i64> {
        self.with("read", |store| Ok(store.book().life))
    }

    /// Writes all of `write`, or nothing, and returns when it is on disk.
    pub fn spool(&self, write: &SpoolWrite<'_>) -> error::Result<()> {
        if !write.changes.is_empty() {
            self.reserve.make()?;
        }
        self.with("write", |store| {
            let mut book = store.book();
            if write.life.is_some_and(|life| life != book.life) {
                return Err(StoreFailure::Said(Error::new(
                    Code::SpoolLost,
                    "write to the spool: it was rebuilt meanwhile",
                )));
            }
            let mut draft = book.draft();
            draft.apply(write)?;
            let mut batch = WriteBatch::default();
            for (id, number, index) in &draft.appended {
                if let Some((_, position, document_key)) = write.changes.get(*index) {
                    batch.put(key(*id, position), value(*number, position, document_key));
                }
            }
            let forgotten: Vec<SpoolGarbage> = draft
                .forgotten
                .iter()
                .map(|record| SpoolGarbage::of_span(record.id, record.next - record.swept))
                .collect();
            let Some(written) = put(draft, &mut batch) else { return Ok(()) };
            store.write_synced(&batch)?;
            book.turn(written);
            book.garbage.extend(forgotten);
            store.sweep(book, self.reserve.is_short())
        })
    }

    /// The next changes of a collection after `after`, in order; at most `most`. There are fewer only if
    /// there are no more.
    pub fn waiting(
        &self,
        namespace: &Namespace,
        after: &Position,
        most: usize,
    ) -> error::Result<Vec<Waiting>> {
        self.with("read", |store| waiting(store, namespace, after, most))
    }

    /// Deletes what is applied: changes up to and including `until`, and moves the beginning of the span
    /// there. Not synced; if there is no space for it, the next call makes up for it.
    pub fn trim(&self, namespace: &Namespace, until: &Position) -> error::Result<()> {
        let trimmed = self.with("write", |store| {
            let mut book = store.book();
            let Some(record) =
                book.records.get(namespace).filter(|record| *until > record.span.from).cloned()
            else {
                return Ok(());
            };
            let first = first_after(&mut store.db.raw_iterator_opt(changes_of(&record)), &record, until)?;
            let (trimmed, left) = (first - record.swept, record.next - first);
            // If space is short, everything is released that takes less to rewrite than it releases.
            let rewrites = self.reserve.is_short() && trimmed > left;
            let sweeps = rewrites || trimmed >= SWEEP;
            let mut batch = WriteBatch::default();
            let mut draft = book.draft();
            draft.trim(namespace, until, first, sweeps);
            if let Some(written) = put(draft, &mut batch) {
                store.write(&batch)?;
                book.turn(written);
            }
            drop(book);
            let applied =
                SpoolGarbage { start: start(record.id), end: after(record.id, until), changes: trimmed };
            match (rewrites, sweeps) {
                (true, _) => store.clear(applied),
                // A change in a file with others stays until that is compacted, but can't be found any more.
                (false, true) => Ok(store.db.delete_file_in_range(applied.start, applied.end)?),
                (false, false) => Ok(()),
            }
        });
        trimmed.or_else(|error| if error.kind() == Kind::StateFull { Ok(()) } else { Err(error) })
    }

    /// How many changes are in the spool that are not known to be applied.
    pub fn spool_entries(&self) -> error::Result<u64> {
        self.with("read", |store| {
            let book = store.book();
            let waiting = book.records.values().map(|record| record.next.saturating_sub(record.first));
            Ok(waiting.filter_map(|waiting| u64::try_from(waiting).ok()).sum())
        })
    }

    /// About how many bytes the spool takes on disk.
    pub fn spool_bytes(&self) -> u64 {
        bytes(&database_of(&self.dir))
    }
}

fn put(draft: IndexDraft<'_>, batch: &mut WriteBatch) -> Option<IndexWritten> {
    let (puts, written) = draft.finish()?;
    for (key, value) in puts {
        match value {
            Some(value) => batch.put(key, value.as_bytes()),
            None => batch.delete(key),
        }
    }
    Some(written)
}

/// Reads the record and the changes at one moment.
fn waiting(
    store: &StateStore,
    namespace: &Namespace,
    after: &Position,
    most: usize,
) -> StoreResult<Vec<Waiting>> {
    let snapshot = store.db.snapshot();
    let gone = || StoreFailure::Gone(namespace.clone());
    let record = SpanRecord::decode(&snapshot.get(span_key(namespace))?.ok_or_else(gone)?)?;
    if *after < record.span.from {
        return Err(gone());
    }
    let mut changes = snapshot.raw_iterator_opt(changes_of(&record));
    let mut expected = first_after(&mut changes, &record, after)?;
    changes.seek(self::after(record.id, after));
    let mut found = Vec::new();
    while found.len() < most {
        let Some((key, value)) = changes.item() else {
            changes.status()?;
            if expected != record.next {
                return Err(StoreFailure::Inconsistent("changes are missing"));
            }
            break;
        };
        if number_of(value)? != expected {
            return Err(StoreFailure::Inconsistent("changes are missing"));
        }
        expected += 1;
        found.push(read(key, value)?);
        changes.next();
    }
    Ok(found)
}

/// The number of the first change after `position`, derived from the change before, so that it is known even
/// if that first one is lost.
fn first_after(
    changes: &mut DBRawIterator<'_>,
    record: &SpanRecord,
    position: &Position,
) -> StoreResult<i64> {
    changes.seek_for_prev(key(record.id, position));
    let before = changes.value().map(number_of).transpose()?;
    changes.status()?;
    Ok(before.map_or(record.first, |before| before + 1))
}

fn changes_of(record: &SpanRecord) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(key(record.id, &record.span.from)..end(record.id));
    options.fill_cache(false);
    options
}
