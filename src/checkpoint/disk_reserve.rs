//! A file that takes space as long as there is some, and gives it back when it is needed to go on without.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::statvfs;

use crate::error::{Code, Error, Result};

/// Enough to open RocksDB with a full log and a full write buffer, and to write down that changes were applied.
const SIZE: u64 = 16 << 20;
/// Where space has run out, so much must be free besides before more is written: else it would run out again at once.
const MORE: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    made: AtomicBool,
    /// Space has run out, and there is not enough again.
    is_short: AtomicBool,
}

impl DiskReserve {
    /// Of the state directory `dir`. It is not made yet: where nothing is spooled it is not needed.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("reserve"), made: AtomicBool::new(false), is_short: AtomicBool::new(false) }
    }

    /// Makes it, unless it is there. Takes no space that is not enough for it: others may need that.
    pub(super) fn make(&self) -> Result<()> {
        if self.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        let whole = fs::metadata(&self.path).is_ok_and(|file| file.len() == SIZE);
        let wanted = if self.is_short() { SIZE + MORE } else { SIZE };
        if !whole && self.free().is_some_and(|free| free < wanted) {
            let what = format!("write {}: there is no space left", self.path.display());
            return Err(Error::new(Code::StateFull, what));
        }
        if let Err(error) = if whole { Ok(()) } else { self.write() } {
            // What there is of it is better used otherwise.
            let _ = fs::remove_file(&self.path);
            return Err(failed(&format!("write {}", self.path.display()), error));
        }
        self.made.store(true, Ordering::Relaxed);
        self.is_short.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether space has run out, so that all that can be given back is worth having.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// How many bytes are free on its disk; `None`: the system does not say.
    fn free(&self) -> Option<u64> {
        let disk = statvfs(self.path.parent()?).ok()?;
        disk.f_bavail.checked_mul(disk.f_frsize)
    }

    fn write(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        // Not a hole: that would take no space.
        io::copy(&mut io::repeat(0xA5).take(SIZE), &mut file)?;
        file.sync_all()
    }

    /// Gives its space back, for there is no other. Whether there was any.
    pub(super) fn release(&self) -> bool {
        self.made.store(false, Ordering::Relaxed);
        self.is_short.store(true, Ordering::Relaxed);
        fs::remove_file(&self.path).is_ok()
    }
}

/// What it means that a file of the state directory can't be written.
pub(super) fn failed(what: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::caused(Code::StateFull, what, error)
        }
        _ => {
            let remedy = "make the state directory writable or give another by --state";
            Error::caused(Code::StateUnwritable, format!("{what}: {remedy}"), error)
        }
    }
}
