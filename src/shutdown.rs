//! Stopping: the first SIGTERM or SIGINT asks, the second insists, and so does time.
//!
//! A stage holds a [`Shutdown`] and ends at its next clean point once it is requested: a chunk is rolled back, a
//! worker commits what it has taken. Whatever is cut off by the second signal is safe too (G2), only repeated.

use std::{process, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Kind, Result};

/// How long the end may take once it was asked for: less than whoever asks waits before he kills. (Kubernetes: 30 s.)
pub const BOUND: Duration = Duration::from_secs(25);
/// How long it may take once somebody insists.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a line of the log may take.
const SAYING: Duration = Duration::from_secs(1);

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

/// Requests `shutdown` at the first SIGTERM or SIGINT. At the second one what is returned is requested, and then, or [`BOUND`]
/// after the first, the process ends with exit code 1, whatever hangs: `waits_for` says what it still waited for.
///
/// This is done by a thread of its own, and nothing there waits for anything: what hangs may hang in any other thread, and may be what
/// writes the log.
pub fn listen(shutdown: Shutdown, waits_for: impl Fn() -> String + Send + 'static) -> Result<Shutdown> {
    let failed = |e| Error::caused(Kind::Bug, "listen for signals", e);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signals = {
        let _within = runtime.enter();
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?)
    };
    let insisted = Shutdown::default();
    let insists = insisted.clone();
    let listens = move || {
        runtime.block_on(obey(signals, &shutdown, insists, waits_for));
        end()
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listens).map_err(failed)?;
    Ok(insisted)
}

/// Returns when the process is to end.
async fn obey(
    (mut terminate, mut interrupt): (Signal, Signal),
    shutdown: &Shutdown,
    insisted: Shutdown,
    waits_for: impl Fn() -> String,
) {
    let mut next = async || {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    next().await;
    shutdown.request();
    say(|| tracing::info!("stopping: finishing what is under way; once more to stop at once"));
    if timeout(BOUND, next()).await.is_ok() {
        insisted.request();
        return sleep(AT_ONCE).await;
    }
    let (seconds, waits) = (BOUND.as_secs(), waits_for());
    let waits = if waits.is_empty() { "a server's answer, perhaps".to_owned() } else { waits };
    say(move || {
        tracing::error!(
            code = %Code::StopOverdue,
            "stopped, {seconds} s after it was asked for, without being done: it waited for: {waits}: start it again to go on from what is committed"
        );
    });
}

/// Has it logged, unless that takes long.
fn say(words: impl FnOnce() + Send + 'static) {
    let (said, heard) = mpsc::sync_channel(1);
    let says = move || {
        words();
        // Whoever waited may be gone.
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(says).is_ok() {
        let _ = heard.recv_timeout(SAYING);
    }
}

/// Ends the process, with what was not to be waited for any longer. What the libraries do at its end may hang, too.
#[expect(clippy::disallowed_methods, reason = "whoever would run the destructors may hang")]
fn end() -> ! {
    let insists = || {
        thread::sleep(AT_ONCE);
        process::abort()
    };
    let _ = thread::Builder::new().spawn(insists);
    process::exit(1)
}
