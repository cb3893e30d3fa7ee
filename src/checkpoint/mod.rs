//! The state directory: what docrow keeps beside PostgreSQL, in RocksDB.
//!
//! It holds the resume token that everything in the target has reached, and each collection's chunk plan. It is
//! expendable (G7): PostgreSQL's `docrow` schema is the truth for what was applied. On every start
//! [`Checkpoint::reconcile`] forgets a directory that was made for another target, and the token is overwritten with
//! the position that PostgreSQL says; so one that is lost, corrupt or old costs nothing but reading.
//!
//! ```text
//! docrow-state/
//!   pipeline     the pipeline's name: a directory serves one pipeline
//!   db/          RocksDB: identity, token, plan/<namespace>
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use rocksdb::{DB, DBCompressionType, ErrorKind, Options, WriteBatch, WriteOptions};

use crate::{
    change::{Namespace, Position},
    error::{Error, Kind, Result},
    failpoint::{self, Failpoint},
};

const IDENTITY: &[u8] = b"identity";
const TOKEN: &[u8] = b"token";

/// An open state directory. RocksDB's own lock keeps a second process out.
#[derive(Debug)]
pub struct Checkpoint {
    db: DB,
}

impl Checkpoint {
    /// Opens the directory, or creates it, readable by its owner only.
    ///
    /// Errors: it can't be written; it belongs to another pipeline; another process has it open.
    pub fn open(dir: &Path, pipeline: &str) -> Result<Self> {
        claim(dir, pipeline)?;
        let path = dir.join("db");
        let opened = DB::open(&options(), &path);
        let db = match opened {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                set_aside(&path, &error)?;
                DB::open(&options(), &path)
            }
            opened => opened,
        };
        let db = db.map_err(|error| refused(dir, error))?;
        Ok(Self { db })
    }

    /// Forgets everything if the directory belongs to another life of the pipeline than `identity`, which the target
    /// made when its `docrow` schema was created.
    pub fn reconcile(&self, identity: &str) -> Result<()> {
        let known = self.get(IDENTITY)?;
        if known.as_deref() == Some(identity.as_bytes()) {
            return Ok(());
        }
        if known.is_some() {
            tracing::warn!("the state directory was made for another target database: starting it anew");
        }
        let mut batch = WriteBatch::default();
        for entry in self.db.iterator(rocksdb::IteratorMode::Start) {
            batch.delete(entry.map_err(|e| broken("read", e))?.0);
        }
        batch.put(IDENTITY, identity);
        self.write(batch)
    }

    /// The position that everything in the target has reached.
    pub fn token(&self) -> Result<Option<Position>> {
        self.get(TOKEN)?.map(|bytes| Position::from_bytes(&bytes)).transpose()
    }

    /// Stores the position that everything in the target has reached. Not synced: an older one is as safe.
    pub fn save_token(&self, position: &Position) -> Result<()> {
        failpoint::reach(Failpoint::TokenBeforeSave);
        self.db.put(TOKEN, position.as_bytes()).map_err(|e| broken("write", e))?;
        failpoint::reach(Failpoint::TokenSaved);
        Ok(())
    }

    /// A collection's chunk plan, as it was saved.
    pub fn plan(&self, namespace: &Namespace) -> Result<Option<Vec<u8>>> {
        self.get(&plan_key(namespace))
    }

    /// Stores a collection's chunk plan, synced.
    pub fn save_plan(&self, namespace: &Namespace, plan: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.put(plan_key(namespace), plan);
        self.write(batch)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(|e| broken("read", e))
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(batch, &synced).map_err(|e| broken("write", e))
    }
}

fn plan_key(namespace: &Namespace) -> Vec<u8> {
    format!("plan/{namespace}").into_bytes()
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_keep_log_file_num(2);
    options
}

