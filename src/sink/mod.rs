//! Writes rows into PostgreSQL, and keeps there the truth about what is written.
//!
//! # The durability contract
//!
//! - Rows and the position (or the chunk's marker) that they reach commit in **one** transaction: both are there or
//!   neither is. No other statement of docrow moves a position past rows that are not written.
//! - Only the sink says *durable*: [`Applier::apply`](upsert::Applier::apply) and
//!   [`ChunkWriter::commit`](copy::ChunkWriter::commit) return `Ok` after the server acknowledged the COMMIT of a
//!   transaction in which every statement succeeded, and in no other case.
//! - After an error nothing may be assumed: the answer to a COMMIT can be lost after the server carried it out. The
//!   caller drops the [`Session`], connects anew and reads positions and chunk markers again
//!   ([`progress::load`], [`chunks::load`]). The one exception is [`Kind::TargetRefusedRows`](crate::error::Kind): the
//!   transaction is known to be rolled back and the session stays usable.
//! - Only whoever holds the pipeline commits (G9): every transaction that writes to it begins by entering it, and fails
//!   if another process has taken it ([`fence`]).
//! - A position never moves backwards: the statement that writes it makes its transaction fail when the stored one is
//!   already further.
//!
//! # Files
//!
//! `session` (with `tls`) connects, `pulse` ends its sessions when the server is silent; `preflight` asks whether the target will do; `failure` says what an error of the
//! server means; `fence` keeps a second process out; `sql` holds the text of all SQL about user tables; `catalog` looks at
//! those that are there, `plan` decides what is to be done about them, `ddl` does it, `locks` keeps that from holding up
//! others; `bookkeeping` creates the schema `docrow`, of which `progress`, `chunks`, `resyncs`, `repairs`, `schemas`, `reports` and `dead_letter` each own one table;
//! `copy` writes snapshot chunks, `upsert` batches of the stream, `array` encodes their parameters; `read` and `scan` give
//! rows back, some by a `cursor`; `requests` is what people ask by, `letterbox` what they do with dead letters, `survey` what a status is made of;
//! `standing` is what the server does for docrow right now.
//!
//! The sink sees encoded rows only. What a document is, where rows come from and when to try again are
//! others' concern.

mod array;
mod bookkeeping;
mod catalog;
pub mod chunks;
pub mod copy;
mod cursor;
pub mod ddl;
pub mod dead_letter;
pub mod deployment;
mod failure;
pub mod fence;
pub mod forget;
pub mod letterbox;
pub mod locks;
pub mod misfits;
pub mod pauses;
pub mod plan;
pub mod preflight;
pub mod progress;
mod pulse;
pub mod read;
pub mod repairs;
pub mod reports;
pub mod requests;
pub mod resyncs;
pub mod scan;
pub mod schemas;
mod session;
pub mod sql;
pub mod standing;
pub mod survey;
pub mod throttles;
mod tls;
pub mod upsert;
mod uri;
pub mod verifications;
pub mod widen;

pub use array::{Keys, RawValue};
pub use preflight::{Intent, preflight};
pub use session::{Session, Target};
