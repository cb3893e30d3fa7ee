//! Tests against real servers.

mod deletes;
mod fence;
mod patches;
mod resync;
mod sink;
mod snapshot;
mod source;
mod stream;
mod tables;
mod verify;
