//! Writes rows into PostgreSQL, and stores there the truth about what is written.
//!
//! # The durability contract
//!
//! - Rows and the position (or the chunk's marker) that they reach commit in **one** transaction: both exist
//!   or neither does. No other statement of docrow moves a position past rows that are not written.
//! - Only the sink says *durable*: [`Applier::apply`](rows::upsert::Applier::apply) and
//!   [`ChunkWriter::commit`](rows::copy::ChunkWriter::commit) return `Ok` after the server acknowledged the
//!   COMMIT of a transaction in which every statement succeeded, and in no other case.
//! - After an error nothing may be assumed: the response to a COMMIT can be lost after the server has
//!   executed it. The caller drops the [`Session`], reconnects, and reads positions and chunk markers again
//!   ([`positions::load`](metadata::positions::load), [`chunks::load`](metadata::chunks::load)). The only
//!   exception is [`Kind::TargetRefusedRows`](crate::error::Kind): the transaction is known to be rolled
//!   back, and the session stays usable.
//! - Only the process that holds the pipeline commits (G9): every transaction that writes to it begins by
//!   entering it, and fails if another process has taken it ([`fence`](metadata::fence)).
//! - A position never moves backwards: the statement that writes it makes its transaction fail if the stored
//!   one is already further.
//!
//! # Rooms
//!
//! - [`connection`]: sessions, the checks and settings for them, and what the server's errors mean.
//! - [`tables`]: the user's tables: their SQL, the existing ones, the changes to make, and making them.
//! - [`rows`]: writing rows into them, and reading rows back.
//! - [`metadata`]: the tables of the schema `docrow`, each with the file that defines what its rows mean.
//!
//! Beside them: [`preflight()`] asks whether the target will do; [`forget`] ends what is kept of a
//! collection; `identifiers` quotes names, and `composite_array` encodes parameters.
//!
//! The sink sees only encoded rows. It does not know what a document is, where rows come from, or when to
//! retry.

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
