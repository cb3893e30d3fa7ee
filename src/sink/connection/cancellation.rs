//! Cancels what a dropped session waits for, where the server would not notice that the session is gone.
//!
//! PostgreSQL 14 and later check, while a statement runs, whether its connection is still open
//! (`client_connection_check_interval`). Before, a session that waits for a lock stays until it gets it, and
//! then others wait behind it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    task::JoinSet,
    time::timeout,
};
use tokio_postgres::{CancelToken, Client, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::uri::PATIENCE;

/// The first version that notices it.
const NOTICES: u32 = 14;

/// Cancellations that are being sent.
#[derive(Clone, Default)]
pub(super) struct Cancellations(Arc<Mutex<JoinSet<()>>>);

/// Dropped, it cancels what its session waits for.
pub(super) struct Cancellation {
    token: CancelToken,
    tls: MakeRustlsConnect,
    sent: Cancellations,
}

impl Cancellation {
    /// Returns `None` if the server needs none.
    pub(super) fn needed<S, T>(
        client: &Client,
        connection: &Connection<S, T>,
        tls: MakeRustlsConnect,
        sent: &Cancellations,
    ) -> Option<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let version = connection.parameter("server_version")?.split('.').next()?.parse::<u32>().ok()?;
        (version < NOTICES).then(|| Self { token: client.cancel_token(), tls, sent: sent.clone() })
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (token, tls) = (self.token.clone(), self.tls.clone());
        let mut sent = self.sent.0.lock().unwrap_or_else(PoisonError::into_inner);
        while sent.try_join_next().is_some() {}
        let cancel = async move {
            // If it fails, the statement ends when it gets the lock.
            let _ = timeout(PATIENCE, token.cancel_query(tls)).await;
        };
        sent.spawn_on(cancel, &runtime);
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancellation")
    }
}
