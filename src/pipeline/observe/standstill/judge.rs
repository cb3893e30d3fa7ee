//! Decides whether everything has come to a standstill. Pure: what is seen, and how much time has passed, are
//! passed in.
//!
//! Nothing is held up as long as rows are about as current as MongoDB, however long nothing moves: then there
//! is nothing to do. And a single look may fall between two statements, so PostgreSQL is asked again and
//! again before it counts. Whatever was wrongly taken for a standstill gets twice the time when it is tried
//! again, because otherwise it would never finish.

use std::{collections::BTreeMap, time::Duration};

use crate::process_status::Part;

/// Rows that are behind by less are up to date.
const CLOSE: Duration = Duration::from_secs(10);
/// How many times as long there may be no progress while no collection is live yet: steps are long then.
const UNTIL_LIVE: u32 = 10;
/// How many times in a row PostgreSQL must have nothing to do for this process.
const ASKED: u32 = 3;
/// The most time that any step gets.
const LONGEST: Duration = Duration::from_secs(3600);
/// The time between two looks counts for no more than this: if it was longer, the process was not running.
const MOST: Duration = Duration::from_secs(2);

/// What is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// The time since the last look.
    pub(super) passed: Duration,
    /// Whether this process has the pipeline, an attempt is under way, and MongoDB answers.
    pub(super) is_under_way: bool,
    /// Grows with everything that is applied.
    pub(super) applied: u64,
    /// Grows with everything else that is done.
    pub(super) steps: u64,
    /// How far the live collections are behind; `None`: there are none.
    pub(super) behind: Option<Duration>,
    /// How many activities each part that has work has started.
    pub(super) busy: BTreeMap<Part, u64>,
    /// Whether the stream can't be read further, because there is no room for it.
    pub(super) is_full: bool,
}

/// What PostgreSQL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    Away,
    /// It does something for this process.
    Works,
    /// Another session holds a lock that this process waits for.
    Locked,
    /// It waits for this process.
    Idle,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StallVerdict {
    /// There is nothing to report.
    Fine,
    /// The pipeline has stood still for this long.
    Stalled(Duration),
}

/// What has been seen so far.
#[derive(Debug)]
pub(super) struct Judge {
    patience: Duration,
    /// What was applied, and what else was done.
    progress: (u64, u64),
    /// Whether something was applied, or there is nothing to do.
    moves: bool,
    /// How long there has been no progress, though there was something to do.
    still: Duration,
    /// The number of activities that each part has started, and how long it has been at the last of them.
    stuck: BTreeMap<Part, (u64, Duration)>,
    /// How often PostgreSQL had nothing to do.
    idle: u32,
    /// How many standstills there were lately, and how long ago the last one was.
    stalls: u32,
    calm: Duration,
}

