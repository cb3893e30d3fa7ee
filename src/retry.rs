//! How long to wait before trying again: exponential, jittered, without an end. What is worth another try is
//! not decided here but by [`Kind::disposition`](crate::error::Kind::disposition).

use std::time::Duration;

/// The first delay; later ones grow by half up to [`LONGEST`], each varied by half up or down.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// The delays between attempts at one operation.
#[derive(Clone, Debug)]
pub struct Retry {
    delay: Duration,
    attempts: u32,
}

impl Retry {
    /// No attempt has failed yet.
    pub fn new() -> Self {
        Self { delay: FIRST, attempts: 0 }
    }

    /// Counts a failed attempt, and returns how long to wait before the next one.
    pub fn after_failure(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let delay = self.delay.mul_f64(0.5 + fastrand::f64());
        self.delay = self.delay.mul_f64(1.5).min(LONGEST);
        delay
    }

    /// How many attempts have failed since the last success.
    pub fn failures(&self) -> u32 {
        self.attempts
    }

    /// Counts a success: the next delay is short again.
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
