//! `--profile DIR`, for the commands that have it.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use clap::Args;

use super::outcome::CommandOutcome;
use crate::{error::Result, pipeline::Summary, profile::Profile};

/// The flag, and the figures that its report needs. Clones share their state.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Profiling {
    /// Sample docrow's CPU use; at the end DIR has flamegraph.svg, and report.md: CPU by stage, top
    /// functions, rates
    #[arg(long = "profile", value_name = "DIR")]
    folder: Option<PathBuf>,
    #[arg(skip)]
    summary: Arc<OnceLock<Summary>>,
}

impl Profiling {
    /// Records what the command did.
    pub(super) fn note(&self, done: Summary) {
        // It is set once, at the end.
        let _ = self.summary.set(done);
    }

    /// Runs `command`, profiled if requested. Only the command decides the outcome: a profile that can't be
    /// written at the end is a warning.
    pub(super) fn around(
        &self,
        name: &'static str,
        command: impl FnOnce() -> Result<CommandOutcome>,
    ) -> Result<CommandOutcome> {
        let Some(folder) = &self.folder else { return command() };
        let profile = Profile::begin(folder, name)?;
        let finished = command();
        let exit_code =
            finished.as_ref().map_or_else(|error| error.kind().exit_code(), CommandOutcome::exit_code);
        if let Err(error) = profile.end(exit_code, self.summary.get().copied()) {
            tracing::warn!(code = %error.code(), "{error}");
        }
        finished
    }
}
