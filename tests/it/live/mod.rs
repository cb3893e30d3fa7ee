//! Tests against real servers.

mod sink;
mod snapshot;
mod source;
mod stream;
mod verify;
