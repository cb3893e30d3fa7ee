//! How long an answer is waited for, and that there is none. [`super::ask`] waits; here is what it goes by.

use std::{fmt, io, sync::Arc, time::Duration};

use mongodb::{bson::Timestamp, error::ErrorKind};
use tokio::time::Instant;

use crate::error::Code;

/// How long an answer is waited for in all, unless the URI's `socketTimeoutMS` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited at least once an answer is late.
const GRACE: Duration = Duration::from_secs(1);

/// How long an answer is waited for in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Patience {
    /// Zero is how other drivers write that there is no limit; here it is the default.
    pub(super) fn new(written: Option<Duration>) -> Self {
        Self(written.filter(|written| !written.is_zero()).unwrap_or(PATIENCE))
    }

    /// All of it.
    pub(super) fn whole(self) -> Duration {
        self.0
    }

    pub(super) fn half(self) -> Duration {
        self.0 / 2
    }
}

/// Why an answer is not waited for any longer: inside of the driver's error, so that all errors take one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SilenceCause {
    /// There is none, and the server does not work at one.
    NoAnswer(Duration),
    /// The server waits for a majority of the replica set.
    NoMajority(Duration),
}

impl SilenceCause {
    /// What it is known by.
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
                "gave no answer in {} s and does not work at one: is the network in between frozen, or the server?",
                waited.as_secs()
            ),
            Self::NoMajority(waited) => write!(
                f,
                "has no majority of its replica set that confirms what is written, for {} s: see rs.status()",
                waited.as_secs()
            ),
        }
    }
}

impl std::error::Error for SilenceCause {}

/// How a wait stands: it goes on when a future that waits was dropped and there is another one.
#[derive(Debug)]
pub(super) struct AnswerWait {
    /// What the server knows the request by. `None`: it is one that is answered at once.
    pub(super) comment: Option<String>,
    since: Option<Instant>,
    /// See [`Self::end`].
    end: Option<Instant>,
    /// When it was last waited: who does not want the answer for a while does not wait for it.
    seen: Instant,
    /// Whether the server was seen not to work at it.
    pub(super) is_late: bool,
    /// Up to when a majority had everything, at the last look, if there was more to come to.
    pub(super) majority: Option<Timestamp>,
}

impl AnswerWait {
    pub(super) fn new(comment: Option<String>) -> Self {
        Self { comment, since: None, end: None, seen: Instant::now(), is_late: false, majority: None }
    }

    /// Begins to wait, or goes on.
    pub(super) fn resume(&mut self, patience: Patience, now: Instant) {
        if now.saturating_duration_since(self.seen) > patience.half() {
            self.answered();
        }
    }

    /// Since when it is waited.
    pub(super) fn since(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now)
    }

    /// Until when it is waited, now that the answer is late: an answer that nobody was there to take may lie
    /// ready.
    pub(super) fn end(&mut self, patience: Patience, now: Instant) -> Instant {
        let end = self.since(now) + patience.0;
        *self.end.get_or_insert(end.max(now + GRACE))
    }

    pub(super) fn answered(&mut self) {
        (self.since, self.end, self.is_late, self.majority) = (None, None, false, None);
    }
}

/// Notes at its end that it was waited until then.
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

    /// Who is dropped often has waited all the time; who asks again after a while has not waited in between.
    #[test]
    fn waits_add_up_unless_there_is_a_pause() {
        let (patience, mut waiting) = (Patience(Duration::from_secs(60)), AnswerWait::new(None));
        let began = waiting.since(Instant::now());
        let at = |second| began + Duration::from_secs(second);
        for second in 0..100 {
            waiting.resume(patience, at(second));
            assert_eq!(waiting.since(at(second)), began);
            assert_eq!(waiting.end(patience, at(second)), at(60), "looking again and again puts nothing off");
            waiting.seen = at(second);
        }
        waiting.resume(patience, at(130));
        assert_eq!(waiting.since(at(130)), at(130));
        assert_eq!(waiting.end(patience, at(200)), at(201));
    }
}
