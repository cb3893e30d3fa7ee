//! The order of steps: from the start of a run, through its attempts and their turns, to its end.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::try_join;
use tokio::{sync::watch, task::JoinSet};

use super::{
    context::{Pipeline, Ports, TurnSettings, Until},
    counts::Summary,
    gauges::Leading,
    mappings::{active::require_collections, misfit_count::MisfitCounter},
    observe::{reporter::StateReporter, standstill::StallWatch},
    pausing,
    ports::LazySpool,
    prepare::Preparation,
    reload::{Reload, Reloader},
    startup,
    stored_states::{record_stopped, show_dead_letters},
    stream::{
        channel::ApplyState,
        tailer::{Tailer, TailerPorts},
    },
    supervisor::RoundEnd,
};
use crate::{
    checkpoint::Checkpoint,
    config::{Config, Order},
    error::{Code, Disposition, Error, Kind, Result},
    failpoint::{self, Failpoint},
    mapping_files, metrics,
    process_status::{Part, Stage},
    retry::Retry,
    shown,
    shutdown::Shutdown,
    sink::{
        self, Target,
        metadata::{fence::OnHeld, mapping_versions},
    },
    source::Source,
    telemetry::Reporter,
};

/// The parameters of a run.
pub struct Job<'a> {
    /// The configuration at its start.
    pub config: &'a Config,
    /// The PostgreSQL that `config` names; when it logs in again, so do its clones.
    pub target: Target,
    /// When it ends.
    pub until: Until,
    /// Whether it waits while another process holds the pipeline.
    pub on_held: OnHeld,
    /// When it reloads the configuration.
    pub reload: Reload,
    /// For how long, at the start, it waits for states of the servers that pass by themselves.
    pub wait: Duration,
}

/// Replicates until `until`, or until `shutdown` is requested; then what was taken up is committed.
///
/// Errors: as [`Kind`] says. What can't be right at the start (a host, a password, a privilege) is an error
/// at once, before anything is written; later, an error that may pass leads to another try.
pub async fn run(job: Job<'_>, reporter: Reporter, shutdown: Shutdown) -> Result<Summary> {
    let (started, Job { config, target, until, on_held, reload, wait }) = (Instant::now(), job);
    tracing::info!("docrow {}: pipeline {}", env!("CARGO_PKG_VERSION"), shown::name(&config.name));
    metrics::install();
    metrics::SPOOL_LIMIT.set(metrics::figure(config.max_spool));
    let files = mapping_files::read(&config.mapping_dir)?;
    let connect = async || {
        let source = async {
            let source = Source::connect(config.source.expose()).await?;
            wait_or_have_some(config, &source, until).await?;
            if config.order == Order::Commit {
                source.require_states_of_the_past()?;
            }
            Ok(source)
        };
        // What is wrong with the source is reported first.
        let (source, found) = try_join!(source, async { Ok::<_, Error>(look_over(config, &target).await) })?;
        let (there, stored) = found?;
        let (here, hosts, schema) = (source.words(), source.hosts(), shown::name(target.schema()));
        tracing::info!("from {here}, at {hosts}, to {there}, schema {schema}");
        require_collections(config, &files, &source, &stored).await?;
        Ok(source)
    };
    let connected = startup::outlast(wait, reporter.vitals(), &shutdown, connect).await?;
    let Some(source) = connected else { return Ok(Summary::default()) };
    let (dir, name) = (config.state_dir.clone(), config.name.clone());
    let spool = LazySpool::new(move || Ok(Arc::new(Arc::new(Checkpoint::open(&dir, &name)?))));
    let ports =
        Ports { source: Arc::new(source.clone()), target: Arc::new(target.clone()), spool: Arc::new(spool) };
    let (settings, current) =
        watch::channel(Arc::new(TurnSettings { config: Arc::new(config.clone()), files }));
    let pipeline = Pipeline::new(ports, current, on_held, reporter, shutdown);
    let mut watching = JoinSet::new();
    watching.spawn(pipeline.stall_watch(target.clone()).run());
    if on_held == OnHeld::Refuse {
        // Problems of the state directory are reported before anything is written to the target.
        pipeline.ports.spool.open()?;
    }
    let vitals = pipeline.monitor.reporter.vitals().clone();
    let state_reporter = pipeline.state_reporter();
    let reloader = Reloader { source: source.clone(), target, settings };
    let finished = tokio::select! {
        biased;
        finished = pipeline.replicate(until) => finished,
        never = pipeline.monitor.gauges.show(&source) => match never {},
        never = state_reporter.run() => match never {},
        never = reloader.run(reload) => match never {},
    };
    vitals.enter(Stage::Ended, finished.as_ref().err().map(Error::coded));
    state_reporter.report_last().await;
    finished?;
    source.close().await;
    Ok(pipeline.monitor.counts.summary(started.elapsed()))
}

