//! Stopping: the first SIGTERM or SIGINT requests it, the second forces it, and so does a timeout.
//!
//! A stage holds a [`Shutdown`] and ends at its next clean point once it is requested: a chunk is rolled
//! back, a worker commits what it has taken up. Work that the second signal interrupts is safe too (G2), and
//! only repeated.

use std::{process, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Kind, Result};

/// How long the end may take after the request: less than supervisors wait before they kill. (Kubernetes: 30
/// s.)
pub const BOUND: Duration = Duration::from_secs(25);
/// How long it may take after the second signal.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a line of the log may take.
const SAYING: Duration = Duration::from_secs(1);

/// Whether, and when, to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Requests every holder to stop.
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

/// Requests `shutdown` at the first SIGTERM or SIGINT. At the second one it requests the returned one, and
/// then, or [`BOUND`] after the first, the process ends with exit code 1, whatever hangs: `waits_for` says
/// what it was waiting for.
///
/// A separate thread does this, and never waits for anything: any other thread may hang, including the one
/// that writes the log.
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

/// Returns when the process must end.
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
    say(|| tracing::info!("stopping: finishing what is in progress; signal again to stop at once"));
    if timeout(BOUND, next()).await.is_ok() {
        insisted.request();
        return sleep(AT_ONCE).await;
    }
    let (seconds, waits) = (BOUND.as_secs(), waits_for());
    let waits = if waits.is_empty() { "a server's answer, perhaps".to_owned() } else { waits };
    say(move || {
        tracing::error!(
            code = %Code::StopOverdue,
            "stopped {seconds} s after the request, without having finished: it was waiting for: {waits}: \
             start it again to resume from what is committed"
        );
    });
}

/// Logs it, unless that takes long.
fn say(words: impl FnOnce() + Send + 'static) {
    let (said, heard) = mpsc::sync_channel(1);
    let says = move || {
        words();
        // The waiting side may be gone.
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(says).is_ok() {
        let _ = heard.recv_timeout(SAYING);
    }
}

/// Ends the process, with everything that could not be waited for any longer. The libraries' exit handlers
/// may hang, too.
#[expect(clippy::disallowed_methods, reason = "running the destructors may hang")]
fn end() -> ! {
    let insists = || {
        thread::sleep(AT_ONCE);
        process::abort()
    };
    let _ = thread::Builder::new().spawn(insists);
    process::exit(1)
}
