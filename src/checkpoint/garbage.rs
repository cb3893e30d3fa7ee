//! What is forgotten in the spool and still on the disk.

use std::collections::HashSet;

use rocksdb::DB;

use super::{
    failure::StoreResult,
    spooled_change::{CHANGE, PAST, end, start},
};

/// The space of this many deleted changes, a few megabytes, is released at once. Few in tests, like all
/// sizes, so that a few changes take all paths.
pub(super) const SWEEP: i64 = if cfg!(test) { 40 } else { 100_000 };

/// Changes of a deleted span. Nothing finds them any more, but they are still on disk.
#[derive(Debug)]
pub(super) struct SpoolGarbage {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
    pub(super) changes: i64,
}

impl SpoolGarbage {
    /// All that is left of a span, of which so many changes were not given back before.
    pub(super) fn of_span(id: i64, changes: i64) -> Self {
        Self { start: start(id), end: end(id), changes }
    }

    /// All changes that there are.
    pub(super) fn everything(changes: i64) -> Self {
        Self { start: CHANGE.to_vec(), end: PAST.to_vec(), changes }
    }
}

/// The changes that belong to no span: those of spans that a process that has ended since deleted.
pub(super) fn unknown(db: &DB, known: &HashSet<i64>) -> StoreResult<Vec<SpoolGarbage>> {
    let mut found = Vec::new();
    let mut changes = db.raw_iterator();
    changes.seek(CHANGE);
    while let Some(id) =
        changes.key().and_then(|key| key.strip_prefix(CHANGE)).and_then(|key| key.first_chunk())
    {
        let id = i64::from_be_bytes(*id);
        if !known.contains(&id) {
            found.push(SpoolGarbage::of_span(id, SWEEP));
        }
        changes.seek(end(id));
    }
    changes.status()?;
    Ok(found)
}
