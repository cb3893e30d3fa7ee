//! A file that reserves disk space while there is some, and releases it when it is needed to continue
//! without.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::statvfs;

use crate::error::{Code, Error, Result};

/// Enough to open RocksDB with a full log and a full write buffer, and to record that changes were applied.
const SIZE: u64 = 16 << 20;
/// After space has run out, this much more must be free before anything is written: otherwise it would run
/// out again at once.
const MORE: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    made: AtomicBool,
    /// Space has run out, and there is not enough yet.
    is_short: AtomicBool,
}

impl DiskReserve {
    /// For the state directory `dir`. The file is not created yet: if nothing is spooled, it is not needed.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("reserve"), made: AtomicBool::new(false), is_short: AtomicBool::new(false) }
    }

    /// Creates the file, unless it exists. Takes no space if there is not enough for it: others may need that
    /// space.
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
            // The part that was written is better used otherwise.
            let _ = fs::remove_file(&self.path);
            return Err(failed(&format!("write {}", self.path.display()), error));
        }
        self.made.store(true, Ordering::Relaxed);
        self.is_short.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether space has run out, so that all space that can be released is worth having.
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
        // Not a hole, which would reserve no space.
        io::copy(&mut io::repeat(0xA5).take(SIZE), &mut file)?;
        file.sync_all()
    }

    /// Releases its space, because there is no other. Returns whether there was any.
    pub(super) fn release(&self) -> bool {
        self.made.store(false, Ordering::Relaxed);
        self.is_short.store(true, Ordering::Relaxed);
        fs::remove_file(&self.path).is_ok()
    }
}

/// The meaning of a failure to write a file of the state directory.
pub(super) fn failed(what: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::caused(Code::StateFull, what, error)
        }
        _ => {
            let remedy = "make the state directory writable or name another one with --state";
            Error::caused(Code::StateUnwritable, format!("{what}: {remedy}"), error)
        }
    }
}