impl Judge {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            progress: (0, 0),
            moves: false,
            still: Duration::ZERO,
            stuck: BTreeMap::new(),
            idle: 0,
            stalls: 0,
            calm: Duration::ZERO,
        }
    }

    /// Whether to ask PostgreSQL, because this looks like a standstill.
    pub(super) fn look(&mut self, look: &Look) -> bool {
        let passed = look.passed.min(MOST);
        let limit = self.limit();
        self.calm += passed;
        if self.calm > 10 * limit {
            self.stalls = 0;
        }
        let before = std::mem::replace(&mut self.progress, (look.applied, look.steps));
        let (has_moved, has_applied) = (before != self.progress, before.0 != look.applied);
        let is_close = look.behind.is_some_and(|behind| behind < CLOSE.min(self.patience));
        self.moves = has_applied || is_close;
        if !look.is_under_way || is_close {
            self.forget();
            return false;
        }
        self.still = if has_moved { Duration::ZERO } else { self.still + passed };
        let before = std::mem::take(&mut self.stuck);
        self.stuck = look
            .busy
            .iter()
            .map(|(part, steps)| {
                let since = before.get(part).filter(|(then, _)| then == steps).map(|(_, since)| *since);
                (*part, (*steps, since.map_or(Duration::ZERO, |since| since + passed)))
            })
            .collect();
        let is_suspicious = match look.behind {
            None => self.still >= UNTIL_LIVE * limit,
            // If there is no room, all parts may rest, except those that make room.
            Some(_) if look.is_full && look.busy.is_empty() => false,
            Some(_) => self.still >= limit || self.longest() >= limit,
        };
        if !is_suspicious {
            self.idle = 0;
        }
        is_suspicious
    }

    /// Decides what the answer means.
    pub(super) fn judge(&mut self, answer: Answer) -> StallVerdict {
        match answer {
            Answer::Idle => self.idle += 1,
            Answer::Away | Answer::Works | Answer::Locked => self.idle = 0,
        }
        if self.idle < ASKED {
            return StallVerdict::Fine;
        }
        let still = self.still.max(self.longest());
        self.stalls = self.stalls.saturating_add(1);
        self.calm = Duration::ZERO;
        self.forget();
        StallVerdict::Stalled(still)
    }

    /// Whether all is well: something was applied since the last look, or there is nothing to do; and no part
    /// has been at one activity for long.
    pub(super) fn moves(&self) -> bool {
        self.moves && self.longest() < self.patience
    }

    fn limit(&self) -> Duration {
        self.patience.saturating_mul(1 << self.stalls.min(12)).min(LONGEST.max(self.patience))
    }

    fn longest(&self) -> Duration {
        self.stuck.values().map(|(_, since)| *since).max().unwrap_or_default()
    }

    fn forget(&mut self) {
        (self.still, self.idle) = (Duration::ZERO, 0);
        self.stuck.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A pipeline that is behind, with a worker and a tailer that rest.
    struct Scene {
        judge: Judge,
        look: Look,
        /// What PostgreSQL answers if it is asked.
        answer: Answer,
    }

    impl Scene {
        fn new() -> Self {
            let look = Look {
                passed: SECOND,
                is_under_way: true,
                behind: Some(Duration::from_secs(300)),
                ..Look::default()
            };
            Self { judge: Judge::new(PATIENCE), look, answer: Answer::Idle }
        }

        /// The first verdict within this many seconds that is not `Fine`, and after how many seconds it
        /// comes.
        fn within(&mut self, seconds: u64, mut each: impl FnMut(&mut Look)) -> Option<(u64, StallVerdict)> {
            (1..=seconds).find_map(|second| {
                each(&mut self.look);
                let asks = self.judge.look(&self.look);
                let verdict = if asks { self.judge.judge(self.answer.clone()) } else { StallVerdict::Fine };
                (verdict != StallVerdict::Fine).then_some((second, verdict))
            })
        }

        #[track_caller]
        fn never(&mut self, each: impl FnMut(&mut Look)) {
            assert_eq!(self.within(10_000, each), None);
        }
    }

    #[test]
    fn what_stands_still_is_noticed_after_its_time() {
        let mut scene = Scene::new();
        let found = scene.within(100, |_| {});
        assert!(matches!(found, Some((60..=64, StallVerdict::Stalled(_)))), "{found:?}");
    }

    #[test]
    fn a_quiet_source_is_no_standstill() {
        let mut scene = Scene::new();
        scene.never(|look| look.behind = Some(SECOND));
        // After hours with nothing to do, the pipeline gets its full time as well.
        let found = scene.within(100, |look| look.behind = Some(Duration::from_secs(9000)));
        assert!(matches!(found, Some((60.., _))), "{found:?}");
    }

    #[test]
    fn progress_is_no_standstill_however_far_behind() {
        Scene::new().never(|look| look.applied += 1);
        // One document in 50 seconds, or a chunk.
        let mut seconds = 0;
        Scene::new().never(|look| {
            seconds += 1;
            look.applied += u64::from(seconds % 50 == 0);
        });
    }

    /// The others continue: the part that is stuck is the one that matters.
    #[test]
    fn a_part_that_is_stuck_is_noticed_among_others_that_go_on() {
        let mut scene = Scene::new();
        let found = scene.within(100, |look| {
            look.applied += 1;
            look.busy = [(Part::Worker(0), look.applied), (Part::Worker(1), 7)].into();
        });
        assert!(matches!(found, Some((60..=65, StallVerdict::Stalled(_)))), "{found:?}");
        // A part that begins something now and then is not stuck.
        Scene::new().never(|look| {
            look.applied += 1;
            look.busy = [(Part::Worker(1), look.applied / 50)].into();
        });
    }

    #[test]
    fn postgres_that_is_away_or_works_or_is_locked_is_no_standstill() {
        for answer in [Answer::Away, Answer::Works, Answer::Locked] {
            let mut scene = Scene { answer, ..Scene::new() };
            scene.never(|_| {});
        }
        // Nor is a moment between two statements a standstill.
        let mut scene = Scene::new();
        for second in 0..1000 {
            let answer = if second % 3 == 0 { Answer::Works } else { Answer::Idle };
            assert!(!scene.judge.look(&scene.look) || scene.judge.judge(answer) == StallVerdict::Fine);
        }
    }

    /// It is noticed when a pipeline continues after a standstill.
    #[test]
    fn what_is_applied_again_moves() {
        let mut scene = Scene { answer: Answer::Locked, ..Scene::new() };
        scene.never(|_| {});
        assert!(!scene.judge.moves());
        scene.look.applied += 1;
        scene.judge.look(&scene.look);
        assert!(scene.judge.moves());
    }

    #[test]
    fn a_full_spool_excuses_parts_that_rest() {
        Scene::new().never(|look| look.is_full = true);
        let mut scene = Scene::new();
        let found = scene.within(100, |look| {
            look.is_full = true;
            look.busy = [(Part::Worker(0), 1)].into();
        });
        assert!(found.is_some(), "a worker that has something to do makes room");
    }

    /// SIGSTOP, a suspended machine: the time meanwhile counts for no more than a moment.
    #[test]
    fn a_machine_that_was_paused_is_no_standstill() {
        let mut scene = Scene::new();
        scene.look.passed = Duration::from_secs(7200);
        assert_eq!(scene.within(20, |_| {}), None);
        scene.look.passed = SECOND;
        scene.never(|look| look.applied += 1);
    }

    #[test]
    fn nothing_is_expected_without_a_pipeline_or_before_another_try() {
        Scene::new().never(|look| look.is_under_way = false);
    }

    /// Before anything is live, steps are long.
    #[test]
    fn what_is_not_live_yet_has_more_time() {
        let mut scene = Scene::new();
        let found = scene.within(1000, |look| look.behind = None);
        assert!(matches!(found, Some((600..=605, StallVerdict::Stalled(_)))), "{found:?}");
        Scene::new().never(|look| (look.behind, look.steps) = (None, look.steps + 1));
    }

    /// A step that only takes long is finished in the end.
    #[test]
    fn each_time_it_gets_twice_as_long_until_all_was_well_for_a_while() {
        let mut scene = Scene::new();
        for expected in [60, 120, 240, 480] {
            let (seconds, _) = scene.within(10_000, |_| {}).unwrap();
            assert!((expected..expected + 5).contains(&seconds), "{seconds}, not {expected}");
        }
        assert_eq!(scene.within(10_000, |look| look.applied += 1), None);
        let (seconds, _) = scene.within(10_000, |_| {}).unwrap();
        assert!((60..65).contains(&seconds), "{seconds}");
    }
}
