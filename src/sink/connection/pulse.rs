//! Whether PostgreSQL is still there.
//!
//! How long an answer takes says nothing: an index, a lock that somebody holds, and a statement rightly takes hours. And a
//! server that hangs, or a way to it that swallows packets behind a proxy, ends no connection. So for as long as a target
//! has sessions, one of them asks for nothing at all over a connection of its own, which has nothing else to do. If even
//! that is not answered for the target's patience, all sessions of before end, and whoever waits for an answer of theirs
//! gets an error.
//!
//! What breaks a single connection between the two machines the kernel notices within as long (`tcp_user_timeout`,
//! keepalives).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    error::{Code, Error},
    sink::Target,
};

/// What its connection is called, in `pg_stat_activity`.
const NAME: &str = "docrow pulse";

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

    /// Ends when the server is found silent, by this or by another session. `target` is without a pulse. (It is boxed, for
    /// a session's task holds what connects a session.)
    pub(super) fn attend(self: Arc<Self>, target: Target) -> BoxFuture<'static, ()> {
        let mut silences = self.silences.subscribe();
        Box::pin(async move {
            tokio::select! {
                biased;
                _ = silences.changed() => {}
                () = self.ask(&target) => {}
            }
        })
    }

    /// Asks until there is no answer.
    async fn ask(&self, target: &Target) {
        let _turn = self.asking.lock().await;
        let mut session = None;
        loop {
            sleep(self.patience / 4).await;
            let open = match &mut session {
                Some(open) => open,
                // That none can be had says nothing: the server, or a pool, may have none left.
                none => match target.connect_as(NAME).await {
                    Ok(open) => none.insert(open),
                    Err(_) => continue,
                },
            };
            match timeout(self.patience * 3 / 4, open.client.check_connection()).await {
                Ok(Ok(())) => {}
                // The others will have seen it, too, or it is this one alone.
                Ok(Err(_)) => session = None,
                Err(_) => break,
            }
        }
        let (address, seconds) = (target.address(), self.patience.as_secs_f64());
        let words = format!(
            "no answer from PostgreSQL at {address} for {seconds} s: it hangs, or the way to it does"
        );
        tracing::warn!(code = %Code::TargetSilent, "{words}: ending the connections to it");
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = words;
        self.silences.send_modify(|silences| *silences = silences.wrapping_add(1));
    }
}

/// Whoever wants to know of a silence.
#[derive(Debug)]
pub(crate) struct Listening(Option<(Arc<Pulse>, watch::Receiver<u64>)>);

impl Listening {
    pub(super) fn to(pulse: Option<&Arc<Pulse>>) -> Self {
        Self(pulse.map(|pulse| (pulse.clone(), pulse.silences.subscribe())))
    }

    /// Ends when the server is found silent, with the error of `doing`; before any connection is ended for it.
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
