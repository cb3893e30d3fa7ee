//! How a seed fails.

use std::fmt;

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It neither makes progress nor ends.
    Hang,
    /// It ended where it should not.
    Ended,
    /// One of the three checks found something.
    Difference,
    /// An assertion of the tests' support.
    Panicked,
}

/// A seed's failure.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// In a line.
    pub(super) title: String,
    /// Everything that may help to find the cause.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(kind: Kind, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, title: title.into(), detail: detail.into() }
    }

    /// Whether another run probably failed for the same reason.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let words = |title: &str| title.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        self.kind == other.kind && words(&self.title) == words(&other.title)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.title.chars().take(300).collect::<String>())
    }
}
