//! The spool: which documents changed, and when, of collections whose changes can't be applied yet; in `RocksDB`, on disk
//! before the token is stored that says so (G6).
//!
//! What became of a document is not kept: it is looked up when the spool is drained. What must hold for the writes is said
//! in [`spool_index`](super::spool_index). All of this blocks.
//!
//! ```text
//! head                 token, fingerprint, seal
//! span/<namespace>     id, from, to, the number of the first change and of the next
//! c<id><token _data>   a change: its number, the token if there is more to it than `_data`, documentKey
//! ```

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    path::Path,
    sync::MutexGuard,
};

use mongodb::bson::{RawDocument, RawDocumentBuf, rawdoc};
use rocksdb::{DB, DBRawIterator, ReadOptions, WriteBatch};

use super::{
    Checkpoint, database_of,
    spool_index::{Book, Draft, Record, Span, Written, span_key},
    store::{Failure, Result, Store},
};
use crate::{
    error::{self, Code, Error, Kind},
    model::change::{Namespace, Position},
};

/// The space of so many deleted changes, some megabytes, is given back at once. Few in tests, as all sizes: so a few
/// changes go all the ways.
const SWEEP: i64 = if cfg!(test) { 40 } else { 100_000 };

/// What a spool without anything in it may take on disk.
const SMALL: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// A change that waits.
#[derive(Clone, PartialEq)]
pub struct Waiting {
    /// Its place in the stream.
    pub position: Position,
    /// The event's `documentKey`.
    pub document_key: RawDocumentBuf,
}

/// Without the key, whose values are nobody's business (G12).
impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)
    }
}

/// One atomic, synced write.
///
/// It is safe to repeat one that failed, whether it was written or not.
#[derive(Default)]
pub struct SpoolWrite<'a> {
    /// Changes of collections with a span, those of a collection in order. What a span has already is skipped.
    pub changes: &'a [(&'a Namespace, &'a Position, &'a RawDocument)],
    /// How far the stream was read, all changes of open spans up to there being in this write or an earlier one. An
    /// older one than is stored is ignored, unless `spans` opens a span before that.
    pub token: Option<&'a Position>,
    /// Spans to open (`to: None`), to close, or to forget with all their changes (`None`), one after the other and before
    /// `changes`. A span can't begin before the one that is there, nor where that one does not reach: it is to be
    /// forgotten first. Where it begins later, the beginning stays: only [`Checkpoint::trim`] moves it.
    pub spans: Vec<(&'a Namespace, Option<Span>)>,
    /// Of the stream that `token` is of; stored with it.
    pub fingerprint: Option<i64>,
    /// What [`Checkpoint::life`] was when the spans were read that this goes on from.
    pub life: Option<i64>,
}

impl Checkpoint {
    /// All spans.
    pub fn spans(&self) -> error::Result<HashMap<Namespace, Span>> {
        self.with("read", |store| {
            Ok(store
                .book()
                .records
                .iter()
                .map(|(name, record)| (name.clone(), record.span.clone()))
                .collect())
        })
    }

    /// How far the stream was read into the spool: what the open spans reach up to. Without an open span it means nothing.
    pub fn token(&self) -> error::Result<Option<Position>> {
        self.with("read", |store| Ok(store.book().token.clone()))
    }

    /// The fingerprint of the stream that the token came from.
    pub fn fingerprint(&self) -> error::Result<Option<i64>> {
        self.with("read", |store| Ok(store.book().fingerprint))
    }

    /// Tells this database from one that was there before, and was lost.
    pub fn life(&self) -> error::Result<i64> {
        self.with("read", |store| Ok(store.book().life))
    }

