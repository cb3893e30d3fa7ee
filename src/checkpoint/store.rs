//! The `RocksDB` database of a state directory: how it is opened, and how it is made anew.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, ErrorKind, IteratorMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{
    disk_reserve,
    failure::StoreResult,
    garbage::{self, SWEEP, SpoolGarbage},
    spool_index::{HEAD, SPAN, SpoolIndex},
};
use crate::error::{Code, Error};

/// How long a write is delayed while the previous one is not in a file yet. On a disk with space, that takes
/// a few tenths of a second; after this time the disk is considered full.
const STALLED: Duration = Duration::from_secs(10);
/// How often a delayed write is tried.
const TRYING: Duration = Duration::from_millis(2);

/// The maximum size of an empty spool on disk.
const SMALL: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// A number that the database gets when it is created or rebuilt.
pub(super) const LIFE: &[u8] = b"life";

/// An open database, and its index.
#[derive(Debug)]
pub(super) struct StateStore {
    /// Distinguishes this opening from every other one.
    pub(super) id: u64,
    pub(super) db: DB,
    book: Mutex<SpoolIndex>,
}

impl StateStore {
    /// Opens the database at `path`, or creates it: in a folder that only its owner can access, because
    /// `RocksDB` lets others read its files.
    pub(super) fn open(path: &Path) -> StoreResult<Self> {
        let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        private
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|error| disk_reserve::failed(&format!("write to {}", path.display()), error))?;
        let db = DB::open(&options(), path)?;
        let mut read = ReadOptions::default();
        read.set_iterate_range(rocksdb::PrefixRange(SPAN));
        let spans = db.iterator_opt(IteratorMode::From(SPAN, Direction::Forward), read);
        let mut book = SpoolIndex::open(db.get(HEAD)?.as_deref(), spans.map(|span| Ok(span?)))?;
        let known = book.records.values().map(|record| record.id).collect();
        book.garbage = garbage::unknown(&db, &known)?;
        book.life = match db.get(LIFE)?.and_then(|life| Some(i64::from_le_bytes(life.try_into().ok()?))) {
            Some(life) => life,
            None => {
                let life = fastrand::i64(..);
                let mut batch = WriteBatch::default();
                batch.put(LIFE, life.to_le_bytes());
                write(&db, &batch, false)?;
                life
            }
        };
        let store = Self { id: fastrand::u64(..), db, book: Mutex::new(book) };
        store.sweep(store.book(), false)?;
        Ok(store)
    }

    /// Writes all of `batch` or nothing, and waits until it is on disk.
    pub(super) fn write_synced(&self, batch: &WriteBatch) -> StoreResult<()> {
        write(&self.db, batch, true)
    }

    /// Writes all of `batch` or nothing. A crash of the machine may undo it.
    pub(super) fn write(&self, batch: &WriteBatch) -> StoreResult<()> {
        write(&self.db, batch, false)
    }

    /// Releases its space: first whole files, because they may contain older deletions of entries in other
    /// files; then the rest, by rewriting the other content of its files.
    pub(super) fn clear(&self, garbage: SpoolGarbage) -> StoreResult<()> {
        let SpoolGarbage { start, end, .. } = garbage;
        self.db.delete_file_in_range(&start, &end)?;
        let mut batch = WriteBatch::default();
        batch.delete_range(&start, &end);
        self.write(&batch)?;
        self.db.compact_range(Some(start), Some(end));
        Ok(())
    }

    /// Releases the space of deleted changes, if it is worthwhile, as it always is if space `is_short`.
    pub(super) fn sweep(&self, mut book: MutexGuard<'_, SpoolIndex>, is_short: bool) -> StoreResult<()> {
        let changes: i64 = book.garbage.iter().map(|garbage| garbage.changes).sum();
        let nothing_waits = book.records.is_empty() && bytes(self.db.path()) > SMALL;
        let is_worth_it = changes >= SWEEP || is_short && changes > 0;
        if !is_worth_it && !nothing_waits {
            return Ok(());
        }
        let mut garbage = std::mem::take(&mut book.garbage);
        if nothing_waits {
            garbage = vec![SpoolGarbage::everything(changes)];
        }
        drop(book);
        garbage.into_iter().try_for_each(|garbage| self.clear(garbage))
    }

    /// The index. A panic while it was locked has left nothing half changed.
    pub(super) fn book(&self) -> MutexGuard<'_, SpoolIndex> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only way to write. It never waits inside `RocksDB` for memory to be flushed: a thread that waits there
/// leads all writers, and on a full disk waits for the recovery from that error, which itself waits for the
/// leader to finish (`DBImpl::DelayWrite` against `DBImpl::ResumeImpl`). So the waiting is done outside,
/// where it blocks no one.
fn write(db: &DB, batch: &WriteBatch, is_synced: bool) -> StoreResult<()> {
    let mut options = WriteOptions::default();
    options.set_sync(is_synced);
    options.set_no_slowdown(true);
    let began = Instant::now();
    loop {
        match db.write_opt(WriteBatch::from_data(batch.data()), &options) {
            Err(error) if error.kind() == ErrorKind::Incomplete && began.elapsed() < STALLED => {
                thread::sleep(TRYING);
            }
            written => return Ok(written?),
        }
    }
}

/// How many bytes a database takes on disk.
pub(super) fn bytes(database: &Path) -> u64 {
    let Ok(files) = fs::read_dir(database) else { return 0 };
    let holds_data =
        |file: &fs::DirEntry| file.path().extension().is_some_and(|kind| kind == "sst" || kind == "log");
    files.flatten().filter(holds_data).filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// A small footprint matters more than maximum speed: the spool is written in order, and read once.
fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    table.set_cache_index_and_filter_blocks(true);
    table.set_block_size(if cfg!(test) { 1 << 10 } else { 16 << 10 });
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(if cfg!(test) { 16 << 10 } else { 8 << 20 });
    options.set_max_write_buffer_number(2);
    options.set_target_file_size_base(if cfg!(test) { 8 << 10 } else { 4 << 20 });
    options.set_max_bytes_for_level_base(if cfg!(test) { 32 << 10 } else { 32 << 20 });
    options.set_max_open_files(128);
    options.set_max_background_jobs(2);
    // A write proceeds or is delayed; there is nothing in between.
    options.set_level_zero_slowdown_writes_trigger(20);
    options.set_level_zero_stop_writes_trigger(20);
    options.set_paranoid_checks(true);
    // A torn end of the log is a write that was never confirmed. If anything is lost before it, an older
    // state of the whole remains, which is just as true.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Moves a corrupt database out of the way, replacing the one set aside before.
pub(super) fn set_aside(path: &Path, why: &str) -> StoreResult<(), Error> {
    let aside = path.with_extension("corrupt");
    tracing::warn!(
        "the state directory is corrupt ({why}): rebuilding it from PostgreSQL; the old one is kept as {}",
        aside.display()
    );
    let moved = || -> io::Result<()> {
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(path, &aside)
    };
    moved().map_err(|e| Error::caused(Code::StateCorrupt, format!("set aside {}", path.display()), e))
}
