//! What a seed fails by.

use std::fmt;

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something neither moves nor ends.
    Hang,
    /// It ended where it should not.
    Ended,
    /// One of the three judges found something.
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
    /// All that may help to find the fault.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn new(kind: Kind, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, title: title.into(), detail: detail.into() }
    }

    /// Whether another run failed by what is probably the same fault.
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
