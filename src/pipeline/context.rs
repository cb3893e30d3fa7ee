//! What the parts of a run share.

use std::sync::Arc;

use mongodb::bson::Timestamp;
use tokio::sync::watch;

use super::{
    collection::Collection,
    counts::Counts,
    gauges::Gauges,
    observe::{reporter::ProcessReports, standstill::Alarm},
    ports::{DocumentSource, LazySpool, RowTarget, TargetSession},
    refused_collections::RefusedCollections,
    stream::channel::{ApplyState, TailerEvents},
    throttle::SnapshotThrottle,
};
use crate::{
    config::{Config, Order},
    error::Result,
    mapping_files::MappingFiles,
    model::{change::CollectionId, phase::Phase},
    shutdown::Shutdown,
    sink::metadata::fence::{Holder, OnHeld},
    telemetry::Reporter,
};

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is told to stop.
    Stopped,
    /// When everything that was written before the end of the snapshot is in the target.
    CaughtUp,
}

/// What a task of a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskOutcome {
    /// All collections are complete.
    Complete,
    /// There is something to prepare.
    Asked,
    /// The command was stopped.
    Stopped,
}

/// What a turn goes by.
#[derive(Debug)]
pub(super) struct TurnSettings {
    pub(super) config: Arc<Config>,
    /// As they were when that was read, to see which have changed. A turn reads them again.
    pub(super) files: MappingFiles,
}

/// What a pipeline speaks to.
#[derive(Clone)]
pub(super) struct Ports {
    pub(super) source: Arc<dyn DocumentSource>,
    pub(super) target: Arc<dyn RowTarget>,
    /// Opened once this process holds the pipeline.
    pub(super) spool: Arc<LazySpool>,
}

/// How this process becomes the pipeline's only writer.
#[derive(Clone)]
pub(super) struct Takeover {
    pub(super) holder: Arc<Holder>,
    pub(super) on_held: OnHeld,
}

/// What the tasks of a run tell each other.
#[derive(Clone)]
pub(super) struct Signals {
    /// To the tailer, and from it.
    pub(super) apply_state: watch::Sender<ApplyState>,
    pub(super) tailer_events: Arc<watch::Sender<TailerEvents>>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) shutdown: Shutdown,
}

/// Where a run shows its state.
#[derive(Clone)]
pub(super) struct Monitor {
    pub(super) counts: Arc<Counts>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) refused: Arc<RefusedCollections>,
    pub(super) reporter: Reporter,
    pub(super) reports: Arc<ProcessReports>,
}

/// What all parts of a run share. Clones share it, too.
#[derive(Clone)]
pub(super) struct Pipeline {
    /// What this turn goes by, and what the next one will.
    pub(super) config: Arc<Config>,
    pub(super) settings: watch::Receiver<Arc<TurnSettings>>,
    pub(super) ports: Ports,
    pub(super) takeover: Takeover,
    pub(super) signals: Signals,
    pub(super) monitor: Monitor,
    pub(super) throttle: Arc<SnapshotThrottle>,
}

impl Pipeline {
    pub(super) fn new(
        ports: Ports,
        settings: watch::Receiver<Arc<TurnSettings>>,
        on_held: OnHeld,
        reporter: Reporter,
        shutdown: Shutdown,
    ) -> Self {
        let config = settings.borrow().config.clone();
        let throttle = Arc::new(SnapshotThrottle::new(config.max_rate));
        Self {
            config,
            settings,
            ports,
            takeover: Takeover { holder: Arc::new(Holder::new()), on_held },
            signals: Signals {
                apply_state: watch::Sender::default(),
                tailer_events: Arc::default(),
                alarm: Arc::default(),
                shutdown,
            },
            monitor: Monitor {
                counts: Arc::default(),
                gauges: Arc::default(),
                refused: Arc::default(),
                reporter,
                reports: Arc::default(),
            },
            throttle,
        }
    }

    /// Shows this phase for all collections that are not live.
    pub(super) fn enter(&self, phase: Phase, collections: &[Collection]) {
        let ready = self.signals.apply_state.borrow().ready.clone();
        let all = (0..).map(CollectionId).zip(collections);
        all.filter(|(id, _)| !ready.contains_key(id)).for_each(|(_, collection)| collection.enter(phase));
    }

    /// The rows of collections that were not complete may be ahead of the stored positions up to now. In the order of
    /// commits that is to be stored before they count as complete.
    pub(super) async fn note_ahead(
        &self,
        session: &mut dyn TargetSession,
        collections: &[Collection],
    ) -> Result<Timestamp> {
        let now = self.ports.source.operation_time().await?;
        if self.config.order == Order::Commit
            && self.signals.apply_state.borrow().ready.len() < collections.len()
        {
            session.set_ahead(Some(now)).await?;
        }
        Ok(now)
    }
}
