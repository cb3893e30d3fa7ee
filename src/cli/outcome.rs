//! How a command that did not fail ends.

/// All exit codes, as `--help` says them.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 done; 1 a difference or a finding, or stopped before the end; 2 usage or configuration; 3 source unreachable or \
refused; 4 target unreachable or refused; 5 history lost; 6 held by another process; 7 state corrupt; 8 nobody runs the pipeline (status --exit-code); 70 a bug.";

/// What a command has to say by its exit code.
pub(super) enum CommandOutcome {
    /// All of it is done: exit code 0.
    Done,
    /// Not all is as it should be, and the command has said what: exit code 1.
    Finding,
    /// Nobody is known to run the pipeline, for `docrow status --exit-code`: exit code 8.
    NotRunning,
}

impl CommandOutcome {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Finding => 1,
            Self::NotRunning => 8,
        }
    }
}
