//! What a run is given, what its stages share, and what it counts.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::HumanCount;
use tokio::sync::watch;

use super::{
    observe::{gauges::Gauges, standstill::Alarm},
    ports::{DocumentSource, LazySpool, RowTarget},
    prepare::whole_collections::Refused,
    reload::{Reload, Settings},
    snapshot::throttle::Throttle,
    stream::channel::{ApplyState, TailerEvents},
};
use crate::{
    config::Config,
    shutdown::Shutdown,
    sink::{
        Target,
        metadata::fence::{Holder, OnHeld},
    },
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

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Documents copied by the snapshot.
    pub documents: u64,
    /// Rows they became.
    pub rows: u64,
    /// Documents that were copied anew, in place of what there was of them.
    pub replaced: u64,
    /// Rows that were changed for it: those that were as they should be were not.
    pub rewritten: u64,
    /// Events of the change stream that were applied.
    pub changes: u64,
    /// Documents that became dead letters.
    pub dead_letters: u64,
    /// Documents of the collections that were followed that are dead letters at the end, whenever they became one.
    pub dead_letters_left: u64,
    /// Collections that were stopped because too much of them can't be written.
    pub stopped: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            documents,
            rows,
            replaced,
            rewritten,
            changes,
            dead_letters,
            dead_letters_left: _,
            stopped,
            elapsed,
        } = *self;
        if documents > 0 || replaced == 0 {
            write!(f, "{} documents copied as {} rows, ", HumanCount(documents), HumanCount(rows))?;
        }
        if replaced > 0 {
            let (replaced, rewritten) = (HumanCount(replaced), HumanCount(rewritten));
            write!(f, "{replaced} documents copied anew, {rewritten} rows changed by that, ")?;
        }
        write!(f, "{} changes applied, in {:.1}s", HumanCount(changes), elapsed.as_secs_f64())?;
        if dead_letters > 0 {
            write!(
                f,
                "; {} documents could not be written: see docrow dead-letters list",
                HumanCount(dead_letters)
            )?;
        }
        if stopped > 0 {
            write!(f, "; {} collections are stopped", HumanCount(stopped))?;
        }
        Ok(())
    }
}

/// The same, while it is being counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) documents: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) rewritten: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) dead_letters_left: AtomicU64,
    pub(super) stopped: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Grows with all that is written.
    pub(super) fn written(&self) -> u64 {
        [&self.documents, &self.replaced, &self.changes]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    pub(super) fn summary(&self, elapsed: Duration) -> Summary {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            documents: read(&self.documents),
            rows: read(&self.rows),
            replaced: read(&self.replaced),
            rewritten: read(&self.rewritten),
            changes: read(&self.changes),
            dead_letters: read(&self.dead_letters),
            dead_letters_left: read(&self.dead_letters_left),
            stopped: read(&self.stopped),
            elapsed,
        }
    }
}

/// What all stages of a run share.
#[derive(Clone)]
pub(super) struct Pipeline {
    /// What this turn goes by, and what the next one will.
    pub(super) config: Arc<Config>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) source: Arc<dyn DocumentSource>,
    pub(super) target: Arc<dyn RowTarget>,
    pub(super) holder: Arc<Holder>,
    pub(super) on_held: OnHeld,
    /// The target, with what was held last, to be written to as long as nobody else holds it.
    pub(super) held: Arc<Mutex<Option<Arc<dyn RowTarget>>>>,
    /// Counts reports that were written, or could not be.
    pub(super) told: Arc<watch::Sender<u64>>,
    pub(super) refused: Arc<Refused>,
    /// Opened once the pipeline is this process's.
    pub(super) spool: Arc<LazySpool>,
    pub(super) counts: Arc<Counts>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) reporter: Reporter,
    pub(super) shutdown: Shutdown,
    /// To the tailer, and from it.
    pub(super) demand: watch::Sender<ApplyState>,
    pub(super) notices: Arc<watch::Sender<TailerEvents>>,
    pub(super) alarm: Arc<Alarm>,
    pub(super) throttle: Arc<Throttle>,
}

/// What a pipeline speaks to.
pub(super) struct Ports {
    pub(super) source: Arc<dyn DocumentSource>,
    pub(super) target: Arc<dyn RowTarget>,
    pub(super) spool: Arc<LazySpool>,
}

impl Pipeline {
    pub(super) fn new(
        Ports { source, target, spool }: Ports,
        settings: watch::Receiver<Arc<Settings>>,
        on_held: OnHeld,
        reporter: Reporter,
        shutdown: Shutdown,
    ) -> Self {
        let config = settings.borrow().config.clone();
        let throttle = Arc::new(Throttle::new(config.max_rate));
        Self {
            config,
            settings,
            source,
            target,
            holder: Arc::new(Holder::new()),
            on_held,
            held: Arc::default(),
            told: Arc::default(),
            refused: Arc::default(),
            spool,
            counts: Arc::default(),
            gauges: Arc::default(),
            reporter,
            shutdown,
            demand: watch::Sender::default(),
            notices: Arc::default(),
            alarm: Arc::default(),
            throttle,
        }
    }
}

/// What a run is to do.
pub struct Job<'a> {
    /// What it begins with.
    pub config: &'a Config,
    /// What `config` says of PostgreSQL; its clones log in anew with it.
    pub target: Target,
    /// When it is over.
    pub until: Until,
    /// Whether it waits while another process has the pipeline.
    pub on_held: OnHeld,
    /// When it is to take up a changed configuration.
    pub reload: Reload,
}
