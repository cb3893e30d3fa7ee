//! The state directory: what docrow keeps beside PostgreSQL, in RocksDB.
//!
//! It holds the changes that were read ahead ([`spool`]), and each collection's chunk plan. It is expendable
//! (G7): PostgreSQL's `docrow` schema is the truth about what was applied, and the state directory is
//! believed only as far as it continues that. So a directory that is lost, corrupt or outdated costs nothing
//! but reading, and where the oplog has moved on, G8 applies. [`Checkpoint::reconcile`] discards one that was
//! made for another target.
//!
//! ```text
//! docrow-state/
//!   pipeline     the pipeline's name: a directory serves one pipeline
//!   db/          RocksDB: identity, plan/<namespace>, and the spool
//!   db.corrupt/  the last database that was found corrupt
//!   reserve      space put by for when there is none left
//! ```

mod directory;
mod disk_reserve;
mod failure;
mod garbage;
mod spool;
#[cfg(test)]
mod spool_damage_test;
mod spool_index;
#[cfg(test)]
mod spool_model_test;
mod spooled_change;
mod store;

pub use self::{
    directory::Checkpoint,
    spool_index::{SpoolSpan, SpoolWrite},
    spooled_change::Waiting,
};
