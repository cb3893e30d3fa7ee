//! `docrow run`: snapshot what has none yet, then follow until told to stop.

use super::Outcome;
use crate::{
    config::Config,
    error::Result,
    pipeline::{self, Until},
    shutdown::Shutdown,
    telemetry::Reporter,
};

pub(super) async fn execute(config: &Config, reporter: Reporter, shutdown: Shutdown) -> Result<Outcome> {
    let done = pipeline::run(config, Until::Stopped, reporter, shutdown).await?;
    tracing::info!("stopped: {done}");
    Ok(Outcome::Done)
}
