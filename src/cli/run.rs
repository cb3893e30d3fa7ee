//! `docrow run`: copies what has no copy yet, then follows changes until it is stopped.

use clap::{Args, builder::FalseyValueParser};

use super::{outcome::CommandOutcome, profiling::Profiling, startup::Startup};
use crate::{
    config::{Config, Overrides, environment::DOCROW_STANDBY},
    error::Result,
    notify, otlp,
    pipeline::{self, Job, Reload, Until},
    serve,
    shutdown::Shutdown,
    sink::{Target, metadata::fence::OnHeld},
    telemetry::Reporter,
    verify,
};

#[derive(Debug, Args)]
pub(super) struct RunOptions {
    /// While another process runs the pipeline, wait, and take over when that process ends, dies or falls
    /// silent
    #[arg(long, env = DOCROW_STANDBY, value_parser = FalseyValueParser::new())]
    standby: bool,
    #[command(flatten)]
    pub(super) startup: Startup,
    #[command(flatten)]
    pub(super) profiling: Profiling,
}

pub(super) async fn execute(
    overrides: Overrides,
    RunOptions { standby, startup, profiling }: RunOptions,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let again = overrides.clone();
    let reload = Reload::on_hangup(move || Config::load(again.clone()))?;
    let config = Config::load(overrides)?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let on_held = if standby { OnHeld::StandBy } else { OnHeld::Refuse };
    let vitals = reporter.vitals().clone();
    let job = Job {
        config: &config,
        target: target.clone(),
        until: Until::Stopped,
        on_held,
        reload,
        wait: startup.wait,
    };
    // Boxed, because the futures around it would contain it twice each.
    let work = Box::pin(pipeline::run(job, reporter.clone(), shutdown));
    let work = verify::beside(&config, &reporter, work);
    let work = otlp::beside(&config, work);
    let work = notify::beside(&config, &vitals, work);
    let done = serve::beside(&config, &target, &vitals, work).await?;
    profiling.note(done);
    tracing::info!("stopped: {done}");
    Ok(CommandOutcome::Done)
}
