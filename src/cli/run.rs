//! `docrow run`: snapshot what has none yet, then follow until told to stop.

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
    /// While another process runs the pipeline, wait, and take over when that one ends, dies or falls silent
    #[arg(long)]
    standby: bool,
    #[command(flatten)]
    pub(super) profiling: Profiling,
}

pub(super) async fn execute(
    config: &Config,
    Options { standby, profiling }: Options,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<Outcome> {
    let manner = if standby { Manner::StandBy } else { Manner::Refuse };
    let vitals = reporter.vitals().clone();
    let work = pipeline::run(config, Until::Stopped, manner, reporter, shutdown);
    let done = serve::beside(config, &vitals, work).await?;
    profiling.note(done);
    tracing::info!("stopped: {done}");
    Ok(Outcome::Done)
}
