//! What a run counts.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indicatif::HumanCount;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Documents copied by the snapshot.
    pub documents: u64,
    /// Rows that they became.
    pub rows: u64,
    /// Documents that were copied again, replacing their existing rows.
    pub replaced: u64,
    /// Rows that changed because of that; rows that were already correct were not written.
    pub rewritten: u64,
    /// Events of the change stream that were applied.
    pub changes: u64,
    /// Documents that became dead letters.
    pub dead_letters: u64,
    /// Documents of the followed collections that are dead letters at the end, whenever they became one.
    pub dead_letters_left: u64,
    /// Collections that were stopped.
    pub stopped: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            documents,
            rows,
            replaced,
            rewritten,
            changes,
            dead_letters,
            dead_letters_left: _,
            stopped,
            elapsed,
        } = *self;
        if documents > 0 || replaced == 0 {
            write!(f, "{} documents copied as {} rows, ", HumanCount(documents), HumanCount(rows))?;
        }
        if replaced > 0 {
            let (replaced, rewritten) = (HumanCount(replaced), HumanCount(rewritten));
            write!(f, "{replaced} documents copied again, {rewritten} rows changed, ")?;
        }
        write!(f, "{} changes applied, in {:.1}s", HumanCount(changes), elapsed.as_secs_f64())?;
        if dead_letters > 0 {
            write!(
                f,
                "; {} documents could not be written: see docrow dead-letters list",
                HumanCount(dead_letters)
            )?;
        }
        if stopped > 0 {
            write!(f, "; {} collections are stopped", HumanCount(stopped))?;
        }
        Ok(())
    }
}

/// A summary in progress.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) documents: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) rewritten: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) dead_letters_left: AtomicU64,
    pub(super) stopped: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns a number that grows with everything that is written.
    pub(super) fn written(&self) -> u64 {
        [&self.documents, &self.replaced, &self.changes]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    pub(super) fn summary(&self, elapsed: Duration) -> Summary {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            documents: read(&self.documents),
            rows: read(&self.rows),
            replaced: read(&self.replaced),
            rewritten: read(&self.rewritten),
            changes: read(&self.changes),
            dead_letters: read(&self.dead_letters),
            dead_letters_left: read(&self.dead_letters_left),
            stopped: read(&self.stopped),
            elapsed,
        }
    }
}
