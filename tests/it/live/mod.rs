//! Tests against real servers.

mod deletes;
mod durable;
mod edited;
mod fence;
mod keys;
mod patches;
mod pause;
mod requests;
mod resync;
mod sink;
mod snapshot;
mod source;
mod stream;
mod tables;
mod throttle;
mod verify;
