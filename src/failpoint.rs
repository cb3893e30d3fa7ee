//! Places where a test ends the process, at once and without a destructor, as if it had been killed right there.
//!
//! There is one before and after whatever is committed, stored or acknowledged: between two such places nothing happens
//! that a restart could find. With the feature `failpoints`, `DOCROW_FAILPOINT=ChunkCommitted:2` makes docrow abort when
//! it comes to that place for the second time. Without the feature [`reach`] is empty, and nothing of this is compiled.
//! `ChunkCommitted:2:block` has the thread wait there for ever instead, `…:hang`, where there is a [`hang`], the future;
//! `…:hang:3` does so three times.
//!
//! `tests/it/faults/failpoints.rs` walks [`Failpoint::ALL`]: each must be reached, and what comes after must converge.

/// Declares the failpoints, and [`Failpoint::ALL`], so that none can be missing there.
macro_rules! failpoints {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A place where a test ends the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failpoint { $($(#[$doc])+ $name,)+ }

        impl Failpoint {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];
        }
    };
}

failpoints! {
    /// The pipeline's lock is taken.
    FenceTaken,
    /// The schema `docrow` exists, the pipeline is not registered yet.
    BookkeepingCreated,
    /// The pipeline's life is stored in the target, and not in the state directory.
    PipelineRegistered,
    /// It is in both.
    StateReconciled,
    /// Tables are made or changed and the mapping is stored, in a transaction that is still open.
    TablesBeforeCommit,
    /// The same, committed.
    TablesCommitted,
    /// The start position is taken, and stored nowhere.
    StartTaken,
    /// The state directory has the chunk plan.
    CutSaved,
    /// Plan and start position are written, in a transaction that is still open.
    PlanBeforeCommit,
    /// The same, committed.
    PlanCommitted,
    /// A chunk's rows are written and it is marked, in a transaction that is still open.
    ChunkBeforeCommit,
    /// The same, committed.
    ChunkCommitted,
    /// A primary key is built, in a transaction that is still open.
    KeyBeforeCommit,
    /// The same, committed; the table is not analysed.
    KeyCommitted,
    /// A foreign key is added, in a transaction that is still open.
    ForeignKeyBeforeCommit,
    /// The same, committed.
    ForeignKeyCommitted,
    /// A new version of a mapping is stored, its tables are changed, and everyone still writes by the version before.
    VersionCommitted,
    /// New columns are filled, which is not noted.
    FilledBeforeNoted,
    /// New columns are filled, and that is noted.
    FilledNoted,
    /// Columns are replaced by wider ones, in a transaction that is still open.
    ColumnsBeforeCommit,
    /// The same, committed, and everyone still writes by the version before.
    ColumnsReplaced,
    /// The positions of another number of partitions are written, in a transaction that is still open.
    PositionsBeforeReset,
    /// The same, committed.
    PositionsReset,
    /// A batch is on its way to the server, but for its COMMIT.
    BatchBeforeCommit,
    /// Its COMMIT is on its way, too; no answer is awaited.
    BatchSent,
    /// A batch is durable, which the answers say; nothing in this process knows it.
    BatchCommitted,
    /// A partition's position is durable, and not acknowledged.
    BatchBeforeAcknowledge,
    /// The same, acknowledged.
    BatchAcknowledged,
    /// Changes are about to be written to the spool.
    SpoolBeforeWrite,
    /// They are written, and nothing in this process knows it.
    SpoolWritten,
    /// All that waited of a collection is handed to the workers.
    SpoolDrained,
    /// All that waited of a collection is applied, and the spool has forgotten it.
    SpoolClosed,
    /// What was applied is forgotten in the spool.
    SpoolTrimmed,
    /// It is written down in the target that a collection is to be copied anew.
    ResyncNoted,
    /// The plan and start position of a resync are written, in a transaction that is still open.
    ResyncBeforeCommit,
    /// The same, committed.
    ResyncCommitted,
    /// A chunk's documents are replaced, and it is not marked.
    ChunkReplaced,
    /// Rows of documents that are no more are swept away, which is not noted.
    SweptBeforeNoted,
    /// It is noted.
    SweptNoted,
    /// A document was refused, nothing of its batch is written.
    DocumentRefused,
    /// A dead letter is durable.
    LetterCommitted,
    /// It is noted why a collection is stopped.
    StopNoted,
    /// Dead letters that can't be tried again are marked as such.
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
