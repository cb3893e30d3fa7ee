//! What the pipeline speaks to: documents and their changes, the spool, and the rows. Each trait has two
//! implementations: the servers' own, here, and that of the simulation.
//!
//! An implementation may answer late, with an error, or never, and may have done what it does not answer to: what
//! the traits say is all that the pipeline relies on. Each call is a round trip or more, so a call through a table
//! of functions costs nothing that could be measured.

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
