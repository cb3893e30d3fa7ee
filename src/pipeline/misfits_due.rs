//! Whether a collection's values that do not fit their columns must be counted.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of one collection.
#[derive(Debug, Default)]
pub(super) struct MisfitsDue {
    /// Whether there are some that have not been counted yet.
    uncounted: AtomicBool,
    /// Whether rows lack what the mapping in force has columns for.
    is_unfilled: AtomicBool,
}

impl MisfitsDue {
    /// Notes that this many values did not fit, which are counted some time later. Returns their number.
    pub(super) fn note(&self, values: u64) -> u64 {
        if values > 0 {
            self.uncounted.store(true, Ordering::Release);
        }
        values
    }

    /// Notes whether rows lack what the mapping in force has columns for.
    pub(super) fn set_unfilled(&self, is_unfilled: bool) {
        self.is_unfilled.store(is_unfilled, Ordering::Release);
    }

    /// Notes that they lack nothing any more, so that what does not fit is counted again.
    pub(super) fn filled(&self) {
        self.set_unfilled(false);
        self.uncounted.store(true, Ordering::Release);
    }

    /// Whether rows lack what the mapping in force has columns for.
    pub(super) fn is_unfilled(&self) -> bool {
        self.is_unfilled.load(Ordering::Acquire)
    }

    /// Whether there may be some that did not exist at the last call.
    pub(super) fn take_uncounted(&self) -> bool {
        self.uncounted.swap(false, Ordering::AcqRel)
    }
}
