//! The nouns that all other modules use. Pure.
//!
//! A [`Change`](change::Change) happened to the document with a [`DocumentKey`](document_key::DocumentKey),
//! at a [`Position`](change::Position) in the stream; an update's [`Patch`](partial_update::Patch) says to
//! which fields. Documents are divided into [`Partition`](partition::Partition)s; a collection is in a
//! [`Phase`](phase::Phase), and may be copied again for a [`Reason`](resync_reason::Reason). What it becomes
//! has the shape of [`Table`](table::Table)s, whose columns have a [`ColumnType`](column_type::ColumnType).
//!
//! # Positions
//!
//! These words say how far a collection is, from the first to the last:
//!
//! - *known*: the stream need not deliver it again up to here, because it is applied, handed to a worker, or
//!   in the spool.
//! - *given*: handed to the workers up to here.
//! - *committed*: a partition's transaction up to here is acknowledged; a crash of the server may still undo
//!   it.
//! - *stored*: the position of a partition in `docrow.progress`, written in the transaction of its rows.
//! - *durable*: stored, and on PostgreSQL's disk. Only this is reported, and lets the spool be trimmed.
//! - *applied*: the minimum that is stored of the collection's partitions, from which everything starts
//!   again.
//!
//! Rows may be *ahead* of what is stored: they *show* states up to a time that is recorded (*noted*) before
//! they are written.

pub(crate) mod bson_number;
pub mod change;
pub mod column_type;
pub mod document_key;
mod id;
pub mod partial_update;
pub mod partition;
pub mod phase;
pub mod resync_reason;
pub mod table;
