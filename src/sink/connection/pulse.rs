//! Detects whether PostgreSQL still answers.
//!
//! The duration of a statement says nothing: an index, a lock of another session, or a large statement may
//! take hours. And a server that hangs, or a network that swallows packets behind a proxy, closes no
//! connection. So as long as a target has sessions, one of them sends empty queries over a separate
//! connection, which is used for nothing else. If these are not answered within the target's patience, all
//! earlier sessions end, and every caller that waits for one of their answers gets an error.
//!
//! If only the connection between the two machines is broken, the kernel detects it within the same time
//! (`tcp_user_timeout`, keepalives).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::error::{Code, Error};

/// A target's pulse, shared by all of its sessions.
#[derive(Debug)]
pub(super) struct Pulse {
    patience: Duration,
    /// Counts silences.
    silences: watch::Sender<u64>,
    /// Held by the session that asks. When that ends, another one takes over.
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
            tracing::warn!(code = %error.code(), "{error}: closing the connections to it");
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

/// A subscriber to silences.
#[derive(Debug)]
pub(crate) struct SilenceListener(Option<(Arc<Pulse>, watch::Receiver<u64>)>);

impl SilenceListener {
    pub(super) fn to(pulse: Option<&Arc<Pulse>>) -> Self {
        Self(pulse.map(|pulse| (pulse.clone(), pulse.silences.subscribe())))
    }

    /// Ends when the server is found silent, with an error about `doing`, before any connection is closed
    /// because of it.
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
