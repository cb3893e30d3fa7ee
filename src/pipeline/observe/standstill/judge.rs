//! Decides whether all has come to a standstill. Pure: it is told what is seen, and how much time has passed.
//!
//! Nothing is held up as long as rows are about as MongoDB is, however long nothing moves: then there is nothing to do. And
//! what is seen once may be a moment between two moments, so PostgreSQL is asked again and again before it counts.
//! Whatever was wrongly taken for a standstill gets twice the time when it is tried again, for else it would never be done.

use std::{collections::BTreeMap, time::Duration};

use crate::process_status::Part;

/// Rows that are behind by less are up to date.
const CLOSE: Duration = Duration::from_secs(10);
/// How many times as long there may be no progress where no collection is live yet: what is done then has long steps.
const UNTIL_LIVE: u32 = 10;
/// How often in a row PostgreSQL must have nothing to do for this process.
const ASKED: u32 = 3;
/// The most time that anything gets.
const LONGEST: Duration = Duration::from_secs(3600);
/// What passes between two looks is no more than this: if it was more, nobody was running.
const MOST: Duration = Duration::from_secs(2);

/// What is seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Since the last one.
    pub(super) passed: Duration,
    /// Whether this process has the pipeline, an attempt is under way, and MongoDB answers.
    pub(super) is_under_way: bool,
    /// Grows with all that is applied.
    pub(super) applied: u64,
    /// Grows with all else that is done.
    pub(super) steps: u64,
    /// How far the live collections are behind; `None`: there are none.
    pub(super) behind: Option<Duration>,
    /// How often each part that has something to do has begun something.
    pub(super) busy: BTreeMap<Part, u64>,
    /// Whether the stream can't be read on, because there is no room for it.
    pub(super) is_full: bool,
}

/// What PostgreSQL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    Away,
    /// It carries out something for this process.
    Works,
    /// Another session holds a lock that this process waits for.
    Locked,
    /// It waits for this process.
    Idle,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StallVerdict {
    /// There is nothing to be said.
    Fine,
    /// It has come to a standstill, for so long.
    Stalled(Duration),
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Judge {
    patience: Duration,
    /// What was applied, and what else was done.
    progress: (u64, u64),
    /// Something was applied, or there is nothing to do.
    moves: bool,
    /// For how long there was no progress, though there was something to do.
    still: Duration,
    /// For how long each part has been where it is, by its steps.
    stuck: BTreeMap<Part, (u64, Duration)>,
    /// How often PostgreSQL had nothing to do.
    idle: u32,
    /// How often it stood still lately, and how long ago that was.
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

    /// Whether PostgreSQL is to be asked, for it looks like a standstill.
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
            // Where there is no room, everybody may rest, except for those who make room.
            Some(_) if look.is_full && look.busy.is_empty() => false,
            Some(_) => self.still >= limit || self.longest() >= limit,
        };
        if !is_suspicious {
            self.idle = 0;
        }
        is_suspicious
    }

    /// What it means.
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

    /// Whether all is well: something was applied since the last look, or there is nothing to do, and nobody is where he was for
    /// long.
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

    /// A pipeline that is behind, with a worker and an tailer that rest.
    struct Scene {
        judge: Judge,
        look: Look,
        /// What PostgreSQL says if it is asked.
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

        /// The first verdict within so many seconds that is not that all is fine, and after how many.
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
        // After hours in which there was nothing to do, it has its time as well.
        let found = scene.within(100, |look| look.behind = Some(Duration::from_secs(9000)));
        assert!(matches!(found, Some((60.., _))), "{found:?}");
    }

    #[test]
    fn whoever_moves_does_not_stand_still_however_far_behind() {
        Scene::new().never(|look| look.applied += 1);
        // One document in 50 seconds, or a chunk.
        let mut seconds = 0;
        Scene::new().never(|look| {
            seconds += 1;
            look.applied += u64::from(seconds % 50 == 0);
        });
    }

    /// The others go on: it is the one that is behind that matters.
    #[test]
    fn a_part_that_is_stuck_is_noticed_among_others_that_go_on() {
        let mut scene = Scene::new();
        let found = scene.within(100, |look| {
            look.applied += 1;
            look.busy = [(Part::Worker(0), look.applied), (Part::Worker(1), 7)].into();
        });
        assert!(matches!(found, Some((60..=65, StallVerdict::Stalled(_)))), "{found:?}");
        // One that begins something now and then is not.
        Scene::new().never(|look| {
            look.applied += 1;
            look.busy = [(Part::Worker(1), look.applied / 50)].into();
        });
    }

    #[test]
    fn postgres_that_is_away_or_works_or_waits_for_somebody_is_no_standstill() {
        for answer in [Answer::Away, Answer::Works, Answer::Locked] {
            let mut scene = Scene { answer, ..Scene::new() };
            scene.never(|_| {});
        }
        // Nor is a moment between two statements.
        let mut scene = Scene::new();
        for second in 0..1000 {
            let answer = if second % 3 == 0 { Answer::Works } else { Answer::Idle };
            assert!(!scene.judge.look(&scene.look) || scene.judge.judge(answer) == StallVerdict::Fine);
        }
    }

    /// Who goes on after a standstill is seen to.
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
    fn a_full_spool_excuses_those_who_rest() {
        Scene::new().never(|look| look.is_full = true);
        let mut scene = Scene::new();
        let found = scene.within(100, |look| {
            look.is_full = true;
            look.busy = [(Part::Worker(0), 1)].into();
        });
        assert!(found.is_some(), "a worker that has something to do makes room");
    }

    /// SIGSTOP, a suspended machine: what passed meanwhile counts for no more than a moment.
    #[test]
    fn a_machine_that_was_paused_is_no_standstill() {
        let mut scene = Scene::new();
        scene.look.passed = Duration::from_secs(7200);
        assert_eq!(scene.within(20, |_| {}), None);
        scene.look.passed = SECOND;
        scene.never(|look| look.applied += 1);
    }

    #[test]
    fn nothing_is_expected_of_whoever_has_no_pipeline_or_tries_again() {
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

    /// What only takes long is done at last.
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
