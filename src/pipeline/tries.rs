//! Trying again for what must not be waited for: a mapping that writers hold, a table that somebody else has locked.
//!
//! Who waits for a mapping has every worker wait that needs it next; who waits for a table's lock has all its readers wait.
//! So either is asked for as long as a moment takes, and if it is not free then, everybody else goes on for a while.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    collection::{Changing, Collection},
    ports::{RowApplier, TargetSession},
};
use crate::{
    error::{Code, Error, Result},
    model::table::Table,
    retry::Retry,
    shutdown::Shutdown,
    sink::rows::upsert::Batch,
};

/// How long a mapping is waited for at first. A worker may have a large batch under way: each time it is twice as long, up
/// to [`LONGEST`].
const MOMENT: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// How long another session's lock is waited for where nothing can be done without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// After how many tries it is said that something waits: before, it is somebody's query, or autovacuum, and soon over.
const TOLD: u32 = 3;

/// Tries at one thing, until it is done or the turn ends.
pub(super) struct Tries {
    stop: Shutdown,
    /// When locks are no longer waited for.
    deadline: Option<Instant>,
    retry: Retry,
    /// How long was waited between tries.
    waited: Duration,
    is_told: bool,
}

impl Tries {
    /// Tries until `stop` is requested.
    pub(super) fn until(stop: Shutdown) -> Self {
        Self { stop, deadline: None, retry: Retry::new(), waited: Duration::ZERO, is_told: false }
    }

    /// Tries that end when their task is aborted.
    pub(super) fn endless() -> Self {
        Self::until(Shutdown::default())
    }

    /// Tries for some seconds, that end when their task is aborted.
    pub(super) fn patient() -> Self {
        Self { deadline: Some(Instant::now() + PATIENCE), ..Self::endless() }
    }

    /// Whether it is to be tried again after this error: another session has a lock, and there is time.
    pub(super) fn outwait(&self, error: &Error) -> bool {
        error.code() == Code::TargetLocked && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    /// Does what can be dropped at any time. `None`: the turn ends.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.requested() => None,
            done = work => Some(done),
        }
    }

    /// Whether the turn ends.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_requested()
    }

    /// The mapping in force, to be changed. `None`: not now, for writers hold it, or the turn ends.
    pub(super) async fn grasp(&self, collection: &Collection) -> Option<Changing> {
        let patience = MOMENT.saturating_mul(1 << self.retry.failures().min(8)).min(LONGEST);
        let grasped = self.unless_stopped(timeout(patience, collection.change())).await?;
        // Once the turn ends nobody begins to write: what is under way may be cut off.
        grasped.ok().filter(|_| !self.is_over())
    }

    /// Notes that it could not be done, and for how long to leave it alone.
    pub(super) fn failed(&mut self) -> Duration {
        self.retry.after_failure()
    }

    /// The same, and leaves it alone. False: the turn ends.
    pub(super) async fn again(&mut self) -> bool {
        let delay = self.failed();
        self.waited += delay;
        self.unless_stopped(sleep(delay)).await.is_some()
    }

    /// Applies a batch over a session [in haste](super::ports::RowTarget::applier_in_haste), once nobody has its rows or
    /// tables locked. False: the turn ends, and nothing is applied.
    pub(super) async fn apply(
        &mut self,
        applier: &mut dyn RowApplier,
        batch: &Batch<'_>,
        what: &str,
    ) -> Result<bool> {
        loop {
            match applier.apply(batch).await {
                Err(error) if self.outwait(&error) => self.tell(what, &error),
                applied => return applied.map(|_| true),
            }
            if !self.again().await {
                return Ok(false);
            }
        }
    }

    /// Says what waits for a lock on one of these tables, which somebody else has, and has what can make way do so.
    pub(super) async fn make_way(
        &mut self,
        session: &mut dyn TargetSession,
        what: &str,
        error: Error,
        tables: &[Table],
    ) -> Result<()> {
        let made = self.unless_stopped(session.make_way(error, tables)).await.transpose()?;
        if let Some(error) = made {
            self.tell(what, &error);
        }
        Ok(())
    }

    /// How long was waited between tries, since this was last asked.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Says what waits, and why: once, however many tries it takes.
    pub(super) fn tell(&mut self, what: &str, error: &Error) {
        if self.retry.failures() >= TOLD && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(code = %error.code(), "{what} wait: {error}");
        }
    }

    /// Notes that it was done.
    pub(super) fn succeeded(&mut self) {
        self.retry.succeeded();
        self.is_told = false;
    }
}
