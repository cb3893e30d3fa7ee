//! Sessions of PostgreSQL.
//!
//! `session` connects, by what `uri` makes of the target's URI, with `tls`; `pulse` ends sessions when the server is silent;
//! `preflight` asks whether the target will do; `sqlstate` says what an error of the server means; `standing` is what the
//! server does for docrow right now.

pub mod preflight;
pub(super) mod pulse;
pub(super) mod session;
pub(super) mod sqlstate;
pub mod standing;
mod tls;
mod uri;
