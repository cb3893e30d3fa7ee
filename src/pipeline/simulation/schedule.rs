//! Plays a schedule: docrow runs while documents are written and faults happen, until everything has come to
//! rest.

use std::time::Duration;

use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use super::{
    faults::ProcessFate,
    mongo::CollectionName,
    process,
    world::{SharedWorld, SimulatedWorld},
};
use crate::{
    error::{Code, Kind, Result},
    model::resync_reason::Reason,
};

/// How long everything may take to come to rest before it counts as stalled.
const PATIENCE: Duration = Duration::from_secs(600);
/// A schedule that restarts docrow more often than this fails.
const MOST_RESTARTS: u32 = 1_000;
/// How long docrow may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// How one process of docrow ended.
enum ProcessEnd {
    Killed,
    ByItself(Result<()>),
    /// The schedule is over.
    Over,
}

impl SharedWorld {
    /// Plays the whole schedule. `Err`: the violation that it found.
    pub(super) fn play(&self) -> Result<(), String> {
        self.lock().say(|world| format!("{:?}, {} collections", world.settings, world.source.names().len()));
        loop {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let seed = self.lock().rng.u64(..);
            fastrand::seed(seed);
            let ended = runtime.block_on(async {
                tokio::select! {
                    biased;
                    ended = self.drive() => ended,
                    ended = process::run_docrow(self.clone()) => ProcessEnd::ByItself(ended),
                }
            });
            drop(runtime);
            let mut world = self.lock();
            if let Some(wrong) = world.wrong.take() {
                return Err(wrong);
            }
            match ended {
                ProcessEnd::Over => return Ok(()),
                ProcessEnd::ByItself(Ok(())) if world.is_over => return Ok(()),
                ProcessEnd::Killed | ProcessEnd::ByItself(Ok(())) => {}
                ProcessEnd::ByItself(Err(error)) => {
                    world.say(|_| format!("docrow ends: {error}"));
                    match error.kind() {
                        Kind::HistoryLost if world.excused.history => return Ok(()),
                        _ if error.code() == Code::AllStopped => {}
                        _ => return Err(format!("docrow ends: {error}")),
                    }
                }
            }
            world.restart();
            if world.restarts > MOST_RESTARTS {
                return Err("docrow ends again and again".to_owned());
            }
        }
    }

    /// Writes documents and injects faults while docrow runs, then waits for everything to come to rest.
    async fn drive(&self) -> ProcessEnd {
        if let Some(ended) = self.disturb().await {
            return ended;
        }
        self.lock().calm_down();
        if !self.comes_to_rest().await {
            return ProcessEnd::Over;
        }
        {
            let mut world = self.lock();
            world.say(|_| "everything has come to rest, and docrow is asked to stop".to_owned());
            world.is_over = true;
            world.shutdown.request();
        }
        sleep(STOPS_WITHIN).await;
        self.lock().report_violation("docrow does not stop".to_owned());
        ProcessEnd::Over
    }

    /// The part of a schedule with writes and faults. `Some`: docrow's process is over.
    async fn disturb(&self) -> Option<ProcessEnd> {
        let is_cold = {
            let mut world = self.lock();
            world.is_calm |= !world.warmed_up;
            !world.warmed_up
        };
        if is_cold {
            if !self.comes_to_rest().await {
                return Some(ProcessEnd::Over);
            }
            let mut world = self.lock();
            (world.is_calm, world.warmed_up) = (false, true);
        }
        let mut stopped_at = None;
        while self.lock().steps_left > 0 {
            let step = {
                let mut world = self.lock();
                let longest = world.settings.step;
                Duration::from_millis(world.rng.u64(..=longest))
            };
            sleep(step).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return Some(ProcessEnd::Over);
            }
            world.steps_left -= 1;
            if world.rng.u32(..1000) < world.settings.writes {
                let SimulatedWorld { source, rng, .. } = &mut *world;
                let written = source.write(rng);
                world.say(|_| written);
            }
            if world.inject_fault() == ProcessFate::IsKilled {
                world.say(|_| "docrow is killed".to_owned());
                return Some(ProcessEnd::Killed);
            }
            if world.shutdown.is_requested()
                && Instant::now() - *stopped_at.get_or_insert_with(Instant::now) > STOPS_WITHIN
            {
                world.report_violation("docrow does not stop".to_owned());
                return Some(ProcessEnd::Over);
            }
        }
        None
    }

    /// Waits until nothing is left to do. False: there was a violation.
    async fn comes_to_rest(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(Duration::from_millis(500)).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return false;
            }
            world.act_as_operator();
            let Some(left) = world.remaining_work() else { return true };
            if Instant::now() > deadline {
                let places = world.vitals.as_ref().map(|vitals| vitals.places().words()).unwrap_or_default();
                world.report_violation(format!("it does not come to rest: {left}; {places}"));
                return false;
            }
        }
    }
}

impl SimulatedWorld {
    /// Ends faults and writes.
    fn calm_down(&mut self) {
        if std::mem::replace(&mut self.is_calm, true) {
            return;
        }
        self.say(|_| "faults and writes end".to_owned());
        self.settings.refused = 0;
        if !self.pg.is_up {
            (self.pg.is_up, self.pg.starts) = (true, self.pg.starts + 1);
        }
        // Otherwise the rest of a large transaction might never fit on the disk.
        self.spool.free_disk();
        // A crash may have lost repairs that docrow had taken on: they are requested again.
        for (name, doc) in std::mem::take(&mut self.taken) {
            self.pg.now.repairs.entry(name).or_default().insert(doc);
        }
    }

    /// What operators do in the end: retry dead letters, and resync stopped collections.
    fn act_as_operator(&mut self) {
        if self.warmed_up {
            self.ask_for_retries();
        }
        let stopped = self.pg.now.mapped.iter().filter(|(_, mapped)| mapped.record.stopped.is_some());
        let stopped: Vec<CollectionName> = stopped.map(|(name, _)| *name).collect();
        self.pg.now.resyncs.extend(stopped.into_iter().map(|name| (name, Reason::Asked)));
    }
}