/// Besides one for each partition: to hold the pipeline, to report, to prepare, to complete what is not
/// complete, to look for requests, and to count misfits.
const SESSIONS: usize = 6;

/// Checks that the target is usable. Returns what it is, for people, and the mappings that it stores.
async fn look_over(config: &Config, target: &Target) -> Result<(String, Vec<mapping_versions::Mapping>)> {
    let (session, other) = target.connect_twice().await?;
    // The search for poolers needs the session for itself.
    let there = sink::preflight(&session, other, target, sink::Intent::Write).await?;
    let stored = mapping_versions::load(&session, target.pipeline()).await?;
    target.connect_ahead(session, usize::from(config.partitions) + SESSIONS - 1).await;
    Ok((there, stored))
}

/// Checks that there is something to replicate. A service also waits for the first collection of an empty
/// database; a typo in a glob is an error all the same.
async fn wait_or_have_some(config: &Config, source: &Source, until: Until) -> Result<()> {
    let (include, exclude) = (&config.include, &config.exclude);
    match source.require_any(include, exclude).await {
        Err(error)
            if until == Until::Stopped
                && error.code() == Code::NothingMatched
                && source.is_empty(include, exclude).await? =>
        {
            tracing::warn!(code = %error.code(), "{error}: waiting until there is one");
            Ok(())
        }
        found => found,
    }
}

impl Pipeline {
    /// Reads and applies the stream, until everything is done or an error occurs.
    pub(super) async fn replicate(&self, until: Until) -> Result<()> {
        let apply_state = self.signals.apply_state.subscribe();
        tokio::select! {
            biased;
            failed = self.take_in(&apply_state) => failed.map(|never| match never {}),
            done = self.until_done(until) => done,
        }
    }

    fn state_reporter(&self) -> StateReporter {
        StateReporter {
            reports: self.monitor.reports.clone(),
            vitals: self.monitor.reporter.vitals().clone(),
            source: self.ports.source.clone(),
            gauges: self.monitor.gauges.clone(),
            counts: self.monitor.counts.clone(),
            apply_state: self.signals.apply_state.subscribe(),
            max_spool: self.config.max_spool,
            connection: tokio::sync::Mutex::default(),
        }
    }

    fn stall_watch(&self, target: Target) -> StallWatch {
        StallWatch {
            patience: self.config.stall_after,
            max_spool: self.config.max_spool,
            target,
            counts: self.monitor.counts.clone(),
            gauges: self.monitor.gauges.clone(),
            vitals: self.monitor.reporter.vitals().clone(),
            apply_state: self.signals.apply_state.subscribe(),
            alarm: self.signals.alarm.clone(),
        }
    }

    /// Reads the stream. If the pipeline has come to a standstill, the tailer, which may be the cause, is
    /// replaced.
    async fn take_in(&self, apply_state: &watch::Receiver<ApplyState>) -> Result<Infallible> {
        loop {
            let post = self.monitor.reporter.vitals().post(Part::Intake);
            let ports = TailerPorts {
                source: self.ports.source.clone(),
                log: self.ports.spool.clone(),
                apply_state: apply_state.clone(),
                events: self.signals.tailer_events.clone(),
            };
            let tailer = Tailer::new(&self.config, ports, self.monitor.gauges.clone(), post);
            tokio::select! {
                biased;
                _ = self.signals.alarm.raised() => {}
                failed = tailer.run() => return failed,
            }
        }
    }

