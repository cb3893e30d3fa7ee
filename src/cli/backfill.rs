//! `docrow backfill`: snapshot, catch up, exit.

use clap::Args;
use indicatif::HumanCount;

use super::{outcome::CommandOutcome, profiling::Profiling, startup::Startup};
use crate::{
    config::Config,
    error::Result,
    notify, otlp,
    pipeline::{self, Job, Reload, Until},
    serve,
    shutdown::Shutdown,
    sink::{Target, metadata::fence::OnHeld},
    telemetry::Reporter,
};

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODE)]
pub(super) struct BackfillOptions {
    /// Accept dead letters: exit 0 although PostgreSQL does not have these documents
    #[arg(long)]
    allow_dead_letters: bool,
    #[command(flatten)]
    pub(super) startup: Startup,
    #[command(flatten)]
    pub(super) profiling: Profiling,
}

const EXIT_CODE: &str = "Exit code: 0 if PostgreSQL has every document that existed when the copy was \
    complete; 1 if some are dead letters, if a collection is stopped, or if stopped before it was done.";

pub(super) async fn execute(
    config: &Config,
    BackfillOptions { allow_dead_letters, startup, profiling }: BackfillOptions,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let vitals = reporter.vitals().clone();
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let (until, on_held, reload) = (Until::CaughtUp, OnHeld::Refuse, Reload::never());
    let job = Job { config, target: target.clone(), until, on_held, reload, wait: startup.wait };
    // Boxed, because the futures around it would contain it twice each.
    let work = Box::pin(pipeline::run(job, reporter, shutdown.clone()));
    let work = otlp::beside(config, work);
    let work = notify::beside(config, &vitals, work);
    let done = serve::beside(config, &target, &vitals, work).await?;
    profiling.note(done);
    if shutdown.is_requested() {
        tracing::warn!("stopped before it was done, start it again to resume: {done}");
        return Ok(CommandOutcome::Finding);
    }
    tracing::info!("done: {done}");
    let (left, stopped) = (done.dead_letters_left, done.stopped);
    if left > 0 && !allow_dead_letters {
        tracing::warn!(
            "PostgreSQL lacks {} documents, which are dead letters: docrow dead-letters list shows them, \
             with the reasons; --allow-dead-letters accepts them",
            HumanCount(left)
        );
    }
    let is_done = stopped == 0 && (left == 0 || allow_dead_letters);
    Ok(if is_done { CommandOutcome::Done } else { CommandOutcome::Finding })
}
