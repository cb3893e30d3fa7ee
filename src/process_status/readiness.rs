//! Defines *ready*, as `docs/status.md` does: this process follows MongoDB, all collections are complete and
//! none is stopped, and both sides have answered within [`ANSWERS_WITHIN`].

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{
    report::{Hindrance, Stage},
    vitals::Vitals,
};

/// A side that has not answered for this long does not answer. Both are asked once a second.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

impl Vitals {
    /// Records when PostgreSQL last answered the process that holds the pipeline.
    pub fn hear_target(&self, answered: watch::Receiver<Instant>) {
        self.signs().target = Some(answered);
    }

    /// Why it is not ready, in a few words; `None`: it is.
    pub fn unready(&self) -> Option<&'static str> {
        let signs = self.signs();
        let target = signs.target.as_ref().map(|answered| answered.borrow().elapsed());
        let words = match signs.report.stage {
            Stage::Starting => "starting",
            Stage::StandingBy => "standing by: another process runs the pipeline",
            Stage::Preparing => "preparing tables",
            Stage::Copying => "copying",
            Stage::Retrying => "retrying after an error",
            Stage::Ended => "ending",
            Stage::Live if matches!(signs.report.hindrance, Some(Hindrance::Standstill(_))) => {
                "nothing is applied, although there are changes"
            }
            Stage::Live if signs.report.source.problem.is_some() => "MongoDB does not answer",
            Stage::Live if target.is_none_or(|silence| silence >= ANSWERS_WITHIN) => {
                "PostgreSQL does not answer"
            }
            Stage::Live if signs.stopped > 0 || !signs.refused.is_empty() => {
                "not all collections are replicated"
            }
            Stage::Live => return None,
        };
        Some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_status::{Clock, Reading};

    fn live() -> (Vitals, watch::Sender<Instant>) {
        let (answers, answered) = watch::channel(Instant::now());
        let vitals = Vitals::new();
        vitals.enter(Stage::Live, None);
        vitals.hear_target(answered);
        (vitals, answers)
    }

    #[test]
    fn ready_is_live_complete_and_with_both_sides() {
        let (vitals, answers) = live();
        assert_eq!(vitals.unready(), None);
        for stage in [Stage::Starting, Stage::StandingBy, Stage::Preparing, Stage::Copying, Stage::Retrying] {
            vitals.enter(stage, None);
            assert!(vitals.unready().is_some(), "{stage:?}");
        }
        vitals.enter(Stage::Live, None);
        vitals.hear(Clock { problem: Some("no answer".to_owned()), ..Clock::default() });
        assert_eq!(vitals.unready(), Some("MongoDB does not answer"));
        vitals.hear(Clock::default());
        vitals.take(Reading { stopped: 1, ..Reading::default() });
        assert_eq!(vitals.unready(), Some("not all collections are replicated"));
        vitals.take(Reading::default());
        vitals.refuse([("shop.orders".to_owned(), "a view is in the way".to_owned())].into());
        assert_eq!(vitals.unready(), Some("not all collections are replicated"));
        vitals.refuse([].into());
        answers.send_replace(Instant::now().checked_sub(ANSWERS_WITHIN).unwrap());
        assert_eq!(vitals.unready(), Some("PostgreSQL does not answer"));
        answers.send_replace(Instant::now());
        vitals.hinder(Some(Hindrance::Lock("waits for a lock".to_owned())));
        assert_eq!(vitals.unready(), None, "ending the process would not help");
        vitals.hinder(Some(Hindrance::Standstill("nothing has been applied".to_owned())));
        assert!(vitals.unready().is_some());
    }
}
