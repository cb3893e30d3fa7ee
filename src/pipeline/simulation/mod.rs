//! A model test without servers: docrow itself in a deterministic simulation, thousands of schedules by seed.
//!
//! All of the program runs that is behind its [ports](super::ports): tailer, workers, writers, supervisor, snapshot,
//! evolution, fills and requests, in one thread and on virtual time ([`schedule`], [`process`]). What they speak to is modelled: MongoDB
//! ([`mongo`], [`mongo_ports`]), the state directory ([`spool`], [`spool_port`]) and PostgreSQL ([`postgres`], [`transactions`], [`postgres_ports`]). Documents have a
//! few fields, each with a version of its own ([`document`]). All that a schedule does is drawn from its seed: how
//! everything is set ([`settings`]), how long each answer takes, what is written, what fails ([`faults`]).
//!
//! After each transaction it is checked ([`check`]) that no position is stored before the rows that it speaks of (G2),
//! that no row goes back (G3), that no chunk is copied twice (G5), and, in the order of commits, that all rows are of one
//! time. Where some fields of a row were looked up, each field of it must not go back, until the stream has passed the
//! lookup: from then on it must be of one time again, as any row. A row that somebody removes may stay away until it is
//! written. Meanwhile the log forgets whatever is in the spool, and that must not be asked for (G6); the spool must hold
//! what is not on PostgreSQL's disk, and must not be taken for lost when it is not. A schedule ends with faults and writes
//! ended: within a few virtual minutes everything must come to rest, the rows be the documents (G1), and docrow stop when
//! it is told to. What neither moves nor ends fails by that.
//!
//! Two processes at once, masks, child tables, wider columns and the end of a backfill are left to other tests.
//!
//! What the simulation is worth is shown by bugs that are planted ([`Bug`](super::planted::Bug)): each is found. A schedule that fails is told
//! by its last steps; `DOCROW_SIM_SEED=n` plays it again, and tells all of it.

mod check;
mod columns;
mod document;
mod faults;
mod mongo;
mod mongo_ports;
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