    /// Makes attempts until one succeeds, or fails for good.
    async fn until_done(&self, until: Until) -> Result<()> {
        metrics::LEADER.of(&[self.ports.target.pipeline()]).set(0.0);
        let mut retry = Retry::new();
        loop {
            let before = self.monitor.counts.written();
            let attempted = self.attempt(until).await;
            self.take_no_more();
            self.monitor.reporter.clear();
            let error = match attempted {
                Err(error) if error.kind().disposition() == Disposition::Retry => error,
                // Another process has taken over: this one is the standby now.
                Err(error) if self.takeover.on_held == OnHeld::StandBy && error.kind() == Kind::Fenced => {
                    error
                }
                finished => return finished,
            };
            metrics::retried(error.kind());
            if error.kind() == Kind::Fenced {
                self.monitor.gauges.end();
            }
            if self.monitor.counts.written() > before {
                retry.succeeded();
            }
            let delay = retry.after_failure();
            self.monitor.reporter.vitals().enter(Stage::Retrying, Some(error.coded()));
            tracing::warn!(code = %error.code(), "{error}: trying again in {:.1}s", delay.as_secs_f64());
            tokio::select! {
                biased;
                () = self.signals.shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Does everything, from what PostgreSQL says to the end.
    async fn attempt(&self, until: Until) -> Result<()> {
        if self.takeover.on_held == OnHeld::StandBy {
            self.monitor.reporter.vitals().enter(Stage::StandingBy, None);
        }
        let mut fence = tokio::select! {
            biased;
            () = self.signals.shutdown.requested() => return Ok(()),
            taken = self.ports.target.acquire(&self.takeover.holder, self.takeover.on_held) => taken?,
        };
        let _leading = Leading::begin(self.ports.target.pipeline());
        failpoint::reach(Failpoint::FenceTaken);
        // The same pipeline, with a target that can be written to.
        let held = Self { ports: Ports { target: fence.target(), ..self.ports.clone() }, ..self.clone() };
        held.monitor.reports.write_to(fence.target());
        self.monitor.reporter.vitals().hear_target(fence.answered());
        held.monitor.reports.report_first(Stage::Preparing, held.monitor.reporter.vitals()).await;
        tokio::select! {
            biased;
            lost = fence.lost() => Err(lost),
            stalled = self.signals.alarm.raised() => Err(stalled),
            finished = held.work(until) => finished,
        }
    }

    async fn work(&self, until: Until) -> Result<()> {
        while self.as_configured().turn(until).await? == RoundEnd::Again {
            self.monitor.reporter.clear();
        }
        Ok(())
    }

    /// Returns the same pipeline, with the present settings.
    fn as_configured(&self) -> Self {
        let mut settings = self.settings.clone();
        let config = settings.borrow_and_update().config.clone();
        Self { config, settings, ..self.clone() }
    }

    /// Does everything, until there is something new to prepare.
    async fn turn(&self, until: Until) -> Result<RoundEnd> {
        let mut session = self.ports.target.connect().await?;
        let prepared = tokio::select! {
            biased;
            // What this cuts off is rolled back, and the next run does it again.
            () = self.signals.shutdown.requested() => return Ok(RoundEnd::Done),
            prepared = Preparation::new(self, &mut *session).run() => prepared?,
        };
        if until == Until::CaughtUp {
            pausing::refuse(&prepared.collections)?;
        }
        let stored = self.positions(&mut *session, &prepared.collections).await?;
        let collections = prepared.collections.clone();
        let misfits = MisfitCounter {
            target: self.ports.target.clone(),
            apply_state: self.signals.apply_state.subscribe(),
        };
        let turn = tokio::select! {
            biased;
            never = misfits.run(&collections) => match never {},
            turn = self.follow(&mut *session, prepared, stored, until) => turn,
        }?;
        record_stopped(self, &mut *session, &collections).await?;
        show_dead_letters(self, &*session, &collections).await?;
        Ok(turn)
    }
}
