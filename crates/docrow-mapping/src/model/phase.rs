//! The phases of a collection. Pure.
//!
//! A phase is not stored: it follows from what is in PostgreSQL, so it can't contradict it. The pipeline and
//! a status derive the same.

use serde::Serialize;

/// A collection's phase. Each is entered from an earlier one, except that a resync goes back to `Copying`
/// from any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has no chunk plan. Entered when it is first included.
    New,
    /// It has a plan, tables and a start position, and chunks left to copy.
    Copying,
    /// All chunks are copied; primary keys are missing.
    Indexing,
    /// All chunks are copied over existing rows; those of documents that no longer exist are still there.
    Sweeping,
    /// The tables are complete; changes are applied.
    Live,
}

impl Phase {
    /// As the value of a label.
    pub fn label(self) -> &'static str {
        match self {
            Phase::New => "new",
            Phase::Copying => "copying",
            Phase::Indexing => "indexing",
            Phase::Sweeping => "sweeping",
            Phase::Live => "live",
        }
    }
}

/// A collection's state in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Whether a chunk plan is stored.
    pub planned: bool,
    /// How many of its chunks are not copied.
    pub chunks_left: usize,
    /// How many of its tables have no primary key.
    pub keys_missing: usize,
    /// Whether its chunks replace existing rows, and these are not swept yet.
    pub replaces: bool,
}

impl Phase {
    /// The phase that follows from the evidence.
    pub fn of(evidence: Evidence) -> Self {
        match evidence {
            Evidence { planned: false, .. } => Phase::New,
            Evidence { chunks_left: 1.., .. } => Phase::Copying,
            Evidence { keys_missing: 1.., .. } => Phase::Indexing,
            Evidence { replaces: true, .. } => Phase::Sweeping,
            Evidence { .. } => Phase::Live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_from_the_evidence() {
        let phase = |planned, chunks_left, keys_missing, replaces| {
            Phase::of(Evidence { planned, chunks_left, keys_missing, replaces })
        };
        assert_eq!(phase(false, 0, 0, false), Phase::New);
        assert_eq!(phase(true, 2, 3, false), Phase::Copying);
        assert_eq!(phase(true, 2, 0, true), Phase::Copying);
        assert_eq!(phase(true, 0, 3, true), Phase::Indexing);
        assert_eq!(phase(true, 0, 0, true), Phase::Sweeping);
        assert_eq!(phase(true, 0, 0, false), Phase::Live);
    }
}
