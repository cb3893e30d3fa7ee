//! Not faster than it may be: so many documents a second, over all workers.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use crate::shutdown::Shutdown;

/// A limit of speed.
#[derive(Debug)]
pub(super) struct Pace {
    /// Documents a second.
    rate: Option<f64>,
    /// When all that was done so far may have been done.
    paid: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(rate: Option<f64>) -> Self {
        Self { rate, paid: Mutex::new(Instant::now()) }
    }

    /// How many documents are to be taken at a time, so that they come evenly: at most `most`.
    pub(super) fn together(&self, most: usize, workers: usize) -> usize {
        let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
        let Some(rate) = self.rate else { return most };
        // A quarter of a second's worth. Saturating is wanted.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let each = (rate / 4.0 / f64::from(workers)) as usize;
        each.clamp(1, most)
    }

    /// Waits until `documents` more may have been done.
    pub(super) async fn done(&self, documents: usize, shutdown: &Shutdown) {
        let Some(rate) = self.rate else { return };
        let documents = u32::try_from(documents).unwrap_or(u32::MAX);
        let due = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            // What was not used of the time before is not made up for.
            *paid = (*paid).max(Instant::now()) + Duration::from_secs_f64(f64::from(documents) / rate);
            *paid
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            () = sleep_until(due) => {}
        }
    }
}

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
}
