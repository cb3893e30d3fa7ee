//! Where a worker reports what is durable.

use std::sync::{Arc, Mutex, PoisonError};

use super::batch::Positions;
use crate::{
    model::{
        change::{CollectionId, Position},
        partition::Partition,
    },
    pipeline::{gauges::Gauges, watermark::Watermark},
};

/// Where a worker reports what is durable.
#[derive(Clone)]
pub(crate) struct Acknowledge {
    pub(crate) watermark: Arc<Mutex<Watermark>>,
    pub(crate) gauges: Arc<Gauges>,
}

impl Acknowledge {
    /// Records which positions a partition has stored.
    pub(super) fn stored(&self, partition: Partition, positions: &[(CollectionId, Position)]) {
        let mut watermark = self.watermark.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, position) in positions {
            watermark.advance(partition, *id, position);
        }
    }

    /// Records how far a partition has committed, for display.
    pub(super) fn committed(&self, partition: Partition, positions: &Positions) {
        self.gauges.committed(partition, positions);
    }
}
