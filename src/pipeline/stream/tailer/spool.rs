//! What the tailer knows about the spool.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    checkpoint::SpoolSpan,
    model::change::{CollectionId, Namespace},
};

/// How often the spool is trimmed and measured, and its token moves if nothing is written to it.
pub(super) const TENDING: Duration = Duration::from_secs(1);
/// After how long a write for which the state directory's disk had no space is tried again.
pub(super) const FULL: Duration = Duration::from_secs(2);

/// What is known about the spool.
pub(super) struct TailerSpool {
    /// Which spool it is: if it is lost unnoticed, nothing is written to the next one as if it were this one.
    pub(super) life: Option<i64>,
    /// How full it is, in tenths; at ten, it is too full.
    pub(super) tenths: u64,
    pub(super) written: Instant,
    /// The collection that changes were last taken from.
    pub(super) last: CollectionId,
    /// How many changes were taken out of it, by collection.
    pub(super) taken: BTreeMap<CollectionId, u64>,
    /// Spans to store with the next write, in this order.
    pub(super) owed: Vec<(Namespace, Option<SpoolSpan>)>,
    /// The last reply found no space, and is tried again at this time.
    pub(super) again: Instant,
    pub(super) is_lacking: bool,
    /// When it last looked for changes of paused collections that wait.
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
