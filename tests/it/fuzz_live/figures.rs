//! Counts over all seeds.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) operations: AtomicU64,
    pub(super) kills: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) differences: AtomicU64,
    pub(super) hangs: AtomicU64,
    pub(super) others: AtomicU64,
}

impl Figures {
    /// How many seeds have failed.
    pub(super) fn failures(&self) -> u64 {
        let count = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        count(&self.differences) + count(&self.hangs) + count(&self.others)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        write!(
            f,
            "{} operations, {} kills, {} starts, {} differences, {} hangs, {} other failures",
            count(&self.operations),
            count(&self.kills),
            count(&self.restarts),
            count(&self.differences),
            count(&self.hangs),
            count(&self.others)
        )
    }
}
