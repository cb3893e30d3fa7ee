//! What an error of `RocksDB` means.

use std::fmt;

use rocksdb::ErrorKind;

use crate::{error::Error, model::change::Namespace};

pub(super) type StoreResult<T, E = StoreFailure> = Result<T, E>;

/// Why an operation on the database failed.
#[derive(Debug)]
pub(super) enum StoreFailure {
    /// The database is not the cause.
    Said(Error),
    /// The collection has no span, or one that begins later: the database was rebuilt, and the caller does
    /// not know.
    Gone(Namespace),
    /// No space is left.
    Full(rocksdb::Error),
    /// The system refuses to open or to write it: it would refuse a new one as well.
    Refused(rocksdb::Error),
    /// The database can't be read or written.
    Broken(rocksdb::Error),
    /// Its content can't be all that was written.
    Inconsistent(&'static str),
}

impl StoreFailure {
    /// Whether the database must be set aside because of it.
    pub(super) fn is_corruption(&self) -> bool {
        matches!(self, StoreFailure::Broken(_) | StoreFailure::Inconsistent(_))
    }
}

impl fmt::Display for StoreFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreFailure::Said(error) => error.fmt(f),
            StoreFailure::Gone(namespace) => namespace.fmt(f),
            StoreFailure::Full(error) | StoreFailure::Refused(error) | StoreFailure::Broken(error) => {
                f.write_str(&without_keys(error.as_ref()))
            }
            StoreFailure::Inconsistent(what) => f.write_str(what),
        }
    }
}

/// `RocksDB` may quote keys, which contain a document's `_id` (G12): long words that are no paths.
fn without_keys(message: &str) -> String {
    let word = |word| if str::len(word) > 40 && !word.contains('/') { "…" } else { word };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

impl From<Error> for StoreFailure {
    fn from(error: Error) -> Self {
        StoreFailure::Said(error)
    }
}

impl From<rocksdb::Error> for StoreFailure {
    fn from(error: rocksdb::Error) -> Self {
        let message: &str = error.as_ref();
        let says_one_of = |errors: &[&str]| errors.iter().any(|error| message.contains(error));
        if says_one_of(&["No space left on device", "Disk quota exceeded"])
            || error.kind() == ErrorKind::Incomplete
        {
            StoreFailure::Full(error)
        } else if is_locked(message) || says_one_of(REFUSALS) {
            StoreFailure::Refused(error)
        } else {
            StoreFailure::Broken(error)
        }
    }
}

/// The system's messages (`strerror`) when the database is not the cause.
const REFUSALS: &[&str] = &[
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "Too many open files",
    "Cannot allocate memory",
];

/// Whether `RocksDB` says that another process, or this one, has the database open. Other messages also name
/// the lock's file, for example a refusal to create it.
pub(super) fn is_locked(message: &str) -> bool {
    message.contains("While lock file: ") || message.contains("lock hold by current process")
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
