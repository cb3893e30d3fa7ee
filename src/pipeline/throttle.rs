//! How fast snapshots may read: as configured, or, from one second to the next, as `docrow throttle` says.
//! While MongoDB's secondaries are behind, snapshots do not read at all, except for one reply a minute,
//! because whatever reads the source slows down its replication. Changes are never held up: they are what a
//! replica is for.
//!
//! The limit applies after each reply, inside the chunk's transaction, so that a chunk takes as long as the
//! limit demands, and none is read twice.

use std::{convert::Infallible, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::ports::DocumentSource;
use crate::{
    config::Rate, process_status::Vitals, rate_limit::Pace, shutdown::Shutdown,
    sink::metadata::throttles::Throttle,
};

/// How often the secondaries are checked, and how long MongoDB may take to answer.
const LOOKING: Duration = Duration::from_secs(2);
/// Secondaries count as behind if they are behind by more than this: heartbeats alone take seconds.
const BEHIND: Duration = Duration::from_secs(10);
/// After this time another reply is read all the same: the server forgets a cursor that is not read for ten
/// minutes.
const SPARING: Duration = Duration::from_secs(60);

/// Limits the rate of snapshots.
pub(crate) struct SnapshotThrottle {
    configured: Option<Rate>,
    pace: Pace<Rate>,
    /// How far MongoDB's secondaries are behind, if that is too far.
    lag: watch::Sender<Option<Duration>>,
}

impl SnapshotThrottle {
    /// With the configured limit.
    pub(crate) fn new(configured: Option<Rate>) -> Self {
        Self { configured, pace: Pace::new(configured), lag: watch::Sender::new(None) }
    }

    /// Applies the requested limit, and shows it.
    pub(crate) fn set(&self, asked: &Throttle, vitals: &Vitals) {
        let limit = match asked {
            Throttle::AsConfigured => self.configured,
            Throttle::Off => None,
            // What only a later docrow understands is ignored.
            Throttle::AtMost(text) => text.parse().ok().or(self.configured),
        };
        if self.pace.set(limit) {
            match limit {
                Some(limit) => tracing::info!("snapshots read at most {limit}"),
                None => tracing::info!("snapshots read as fast as they can"),
            }
        }
        let lag =
            self.lag.borrow().map(|lag| format!("MongoDB's secondaries are {} s behind", lag.as_secs()));
        let words = limit.map(|limit| format!("at most {limit}")).into_iter().chain(lag);
        let words = words.collect::<Vec<_>>().join("; ");
        vitals.limit((!words.is_empty()).then_some(words));
    }

    /// Returns how many documents a reply has, so that they come evenly: at most `most`, with this many
    /// copiers.
    pub(super) fn documents_per_reply(&self, most: u32, copiers: usize) -> u32 {
        match self.pace.limit() {
            Some(Rate::Documents(_)) => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                u32::try_from(self.pace.together(most, copiers)).unwrap_or(u32::MAX)
            }
            Some(Rate::Bytes(_)) | None => most,
        }
    }

    /// Waits until more than this reply may be read.
    pub(super) async fn read(&self, documents: u64, bytes: usize, shutdown: &Shutdown) {
        match self.pace.limit() {
            Some(Rate::Documents(_)) => {
                self.pace.done(usize::try_from(documents).unwrap_or(usize::MAX), shutdown).await;
            }
            Some(Rate::Bytes(_)) => self.pace.done(bytes, shutdown).await,
            None => {}
        }
        let mut lag = self.lag.subscribe();
        let caught_up = async {
            // The sender can't be gone while it is borrowed.
            let _ = lag.wait_for(Option::is_none).await;
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            _ = timeout(SPARING, caught_up) => {}
        }
    }

    /// Watches whether MongoDB's secondaries are behind, for as long as it is polled. An unknown lag holds
    /// nothing up.
    pub(crate) async fn heed_secondaries(&self, source: &dyn DocumentSource) -> Infallible {
        let _spared = Spared(&self.lag);
        loop {
            let looked = timeout(LOOKING, source.secondaries_lag()).await;
            let lag = looked.ok().and_then(Result::ok).flatten().filter(|lag| *lag > BEHIND);
            let before = self.lag.send_replace(lag);
            match (before, lag) {
                (None, Some(lag)) => tracing::warn!(
                    "MongoDB's secondaries are {} s behind: the snapshot waits for them",
                    lag.as_secs()
                ),
                (Some(_), None) => {
                    tracing::info!("MongoDB's secondaries have caught up: the snapshot continues")
                }
                _ => {}
            }
            sleep(LOOKING).await;
        }
    }
}

/// Clears the lag when no one watches it any more.
struct Spared<'a>(&'a watch::Sender<Option<Duration>>);

impl Drop for Spared<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}
