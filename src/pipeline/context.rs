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

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is asked to stop.
    Stopped,
    /// Once everything that was written before the end of the snapshot is in the target.
    CaughtUp,
}

/// How a task of a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskOutcome {
    /// All collections are complete.
    Complete,
    /// There is something to prepare.
    Asked,
    /// The command was stopped.
    Stopped,
}

/// The settings of a turn.
#[derive(Debug)]
pub(super) struct TurnSettings {
    pub(super) config: Arc<Config>,
    /// The mapping files as they were when the configuration was read, to detect which have changed. A turn
    /// reads them again.
    pub(super) files: MappingFiles,
}

/// What a pipeline reads from and writes to.
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

/// The signals between the tasks of a run.
#[derive(Clone)]
pub(super) struct Signals {
    /// To the tailer.
    pub(super) apply_state: watch::Sender<ApplyState>,
    /// From the tailer.
    pub(super) tailer_events: Arc<watch::Sender<TailerEvents>>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) shutdown: Shutdown,
}

/// Where a run publishes its state.
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
    /// The configuration of this turn.
    pub(super) config: Arc<Config>,
    /// The settings of the next turn.
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

    /// Returns the present time, up to which the rows of collections that were not complete may be ahead of
    /// the stored positions. Stores it in commit order, where it must be stored before they count as
    /// complete.
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
