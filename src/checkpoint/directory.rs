//! The directory itself: whose it is, its database, and what is done when that fails.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use rocksdb::WriteBatch;

use super::{
    disk_reserve::{self, DiskReserve},
    failure::{StoreFailure, StoreResult, is_locked},
    spool_index::SpoolIndex,
    store::{LIFE, StateStore, set_aside},
};
use crate::{
    error::{Code, Error, Result},
    model::change::Namespace,
};

const IDENTITY: &[u8] = b"identity";

/// An open state directory. RocksDB's own lock keeps a second process out.
///
/// - A database that proves corrupt is set aside and rebuilt; the operation that discovers it fails with
///   [`Kind::StateRebuilt`](crate::error::Kind), and so does any that still relies on the old one. The remedy
///   is to start over from the positions in PostgreSQL.
/// - If no space is left, a write fails with [`Kind::StateFull`](crate::error::Kind), and can be repeated
///   until it succeeds. Reading and trimming continue, with the space of a file that was reserved for that:
///   otherwise a spool that has filled the disk could not be drained. Changes are not written again before
///   there is space for such a file.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) dir: PathBuf,
    /// `None`: it could not be opened again. Each use tries to.
    store: RwLock<Option<StateStore>>,
    pub(super) reserve: DiskReserve,
}

impl Checkpoint {
    /// Opens the directory, or creates it, readable by its owner only.
    ///
    /// Errors: it can't be written; it belongs to another pipeline; another process has it open.
    pub fn open(dir: &Path, pipeline: &str) -> Result<Self> {
        claim(dir, pipeline)?;
        let reserve = DiskReserve::new(dir);
        let store = RwLock::new(Some(open_database(dir, &reserve)?));
        Ok(Self { dir: dir.to_owned(), store, reserve })
    }

    /// Discards everything if the directory belongs to another incarnation of the pipeline than `identity`,
    /// which the target created together with its `docrow` schema.
    pub fn reconcile(&self, identity: &str) -> Result<()> {
        self.with("read", |store| {
            let known = store.db.get(IDENTITY)?;
            if known.as_deref() == Some(identity.as_bytes()) {
                return Ok(());
            }
            if known.is_some() {
                tracing::warn!(
                    "the state directory was made for another target database: starting with an empty one"
                );
            }
            let mut batch = WriteBatch::default();
            batch.delete_range([].as_slice(), &[0xFF]);
            batch.put(IDENTITY, identity);
            let life = fastrand::i64(..);
            batch.put(LIFE, life.to_le_bytes());
            let mut book = store.book();
            store.write_synced(&batch)?;
            *book = SpoolIndex::default();
            book.life = life;
            Ok(())
        })
    }

    /// A collection's chunk plan, as stored.
    pub fn plan(&self, namespace: &Namespace) -> Result<Option<Vec<u8>>> {
        self.with("read", |store| Ok(store.db.get(plan_key(namespace))?))
    }

    /// Stores a collection's chunk plan, synced.
    pub fn save_plan(&self, namespace: &Namespace, plan: &[u8]) -> Result<()> {
        self.with("write", |store| {
            let mut batch = WriteBatch::default();
            batch.put(plan_key(namespace), plan);
            store.write_synced(&batch)
        })
    }

    /// Performs `what` on the database, and handles its failure.
    pub(super) fn with<T>(&self, verb: &str, what: impl Fn(&StateStore) -> StoreResult<T>) -> Result<T> {
        let (failure, failed) = loop {
            if let Some(store) = &*self.store.read().unwrap_or_else(PoisonError::into_inner) {
                match what(store) {
                    Ok(value) => return Ok(value),
                    Err(failure) => break (failure, store.id),
                }
            }
            let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
            if store.is_none() {
                *store = Some(open_database(&self.dir, &self.reserve)?);
            }
        };
        Err(self.mend(verb, failure, failed))
    }

    /// Handles a failure of the database that was opened as `failed`.
    fn mend(&self, verb: &str, failure: StoreFailure, failed: u64) -> Error {
        let error = |code: Code, why: &str| {
            Error::new(code, format!("{verb} the state directory {}: {why}", self.dir.display()))
        };
        match failure {
            StoreFailure::Said(error) => error,
            StoreFailure::Gone(namespace) => {
                error(Code::SpoolLost, &format!("the spool holds nothing of {namespace} from there on"))
            }
            StoreFailure::Full(cause) => {
                // After a failed write, RocksDB writes nothing before it is opened again, which needs space
                // itself.
                let has_space = self.reserve.release() || self.reserve.make().is_ok();
                if let Err(error) = if has_space { self.reopen(failed, None) } else { Ok(()) } {
                    tracing::warn!(code = %error.code(), "{error}");
                }
                error(Code::StateFull, &format!("there is no space left ({cause})"))
            }
            StoreFailure::Refused(cause) => error(Code::StateRefused, cause.as_ref()),
            StoreFailure::Broken(_) | StoreFailure::Inconsistent(_) => {
                match self.reopen(failed, Some(failure.to_string())) {
                    Ok(()) => error(Code::StateRebuilt, "it was corrupt, and was rebuilt"),
                    Err(error) => error,
                }
            }
        }
    }

    /// Opens the database again, unless another thread has done so since it was opened as `failed`; rebuilds
    /// it if it is `corrupt`.
    fn reopen(&self, failed: u64, corrupt: Option<String>) -> Result<()> {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if store.as_ref().is_some_and(|store| store.id == failed) {
            *store = None;
            if let Some(why) = corrupt {
                set_aside(&database_of(&self.dir), &why)?;
            }
            *store = Some(open_database(&self.dir, &self.reserve)?);
        }
        Ok(())
    }
}

pub(super) fn database_of(dir: &Path) -> PathBuf {
    dir.join("db")
}

