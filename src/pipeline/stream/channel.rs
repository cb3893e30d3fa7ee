//! What passes between the stream, the workers and PostgreSQL's side.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use mongodb::bson::{DateTime, Timestamp};
use tokio::sync::mpsc;

use super::partitioner::Router;
use crate::{
    model::{
        change::{Change, CollectionId, Namespace, Position},
        partition::Partition,
        resync_reason::Reason,
    },
    pipeline::{collection::Collection, watermark::Watermark},
    shutdown::Shutdown,
};

/// What PostgreSQL's side has and wants.
#[derive(Clone, Default)]
pub(crate) struct ApplyState {
    /// Counts how often positions were read.
    pub(crate) attempt: u64,
    pub(crate) collections: Arc<[Collection]>,
    /// The positions that were read.
    pub(crate) stored: Arc<HashMap<(Partition, CollectionId), Position>>,
    /// Whether they may belong to another stream, which had other collections: the server may not find them
    /// in this one.
    pub(crate) foreign: bool,
    /// `None`: there are no workers to take changes.
    pub(crate) workers: Option<Arc<Workers>>,
    /// The collections whose changes can be applied, and up to when their rows may be ahead of the stream.
    pub(crate) ready: Arc<BTreeMap<CollectionId, Timestamp>>,
    /// The tailer gives notice once everything up to then is handed out.
    pub(crate) until: Option<Timestamp>,
}

impl ApplyState {
    /// The collections whose rows follow MongoDB.
    pub(crate) fn live(&self) -> Vec<CollectionId> {
        let collections = (0..).map(CollectionId).zip(self.collections.iter());
        let live = collections.filter(|(id, c)| self.ready.contains_key(id) && c.stopped().is_none());
        live.map(|(id, _)| id).collect()
    }

    /// Up to when the rows of these collections may be ahead of their positions.
    pub(crate) fn ahead_until<'a>(
        &self,
        collections: impl IntoIterator<Item = &'a CollectionId>,
    ) -> Timestamp {
        let times = collections.into_iter().filter_map(|id| self.ready.get(id));
        times.max().copied().unwrap_or(Timestamp { time: 0, increment: 0 })
    }
}

/// The workers of an attempt.
pub(crate) struct Workers {
    pub(crate) senders: Vec<mpsc::Sender<WorkerMessage>>,
    /// Tells them to end.
    pub(crate) ending: Ending,
    pub(crate) router: Router,
    pub(crate) watermark: Arc<Mutex<Watermark>>,
}

/// What the tailer reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct TailerEvents {
    /// The [`ApplyState::attempt`] that the report is for.
    pub(crate) attempt: u64,
    /// Collections that must be copied again.
    pub(crate) resyncs: BTreeMap<Namespace, Reason>,
    /// Whether everything up to [`ApplyState::until`] is handed out.
    pub(crate) arrived: bool,
    /// Whether the spool is lost: then the attempt must end.
    pub(crate) is_lost: bool,
    /// The collections that go direct, and up to where their changes are not taken from the stream again.
    #[cfg(test)]
    pub(crate) direct: BTreeMap<Namespace, Position>,
}

/// Changes for one partition.
#[derive(Debug)]
pub(crate) struct WorkerMessage {
    /// In order.
    pub(crate) changes: Vec<Change>,
    /// The position that is reached with them.
    pub(crate) reached: Option<ReachedPosition>,
    /// When the oldest of them happened, if known.
    pub(crate) oldest: Option<DateTime>,
    /// The rows of their collections may show states up to here.
    pub(crate) ahead_until: Timestamp,
}

/// How far some collections have come.
#[derive(Clone, Debug)]
pub(crate) struct ReachedPosition {
    pub(crate) collections: Arc<[CollectionId]>,
    pub(crate) position: Position,
}

/// How far the end of a turn has progressed, for its workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    leaves: Shutdown,
    last: Shutdown,
}

impl Ending {
    /// Tells the workers to leave changes from the stream that they have not begun: these are read again from
    /// the stored positions. Requests may still come.
    pub(crate) fn leave(&self) {
        self.leaves.request();
    }

    /// Whether the workers leave those changes.
    pub(crate) fn leaves(&self) -> bool {
        self.leaves.is_requested()
    }

    /// Says that nothing more comes: the workers end, once they have done what they do not leave.
    pub(crate) fn end(&self) {
        self.last.request();
    }

    /// Waits until nothing more comes.
    pub(crate) async fn ends(&self) {
        self.last.requested().await;
    }
}
