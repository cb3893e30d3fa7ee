//! Where a collection stands. Pure.
//!
//! A phase is not stored: it follows from what is in PostgreSQL, so it can't disagree with it.

/// A collection's phase. Each is entered from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is known of it: it has no chunk plan. Entered when it is first included.
    New,
    /// It has a plan, tables and a start position, and chunks left to copy.
    Copying,
    /// All chunks are copied; primary keys are missing.
    Indexing,
    /// The tables are complete; changes are applied.
    Live,
}

/// What PostgreSQL says of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Whether a chunk plan is stored.
    pub planned: bool,
    /// How many of its chunks are not copied.
    pub chunks_left: usize,
    /// How many of its tables have no primary key.
    pub keys_missing: usize,
}

impl Phase {
    /// The phase that the evidence speaks for.
    pub(super) fn of(evidence: Evidence) -> Self {
        match evidence {
            Evidence { planned: false, .. } => Phase::New,
            Evidence { chunks_left: 1.., .. } => Phase::Copying,
            Evidence { keys_missing: 1.., .. } => Phase::Indexing,
            Evidence { .. } => Phase::Live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_from_the_evidence() {
        let phase =
            |planned, chunks_left, keys_missing| Phase::of(Evidence { planned, chunks_left, keys_missing });
        assert_eq!(phase(false, 0, 0), Phase::New);
        assert_eq!(phase(true, 2, 3), Phase::Copying);
        assert_eq!(phase(true, 0, 3), Phase::Indexing);
        assert_eq!(phase(true, 0, 0), Phase::Live);
    }
}