/// Opens the database; rebuilds it if it is corrupt.
fn open_database(dir: &Path, reserve: &DiskReserve) -> Result<StateStore> {
    let path = database_of(dir);
    let mut opened = StateStore::open(&path);
    if matches!(opened, Err(StoreFailure::Full(_))) && reserve.release() {
        opened = StateStore::open(&path);
    }
    if let Err(failure) = &opened
        && failure.is_corruption()
    {
        set_aside(&path, &failure.to_string())?;
        opened = StateStore::open(&path);
    }
    opened.map_err(|failure| refused(dir, failure))
}

fn plan_key(namespace: &Namespace) -> Vec<u8> {
    format!("plan/{namespace}").into_bytes()
}

/// Creates the directory and writes the pipeline's name into it, or checks the existing name.
fn claim(dir: &Path, pipeline: &str) -> Result<()> {
    let refused = |error: io::Error| {
        disk_reserve::failed(&format!("write to the state directory {}", dir.display()), error)
    };
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(refused)?;
    }
    let label = dir.join("pipeline");
    match fs::read_to_string(&label) {
        Ok(name) if name.trim_end() == pipeline => {}
        // Empty: the process was killed between creating the file and filling it.
        Ok(name) if !name.is_empty() => {
            return Err(Error::new(
                Code::StateOfAnother,
                format!(
                    "the state directory {} belongs to pipeline \"{}\", not \"{pipeline}\": name another one \
                     with --state",
                    dir.display(),
                    name.trim_end()
                ),
            ));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(_) | Err(_) => {
            fs::write(&label, format!("{pipeline}\n")).map_err(refused)?;
            fs::set_permissions(&label, fs::Permissions::from_mode(0o600)).map_err(refused)?;
        }
    }
    Ok(())
}

/// The meaning of a failure to open the database.
fn refused(dir: &Path, failure: StoreFailure) -> Error {
    let dir = dir.display();
    match failure {
        StoreFailure::Said(error) => error,
        StoreFailure::Full(cause) => Error::caused(
            Code::StateFull,
            format!("open the state directory {dir}: free space for it"),
            cause,
        ),
        StoreFailure::Refused(error) if is_locked(error.as_ref()) => Error::new(
            Code::StateInUse,
            format!(
                "the state directory {dir} is in use by another docrow process: stop it, or name another one \
                 with --state"
            ),
        ),
        failure => Error::new(
            Code::StateUnwritable,
            format!(
                "open the state directory {dir}: make it writable or name another one with --state: {failure}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;
    use crate::{checkpoint::SpoolWrite, model::change::Position};

    fn position(data: &str) -> Position {
        Position::from_token(&rawdoc! { "_data": data, "_typeBits": { "x": 1 } }).unwrap()
    }

    #[test]
    fn keeps_token_and_plan() {
        let dir = tempfile::tempdir().unwrap();
        let orders = Namespace::new("shop", "orders");
        let at = position("8263F1C2A5000000022B");
        {
            let state = Checkpoint::open(dir.path(), "shop").unwrap();
            state.reconcile("one").unwrap();
            state.spool(&SpoolWrite { token: Some(&at), ..SpoolWrite::default() }).unwrap();
            state.save_plan(&orders, b"plan").unwrap();
        }
        let state = Checkpoint::open(dir.path(), "shop").unwrap();
        state.reconcile("one").unwrap();
        assert_eq!(state.token().unwrap().unwrap().as_bytes(), at.as_bytes());
        assert_eq!(state.plan(&orders).unwrap().as_deref(), Some(b"plan".as_slice()));
    }

    /// G7: a directory from another target is discarded, not believed.
    #[test]
    fn forgets_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let state = Checkpoint::open(dir.path(), "shop").unwrap();
        state.reconcile("one").unwrap();
        let at = position("8263F1C2A5000000022B");
        state.spool(&SpoolWrite { token: Some(&at), ..SpoolWrite::default() }).unwrap();
        state.reconcile("two").unwrap();
        assert!(state.token().unwrap().is_none());
    }

    /// G7: a corrupt database is set aside and rebuilt.
    #[test]
    fn sets_a_corrupt_database_aside() {
        let dir = tempfile::tempdir().unwrap();
        drop(Checkpoint::open(dir.path(), "shop").unwrap());
        fs::write(dir.path().join("db/CURRENT"), "nonsense\n").unwrap();
        Checkpoint::open(dir.path(), "shop").unwrap().reconcile("one").unwrap();
        assert!(dir.path().join("db.corrupt").exists());
    }

    #[test]
    fn refuses_the_directory_of_another_pipeline() {
        let dir = tempfile::tempdir().unwrap();
        drop(Checkpoint::open(dir.path(), "shop").unwrap());
        let error = Checkpoint::open(dir.path(), "crm").unwrap_err();
        assert_eq!(error.code(), Code::StateOfAnother);
        assert!(error.to_string().contains("belongs to pipeline \"shop\""), "{error}");
    }

    /// G9: one process at a time.
    #[test]
    fn refuses_a_second_process() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Checkpoint::open(dir.path(), "shop").unwrap();
        assert_eq!(Checkpoint::open(dir.path(), "shop").unwrap_err().code(), Code::StateInUse);
    }

    /// Killed while claiming the directory.
    #[test]
    fn an_empty_label_is_no_other_pipeline() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pipeline"), "").unwrap();
        drop(Checkpoint::open(dir.path(), "shop").unwrap());
        assert_eq!(Checkpoint::open(dir.path(), "crm").unwrap_err().code(), Code::StateOfAnother);
    }

    /// G12: other users of the machine can't read it.
    #[test]
    fn is_readable_by_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let _state = Checkpoint::open(&dir, "shop").unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
