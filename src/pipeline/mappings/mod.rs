//! The mappings of collections: which one is in force, and how it grows while all goes on.
//!
//! `active` finds the one in force, `preview` what would come of the configuration; `evolution` has a `keeper` for each
//! collection, `widening` has columns become wider, `backfill` takes values out of `extra` for which there are columns now,
//! and has `foreign_rows` repaired that it meets.

pub(super) mod active;
mod backfill;
pub(super) mod evolution;
mod foreign_rows;
mod keeper;
mod next_version;
pub(super) mod preview;
pub(super) mod widening;
