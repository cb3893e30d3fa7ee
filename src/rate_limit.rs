//! Limits the rate: to a number of items per second, over all who process them. The limit may change
//! meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use crate::shutdown::Shutdown;

/// A rate limit: `L` is a number of items per second.
#[derive(Debug)]
pub struct Pace<L>(Mutex<PaceState<L>>);

#[derive(Clone, Copy, Debug)]
struct PaceState<L> {
    limit: Option<L>,
    /// When everything so far is allowed to be done.
    paid: Instant,
}

impl<L: Copy + PartialEq + Into<f64>> Pace<L> {
    /// With this limit.
    pub fn new(limit: Option<L>) -> Self {
        Self(Mutex::new(PaceState { limit, paid: Instant::now() }))
    }

    /// The limit.
    pub fn limit(&self) -> Option<L> {
        self.state().limit
    }

    /// Sets the limit, and returns whether it has changed. A waiting caller waits no longer than the new
    /// limit requires.
    pub fn set(&self, limit: Option<L>) -> bool {
        let mut state = self.state();
        let is_new = state.limit != limit;
        if is_new {
            *state = PaceState { limit, paid: Instant::now() };
        }
        is_new
    }

    /// How many items to take at a time, so that they are evenly spread: at most `most`.
    pub fn together(&self, most: usize, workers: usize) -> usize {
        let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        let Some(rate) = self.limit() else { return most };
        // A quarter of a second's worth. Saturating is intended.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let each = (rate.into() / 4.0 / f64::from(workers)) as usize;
        each.clamp(1, most)
    }

    /// Waits until this many more items are allowed.
    pub async fn done(&self, things: usize, shutdown: &Shutdown) {
        let things = u32::try_from(things).unwrap_or(u32::MAX);
        let due = {
            let mut state = self.state();
            let Some(rate) = state.limit else { return };
            // Unused time in the past is not made up for.
            state.paid =
                state.paid.max(Instant::now()) + Duration::from_secs_f64(f64::from(things) / rate.into());
            state.paid
        };
        while !shutdown.is_requested() {
            // The limit may have changed by then.
            let state = *self.state();
            let until = due.min(state.paid);
            if state.limit.is_none() || until <= Instant::now() {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                () = sleep_until(until.min(Instant::now() + LOOKING)) => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, PaceState<L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How soon a waiting caller notices that the limit has changed.
const LOOKING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_takes_its_time() {
        let (pace, shutdown, began) = (Pace::new(Some(1000.0)), Shutdown::default(), Instant::now());
        let steps = async || {
            for _ in 0..5 {
                pace.done(10, &shutdown).await;
            }
        };
        tokio::join!(steps(), steps());
        assert!(began.elapsed() >= Duration::from_millis(99), "{:?}", began.elapsed());
        assert_eq!(pace.together(1000, 4), 62);
        assert_eq!(Pace::new(Some(0.5)).together(1000, 4), 1);
        assert_eq!(Pace::<f64>::new(None).together(1000, 4), 1000);
    }

    /// A caller that waits for an hour under the old limit stops waiting when it is lifted.
    #[tokio::test]
    async fn a_limit_that_is_lifted_is_waited_for_no_longer() {
        let (pace, shutdown, began) = (Pace::new(Some(1.0)), Shutdown::default(), Instant::now());
        let lift = async {
            sleep_until(began + Duration::from_millis(100)).await;
            pace.set(None);
        };
        tokio::join!(pace.done(3600, &shutdown), lift);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
