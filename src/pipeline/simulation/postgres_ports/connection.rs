//! A connection to PostgreSQL, whose answers may be late, get lost, or never come.

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

/// How long docrow waits for a silent server before it gives up.
const SILENCE: Duration = Duration::from_secs(15);

/// A connection, which is lost when the server restarts or stops answering.
pub(super) struct SimulatedConnection {
    pub(super) shared: SharedWorld,
    /// [`PostgresModel::starts`](super::super::postgres::PostgresModel::starts) when it was opened.
    starts: u32,
    is_broken: AtomicBool,
}

pub(super) fn connection_lost() -> Error {
    Error::new(Code::TargetLost, "simulation: the connection is lost")
}

impl SimulatedConnection {
    /// Connects. Errors: PostgreSQL is down.
    pub(super) async fn open(shared: &SharedWorld) -> Result<Self> {
        shared.pass().await;
        let world = shared.lock();
        if !world.pg.is_up {
            return Err(connection_lost());
        }
        Ok(Self { shared: shared.clone(), starts: world.pg.starts, is_broken: AtomicBool::new(false) })
    }

    /// Whether the connection is lost.
    pub(super) fn is_lost(&self, world: &SimulatedWorld) -> bool {
        !world.pg.is_up || world.pg.starts != self.starts || self.is_broken.load(Ordering::Relaxed)
    }

    /// Waits for as long as an answer takes, or until the deadline if the server has gone silent.
    pub(super) async fn wait(&self) -> Result<()> {
        self.shared.pass().await;
        let is_silent = self.shared.lock().goes_silent();
        if is_silent {
            sleep(SILENCE).await;
            self.is_broken.store(true, Ordering::Relaxed);
        }
        if self.is_lost(&self.shared.lock()) { Err(connection_lost()) } else { Ok(()) }
    }

    /// Reads from the contents.
    pub(super) async fn query<T>(
        &self,
        question: impl FnOnce(&SimulatedWorld, &DatabaseContents) -> T,
    ) -> Result<T> {
        self.wait().await?;
        let world = self.shared.lock();
        Ok(question(&world, &world.pg.now))
    }

    /// Runs a transaction that is synced.
    pub(super) async fn change<T>(
        &self,
        what: &str,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        self.transact(what, true, change).await
    }

    /// Runs a transaction, and waits for its answer.
    pub(super) async fn transact<T>(
        &self,
        what: &str,
        is_durable: bool,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        self.wait().await?;
        let done = self.carry_out(what, is_durable, change)?;
        // It has committed, and docrow does not know yet.
        self.shared.lock().is_bad_moment = true;
        self.shared.pass().await;
        if self.is_lost(&self.shared.lock()) { Err(connection_lost()) } else { Ok(done) }
    }

    /// Commits the transaction, if it gets through and is not refused, and checks what it did.
    fn carry_out<T>(
        &self,
        what: &str,
        is_durable: bool,
        change: impl FnOnce(&mut SimulatedWorld, &mut DatabaseContents) -> Result<T>,
    ) -> Result<T> {
        let mut world = self.shared.lock();
        let is_lost = !world.is_calm && world.rng.u32(..1000) < world.settings.faults.lost_answer;
        if is_lost && world.rng.bool() {
            world.say(|_| format!("PostgreSQL never carries out: {what}"));
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(connection_lost());
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
            world.report_violation(format!("{what}: {wrong}"));
        }
        let before = std::mem::replace(&mut world.pg.now, next);
        if is_durable {
            world.pg.unsynced.clear()
        } else {
            world.pg.unsynced.push(before)
        }
        world.say(|_| format!("PostgreSQL: {what}"));
        if is_lost {
            world.say(|_| "but the answer is lost".to_owned());
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(connection_lost());
        }
        Ok(done)
    }

    /// Locks a table. Errors: someone else holds a lock on it.
    pub(super) fn lock_table(&self) -> Result<()> {
        let mut world = self.shared.lock();
        if !world.is_calm && world.rng.u8(..16) == 0 {
            return Err(Error::new(Code::TargetLocked, "simulation: someone holds a lock on the table"));
        }
        Ok(())
    }
}
