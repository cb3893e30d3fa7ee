//! Connects the stages. The decisions are in the pure files beside this one; this one has none but the order of things.
//!
//! # From nothing to live
//!
//! Two sides run beside each other. The [`intake`] reads the change stream for as long as the run lasts. An
//! [`attempt`](Pipeline::attempt) does everything that has to do with PostgreSQL, always from what PostgreSQL says, so a
//! first start, a start after a crash and a reconnection are the same code:
//!
//! 1. Take the pipeline for this process (G9), and see that MongoDB is the one that was copied. ([`deployment`])
//! 2. For every collection that is new, or is to be copied anew: take the start position of the change stream, prove that
//!    the server accepts it, and store it together with the chunk plan, before the first page is read. ([`prepare`])
//! 3. Read all positions, and have the intake begin at the least of them. Have workers apply the changes of the collections that
//!    are live; those of the others wait in the spool. ([`follow`])
//! 4. Meanwhile, copy the chunks that are not marked as copied, a chunk's rows and its mark together (G5), and build the
//!    primary keys that are missing. ([`snapshot`]) Where a collection is copied anew, its rows are replaced, and those
//!    of documents that are no more are swept away. ([`anew`])
//! 5. Have the workers apply what has waited, and from then on everything.
//!
//! Meanwhile mappings may evolve ([`evolve`]): a collection's tables change between two transactions of docrow, never
//! during one; columns become wider ([`widening`]); and what does not fit its column is counted ([`census`]). What happens to a whole collection (it is new, dropped, renamed, replaced, its history is lost) is
//! dealt with by going back to 2; so is somebody's wish to [pause](pausing) one, or to have it go on.
//!
//! # Why nothing is lost (G1, G2, G3)
//!
//! A chunk is read at some time after the start position, so whatever changes after it was read has an event after the
//! start position, and whatever changed before is in the chunk. The stream is applied from the start position on; an
//! event that is older than what the chunk holds is not applied as it stands but looked up ([`ahead`]), so that
//! replaying it is harmless. The same argument holds for a replay after a crash: every change is at or before a stored
//! position, and then its rows are committed, or after it, and then it is read again, from the spool or from the stream ([`flow`]).
//!
//! How it goes is told by [`chronicle`], and how far behind MongoDB the rows are by [`lag`]; nothing else depends on
//! either.
//!
//! An error that may pass ([`Disposition::Retry`]) ends the attempt, and after a while there is another one.

mod ahead;
mod anew;
pub mod batch;
mod census;
mod chronicle;
mod collection;
mod crew;
mod deployment;
mod earlier_keys;
mod evolve;
mod fill;
mod flow;
mod follow;
mod foreign;
mod gauges;
mod intake;
mod keeper;
mod keys;
mod lag;
mod lane;
mod mappings;
mod parts;
mod pausing;
pub mod phase;
mod plan;
mod positions;
mod prepare;
mod reload;
mod repair;
mod requests;
mod retries;
pub mod router;
#[cfg(test)]
mod simulation;
mod snapshot;
mod spans;
mod standstill;
mod throttle;
mod tries;
mod watermark;
mod whole;
mod widening;
mod worker;
mod write;

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::HumanCount;
use mongodb::bson::RawDocument;
use tokio::{sync::watch, task::JoinSet};