    /// Writes all of `write`, or nothing, and returns when it is on the disk.
    pub fn spool(&self, write: &SpoolWrite<'_>) -> error::Result<()> {
        if !write.changes.is_empty() {
            self.reserve.make()?;
        }
        self.with("write", |store| {
            let mut book = store.book();
            if write.life.is_some_and(|life| life != book.life) {
                return Err(Failure::Said(Error::new(
                    Code::SpoolLost,
                    "write to the spool: it was made anew meanwhile",
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
            let forgotten: Vec<Garbage> = draft.forgotten.iter().map(Garbage::of).collect();
            let Some(written) = put(draft, &mut batch) else { return Ok(()) };
            store.write_synced(&batch)?;
            book.turn(written);
            book.garbage.extend(forgotten);
            sweep(store, book, self.reserve.is_short())
        })
    }

    /// The next changes of a collection after `after`, in order; at most `most`. Fewer are there only if there are no more.
    pub fn waiting(
        &self,
        namespace: &Namespace,
        after: &Position,
        most: usize,
    ) -> error::Result<Vec<Waiting>> {
        self.with("read", |store| waiting(store, namespace, after, most))
    }

    /// Forgets what is applied: changes up to and including `until`, and the span begins there. Not synced; where there
    /// is no space for it, the next one makes up for it.
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
            // Where space is short, all is given back that takes less to rewrite than it gives.
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
            let applied = Garbage { start: start(record.id), end: after(record.id, until), changes: trimmed };
            match (rewrites, sweeps) {
                (true, _) => applied.clear(store),
                // What is in a file with others stays until it is forgotten: it is not found any more.
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

fn put(draft: Draft<'_>, batch: &mut WriteBatch) -> Option<Written> {
    let (puts, written) = draft.finish()?;
    for (key, value) in puts {
        match value {
            Some(value) => batch.put(key, value.as_bytes()),
            None => batch.delete(key),
        }
    }
    Some(written)
}

/// Reads record and changes as they are at one moment.
fn waiting(store: &Store, namespace: &Namespace, after: &Position, most: usize) -> Result<Vec<Waiting>> {
    let snapshot = store.db.snapshot();
    let gone = || Failure::Gone(namespace.clone());
    let record = Record::decode(&snapshot.get(span_key(namespace))?.ok_or_else(gone)?)?;
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
                return Err(Failure::Inconsistent("changes are missing"));
            }
            break;
        };
        if number_of(value)? != expected {
            return Err(Failure::Inconsistent("changes are missing"));
        }
        expected += 1;
        found.push(read(key, value)?);
        changes.next();
    }
    Ok(found)
}

/// The number of the first change after `position`: by the one before, so that it is known also if that first one is lost.
fn first_after(changes: &mut DBRawIterator<'_>, record: &Record, position: &Position) -> Result<i64> {
    changes.seek_for_prev(key(record.id, position));
    let before = changes.value().map(number_of).transpose()?;
    changes.status()?;
    Ok(before.map_or(record.first, |before| before + 1))
}

fn changes_of(record: &Record) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(key(record.id, &record.span.from)..end(record.id));
    options.fill_cache(false);
    options
}

/// Changes of a span that was forgotten. Nothing finds them any more, but they are still on the disk.
#[derive(Debug)]
pub(super) struct Garbage {
    start: Vec<u8>,
    end: Vec<u8>,
    changes: i64,
}

impl Garbage {
    fn of(record: &Record) -> Self {
        Self { start: start(record.id), end: end(record.id), changes: record.next - record.swept }
    }

    /// Gives back its space: whole files first, for they may hold older deletions of what is in other files; then the rest,
    /// by writing again what else is in its files.
    fn clear(self, store: &Store) -> Result<()> {
        let Self { start, end, .. } = self;
        store.db.delete_file_in_range(&start, &end)?;
        let mut batch = WriteBatch::default();
        batch.delete_range(&start, &end);
        store.write(&batch)?;
        store.db.compact_range(Some(start), Some(end));
        Ok(())
    }
}

/// Gives back the space of what was forgotten, if it is worth the while: as it always is where space `is_short`.
pub(super) fn sweep(store: &Store, mut book: MutexGuard<'_, Book>, is_short: bool) -> Result<()> {
    let changes: i64 = book.garbage.iter().map(|garbage| garbage.changes).sum();
    let nothing_waits = book.records.is_empty() && bytes(store.db.path()) > SMALL;
    let is_worth_it = changes >= SWEEP || is_short && changes > 0;
    if !is_worth_it && !nothing_waits {
        return Ok(());
    }
    let mut garbage = std::mem::take(&mut book.garbage);
    if nothing_waits {
        garbage = vec![Garbage { start: CHANGE.to_vec(), end: PAST.to_vec(), changes }];
    }
    drop(book);
    garbage.into_iter().try_for_each(|garbage| garbage.clear(store))
}

/// The changes that no span knows: those of spans that were forgotten by a process that has ended since.
pub(super) fn garbage(db: &DB, book: &Book) -> Result<Vec<Garbage>> {
    let known: HashSet<i64> = book.records.values().map(|record| record.id).collect();
    let mut found = Vec::new();
    let mut changes = db.raw_iterator();
    changes.seek(CHANGE);
    while let Some(id) =
        changes.key().and_then(|key| key.strip_prefix(CHANGE)).and_then(|key| key.first_chunk())
    {
        let id = i64::from_be_bytes(*id);
        if !known.contains(&id) {
            found.push(Garbage { start: start(id), end: end(id), changes: SWEEP });
        }
        changes.seek(end(id));
    }
    changes.status()?;
    Ok(found)
}

fn bytes(database: &Path) -> u64 {
    let Ok(files) = fs::read_dir(database) else { return 0 };
    let holds_data =
        |file: &fs::DirEntry| file.path().extension().is_some_and(|kind| kind == "sst" || kind == "log");
    files.flatten().filter(holds_data).filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// What the keys of changes begin with, and a key past all of them.
const CHANGE: &[u8] = b"c";
const PAST: &[u8] = b"d";

fn start(id: i64) -> Vec<u8> {
    [CHANGE, &id.to_be_bytes()].concat()
}

/// Past all of a span's changes: `_data` is hexadecimal.
fn end(id: i64) -> Vec<u8> {
    [start(id).as_slice(), &[0xFF]].concat()
}

fn key(id: i64, position: &Position) -> Vec<u8> {
    [start(id).as_slice(), position.data().as_bytes()].concat()
}

/// The least key after that of `position`.
fn after(id: i64, position: &Position) -> Vec<u8> {
    [key(id, position).as_slice(), &[0]].concat()
}

fn value(number: i64, position: &Position, document_key: &RawDocument) -> Vec<u8> {
    // A token is `_data` alone unless it is of an old server.
    let token =
        if position.as_bytes() == token_of(position.data()).as_bytes() { &[] } else { position.as_bytes() };
    [number.to_be_bytes().as_slice(), &[u8::from(!token.is_empty())], token, document_key.as_bytes()].concat()
}

fn token_of(data: &str) -> RawDocumentBuf {
    rawdoc! { "_data": data }
}

fn number_of(value: &[u8]) -> Result<i64> {
    value
        .first_chunk()
        .copied()
        .map(i64::from_be_bytes)
        .ok_or(Failure::Inconsistent("a change has no number"))
}

/// The change that [`key`] and [`value`] were made of.
fn read(key: &[u8], value: &[u8]) -> Result<Waiting> {
    let parse = || {
        let (_, value) = value.split_at_checked(size_of::<i64>())?;
        let (has_token, rest) = value.split_first()?;
        let (token, document_key) = match has_token {
            0 => (token_of(std::str::from_utf8(key.get(1 + size_of::<i64>()..)?).ok()?), rest),
            _ => {
                let length = usize::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok()?;
                let (token, rest) = rest.split_at_checked(length)?;
                (RawDocumentBuf::from_bytes(token.to_vec()).ok()?, rest)
            }
        };
        let position = Position::from_token(&token).ok()?;
        Some(Waiting { position, document_key: RawDocumentBuf::from_bytes(document_key.to_vec()).ok()? })
    };
    parse().ok_or(Failure::Inconsistent("a change can't be read"))
}
