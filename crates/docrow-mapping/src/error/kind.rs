//! What errors mean for the program: [`Kind`] and [`Disposition`].

/// What an error means for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line, the configuration or a mapping file is wrong.
    Usage,
    /// MongoDB does not answer; it may later.
    SourceAway,
    /// MongoDB refuses a request: credentials, privileges, version, topology.
    SourceRefused,
    /// PostgreSQL does not answer, or ended the connection or transaction; a retry may succeed.
    TargetAway,
    /// PostgreSQL refuses a request: credentials, privileges, version, a table that is not docrow's.
    TargetRefused,
    /// PostgreSQL refuses the rows of one transaction because of their content.
    TargetRefusedRows,
    /// The oplog no longer holds the position to resume from (G8).
    HistoryLost,
    /// Another process holds this pipeline (G9).
    Fenced,
    /// The state directory was corrupt and is rebuilt: its content must be read again, from PostgreSQL's
    /// position (G7).
    StateRebuilt,
    /// No space is left for the state directory; there may be later.
    StateFull,
    /// The state directory can't be used and can't be rebuilt.
    StateCorrupt,
    /// A part of docrow makes no progress for an unknown reason; a fresh start may help.
    Stalled,
    /// An invariant of docrow is broken.
    Bug,
}

/// What the pipeline does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Reconnect, re-read the stored positions and go on from there, with backoff.
    Retry,
    /// End the process with the kind's exit code.
    Halt,
}

impl Kind {
    /// What the pipeline does about an error of this kind once it is running.
    pub fn disposition(self) -> Disposition {
        match self {
            Kind::SourceAway | Kind::TargetAway | Kind::StateRebuilt | Kind::StateFull | Kind::Stalled => {
                Disposition::Retry
            }
            Kind::Usage
            | Kind::SourceRefused
            | Kind::TargetRefused
            | Kind::TargetRefusedRows
            | Kind::HistoryLost
            | Kind::Fenced
            | Kind::StateCorrupt
            | Kind::Bug => Disposition::Halt,
        }
    }

    /// The process's exit code, as documented in README.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::SourceAway | Kind::SourceRefused => 3,
            Kind::TargetAway | Kind::TargetRefused | Kind::TargetRefusedRows => 4,
            Kind::HistoryLost => 5,
            Kind::Fenced => 6,
            Kind::StateRebuilt | Kind::StateFull | Kind::StateCorrupt => 7,
            Kind::Stalled | Kind::Bug => 70,
        }
    }

    /// What docrow does about it by itself.
    pub(super) fn consequence(self) -> String {
        let code = self.exit_code();
        match self {
            Self::SourceAway | Self::TargetAway | Self::StateFull => format!(
                "once `run` or `backfill` is under way, retries with growing delays until it works; before \
                 that, and in other commands, it ends with exit code {code}"
            ),
            Self::Stalled => {
                "releases all its locks and connections, and starts over from the positions in PostgreSQL"
                    .to_owned()
            }
            Self::StateRebuilt => "continues by itself, from PostgreSQL's position".to_owned(),
            Self::TargetRefusedRows => {
                "stores the whole document in docrow.dead_letters, with the reason, and continues".to_owned()
            }
            Self::Fenced => format!("ends with exit code {code}; `docrow run --standby` waits instead"),
            Self::HistoryLost => format!(
                "ends with exit code {code}; with `[source] on_history_lost = \"resync\"` it copies again in \
                 place and continues"
            ),
            Self::Usage | Self::SourceRefused | Self::TargetRefused | Self::StateCorrupt | Self::Bug => {
                format!("ends with exit code {code}")
            }
        }
    }
}
