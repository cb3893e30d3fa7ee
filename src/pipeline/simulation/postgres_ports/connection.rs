//! A connection: how long its answers take, and what becomes of them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::super::{
    postgres::DatabaseContents,
    world::{SharedWorld, SimulatedWorld},
};
use crate::error::{Code, Error, Result};

/// How long a server that says nothing is listened to.
const SILENCE: Duration = Duration::from_secs(15);

/// A connection.
pub(super) struct SimulatedConnection {
    pub(super) sim: SharedWorld,
    /// How often all connections had been lost when it was made.
    starts: u32,
    is_broken: AtomicBool,
}

pub(super) fn away() -> Error {
    Error::new(Code::TargetLost, "simulation: PostgreSQL is away")
}

impl SimulatedConnection {
    pub(super) async fn open(sim: &SharedWorld) -> Result<Self> {
        sim.pass().await;
        let world = sim.lock();
        if !world.pg.is_up {
            return Err(away());
        }
        Ok(Self { sim: sim.clone(), starts: world.pg.starts, is_broken: AtomicBool::new(false) })
    }

    pub(super) fn is_lost(&self, world: &SimulatedWorld) -> bool {
        !world.pg.is_up || world.pg.starts != self.starts || self.is_broken.load(Ordering::Relaxed)
    }

    /// Waits for as long as an answer takes, which may be for good.
    pub(super) async fn wait(&self) -> Result<()> {
        self.sim.pass().await;
        let is_silent = self.sim.lock().is_silent();
        if is_silent {
            sleep(SILENCE).await;
            self.is_broken.store(true, Ordering::Relaxed);
        }
        if self.is_lost(&self.sim.lock()) { Err(away()) } else { Ok(()) }
    }

    pub(super) async fn ask<T>(
        &self,
        question: impl FnOnce(&SimulatedWorld, &DatabaseContents) -> T,
    ) -> Result<T> {
        self.wait().await?;
        let world = self.sim.lock();
        Ok(question(&world, &world.pg.now))
    }

    pub(super) async fn change<T>(
        &self,
        what: &str,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        self.transact(what, true, change).await
    }

    /// Carries out a transaction, and waits for its answer.
    pub(super) async fn transact<T>(
        &self,
        what: &str,
        is_durable: bool,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        self.wait().await?;
        let done = self.carry_out(what, is_durable, change)?;
        // It is done, and nobody here knows yet.
        self.sim.lock().is_bad_moment = true;
        self.sim.pass().await;
        if self.is_lost(&self.sim.lock()) { Err(away()) } else { Ok(done) }
    }

    fn carry_out<T>(
        &self,
        what: &str,
        is_durable: bool,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        let mut world = self.sim.lock();
        let is_lost = !world.is_calm && world.rng.u32(..1000) < world.set.faults.answer;
        if is_lost && world.rng.bool() {
            world.say(|_| format!("PostgreSQL does not carry out: {what}"));
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(away());
        }
        let mut next = world.pg.now.clone();
        next.by_worker = false;
        let done = match change(&mut world, &mut next) {
            Ok(done) => done,
            Err(error) => {
                world.say(|_| format!("PostgreSQL refuses: {what}: {error}"));
                return Err(error);
            }
        };
        if let Err(wrong) = world.check(&mut next) {
            world.is_wrong(format!("{what}: {wrong}"));
        }
        let before = std::mem::replace(&mut world.pg.now, next);
        if is_durable {
            world.pg.unsynced.clear()
        } else {
            world.pg.unsynced.push(before)
        }
        world.say(|_| format!("PostgreSQL: {what}"));
        if is_lost {
            world.say(|_| "and its answer is lost".to_owned());
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(away());
        }
        Ok(done)
    }

    /// A lock on a table that somebody else may have.
    pub(super) fn lock(&self) -> Result<()> {
        let mut world = self.sim.lock();
        if !world.is_calm && world.rng.u8(..16) == 0 {
            return Err(Error::new(Code::TargetLocked, "simulation: somebody has a lock on the table"));
        }
        Ok(())
    }
}
