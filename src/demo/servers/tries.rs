//! How long starts take, and as whom both servers are logged in to.

use std::time::Duration;

/// How often a start is tried before its error is believed: between choosing a free port and the server's
/// taking it, someone else may.
pub(super) const TRIES: u32 = 3;
/// How long a server that takes connections may take to be ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How often readiness is looked at.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// The user that both servers know, with every privilege.
pub(super) const ADMIN: &str = "postgres";
