//! Tests against real servers.

mod deletes;
mod fence;
mod resync;
mod sink;
mod snapshot;
mod source;
mod stream;
mod tables;
mod verify;