/// Creates the directory and writes the pipeline's name into it, or checks the name that is there.
fn claim(dir: &Path, pipeline: &str) -> Result<()> {
    let refused = |error: io::Error| {
        let what = format!("write to the state directory {}", dir.display());
        Error::caused(Kind::Usage, format!("{what}: make it writable or give another by --state"), error)
    };
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(refused)?;
    }
    let label = dir.join("pipeline");
    match fs::read_to_string(&label) {
        Ok(name) if name.trim_end() == pipeline => {}
        // Empty: the process was killed between making the file and filling it.
        Ok(name) if !name.is_empty() => {
            return Err(Error::usage(format!(
                "the state directory {} belongs to pipeline \"{}\", not \"{pipeline}\": give another by --state",
                dir.display(),
                name.trim_end()
            )));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(_) | Err(_) => {
            fs::write(&label, format!("{pipeline}\n")).map_err(refused)?;
            fs::set_permissions(&label, fs::Permissions::from_mode(0o600)).map_err(refused)?;
        }
    }
    Ok(())
}

/// Moves a corrupt database out of the way, over the one set aside before.
fn set_aside(path: &Path, error: &rocksdb::Error) -> Result<()> {
    let aside = path.with_extension("corrupt");
    tracing::warn!(
        "the state directory is corrupt ({error}): rebuilding it from PostgreSQL, the old one is kept as {}",
        aside.display()
    );
    let moved = || -> io::Result<()> {
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(path, &aside)
    };
    moved().map_err(|e| Error::caused(Kind::StateCorrupt, format!("set aside {}", path.display()), e))
}

fn refused(dir: &Path, error: rocksdb::Error) -> Error {
    let dir = dir.display();
    if is_locked(error.as_ref()) {
        return Error::new(
            Kind::Fenced,
            format!(
                "the state directory {dir} is in use by another docrow process: stop it, or give another by --state"
            ),
        );
    }
    Error::caused(
        Kind::Usage,
        format!("open the state directory {dir}: make it writable or give another by --state"),
        error,
    )
}

/// Whether RocksDB says that someone has the database open: another process, or this one. Other messages name the lock's
/// file as well, for one the refusal to create it.
fn is_locked(message: &str) -> bool {
    message.contains("While lock file: ") || message.contains("lock hold by current process")
}

fn broken(verb: &str, error: rocksdb::Error) -> Error {
    Error::caused(Kind::StateCorrupt, format!("{verb} the state directory"), error)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

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
            state.save_token(&at).unwrap();
            state.save_plan(&orders, b"plan").unwrap();
        }
        let state = Checkpoint::open(dir.path(), "shop").unwrap();
        state.reconcile("one").unwrap();
        assert_eq!(state.token().unwrap().unwrap().as_bytes(), at.as_bytes());
        assert_eq!(state.plan(&orders).unwrap().as_deref(), Some(b"plan".as_slice()));
    }

    /// G7: a directory from another target is forgotten, not believed.
    #[test]
    fn forgets_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let state = Checkpoint::open(dir.path(), "shop").unwrap();
        state.reconcile("one").unwrap();
        state.save_token(&position("8263F1C2A5000000022B")).unwrap();
        state.reconcile("two").unwrap();
        assert!(state.token().unwrap().is_none());
    }

    /// G7: a corrupt database is set aside and made anew.
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
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("belongs to pipeline \"shop\""), "{error}");
    }

    /// G9: one process at a time.
    #[test]
    fn refuses_a_second_process() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Checkpoint::open(dir.path(), "shop").unwrap();
        assert_eq!(Checkpoint::open(dir.path(), "shop").unwrap_err().kind(), Kind::Fenced);
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

    /// Killed while claiming the directory.
    #[test]
    fn an_empty_label_is_no_other_pipeline() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pipeline"), "").unwrap();
        drop(Checkpoint::open(dir.path(), "shop").unwrap());
        assert_eq!(Checkpoint::open(dir.path(), "crm").unwrap_err().kind(), Kind::Usage);
    }

    /// G12: others on the machine can't read it.
    #[test]
    fn is_readable_by_its_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        let _state = Checkpoint::open(&dir, "shop").unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
