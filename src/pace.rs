//! Not faster than it may be: so many things a second, over all who do them. The limit may change meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use crate::shutdown::Shutdown;

/// A limit of speed.
#[derive(Debug)]
pub struct Pace(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// Things a second.
    rate: Option<f64>,
    /// When all that was done so far may have been done.
    paid: Instant,
}

impl Pace {
    /// A limit of so many things a second; none without one.
    pub fn new(rate: Option<f64>) -> Self {
        Self(Mutex::new(State { rate, paid: Instant::now() }))
    }

    /// Sets another limit. Who waits by the old one waits no longer than by the new one from now on.
    pub fn set(&self, rate: Option<f64>) {
        let mut state = self.state();
        if state.rate != rate {
            *state = State { rate, paid: Instant::now() };
        }
    }

    /// How many things are to be taken at a time, so that they come evenly: at most `most`.
    pub fn together(&self, most: usize, workers: usize) -> usize {
        let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        let Some(rate) = self.state().rate else { return most };
        // A quarter of a second's worth. Saturating is wanted.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let each = (rate / 4.0 / f64::from(workers)) as usize;
        each.clamp(1, most)
    }

    /// Waits until so many more may have been done.
    pub async fn done(&self, things: usize, shutdown: &Shutdown) {
        let things = u32::try_from(things).unwrap_or(u32::MAX);
        let due = {
            let mut state = self.state();
            let Some(rate) = state.rate else { return };
            // What was not used of the time before is not made up for.
            state.paid = state.paid.max(Instant::now()) + Duration::from_secs_f64(f64::from(things) / rate);
            state.paid
        };
        while !shutdown.is_requested() {
            // The limit may be another one by then.
            let state = *self.state();
            let until = due.min(state.paid);
            if state.rate.is_none() || until <= Instant::now() {
                return;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                () = sleep_until(until.min(Instant::now() + LOOKING)) => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How soon one who waits sees that the limit is another one.
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
        assert_eq!(Pace::new(None).together(1000, 4), 1000);
    }

    /// Whoever waits for an hour by the old limit does not when that is lifted.
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
