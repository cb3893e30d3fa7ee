//! Tests against real servers.

mod deletes;
mod sink;
mod snapshot;
mod source;
mod stream;
mod tables;
mod verify;
