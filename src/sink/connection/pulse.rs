//! Whether PostgreSQL is still there.
//!
//! How long an answer takes says nothing: an index, a lock that somebody holds, and a statement rightly takes
//! hours. And a server that hangs, or a way to it that swallows packets behind a proxy, ends no connection.
//! So for as long as a target has sessions, one of them asks for nothing at all over a connection of its own,
//! which has nothing else to do. If even that is not answered for the target's patience, all sessions of
//! before end, and whoever waits for an answer of theirs gets an error.
//!
//! What breaks a single connection between the two machines the kernel notices within as long
//! (`tcp_user_timeout`, keepalives).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::error::{Code, Error};

/// Of a target: shared by all of its sessions.
#[derive(Debug)]
pub(super) struct Pulse {
    patience: Duration,
    /// Counts silences.
    silences: watch::Sender<u64>,
    /// Held by the session that asks. When it ends, another one does.
    asking: tokio::sync::Mutex<()>,
    /// The last silence, for people.
    words: std::sync::Mutex<String>,
}

impl Pulse {
    pub(super) fn new(patience: Duration) -> Self {
        let (silences, asking) = (watch::Sender::new(0), tokio::sync::Mutex::default());
        Self { patience, silences, asking, words: std::sync::Mutex::default() }
    }

    /// Ends when the server is found silent, by `ask` or by another session. `ask` returns when it gets no
    /// answer; of all sessions one asks at a time.
    pub(super) async fn attend(self: Arc<Self>, ask: impl Future<Output = Error>) {
        let mut silences = self.silences.subscribe();
        let found = async {
            let _turn = self.asking.lock().await;
            let error = ask.await;
            tracing::warn!(code = %error.code(), "{error}: ending the connections to it");
            *self.words.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
            self.silences.send_modify(|silences| *silences = silences.wrapping_add(1));
        };
        tokio::select! {
            biased;
            _ = silences.changed() => {}
            () = found => {}
        }
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }
}

/// Whoever wants to know of a silence.
#[derive(Debug)]
pub(crate) struct SilenceListener(Option<(Arc<Pulse>, watch::Receiver<u64>)>);

impl SilenceListener {
    pub(super) fn to(pulse: Option<&Arc<Pulse>>) -> Self {
        Self(pulse.map(|pulse| (pulse.clone(), pulse.silences.subscribe())))
    }

    /// Ends when the server is found silent, with the error of `doing`; before any connection is ended for
    /// it.
    pub(crate) async fn silence(&mut self, doing: &str) -> Error {
        if let Some((pulse, silences)) = &mut self.0
            && silences.changed().await.is_ok()
        {
            let words = pulse.words.lock().unwrap_or_else(PoisonError::into_inner);
            return Error::new(Code::TargetSilent, format!("{doing}: {words}"));
        }
        std::future::pending().await
    }
}
