//! Sessions of PostgreSQL.
//!
//! `session` connects, by what `uri` makes of the target's URI, with `tls`; `pulse` ends sessions when the
//! server is silent; `cancellation` cancels what a dropped session waits for; `sqlstate` says what an error
//! of the server means, `transport` what one without an answer does; `standing` is what the server does for
//! docrow right now.

mod cancellation;
pub(super) mod pulse;
pub(super) mod session;
pub(super) mod sqlstate;
pub mod standing;
mod tls;
mod transport;
mod uri;
