//! How long starts take, and as whom both servers are logged in to.

use std::time::Duration;

/// How often a start is tried before its error is believed: another program may take the chosen free port
/// before the server does.
pub(super) const TRIES: u32 = 3;
/// How long a server that accepts connections may take to be ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How often readiness is checked.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// The user of both servers, with every privilege.
pub(super) const ADMIN: &str = "postgres";
