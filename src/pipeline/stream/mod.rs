//! The change stream, from MongoDB to the workers.
//!
//! The `tailer` reads it, puts into the spool what can't be applied yet, and takes it out again; which way each collection's
//! changes take is decided by `route`, which worker they go to by the `partitioner`, and where each worker begins once their
//! number has changed by `repartition`. What the tailer, the workers and the supervisor say to each other is in `channel`.

pub(super) mod channel;
pub mod partitioner;
pub(super) mod repartition;
pub(super) mod route;
pub(super) mod tailer;
