//! What the pipeline talks to: documents and their changes, the spool, and the rows. Each trait has two
//! implementations: the servers' own, here, and the simulation's.
//!
//! An implementation may answer late, with an error, or never, and may have carried out a call without
//! answering it: the pipeline relies only on what the traits say. Each call is a round trip or more, so
//! calling it through a table of functions costs nothing measurable.

mod postgres;
mod postgres_session;
mod source;
mod spool;
mod target;

#[cfg(test)]
pub(crate) use self::target::{Hold, KeyPages, RequestSession, StateSession, TableSession};
pub(crate) use self::{
    postgres_session::of_postgres,
    source::{ChangeCursor, DocumentCursor, DocumentSource, LookupCursor},
    spool::{LazySpool, SpoolLog, SpoolState, SpoolUpdate},
    target::{ChunkTransaction, RowApplier, RowCopier, RowReader, RowTarget, TargetSession},
};
