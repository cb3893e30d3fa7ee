//! `docrow backfill`: snapshot, catch up, exit.

use super::Outcome;
use crate::{
    config::Config,
    error::Result,
    pipeline::{self, Until},
    shutdown::Shutdown,
    sink::fence::Manner,
    telemetry::Reporter,
};

pub(super) async fn execute(config: &Config, reporter: Reporter, shutdown: Shutdown) -> Result<Outcome> {
    let done = pipeline::run(config, Until::CaughtUp, Manner::Refuse, reporter, shutdown.clone()).await?;
    if shutdown.is_requested() {
        tracing::warn!("stopped before the end, start it again to go on: {done}");
        return Ok(Outcome::Finding);
    }
    tracing::info!("done: {done}");
    Ok(if done.stopped > 0 { Outcome::Finding } else { Outcome::Done })
}
