//! Sessions of PostgreSQL.
//!
//! `session` connects, by what `uri` makes of the target's URI, with `tls`, and makes its `settings`; `spare`
//! keeps some that were connected early; `round_trip` runs a statement that is not prepared, `transaction`
//! several that belong together, after its `fence_entry`; `pulse` ends sessions when the server is silent;
//! `cancellation` cancels what a dropped session waits for; `sqlstate` says what an error of the server
//! means, `transport` what one without an answer does; `standing` is what the server does for docrow right
//! now.

mod cancellation;
pub(super) mod fence_entry;
pub(super) mod pulse;
pub(super) mod round_trip;
pub(super) mod session;
mod settings;
mod spare;
pub(super) mod sqlstate;
pub mod standing;
mod tls;
pub(super) mod transaction;
mod transport;
mod uri;
