//! Plays a schedule: docrow runs while documents are written and faults happen, until everything has come to rest.

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

/// What does not come to rest within so long has stalled, and so has what does not stop.
const PATIENCE: Duration = Duration::from_secs(600);
/// Whoever has started docrow so often has no use for it.
const MOST_RESTARTS: u32 = 1_000;
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// How a process of docrow ended.
enum ProcessEnd {
    Killed,
    ByItself(Result<()>),
    /// The schedule is over.
    Over,
}

impl SharedWorld {
    /// The whole schedule. `Err`: what is wrong.
    pub(super) fn play(&self) -> Result<(), String> {
        self.lock().say(|world| format!("{:?}, {} collections", world.set, world.source.names().len()));
        loop {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let seed = self.lock().rng.u64(..);
            fastrand::seed(seed);
            let ended = runtime.block_on(async {
                tokio::select! {
                    biased;
                    ended = self.drive() => ended,
                    ended = process::docrow(self.clone()) => ProcessEnd::ByItself(ended),
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

    /// Writes, and lets things go wrong, beside docrow; then waits until all has come to rest.
    async fn drive(&self) -> ProcessEnd {
        if let Some(ended) = self.stir().await {
            return ended;
        }
        self.lock().calm_down();
        if !self.comes_to_rest().await {
            return ProcessEnd::Over;
        }
        {
            let mut world = self.lock();
            world.say(|_| "all has come to rest, and docrow is told to stop".to_owned());
            world.is_over = true;
            world.shutdown.request();
        }
        sleep(STOPS_WITHIN).await;
        self.lock().is_wrong("docrow does not stop".to_owned());
        ProcessEnd::Over
    }

    /// The stirring part of a schedule. `Some`: docrow's process is over.
    async fn stir(&self) -> Option<ProcessEnd> {
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
                let longest = world.set.step;
                Duration::from_millis(world.rng.u64(..=longest))
            };
            sleep(step).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return Some(ProcessEnd::Over);
            }
            world.steps_left -= 1;
            if world.rng.u32(..1000) < world.set.writes {
                let SimulatedWorld { source, rng, .. } = &mut *world;
                let said = source.write(rng);
                world.say(|_| said);
            }
            if world.fail() == ProcessFate::IsKilled {
                world.say(|_| "docrow is killed".to_owned());
                return Some(ProcessEnd::Killed);
            }
            if world.shutdown.is_requested()
                && Instant::now() - *stopped_at.get_or_insert_with(Instant::now) > STOPS_WITHIN
            {
                world.is_wrong("docrow does not stop".to_owned());
                return Some(ProcessEnd::Over);
            }
        }
        None
    }

    /// Waits until nothing is left to do. False: something is wrong.
    async fn comes_to_rest(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(Duration::from_millis(500)).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return false;
            }
            world.help();
            let Some(left) = world.is_left() else { return true };
            if Instant::now() > deadline {
                let places = world.vitals.as_ref().map(|vitals| vitals.places().words()).unwrap_or_default();
                world.is_wrong(format!("it does not come to rest: {left}; {places}"));
                return false;
            }
        }
    }
}

impl SimulatedWorld {
    /// Faults and writes end.
    fn calm_down(&mut self) {
        if std::mem::replace(&mut self.is_calm, true) {
            return;
        }
        self.say(|_| "faults and writes end".to_owned());
        self.set.refused = 0;
        if !self.pg.is_up {
            (self.pg.is_up, self.pg.starts) = (true, self.pg.starts + 1);
        }
        // The disk may be too small for a transaction whose rest is still to come.
        self.spool.empty();
        // What somebody has removed is repaired.
        for (name, doc) in std::mem::take(&mut self.taken) {
            self.pg.now.repairs.entry(name).or_default().insert(doc);
        }
    }

    /// What people do in the end: they have dead letters tried again, and collections copied again that are stopped.
    fn help(&mut self) {
        if self.warmed_up {
            self.ask_for_retries();
        }
        let stopped = self.pg.now.mapped.iter().filter(|(_, mapped)| mapped.record.stopped.is_some());
        let stopped: Vec<CollectionName> = stopped.map(|(name, _)| *name).collect();
        self.pg.now.resyncs.extend(stopped.into_iter().map(|name| (name, Reason::Asked)));
    }
}
