//! The change stream, from MongoDB to the workers.
//!
//! The `tailer` reads it, puts changes that can't be applied yet into the spool, and takes them out again.
//! `route` decides which way each collection's changes take, the `partitioner` which worker they go to, and
//! `repartition` where each worker begins once the number of workers has changed. `channel` contains the
//! messages between the tailer, the workers and the supervisor.

pub(super) mod channel;
pub mod partitioner;
pub(super) mod repartition;
pub(super) mod route;
pub(super) mod tailer;
