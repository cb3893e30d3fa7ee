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
//! - A position never moves backwards: the statement that writes it makes its transaction fail when the stored one is
//!   already further, as it is when a transaction of a process that was killed commits late.
//!
//! # Files
//!
//! `session` (with `tls`) connects; `preflight` asks whether the target will do; `failure` says what an error of the
//! server means; `sql` holds the text of all SQL about user tables; `catalog` looks at those that are there, `plan` decides
//! what is to be done about them, `ddl` does it and creates the bookkeeping schema `docrow`; `progress`, `chunks`, `schemas` and `dead_letter` each own one bookkeeping table; `copy` writes snapshot
//! chunks, `upsert` batches of the stream, `array` encodes their parameters; `read` gives rows back for verification;
//! `letterbox` is what people do with dead letters; `fence` keeps a second process out.
//!
//! The sink sees encoded rows only. What a document is, where rows come from and when to try again are
//! others' concern.

mod array;
mod catalog;
pub mod chunks;
pub mod copy;
pub mod ddl;
pub mod dead_letter;
mod failure;
pub mod fence;
pub mod letterbox;
pub mod plan;
mod preflight;
pub mod progress;
pub mod read;
pub mod scan;
pub mod schemas;
mod session;
pub mod sql;
mod tls;
pub mod upsert;

pub use array::{Keys, RawValue};
pub use preflight::preflight;
pub use session::{Session, Target};
