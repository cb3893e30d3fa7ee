//! The `RocksDB` database of a state directory: how it is opened, what its errors mean, and how it is made anew.

use std::{
    fmt, fs, io,
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
    disk_reserve, spool,
    spool_index::{Book, HEAD, SPAN},
};
use crate::{
    error::{Code, Error},
    model::change::Namespace,
};

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why something could not be done with the database.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not the database's fault.
    Said(Error),
    /// The collection has no span, or one that begins later: the database was made anew, and the caller does not know.
    Gone(Namespace),
    /// There is no space left.
    Full(rocksdb::Error),
    /// The system refuses to open or to write it: it would refuse a new one as well.
    Refused(rocksdb::Error),
    /// The database can't be read or written.
    Broken(rocksdb::Error),
    /// What is in it can't be all that was written.
    Inconsistent(&'static str),
}

impl Failure {
    /// Whether the database is to be set aside because of it.
    pub(super) fn is_corruption(&self) -> bool {
        matches!(self, Failure::Broken(_) | Failure::Inconsistent(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Said(error) => error.fmt(f),
            Failure::Gone(namespace) => namespace.fmt(f),
            Failure::Full(error) | Failure::Refused(error) | Failure::Broken(error) => {
                f.write_str(&without_keys(error.as_ref()))
            }
            Failure::Inconsistent(what) => f.write_str(what),
        }
    }
}

/// `RocksDB` may quote keys, in which a document's `_id` is (G12): long words that are no paths.
fn without_keys(message: &str) -> String {
    let word = |word| if str::len(word) > 40 && !word.contains('/') { "…" } else { word };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Said(error)
    }
}

impl From<rocksdb::Error> for Failure {
    fn from(error: rocksdb::Error) -> Self {
        let message: &str = error.as_ref();
        let says_one_of = |errors: &[&str]| errors.iter().any(|error| message.contains(error));
        if says_one_of(&["No space left on device", "Disk quota exceeded"])
            || error.kind() == ErrorKind::Incomplete
        {
            Failure::Full(error)
        } else if is_locked(message) || says_one_of(REFUSALS) {
            Failure::Refused(error)
        } else {
            Failure::Broken(error)
        }
    }
}

/// What the system says (`strerror`) when the database is not to blame.
const REFUSALS: &[&str] = &[
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "Too many open files",
    "Cannot allocate memory",
];

/// Whether `RocksDB` says that someone has the database open: another process, or this one. Other messages name the lock's
/// file as well, for one the refusal to create it.
pub(super) fn is_locked(message: &str) -> bool {
    message.contains("While lock file: ") || message.contains("lock hold by current process")
}

/// How long a write is put off while the one before it is not in a file yet. On a disk with space that takes some tenths of
/// a second; later than this it is taken for a disk without.
const STALLED: Duration = Duration::from_secs(10);
/// How often a write that was put off is tried.
const TRYING: Duration = Duration::from_millis(2);

/// A number that the database gets when it is made, or made anew.
pub(super) const LIFE: &[u8] = b"life";

/// An open database, and its book.
#[derive(Debug)]
pub(super) struct Store {
    /// Tells this opening from every other one.
    pub(super) id: u64,
    pub(super) db: DB,
    book: Mutex<Book>,
}

impl Store {
    /// Opens the database at `path`, or creates it: in a folder of its owner's alone, for `RocksDB` lets others read its
    /// files.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        private
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|error| disk_reserve::failed(&format!("write to {}", path.display()), error))?;
        let db = DB::open(&options(), path)?;
        let mut read = ReadOptions::default();
        read.set_iterate_range(rocksdb::PrefixRange(SPAN));
        let spans = db.iterator_opt(IteratorMode::From(SPAN, Direction::Forward), read);
        let mut book = Book::open(db.get(HEAD)?.as_deref(), spans.map(|span| Ok(span?)))?;
        book.garbage = spool::garbage(&db, &book)?;
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
        spool::sweep(&store, store.book(), false)?;
        Ok(store)
    }

    /// Writes all of `batch` or nothing, and waits until it is on the disk.
    pub(super) fn write_synced(&self, batch: &WriteBatch) -> Result<()> {
        write(&self.db, batch, true)
    }

    /// Writes all of `batch` or nothing. A crash of the machine may undo it.
    pub(super) fn write(&self, batch: &WriteBatch) -> Result<()> {
        write(&self.db, batch, false)
    }

    /// The book. A panic while it was held left nothing half changed.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The only way to write. It never waits inside of `RocksDB` for memory to be flushed: whoever waits there leads all writers,
/// and on a full disk waits for the recovery from that error, which itself waits for the leader to be done
/// (`DBImpl::DelayWrite` against `DBImpl::ResumeImpl`). So the waiting is done out here, where nobody is held up.
fn write(db: &DB, batch: &WriteBatch, is_synced: bool) -> Result<()> {
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

/// A small footprint is wanted, not the last bit of speed: the spool is written in order, and read once.
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
    // A write goes ahead or is put off; there is nothing in between.
    options.set_level_zero_slowdown_writes_trigger(20);
    options.set_level_zero_stop_writes_trigger(20);
    options.set_paranoid_checks(true);
    // A torn end of the log is a write that nobody was told of. What is lost in front of it leaves an older state of
    // the whole, which is as true.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Moves a corrupt database out of the way, over the one set aside before.
pub(super) fn set_aside(path: &Path, why: &str) -> Result<(), Error> {
    let aside = path.with_extension("corrupt");
    tracing::warn!(
        "the state directory is corrupt ({why}): rebuilding it from PostgreSQL, the old one is kept as {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// G12.
    #[test]
    fn quotes_no_keys() {
        let key = "63A1".repeat(30);
        let message =
            format!("Corruption: overlapping ranges: file #7 largest key: '{key}' seq:5 in /a/db/000007.sst");
        let quiet = "Corruption: overlapping ranges: file #7 largest key: … seq:5 in /a/db/000007.sst";
        assert_eq!(without_keys(&message), quiet);
    }

    #[test]
    fn only_a_held_lock_is_someone_elses() {
        let unwritable = "IO error: While open a file for lock: /state/db/LOCK: Permission denied";
        assert!(!is_locked(unwritable));
        assert!(!is_locked(
            "IO error: No space left on device: While appending to file: /blocks/db/000004.log"
        ));
        assert!(is_locked("IO error: While lock file: /state/db/LOCK: Resource temporarily unavailable"));
    }
}
