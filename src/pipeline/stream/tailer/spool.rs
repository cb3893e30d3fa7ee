//! What the tailer knows of the spool.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    checkpoint::SpoolSpan,
    model::change::{CollectionId, Namespace},
};

/// How often the spool is trimmed and looked at, and its token moves if nothing is written to it.
pub(super) const TENDING: Duration = Duration::from_secs(1);
/// After how long a write is tried again that the state directory's disk had no space for.
pub(super) const FULL: Duration = Duration::from_secs(2);

/// What is known of the spool.
pub(super) struct TailerSpool {
    /// Which one it is: should it be lost without a word here, nothing is written to the next one as if it were this.
    pub(super) life: Option<i64>,
    /// How full it is; ten is too much.
    pub(super) tenths: u64,
    pub(super) written: Instant,
    /// The collection that was taken from last.
    pub(super) last: CollectionId,
    /// How much was taken out of it, by collection.
    pub(super) taken: BTreeMap<CollectionId, u64>,
    /// Spans to be stored with the next write, in this order.
    pub(super) owed: Vec<(Namespace, Option<SpoolSpan>)>,
    /// The last reply found no space, and is tried again then.
    pub(super) again: Instant,
    pub(super) is_lacking: bool,
    /// When it was last looked what waits of collections that are paused.
    pub(super) looked: Option<Instant>,
}

impl TailerSpool {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            life: None,
            tenths: 0,
            written: now,
            last: CollectionId(0),
            taken: BTreeMap::new(),
            owed: Vec::new(),
            again: now,
            is_lacking: false,
            looked: None,
        }
    }
}
