//! How long to wait before trying again: exponential, jittered, without an end.
//!
//! The only file that names the `backoff` crate. What is worth another try is not decided here but by
//! [`Kind::disposition`](crate::error::Kind::disposition).

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// The first delay; the later ones grow by half up to [`LONGEST`], each varied by half up or down.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// The delays between attempts at one thing.
#[derive(Debug)]
pub struct Retry {
    delays: ExponentialBackoff,
    attempts: u32,
}

impl Retry {
    /// No attempt has failed yet.
    pub fn new() -> Self {
        let delays = ExponentialBackoffBuilder::new()
            .with_initial_interval(FIRST)
            .with_max_interval(LONGEST)
            .with_max_elapsed_time(None)
            .build();
        Self { delays, attempts: 0 }
    }

    /// Counts a failed attempt, and says how long to wait before the next one.
    pub fn after_failure(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        self.delays.next_backoff().unwrap_or(LONGEST)
    }

    /// How many attempts have failed since the last success.
    pub fn failures(&self) -> u32 {
        self.attempts
    }

    /// Counts a success: the next delay is a short one again.
    pub fn succeeded(&mut self) {
        if self.attempts > 0 {
            *self = Self::new();
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_longest_delay_and_starts_over_after_a_success() {
        let mut retry = Retry::new();
        assert!(retry.after_failure() <= FIRST * 2);
        let last = (0..100).map(|_| retry.after_failure()).last().unwrap();
        assert!(last >= LONGEST / 2 && last <= LONGEST * 2, "{last:?}");
        assert_eq!(retry.failures(), 101);
        retry.succeeded();
        assert_eq!(retry.failures(), 0);
        assert!(retry.after_failure() <= FIRST * 2);
    }
}
