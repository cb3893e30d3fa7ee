//! A file that takes space as long as there is some, and gives it back when it is needed to go on without.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::error::{Code, Error, Result};

/// Enough to open RocksDB with a full log and a full write buffer, and to write down that changes were applied.
const SIZE: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    made: AtomicBool,
}

impl Reserve {
    /// Of the state directory `dir`. It is not made yet: where nothing is spooled it is not needed.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("reserve"), made: AtomicBool::new(false) }
    }

    /// Makes it, unless it is there.
    pub(super) fn make(&self) -> Result<()> {
        if self.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        let whole = fs::metadata(&self.path).is_ok_and(|file| file.len() == SIZE);
        if let Err(error) = if whole { Ok(()) } else { self.write() } {
            // What there is of it is better used otherwise.
            let _ = fs::remove_file(&self.path);
            return Err(failed(&format!("write {}", self.path.display()), error));
        }
        self.made.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        // Not a hole: that would take no space.
        io::copy(&mut io::repeat(0xA5).take(SIZE), &mut file)?;
        file.sync_all()
    }

    /// Gives its space back. Whether there was any.
    pub(super) fn release(&self) -> bool {
        self.made.store(false, Ordering::Relaxed);
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
