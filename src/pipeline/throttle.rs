//! How fast snapshots may read: as the configuration says, or, from one second to the next, as `docrow throttle` does; and not
//! at all, but for a reply a minute, while MongoDB's secondaries are behind, for what reads the source slows down what
//! replicates it. Changes are never held up: they are what a replica is for.
//!
//! The limit is paid after each reply, inside the chunk's transaction, so that a chunk takes as long as the limit says, and none
//! is read twice.

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

/// How often the secondaries are looked at, and how long MongoDB may take to answer.
const LOOKING: Duration = Duration::from_secs(2);
/// Secondaries are behind if they are by more than this: heartbeats alone take seconds.
const BEHIND: Duration = Duration::from_secs(10);
/// After how long another reply is read all the same: the server forgets a cursor that is not read for ten minutes.
const SPARING: Duration = Duration::from_secs(60);

/// Slows snapshots down.
pub(crate) struct SnapshotThrottle {
    configured: Option<Rate>,
    pace: Pace<Rate>,
    /// How far MongoDB's secondaries are behind, if that is too far.
    lag: watch::Sender<Option<Duration>>,
}

impl SnapshotThrottle {
    /// As the configuration says.
    pub(crate) fn new(configured: Option<Rate>) -> Self {
        Self { configured, pace: Pace::new(configured), lag: watch::Sender::new(None) }
    }

    /// Takes over what is asked for. Shows it.
    pub(crate) fn set(&self, asked: &Throttle, vitals: &Vitals) {
        let limit = match asked {
            Throttle::AsConfigured => self.configured,
            Throttle::Off => None,
            // What a later docrow wrote counts for nothing.
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

    /// How many documents a reply has, so that they come evenly: at most `most`, by so many copiers.
    pub(super) fn documents_per_reply(&self, most: u32, copiers: usize) -> u32 {
        match self.pace.limit() {
            Some(Rate::Documents(_)) => {
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                u32::try_from(self.pace.together(most, copiers)).unwrap_or(u32::MAX)
            }
            Some(Rate::Bytes(_)) | None => most,
        }
    }

    /// Waits until more may be read than this reply.
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
            // It can't be gone while it is borrowed.
            let _ = lag.wait_for(Option::is_none).await;
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            _ = timeout(SPARING, caught_up) => {}
        }
    }

    /// Looks whether MongoDB's secondaries are behind, for as long as it is polled. What can't be told holds nothing up.
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
                    tracing::info!("MongoDB's secondaries have caught up: the snapshot goes on")
                }
                _ => {}
            }
            sleep(LOOKING).await;
        }
    }
}

/// Whoever looks no more knows nothing.
struct Spared<'a>(&'a watch::Sender<Option<Duration>>);

impl Drop for Spared<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}
