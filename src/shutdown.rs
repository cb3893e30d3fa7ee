//! Stopping: the first SIGTERM or SIGINT asks, the second insists.
//!
//! A stage holds a [`Shutdown`] and ends at its next clean point once it is requested: a chunk is rolled back, a
//! worker commits what it has taken. Whatever is cut off by the second signal is safe too (G2), only repeated.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Whether, and when, to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Asks every holder to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether stopping was requested.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Ends when stopping is requested.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// Requests `shutdown` at the first SIGTERM or SIGINT and returns at the second one.
pub async fn on_signals(shutdown: Shutdown) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::caused(Kind::Bug, "listen for signals", e));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    for again in [false, true] {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !again {
            tracing::info!("stopping: finishing what is under way; once more to stop at once");
            shutdown.request();
        }
    }
    Ok(())
}
