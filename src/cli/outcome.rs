//! How a command that did not fail ends.

/// All exit codes, as `--help` says them.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 done; 1 a difference or a finding, or stopped before it was done; 2 \
    usage or configuration; 3 source unreachable, or it refused a request; 4 target unreachable, or it \
    refused a request; 5 history lost; 6 held by another process; 7 state directory corrupt; 8 no process \
    runs the pipeline (status --exit-code); 70 a bug.";

/// What a command reports by its exit code.
pub(super) enum CommandOutcome {
    /// Everything is done: exit code 0.
    Done,
    /// Something is wrong, and the command has said what: exit code 1.
    Finding,
    /// No process is known to run the pipeline, for `docrow status --exit-code`: exit code 8.
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
