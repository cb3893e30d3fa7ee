//! A model test without servers: docrow itself in a deterministic simulation, thousands of schedules by seed.
//!
//! Everything in the program above its [ports](super::ports) is real: tailer, workers, writers, supervisor,
//! snapshot, evolution, fills and requests, in one thread and on virtual time ([`schedule`], [`process`]).
//! What the ports lead to is modelled: MongoDB ([`mongo`], [`mongo_ports`]), the state directory ([`spool`],
//! [`spool_port`]) and PostgreSQL ([`postgres`], [`transactions`], [`postgres_ports`]). Documents have a few
//! fields, each with a version of its own ([`document`]). Everything that happens in a schedule is drawn from
//! its seed: the settings ([`settings`]), how long each answer takes, what is written, what fails
//! ([`faults`]). The [`world`] holds all of it.
//!
//! After each transaction, [`check`] verifies that
//!
//! - no position is stored before the rows it covers (G2);
//! - no row goes back (G3). Once some fields of a row were looked up, each field on its own must not go back
//!   until the stream has passed the lookup; from then on the fields must be of one time again, as in any
//!   row. A row that someone removed may stay missing until it is written again;
//! - no chunk is copied twice (G5);
//! - in the order of commits, all rows are of one time.
//!
//! Meanwhile the log forgets everything that is in the spool, and docrow must not ask for that again (G6).
//! The spool must keep what is not on PostgreSQL's disk yet, and must not be taken for lost when it isn't.
//!
//! At the end of a schedule, faults and writes stop. Within a few virtual minutes everything must then come
//! to rest, the rows must equal the documents (G1), and docrow must stop when asked to. A deadlock or a
//! livelock fails here.
//!
//! Two processes at once, masks, child tables, wider columns and the end of a backfill are left to other
//! tests.
//!
//! Planted bugs ([`Bug`](super::planted::Bug)) show what the simulation is worth: it finds each of them. A
//! schedule that fails prints its last steps; `DOCROW_SIM_SEED=n` replays it and prints all of them.

mod check;
mod columns;
mod document;
mod faults;
mod mongo;
mod mongo_ports;
mod planted_bugs;
mod postgres;
mod postgres_ports;
mod process;
mod schedule;
mod settings;
mod spool;
mod spool_port;
mod tests;
mod transactions;
mod world;
