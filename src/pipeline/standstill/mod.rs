//! Watches whether all goes on: that is the net below everything that was thought of. What looks like a standstill, and
//! is none of the kinds that have words of their own (PostgreSQL or MongoDB away, somebody's lock, no room), is said, with
//! where each part is; and the attempt is ended as by an error that may pass, together with the intake. So whatever was held is let
//! go: locks, connections, futures that nobody polled. The next attempt begins from what PostgreSQL says, as always.
//!
//! It runs in a task of its own, so that it also says so when the pipeline's own task is what does not go on. The decision is
//! made in [`judge`].

mod judge;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::judge::{Answer, Judge, Look, Verdict};
use super::{Counts, gauges::Gauges, intake::Demand};
use crate::{
    error::{Code, Error},
    metrics,
    sink::{
        Target,
        standing::{self, Standing},
    },
    source::Source,
    vitals::{Hindrance, Part, Place, Stage, Vitals},
};

const LOOKING: Duration = Duration::from_secs(1);
/// How long PostgreSQL may take to say what it does.
const BRIEF: Duration = Duration::from_secs(5);

/// Ends what stands still.
#[derive(Debug, Default)]
pub(super) struct Alarm(watch::Sender<Option<String>>);

impl Alarm {
    /// Returns once all that goes on now is to be ended, with the reason.
    pub(super) async fn raised(&self) -> Error {
        let mut alarm = self.0.subscribe();
        alarm.mark_unchanged();
        // It can't be gone while it is borrowed.
        let _ = alarm.changed().await;
        let words = alarm.borrow().clone().unwrap_or_default();
        Error::new(Code::Stalled, words)
    }

    fn raise(&self, words: String) {
        self.0.send_replace(Some(words));
    }
}

/// Looks on.
pub(super) struct Watch {
    pub(super) patience: Duration,
    pub(super) max_spool: u64,
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) counts: Arc<Counts>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) demand: watch::Receiver<Demand>,
    pub(super) alarm: Arc<Alarm>,
}

impl Watch {
    pub(super) async fn run(self) -> Infallible {
        let mut judge = Judge::new(self.patience);
        let mut looking = interval(LOOKING);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        loop {
            looking.tick().await;
            let now = Instant::now();
            let look = self.see(now - std::mem::replace(&mut looked, now));
            let is_suspicious = judge.look(&look);
            if !is_suspicious {
                if judge.moves() {
                    self.vitals.hinder(None);
                }
                continue;
            }
            match judge.judge(self.ask().await) {
                Verdict::Fine => {}
                Verdict::Locked(by) => self.say_locked(by),
                Verdict::Stalled(still) => self.end(still),
            }
        }
    }

    fn see(&self, passed: Duration) -> Look {
        let places = self.vitals.places().all();
        let steps = |part: &Part| places.get(part).map_or(0, |place| place.steps);
        let live = self.demand.borrow().live();
        let (behind, _, spool) = self.gauges.reached(live, self.source.newest());
        let is_busy =
            |(part, place): &(&Part, &Place)| !place.rests && matches!(part, Part::Intake | Part::Worker(_));
        Look {
            passed,
            is_under_way: matches!(self.vitals.stage().0, Stage::Preparing | Stage::Copying | Stage::Live),
            applied: self.counts.written().wrapping_add(self.gauges.advances()),
            steps: steps(&Part::Completion).wrapping_add(steps(&Part::Attempt)),
            behind,
            busy: places.iter().filter(is_busy).map(|(part, place)| (*part, place.steps)).collect(),
            is_full: spool.problem.is_some() || spool.bytes >= self.max_spool,
        }
    }

    async fn ask(&self) -> Answer {
        let asked = timeout(BRIEF, async {
            let session = self.target.connect().await?;
            standing::look(&session).await
        });
        match asked.await {
            Ok(Ok(Standing::Works)) => Answer::Works,
            Ok(Ok(Standing::Idle)) => Answer::Idle,
            Ok(Ok(Standing::Locked(by))) => Answer::Locked(by),
            Ok(Err(_)) | Err(_) => Answer::Away,
        }
    }

    fn say_locked(&self, by: String) {
        let words = format!("waits for {by}");
        if self.vitals.hinder(Some(Hindrance::Lock(words.clone()))) {
            tracing::warn!("{words}: end that session, or let it finish");
        }
    }

    fn end(&self, still: Duration) {
        let places = self.vitals.places().words();
        let still = format!(
            "nothing has been applied for {} s, though MongoDB has changes and PostgreSQL answers",
            still.as_secs()
        );
        let words = format!("{still}; {places}");
        tracing::error!(code = %Code::Stalled, "{words}: whatever is held is let go, and all begins again");
        metrics::STALLS.add(1);
        self.vitals.hinder(Some(Hindrance::Standstill(words)));
        self.alarm.raise(still);
    }
}
