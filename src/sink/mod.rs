//! Writes rows into PostgreSQL, and keeps there the truth about what is written.
//!
//! # The durability contract
//!
//! - Rows and the position (or the chunk's marker) that they reach commit in **one** transaction: both are
//!   there or neither is. No other statement of docrow moves a position past rows that are not written.
//! - Only the sink says *durable*: [`Applier::apply`](rows::upsert::Applier::apply) and
//!   [`ChunkWriter::commit`](rows::copy::ChunkWriter::commit) return `Ok` after the server acknowledged the
//!   COMMIT of a transaction in which every statement succeeded, and in no other case.
//! - After an error nothing may be assumed: the answer to a COMMIT can be lost after the server carried it
//!   out. The caller drops the [`Session`], connects anew and reads positions and chunk markers again
//!   ([`positions::load`](metadata::positions::load), [`chunks::load`](metadata::chunks::load)). The one
//!   exception is [`Kind::TargetRefusedRows`](crate::error::Kind): the transaction is known to be rolled back
//!   and the session stays usable.
//! - Only whoever holds the pipeline commits (G9): every transaction that writes to it begins by entering it,
//!   and fails if another process has taken it ([`fence`](metadata::fence)).
//! - A position never moves backwards: the statement that writes it makes its transaction fail when the
//!   stored one is already further.
//!
//! # Rooms
//!
//! - [`connection`]: sessions, what is said to get them, and what the server's errors mean.
//! - [`tables`]: the user's tables: the text of SQL about them, what is there, what is to be done about it,
//!   and doing it.
//! - [`rows`]: what is written into them, and read back.
//! - [`metadata`]: the tables of the schema `docrow`, each with the file that knows what its rows mean.
//!
//! Beside them: [`preflight()`] asks whether the target will do; [`forget`] ends what is kept of a
//! collection; `identifiers` quotes names, and `composite_array` encodes parameters.
//!
//! The sink sees encoded rows only. What a document is, where rows come from and when to try again are
//! others' concern.

mod composite_array;
pub mod connection;
pub mod forget;
mod identifiers;
pub mod metadata;
mod objections;
pub mod preflight;
pub mod rows;
pub mod tables;

pub use self::{
    composite_array::{Keys, RawValue},
    connection::session::{Session, Target},
    preflight::{Intent, preflight},
};
