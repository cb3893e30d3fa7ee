//! Points where a test ends the process at once, without running destructors, as if it had been killed there.
//!
//! There is one before and after everything that is committed, stored or acknowledged: between two
//! failpoints, docrow does nothing that a restart could observe. With the feature `failpoints`,
//! `DOCROW_FAILPOINT=ChunkCommitted:2` makes docrow abort when it reaches that point for the second time.
//! Without the feature, [`reach`] is empty, and nothing of this is compiled. With `ChunkCommitted:2:block`,
//! the thread waits there forever instead; with `…:hang`, at a [`hang`], the future does; `…:hang:3` does so
//! three times.
//!
//! `tests/it/faults/failpoints.rs` iterates over [`Failpoint::ALL`]: each must be reached, and docrow must
//! converge afterwards.

/// Declares the failpoints and [`Failpoint::ALL`], so that none can be missing there.
macro_rules! failpoints {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A point where a test ends the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failpoint { $($(#[$doc])+ $name,)+ }

        impl Failpoint {
            /// All metrics.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

failpoints! {
    /// The pipeline's lock is taken.
    FenceTaken,
    /// The schema `docrow` exists, but the pipeline is not registered yet.
    BookkeepingCreated,
    /// The pipeline's identity is stored in the target, but not in the state directory.
    PipelineRegistered,
    /// It is stored in both.
    StateReconciled,
    /// Tables are created or changed and the mapping is stored, in a transaction that is still open.
    TablesBeforeCommit,
    /// That transaction is committed.
    TablesCommitted,
    /// The start position is known, but not stored.
    StartTaken,
    /// The state directory has the chunk plan.
    CutSaved,
    /// Plan and start position are written, in a transaction that is still open.
    PlanBeforeCommit,
    /// That transaction is committed.
    PlanCommitted,
    /// A chunk's rows are written and its marker is set, in a transaction that is still open.
    ChunkBeforeCommit,
    /// That transaction is committed.
    ChunkCommitted,
    /// A primary key is built, in a transaction that is still open.
    KeyBeforeCommit,
    /// That transaction is committed; the table is not analysed yet.
    KeyCommitted,
    /// A foreign key is added, in a transaction that is still open.
    ForeignKeyBeforeCommit,
    /// That transaction is committed.
    ForeignKeyCommitted,
    /// A new version of a mapping is stored and its tables are changed, but everyone still writes by the
    /// previous version.
    VersionCommitted,
    /// New columns are filled, but that is not recorded yet.
    FilledBeforeNoted,
    /// New columns are filled, and that is recorded.
    FilledNoted,
    /// Columns are replaced by wider ones, in a transaction that is still open.
    ColumnsBeforeCommit,
    /// That transaction is committed, but everyone still writes by the previous version.
    ColumnsReplaced,
    /// The positions for another number of partitions are written, in a transaction that is still open.
    PositionsBeforeReset,
    /// That transaction is committed.
    PositionsReset,
    /// A batch is sent to the server, except for its COMMIT.
    BatchBeforeCommit,
    /// Its COMMIT is sent, too, but no answer has been read.
    BatchSent,
    /// A batch is durable, as the answers say, but nothing in this process knows it.
    BatchCommitted,
    /// A partition's position is durable, but not acknowledged.
    BatchBeforeAcknowledge,
    /// It is acknowledged.
    BatchAcknowledged,
    /// Changes are about to be written to the spool.
    SpoolBeforeWrite,
    /// They are written, but nothing in this process knows it.
    SpoolWritten,
    /// All spooled changes of a collection are handed to the workers.
    SpoolDrained,
    /// All spooled changes of a collection are applied, and the spool has deleted them.
    SpoolClosed,
    /// The spool has deleted the applied changes.
    SpoolTrimmed,
    /// The target records the request to resync a collection.
    ResyncNoted,
    /// The plan and start position of a resync are written, in a transaction that is still open.
    ResyncBeforeCommit,
    /// That transaction is committed.
    ResyncCommitted,
    /// A chunk's documents are replaced, but its marker is not set.
    ChunkReplaced,
    /// Rows of documents that no longer exist are swept, but that is not recorded yet.
    SweptBeforeNoted,
    /// It is recorded.
    SweptNoted,
    /// A document was refused; nothing of its batch is written.
    DocumentRefused,
    /// A dead letter is durable.
    LetterCommitted,
    /// The reason why a collection is stopped is recorded.
    StopNoted,
    /// Dead letters that can't be retried are marked as such.
    LettersAnswered,
}

/// Ends the process if `DOCROW_FAILPOINT` names this place.
#[cfg(feature = "failpoints")]
pub fn reach(point: Failpoint) {
    armed::reach(point);
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_: Failpoint) {}

/// Never ends if `DOCROW_FAILPOINT` says that it hangs at this place.
#[cfg(feature = "failpoints")]
pub async fn hang(point: Failpoint) {
    if armed::hangs(point) {
        std::future::pending().await
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub async fn hang(_: Failpoint) {}

#[cfg(feature = "failpoints")]
mod armed {
    use std::{
        env,
        io::{self, Write},
        ops::Range,
        process,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
        thread,
        time::Duration,
    };

    use super::Failpoint;

    /// What happens at a place.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum ReachAction {
        Abort,
        Block,
        Hang,
    }

    struct ArmedPoint {
        /// The name of the place.
        name: String,
        /// Which times it counts.
        times: Range<u64>,
        /// What happens then.
        manner: ReachAction,
    }

    static ARMED: LazyLock<Option<ArmedPoint>> = LazyLock::new(|| {
        let armed = env::var("DOCROW_FAILPOINT").ok()?;
        let mut parts = armed.split(':');
        let name = parts.next()?.to_owned();
        let first = parts.next().and_then(|nth| nth.parse().ok()).unwrap_or(1);
        let manner = match parts.next() {
            Some("block") => ReachAction::Block,
            Some("hang") => ReachAction::Hang,
            _ => ReachAction::Abort,
        };
        let count = parts.next().and_then(|count| count.parse().ok()).unwrap_or(1);
        Some(ArmedPoint { name, times: first..first.saturating_add(count), manner })
    });
    static TIMES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn reach(point: Failpoint) {
        match happens(point, false) {
            Some(ReachAction::Abort) => process::abort(),
            Some(ReachAction::Block) => loop {
                thread::sleep(Duration::from_secs(3600));
            },
            Some(ReachAction::Hang) | None => {}
        }
    }

    pub(super) fn hangs(point: Failpoint) -> bool {
        happens(point, true).is_some()
    }

    /// What happens here, this time.
    fn happens(point: Failpoint, in_a_future: bool) -> Option<ReachAction> {
        let ArmedPoint { name, times, manner } = ARMED.as_ref()?;
        let reached = format!("{point:?}");
        let is_here = *name == reached && (*manner == ReachAction::Hang) == in_a_future;
        let time = if is_here { TIMES.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        if !times.contains(&time) {
            return None;
        }
        // Nothing is left to be done about an error here.
        let _ = writeln!(io::stderr(), "failpoint {reached} is reached for the {time}. time");
        Some(*manner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = Failpoint::ALL.iter().map(|p| format!("{p:?}")).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
        assert!(!names.is_empty());
    }
}