use self::{
    collection::Collection,
    crew::Came,
    evolve::Orders,
    follow::Turn,
    gauges::{Gauges, Leading},
    intake::{Demand, Intake, Notices},
    mappings::require_collections,
    phase::Phase,
    prepare::Prepared,
    reload::Settings,
    standstill::{Alarm, Watch},
    throttle::Throttle,
    whole::Refused,
};
pub use self::{
    mappings::is_automatic,
    plan::{Preview, plan, preview},
    reload::Reload,
    repair::repair,
};
use crate::{
    checkpoint::Checkpoint,
    config::{Config, Order},
    error::{Code, Disposition, Error, Kind, Result},
    failpoint::{self, Failpoint},
    key,
    mapping::Mapping,
    mapping_files::{self, MappingFiles},
    metrics,
    retry::Retry,
    shown,
    shutdown::Shutdown,
    sink::{
        self, Session, Target,
        metadata::{
            dead_letters::DeadLetter,
            fence::{Fence, Holder, Manner},
            mapping_versions,
        },
    },
    source::Source,
    telemetry::Reporter,
    vitals::{Part, Stage},
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
struct Counts {
    documents: AtomicU64,
    rows: AtomicU64,
    replaced: AtomicU64,
    rewritten: AtomicU64,
    changes: AtomicU64,
    dead_letters: AtomicU64,
    dead_letters_left: AtomicU64,
    stopped: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Grows with all that is written.
    fn written(&self) -> u64 {
        [&self.documents, &self.replaced, &self.changes]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    fn summary(&self, elapsed: Duration) -> Summary {
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
struct Pipeline {
    /// What this turn goes by, and what the next one will.
    config: Arc<Config>,
    settings: watch::Receiver<Arc<Settings>>,
    source: Source,
    target: Target,
    holder: Arc<Holder>,
    manner: Manner,
    /// The target, with what was held last, to be written to as long as nobody else holds it.
    held: Arc<Mutex<Option<Target>>>,
    /// Counts reports that were written, or could not be.
    told: Arc<watch::Sender<u64>>,
    refused: Arc<Refused>,
    /// Opened once the pipeline is this process's.
    checkpoint: Arc<OnceLock<Arc<Checkpoint>>>,
    counts: Arc<Counts>,
    gauges: Arc<Gauges>,
    reporter: Reporter,
    shutdown: Shutdown,
    /// To the intake, and from it.
    demand: watch::Sender<Demand>,
    notices: Arc<watch::Sender<Notices>>,
    alarm: Arc<Alarm>,
    throttle: Arc<Throttle>,
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
    pub manner: Manner,
    /// When it is to take up a changed configuration.
    pub reload: Reload,
}

/// Replicates until `until`, or until `shutdown` is requested; then what was taken up is committed.
///
/// Errors: as [`Kind`](crate::error::Kind) says. What can't be right at the start (a host, a password, a privilege) is
/// an error at once, before anything is written; later on, what may pass is tried again.
pub async fn run(job: Job<'_>, reporter: Reporter, shutdown: Shutdown) -> Result<Summary> {
    let (started, Job { config, target, until, manner, reload }) = (Instant::now(), job);
    tracing::info!("docrow {}: pipeline {}", env!("CARGO_PKG_VERSION"), shown::name(&config.name));
    metrics::install();
    metrics::SPOOL_LIMIT.set(metrics::figure(config.max_spool));
    let files = mapping_files::read(&config.mapping_dir)?;
    let source = Source::connect(config.source.expose()).await?;
    wait_or_have_some(config, &source, until).await?;
    if config.order == Order::Commit {
        source.require_states_of_the_past()?;
    }
    look_over(config, &files, &source, &target).await?;
    let checkpoint = Arc::new(OnceLock::new());
    let (counts, gauges) = (Arc::new(Counts::default()), Arc::new(Gauges::default()));
    let (demand, demanded) = watch::channel(Demand::default());
    let notices = Arc::new(watch::Sender::default());
    let vitals = reporter.vitals().clone();
    let holder = Arc::new(Holder::new());
    let (config, throttle) = (Arc::new(config.clone()), Arc::new(Throttle::new(config.max_rate)));
    let (settings, current) = watch::channel(Arc::new(Settings { config: config.clone(), files }));
    let pipeline = Pipeline {
        config,
        settings: current,
        source,
        target,
        holder,
        manner,
        held: Arc::default(),
        told: Arc::default(),
        refused: Arc::default(),
        checkpoint,
        counts,
        gauges,
        reporter,
        shutdown,
        demand,
        notices,
        alarm: Arc::default(),
        throttle,
    };
    let mut watching = JoinSet::new();
    watching.spawn(pipeline.watch().run());
    if manner == Manner::Refuse {
        // What is wrong with the state directory is said before anything is written to the target.
        pipeline.checkpoint()?;
    }
    let finished = tokio::select! {
        biased;
        failed = pipeline.take_in(&demanded) => failed.map(|never| match never {}),
        never = pipeline.gauges.show(&pipeline.source) => match never {},
        never = pipeline.chronicle() => match never {},
        never = pipeline.reload(reload, &settings) => match never {},
        done = pipeline.until_done(until) => done,
    };
    vitals.enter(Stage::Ended, finished.as_ref().err().map(Error::coded));
    pipeline.say_last().await;
    finished?;
    pipeline.source.close().await;
    Ok(pipeline.counts.summary(started.elapsed()))
}

/// Sees that the target will do, and that no mapping file is for nothing.
async fn look_over(config: &Config, files: &MappingFiles, source: &Source, target: &Target) -> Result<()> {
    let session = target.connect().await?;
    let there = sink::preflight(&session, target, sink::Intent::Write).await?;
    let (here, hosts, schema) = (source.words(), source.hosts(), shown::name(target.schema()));
    tracing::info!("from {here}, at {hosts}, to {there}, schema {schema}");
    let stored = mapping_versions::load(&session, target.pipeline()).await?;
    require_collections((config, files), source, &stored).await
}

/// Sees that there is something to replicate. A service also waits for the first collection of an empty database; a slip in a
/// glob is an error all the same.
async fn wait_or_have_some(config: &Config, source: &Source, until: Until) -> Result<()> {
    let (include, exclude) = (&config.include, &config.exclude);
    match source.collections(include, exclude).await {
        Err(error)
            if until == Until::Stopped
                && error.code() == Code::NothingMatched
                && source.is_empty(include, exclude).await? =>
        {
            tracing::warn!(code = %error.code(), "{error}: waiting until there is one");
            Ok(())
        }
        found => found.map(drop),
    }
}

impl Pipeline {
    fn watch(&self) -> Watch {
        Watch {
            patience: self.config.stall_after,
            max_spool: self.config.max_spool,
            target: self.target.clone(),
            counts: self.counts.clone(),
            gauges: self.gauges.clone(),
            vitals: self.reporter.vitals().clone(),
            demand: self.demand.subscribe(),
            alarm: self.alarm.clone(),
        }
    }

    /// Reads the stream. Where all has come to a standstill, the intake, which may be why, is replaced.
    async fn take_in(&self, demanded: &watch::Receiver<Demand>) -> Result<Infallible> {
        loop {
            let post = self.reporter.vitals().post(Part::Intake);
            let (source, checkpoint) = (self.source.clone(), self.checkpoint.clone());
            let (notices, gauges) = (self.notices.clone(), self.gauges.clone());
            let intake =
                Intake::new((source, checkpoint), &self.config, demanded.clone(), notices, gauges, post);
            tokio::select! {
                biased;
                _ = self.alarm.raised() => {}
                failed = intake.run() => return failed,
            }
        }
    }

    /// Attempts until one succeeds, or fails for good.
    async fn until_done(&self, until: Until) -> Result<()> {
        metrics::LEADER.of(&[self.target.pipeline()]).set(0.0);
        let mut retry = Retry::new();
        loop {
            let before = self.counts.written();
            let attempted = self.attempt(until).await;
            self.take_no_more();
            self.reporter.clear();
            let error = match attempted {
                Err(error) if error.kind().disposition() == Disposition::Retry => error,
                // Another process has taken over; then this is the standby now.
                Err(error) if self.manner == Manner::StandBy && error.kind() == Kind::Fenced => error,
                finished => return finished,
            };
            metrics::retried(error.kind());
            if error.kind() == Kind::Fenced {
                self.gauges.end();
            }
            if self.counts.written() > before {
                retry.succeeded();
            }
            let delay = retry.after_failure();
            self.reporter.vitals().enter(Stage::Retrying, Some(error.coded()));
            tracing::warn!(code = %error.code(), "{error}: trying again in {:.1}s", delay.as_secs_f64());
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Everything, from what PostgreSQL says to the end.
    async fn attempt(&self, until: Until) -> Result<()> {
        if self.manner == Manner::StandBy {
            self.reporter.vitals().enter(Stage::StandingBy, None);
        }
        let mut fence = tokio::select! {
            biased;
            () = self.shutdown.requested() => return Ok(()),
            taken = Fence::acquire(&self.target, &self.holder, self.manner) => taken?,
        };
        let _leading = Leading::begin(self.target.pipeline());
        failpoint::reach(Failpoint::FenceTaken);
        // The same, with a target that can be written to.
        let held = Self { target: fence.target().clone(), ..self.clone() };
        held.take_hold();
        self.reporter.vitals().hear_target(fence.answered());
        held.report_first(Stage::Preparing).await;
        tokio::select! {
            biased;
            lost = fence.hold() => Err(lost),
            stalled = self.alarm.raised() => Err(stalled),
            finished = held.work(until) => finished,
        }
    }

    fn checkpoint(&self) -> Result<Arc<Checkpoint>> {
        if let Some(open) = self.checkpoint.get() {
            return Ok(open.clone());
        }
        let opened = Arc::new(Checkpoint::open(&self.config.state_dir, &self.config.name)?);
        Ok(self.checkpoint.get_or_init(|| opened).clone())
    }

    async fn work(&self, until: Until) -> Result<()> {
        while self.as_configured().turn(until).await? == Turn::Again {
            self.reporter.clear();
        }
        Ok(())
    }

    /// The same, by what is configured now.
    fn as_configured(&self) -> Self {
        let mut settings = self.settings.clone();
        let config = settings.borrow_and_update().config.clone();
        Self { config, settings, ..self.clone() }
    }

    /// Everything, until there is something new to prepare.
    async fn turn(&self, until: Until) -> Result<Turn> {
        let mut session = self.target.connect().await?;
        let prepared = tokio::select! {
            biased;
            // What this cuts off is rolled back, and done again by the next run.
            () = self.shutdown.requested() => return Ok(Turn::Done),
            prepared = self.make_ready(&mut session) => prepared?,
        };
        if until == Until::CaughtUp {
            pausing::refuse(&prepared.collections)?;
        }
        let stored = self.positions(&mut session, &prepared.collections).await?;
        let collections = prepared.collections.clone();
        let turn = tokio::select! {
            biased;
            never = self.count_misfits(&collections) => match never {},
            turn = self.follow(&mut session, prepared, stored, until) => turn,
        }?;
        self.record_stopped(&mut session, &collections).await?;
        self.show_dead(&session, &collections).await?;
        Ok(turn)
    }

    /// Everything up to the point where documents can be copied.
    async fn make_ready(&self, session: &mut Session) -> Result<Prepared> {
        self.recognise(session).await?;
        let life = sink::metadata::positions::register(session, self.target.pipeline(), &life()).await?;
        failpoint::reach(Failpoint::PipelineRegistered);
        self.checkpoint()?.reconcile(&life)?;
        failpoint::reach(Failpoint::StateReconciled);
        self.write_down(session).await?;
        let prepared = self.prepare(session).await?;
        self.note_deployment(session).await?;
        Ok(prepared)
    }

    /// Completes the collections that are not.
    async fn complete(self, collections: Arc<[Collection]>, evolution: Orders) -> Result<Came> {
        let post = self.reporter.vitals().post(Part::Completion);
        let mut session = self.target.connect().await?;
        post.at("copies");
        // Rows are replaced by their keys.
        self.build_keys_of_replaced(&mut session, &collections).await?;
        tokio::select! {
            biased;
            copied = self.copy(&session, &collections) => copied?,
            never = self.heed_secondaries() => match never {},
        }
        self.enter(Phase::Indexing, &collections);
        self.note_ahead(&mut session, &collections).await?;
        post.at("waits for mappings to take up what was found");
        evolution.settle().await;
        post.at("builds keys");
        self.build_keys(&mut session, &collections).await?;
        post.at("sweeps");
        self.sweep(&mut session, &collections).await?;
        evolution.complete().await;
        self.record_stopped(&mut session, &collections).await?;
        Ok(Came::Complete)
    }

    /// Stores why collections are stopped, and counts them.
    async fn record_stopped(&self, session: &mut Session, collections: &[Collection]) -> Result<()> {
        let mut stopped = 0_u64;
        for collection in collections {
            if let Some(reason) = collection.stopped() {
                stopped += 1;
                if self.gauges.is_left_behind(collection.name()) {
                    collection.history_goes_by();
                }
                let reason = Some(reason);
                mapping_versions::set_stopped(session, self.target.pipeline(), collection.name(), reason)
                    .await?;
                failpoint::reach(Failpoint::StopNoted);
            }
        }
        let refused = u64::try_from(self.refused.show()).unwrap_or(0);
        self.counts.stopped.store(stopped.saturating_add(refused), Ordering::Relaxed);
        if stopped > 0 && stopped == u64::try_from(collections.len()).unwrap_or(0) {
            return Err(Error::new(
                Code::AllStopped,
                "every collection is stopped: there is nothing left to do",
            ));
        }
        Ok(())
    }
}

/// A new id for a state directory.
fn life() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// The dead letter of a document that `mapping` hides parts of, if it says so.
fn dead_letter_of(
    collection: &Collection,
    mapping: &Mapping,
    document: &RawDocument,
    (path, reason): (&str, &str),
) -> Result<DeadLetter> {
    Ok(DeadLetter {
        collection: collection.name().to_owned(),
        key: key::id_text(document)?,
        document_key: key::Id::of(document)?.document()?.into_bytes(),
        path: (!path.is_empty()).then(|| shown::path(path).replace('\0', "")),
        reason: reason.replace('\0', ""),
        document: mapping.censored(document),
    })
}
