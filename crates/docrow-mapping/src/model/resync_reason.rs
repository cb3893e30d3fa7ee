//! Why a collection is resynced.

use std::fmt;

/// Why a collection needs a resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator requested it.
    Asked,
    /// The oplog no longer holds its position.
    HistoryLost,
    /// Another collection replaced it as a whole, by a rename or `$out`.
    Replaced,
    /// It was dropped, and its rows must not be kept.
    Dropped,
    /// It was dropped, and created again.
    Recreated,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Asked, Self::HistoryLost, Self::Replaced, Self::Dropped, Self::Recreated];

    /// As a label of a metric.
    pub fn label(self) -> &'static str {
        match self {
            Self::HistoryLost => "history_lost",
            other => other.text(),
        }
    }

    /// The stored form.
    pub fn text(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::HistoryLost => "history lost",
            Self::Replaced => "replaced",
            Self::Dropped => "dropped",
            Self::Recreated => "recreated",
        }
    }

    /// A reason that only a later docrow knows counts as requested.
    pub fn from_text(text: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.text() == text).unwrap_or(Self::Asked)
    }
}

/// For the log: "to copy again, in place: …".
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "it was requested",
            Self::HistoryLost => "the oplog no longer holds its changes",
            Self::Replaced => "it was replaced as a whole",
            Self::Dropped => "it was dropped",
            Self::Recreated => "it was dropped and created again",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_text(reason.text()), reason);
        }
        assert_eq!(Reason::from_text("of a later docrow"), Reason::Asked);
    }
}
