//! The mappings of collections: which one is in force, and how it grows while the pipeline runs.
//!
//! `active` finds the one in force, `preview` shows what the configuration leads to. `evolution` has a
//! `keeper` for each collection; what they share is in `keeper_context`, and `next_version` makes the version
//! after the one in force. `widening` makes columns wider; `backfill` takes values out of `extra` that have
//! columns by now, and requests repairs of the `foreign_rows` that it meets. `misfit_count` counts the values
//! that do not fit their columns.

pub(super) mod active;
mod backfill;
pub(super) mod evolution;
mod foreign_rows;
mod keeper;
mod keeper_context;
pub(super) mod misfit_count;
mod next_version;
pub(super) mod preview;
pub(super) mod widening;
