//! `docrow backfill`: snapshot, catch up, exit.

use clap::Args;

use super::{Outcome, profiling::Profiling};
use crate::{
    config::Config,
    error::Result,
    pipeline::{self, Until},
    serve,
    shutdown::Shutdown,
    sink::fence::Manner,
    telemetry::Reporter,
};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) profiling: Profiling,
}

pub(super) async fn execute(
    config: &Config,
    Options { profiling }: Options,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<Outcome> {
    let vitals = reporter.vitals().clone();
    let work = pipeline::run(config, Until::CaughtUp, Manner::Refuse, reporter, shutdown.clone());
    let done = serve::beside(config, &vitals, work).await?;
    profiling.note(done);
    if shutdown.is_requested() {
        tracing::warn!("stopped before the end, start it again to go on: {done}");
        return Ok(Outcome::Finding);
    }
    tracing::info!("done: {done}");
    Ok(if done.stopped > 0 { Outcome::Finding } else { Outcome::Done })
}
