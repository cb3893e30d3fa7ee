//! Watches for standstills. If a part waits for another session's lock, this is reported within seconds, with
//! whose lock it is: docrow can do nothing else about it. The rest is the net below everything that was
//! thought of. What looks like a standstill, and is none of the kinds that have messages of their own
//! (PostgreSQL or MongoDB away, another session's lock, no room), is reported, with where each part is; and
//! the attempt is ended as by an error that may pass, together with the tailer. So whatever was held is
//! released: locks, connections, futures that nothing polled. The next attempt begins from what PostgreSQL
//! says, as always.
//!
//! It runs in a task of its own, so that it also reports when the pipeline's own task is what stands still.
//! [`judge`] makes the decision.

mod judge;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::judge::{Answer, Judge, Look, StallVerdict};
use crate::{
    error::{Code, Error},
    metrics,
    pipeline::{counts::Counts, gauges::Gauges, stream::channel::ApplyState},
    process_status::{Hindrance, Part, Place, Stage, Vitals},
    sink::{
        Session, Target,
        connection::standing::{self, Locked, Standing},
    },
};

const LOOKING: Duration = Duration::from_secs(1);
/// An activity that takes longer may wait for another session's lock: then PostgreSQL is asked, once in so
/// many looks.
const WAITING: Duration = Duration::from_secs(3);
const SELDOM: u32 = 3;
/// How long PostgreSQL may take to say what it is doing.
const BRIEF: Duration = Duration::from_secs(5);

/// Ends an attempt that stands still.
#[derive(Debug, Default)]
pub(crate) struct Alarm(watch::Sender<Option<String>>);

impl Alarm {
    /// Returns once everything that runs now must end, with the reason.
    pub(crate) async fn raised(&self) -> Error {
        let mut alarm = self.0.subscribe();
        alarm.mark_unchanged();
        // The sender can't be gone while it is borrowed.
        let _ = alarm.changed().await;
        let words = alarm.borrow().clone().unwrap_or_default();
        Error::new(Code::Stalled, words)
    }

    fn raise(&self, words: String) {
        self.0.send_replace(Some(words));
    }
}

/// Watches for standstills.
pub(crate) struct StallWatch {
    pub(crate) patience: Duration,
    pub(crate) max_spool: u64,
    pub(crate) target: Target,
    pub(crate) counts: Arc<Counts>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) apply_state: watch::Receiver<ApplyState>,
    pub(crate) alarm: Arc<Alarm>,
}

impl StallWatch {
    pub(crate) async fn run(self) -> Infallible {
        let mut judge = Judge::new(self.patience);
        let mut looking = interval(LOOKING);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looked, mut session) = (Instant::now(), None);
        for round in (0..SELDOM).cycle() {
            looking.tick().await;
            let now = Instant::now();
            let is_suspicious = judge.look(&self.see(now - std::mem::replace(&mut looked, now)));
            if !is_suspicious && judge.moves() {
                self.is_over(|hindrance| matches!(hindrance, Hindrance::Standstill(_)));
            }
            let waits = self.waits();
            let is_locked = matches!(self.vitals.hindrance(), Some(Hindrance::Lock(_)));
            if is_suspicious || is_locked || waits && round == 0 {
                let answer = self.ask(&mut session, is_suspicious || is_locked).await;
                if is_suspicious && let StallVerdict::Stalled(still) = judge.judge(answer) {
                    self.end(still);
                }
            } else if !waits {
                session = None;
            }
        }
        std::future::pending().await
    }

    /// Whether a part has been at one activity for so long that it may wait for a lock.
    fn waits(&self) -> bool {
        let places = self.vitals.places().all();
        // The tailer has nothing to do with PostgreSQL.
        let mut others = places.iter().filter(|(part, _)| **part != Part::Intake);
        others.any(|(_, place)| !place.rests && place.since.elapsed() >= WAITING)
    }

    fn see(&self, passed: Duration) -> Look {
        let places = self.vitals.places().all();
        let steps = |part: &Part| places.get(part).map_or(0, |place| place.steps);
        let live = self.apply_state.borrow().live();
        let (behind, (_, spool)) = (self.gauges.behind(&live), self.gauges.stream());
        let is_busy =
            |(part, place): &(&Part, &Place)| !place.rests && matches!(part, Part::Intake | Part::Worker(_));
        Look {
            passed,
            is_under_way: !self.gauges.is_held_up()
                && matches!(self.vitals.stage().0, Stage::Preparing | Stage::Copying | Stage::Live),
            applied: self.counts.written().wrapping_add(self.gauges.advances()),
            steps: steps(&Part::Completion).wrapping_add(steps(&Part::Attempt)),
            behind,
            busy: places.iter().filter(is_busy).map(|(part, place)| (*part, place.steps)).collect(),
            is_full: spool.problem.is_some() || spool.bytes >= self.max_spool,
        }
    }

    /// Asks PostgreSQL what it is doing, and reports whose lock on a table it waits for; if `tells_all`, any
    /// other lock, too.
    async fn ask(&self, session: &mut Option<Session>, tells_all: bool) -> Answer {
        let asked = timeout(BRIEF, async {
            let open = match &mut *session {
                Some(open) => open,
                none => none.insert(self.target.connect().await?),
            };
            standing::look(open).await
        });
        let answer = match asked.await {
            Ok(Ok(Standing::Locked(locked))) if tells_all || locked.is_of_table => {
                self.say_locked(&locked);
                return Answer::Locked;
            }
            Ok(Ok(Standing::Locked(_))) => Answer::Locked,
            Ok(Ok(Standing::Works)) => Answer::Works,
            Ok(Ok(Standing::Idle)) => Answer::Idle,
            Ok(Err(_)) | Err(_) => {
                *session = None;
                Answer::Away
            }
        };
        self.is_over(|hindrance| matches!(hindrance, Hindrance::Lock(_)));
        answer
    }

    fn say_locked(&self, Locked { words, remedy, .. }: &Locked) {
        let words = format!("waits for {words}; this ends it: {remedy}");
        if self.vitals.hinder(Some(Hindrance::Lock(words.clone()))) {
            tracing::warn!("{words}");
        }
    }

    fn is_over(&self, which: impl Fn(&Hindrance) -> bool) {
        if self.vitals.hindrance().is_some_and(|hindrance| which(&hindrance)) {
            self.vitals.hinder(None);
        }
    }

    fn end(&self, still: Duration) {
        let places = self.vitals.places().words();
        let still = format!(
            "nothing has been applied for {} s, though MongoDB has changes and PostgreSQL answers",
            still.as_secs()
        );
        let words = format!("{still}; {places}");
        tracing::error!(code = %Code::Stalled, "{words}: everything held is released, and the next attempt begins");
        metrics::STALLS.add(1);
        self.vitals.hinder(Some(Hindrance::Standstill(words)));
        self.alarm.raise(still);
    }
}
