//! The order of things: from the start of a run, through its attempts and their turns, to its end.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::{sync::watch, task::JoinSet};

use super::{
    collection::Collection,
    context::{Job, Pipeline, Ports, Summary, Until},
    mappings::{active::require_collections, evolution::Orders},
    observe::{gauges::Leading, standstill::Watch},
    ports::{LazySpool, TargetSession},
    prepare::Prepared,
    reload::{Servers, Settings},
    requests::pausing,
    stream::{channel::ApplyState, tailer::Tailer},
    supervisor::{RoundEnd, crew::Came},
};
use crate::{
    checkpoint::Checkpoint,
    config::{Config, Order},
    error::{Code, Disposition, Error, Kind, Result},
    failpoint::{self, Failpoint},
    mapping_files::{self, MappingFiles},
    metrics,
    model::phase::Phase,
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

/// Replicates until `until`, or until `shutdown` is requested; then what was taken up is committed.
///
/// Errors: as [`Kind`] says. What can't be right at the start (a host, a password, a privilege) is
/// an error at once, before anything is written; later on, what may pass is tried again.
pub async fn run(job: Job<'_>, reporter: Reporter, shutdown: Shutdown) -> Result<Summary> {
    let (started, Job { config, target, until, on_held, reload }) = (Instant::now(), job);
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
    let (dir, name) = (config.state_dir.clone(), config.name.clone());
    let spool = LazySpool::new(move || Ok(Arc::new(Arc::new(Checkpoint::open(&dir, &name)?))));
    let servers = Servers { source, target };
    let ports = Ports {
        source: Arc::new(servers.source.clone()),
        target: Arc::new(servers.target.clone()),
        spool: Arc::new(spool),
    };
    let (settings, current) = watch::channel(Arc::new(Settings { config: Arc::new(config.clone()), files }));
    let pipeline = Pipeline::new(ports, current, on_held, reporter, shutdown);
    let mut watching = JoinSet::new();
    watching.spawn(pipeline.watch(servers.target.clone()).run());
    if on_held == OnHeld::Refuse {
        // What is wrong with the state directory is said before anything is written to the target.
        pipeline.spool.open()?;
    }
    let vitals = pipeline.reporter.vitals().clone();
    let finished = tokio::select! {
        biased;
        finished = pipeline.replicate(until) => finished,
        never = pipeline.gauges.show(&servers.source) => match never {},
        never = pipeline.chronicle() => match never {},
        never = pipeline.reload(reload, &servers, &settings) => match never {},
    };
    vitals.enter(Stage::Ended, finished.as_ref().err().map(Error::coded));
    pipeline.say_last().await;
    finished?;
    servers.source.close().await;
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
    /// Reads the stream, and applies it, until all is done or something is wrong.
    pub(super) async fn replicate(&self, until: Until) -> Result<()> {
        let demanded = self.demand.subscribe();
        tokio::select! {
            biased;
            failed = self.take_in(&demanded) => failed.map(|never| match never {}),
            done = self.until_done(until) => done,
        }
    }

    fn watch(&self, target: Target) -> Watch {
        Watch {
            patience: self.config.stall_after,
            max_spool: self.config.max_spool,
            target,
            counts: self.counts.clone(),
            gauges: self.gauges.clone(),
            vitals: self.reporter.vitals().clone(),
            demand: self.demand.subscribe(),
            alarm: self.alarm.clone(),
        }
    }

    /// Reads the stream. Where all has come to a standstill, the tailer, which may be why, is replaced.
    async fn take_in(&self, demanded: &watch::Receiver<ApplyState>) -> Result<Infallible> {
        loop {
            let post = self.reporter.vitals().post(Part::Intake);
            let (source, spool) = (self.source.clone(), self.spool.clone());
            let (notices, gauges) = (self.notices.clone(), self.gauges.clone());
            let tailer = Tailer::new((source, spool), &self.config, demanded.clone(), notices, gauges, post);
            tokio::select! {
                biased;
                _ = self.alarm.raised() => {}
                failed = tailer.run() => return failed,
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
                Err(error) if self.on_held == OnHeld::StandBy && error.kind() == Kind::Fenced => error,
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
        if self.on_held == OnHeld::StandBy {
            self.reporter.vitals().enter(Stage::StandingBy, None);
        }
        let mut fence = tokio::select! {
            biased;
            () = self.shutdown.requested() => return Ok(()),
            taken = self.target.acquire(&self.holder, self.on_held) => taken?,
        };
        let _leading = Leading::begin(self.target.pipeline());
        failpoint::reach(Failpoint::FenceTaken);
        // The same, with a target that can be written to.
        let held = Self { target: fence.target(), ..self.clone() };
        held.take_hold();
        self.reporter.vitals().hear_target(fence.answered());
        held.report_first(Stage::Preparing).await;
        tokio::select! {
            biased;
            lost = fence.lost() => Err(lost),
            stalled = self.alarm.raised() => Err(stalled),
            finished = held.work(until) => finished,
        }
    }

    async fn work(&self, until: Until) -> Result<()> {
        while self.as_configured().turn(until).await? == RoundEnd::Again {
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
    async fn turn(&self, until: Until) -> Result<RoundEnd> {
        let mut session = self.target.connect().await?;
        let prepared = tokio::select! {
            biased;
            // What this cuts off is rolled back, and done again by the next run.
            () = self.shutdown.requested() => return Ok(RoundEnd::Done),
            prepared = self.make_ready(&mut *session) => prepared?,
        };
        if until == Until::CaughtUp {
            pausing::refuse(&prepared.collections)?;
        }
        let stored = self.positions(&mut *session, &prepared.collections).await?;
        let collections = prepared.collections.clone();
        let turn = tokio::select! {
            biased;
            never = self.count_misfits(&collections) => match never {},
            turn = self.follow(&mut *session, prepared, stored, until) => turn,
        }?;
        self.record_stopped(&mut *session, &collections).await?;
        self.show_dead(&*session, &collections).await?;
        Ok(turn)
    }

    /// Everything up to the point where documents can be copied.
    async fn make_ready(&self, session: &mut dyn TargetSession) -> Result<Prepared> {
        self.recognise(session).await?;
        let life = session.register(&life()).await?;
        failpoint::reach(Failpoint::PipelineRegistered);
        self.spool.open()?.reconcile(life).await?;
        failpoint::reach(Failpoint::StateReconciled);
        self.write_down(session).await?;
        let prepared = self.prepare(session).await?;
        self.note_deployment(session).await?;
        Ok(prepared)
    }

    /// Completes the collections that are not.
    pub(super) async fn complete(self, collections: Arc<[Collection]>, evolution: Orders) -> Result<Came> {
        let post = self.reporter.vitals().post(Part::Completion);
        let mut session = self.target.connect().await?;
        post.at("copies");
        // Rows are replaced by their keys.
        self.build_keys_of_replaced(&mut *session, &collections).await?;
        tokio::select! {
            biased;
            copied = self.copy(&*session, &collections) => copied?,
            never = self.heed_secondaries() => match never {},
        }
        self.enter(Phase::Indexing, &collections);
        self.note_ahead(&mut *session, &collections).await?;
        post.at("waits for mappings to take up what was found");
        evolution.settle().await;
        post.at("builds keys");
        self.build_keys(&mut *session, &collections).await?;
        post.at("sweeps");
        self.sweep(&mut *session, &collections).await?;
        evolution.complete().await;
        self.record_stopped(&mut *session, &collections).await?;
        Ok(Came::Complete)
    }

    /// Stores why collections are stopped, and counts them.
    pub(super) async fn record_stopped(
        &self,
        session: &mut dyn TargetSession,
        collections: &[Collection],
    ) -> Result<()> {
        let mut stopped = 0_u64;
        for collection in collections {
            if let Some(reason) = collection.stopped() {
                stopped += 1;
                if self.gauges.is_left_behind(collection.name()) {
                    collection.history_goes_by();
                }
                let reason = Some(reason);
                session.set_stopped(collection.name(), reason).await?;
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
pub(super) fn life() -> String {
    format!("{:016x}", fastrand::u64(..))
}
