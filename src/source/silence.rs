//! How long an answer is waited for, and that there is none. [`super::ask`] waits; here is what it goes by.

use std::{fmt, io, sync::Arc, time::Duration};

use mongodb::{bson::Timestamp, error::ErrorKind};
use tokio::time::Instant;

use crate::error::Code;

/// How long to wait for an answer in total, unless the URI's `socketTimeoutMS` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// The minimum wait once an answer is late.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait for an answer in total.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Patience {
    /// In other drivers zero means no limit; here it means the default.
    pub(super) fn new(written: Option<Duration>) -> Self {
        Self(written.filter(|written| !written.is_zero()).unwrap_or(PATIENCE))
    }

    /// Complete.
    pub(super) fn whole(self) -> Duration {
        self.0
    }

    pub(super) fn half(self) -> Duration {
        self.0 / 2
    }
}

/// Why docrow no longer waits for an answer: inside the driver's error, so that all errors take the same
/// path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SilenceCause {
    /// There is no answer, and the server is not working on one.
    NoAnswer(Duration),
    /// The server waits for a majority of the replica set.
    NoMajority(Duration),
}

impl SilenceCause {
    /// How it is recognized.
    pub(super) fn code(self) -> Code {
        match self {
            Self::NoAnswer(_) => Code::SourceSilent,
            Self::NoMajority(_) => Code::SourceWithoutMajority,
        }
    }

    /// Finds it in an error of the driver.
    pub(super) fn found_in(error: &mongodb::error::Error) -> Option<Self> {
        let ErrorKind::Io(error) = &*error.kind else { return None };
        error.get_ref()?.downcast_ref().copied()
    }

    pub(super) fn error(self) -> mongodb::error::Error {
        ErrorKind::Io(Arc::new(io::Error::new(io::ErrorKind::TimedOut, self))).into()
    }
}

impl fmt::Display for SilenceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(waited) => write!(
                f,
                "gave no answer in {} s and is not working on one: is the network in between frozen, or the \
                 server?",
                waited.as_secs()
            ),
            Self::NoMajority(waited) => write!(
                f,
                "has had no majority of its replica set that confirms writes for {} s: see rs.status()",
                waited.as_secs()
            ),
        }
    }
}

impl std::error::Error for SilenceCause {}

/// The state of a wait: it continues if a waiting future is dropped and another one follows.
#[derive(Debug)]
pub(super) struct AnswerWait {
    /// What identifies the request at the server. `None`: the request is answered at once.
    pub(super) comment: Option<String>,
    since: Option<Instant>,
    /// See [`Self::end`].
    end: Option<Instant>,
    /// When it was last polled: the time during which the caller does not ask does not count as waiting.
    seen: Instant,
    /// Whether the server was seen not to be working on it.
    pub(super) is_late: bool,
    /// Up to when a majority had everything at the last check, if there was more to replicate.
    pub(super) majority: Option<Timestamp>,
}

impl AnswerWait {
    pub(super) fn new(comment: Option<String>) -> Self {
        Self { comment, since: None, end: None, seen: Instant::now(), is_late: false, majority: None }
    }

    /// Starts to wait, or continues.
    pub(super) fn resume(&mut self, patience: Patience, now: Instant) {
        if now.saturating_duration_since(self.seen) > patience.half() {
            self.answered();
        }
    }

    /// Since when it has been waiting.
    pub(super) fn since(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now)
    }

    /// The deadline, now that the answer is late: an answer that was not collected yet may be ready.
    pub(super) fn end(&mut self, patience: Patience, now: Instant) -> Instant {
        let end = self.since(now) + patience.0;
        *self.end.get_or_insert(end.max(now + GRACE))
    }

    pub(super) fn answered(&mut self) {
        (self.since, self.end, self.is_late, self.majority) = (None, None, false, None);
    }
}

/// Records at its end that it waited until then.
pub(super) struct WaitedGuard<'a>(pub(super) &'a mut AnswerWait);

impl WaitedGuard<'_> {
    pub(super) fn get(&mut self) -> &mut AnswerWait {
        self.0
    }
}

impl Drop for WaitedGuard<'_> {
    fn drop(&mut self) {
        self.0.seen = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that is often dropped has waited all the time; one that asks again after a while has not
    /// waited in between.
    #[test]
    fn waits_add_up_unless_there_is_a_pause() {
        let (patience, mut waiting) = (Patience(Duration::from_secs(60)), AnswerWait::new(None));
        let began = waiting.since(Instant::now());
        let at = |second| began + Duration::from_secs(second);
        for second in 0..100 {
            waiting.resume(patience, at(second));
            assert_eq!(waiting.since(at(second)), began);
            assert_eq!(waiting.end(patience, at(second)), at(60), "asking again and again postpones nothing");
            waiting.seen = at(second);
        }
        waiting.resume(patience, at(130));
        assert_eq!(waiting.since(at(130)), at(130));
        assert_eq!(waiting.end(patience, at(200)), at(201));
    }
}
