//! `--profile DIR`, for the commands that have it.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use clap::Args;

use super::outcome::CommandOutcome;
use crate::{error::Result, pipeline::Summary, profile::Profile};

/// The flag, and what its report wants to know of the command. Clones are one.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Profiling {
    /// Sample docrow's CPU meanwhile; at the end DIR has flamegraph.svg, and report.md: CPU by stage, top functions, rates
    #[arg(long = "profile", value_name = "DIR")]
    folder: Option<PathBuf>,
    #[arg(skip)]
    summary: Arc<OnceLock<Summary>>,
}

impl Profiling {
    /// Says what the command did.
    pub(super) fn note(&self, done: Summary) {
        // It is said once, at the end.
        let _ = self.summary.set(done);
    }

    /// Runs `command`, profiled if that is asked for. It decides about the outcome alone: a profile that can't be written
    /// then is a warning.
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
