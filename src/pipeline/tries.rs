//! Retries for what must not be waited for: a mapping that writers hold, a table that another session has
//! locked.
//!
//! A task that waits for a mapping makes every worker wait that needs it next; a session that waits for a
//! table's lock makes all the table's readers wait. So docrow waits for either only for a moment, and if it
//! is not free by then, everyone else continues for a while.

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

/// How long to wait for a mapping at first. A worker may have a large batch in progress: each time the wait
/// is twice as long, up to [`LONGEST`].
const MOMENT: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(2);

/// How long to wait for another session's lock if nothing can be done without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// After how many tries the wait is logged: before, it is another session's query, or autovacuum, and soon
/// over.
const TOLD: u32 = 3;

/// Tries at one task, until it is done or the turn ends.
pub(super) struct Tries {
    stop: Shutdown,
    /// When to stop waiting for locks.
    deadline: Option<Instant>,
    retry: Retry,
    /// How long it has waited between tries.
    waited: Duration,
    is_told: bool,
}

impl Tries {
    /// Tries until `stop` is requested.
    pub(super) fn until(stop: Shutdown) -> Self {
        Self { stop, deadline: None, retry: Retry::new(), waited: Duration::ZERO, is_told: false }
    }

    /// Tries until the task is aborted.
    pub(super) fn endless() -> Self {
        Self::until(Shutdown::default())
    }

    /// Tries for some seconds, or until the task is aborted.
    pub(super) fn patient() -> Self {
        Self { deadline: Some(Instant::now() + PATIENCE), ..Self::endless() }
    }

    /// Whether to try again after this error: another session has a lock, and there is time left.
    pub(super) fn outwait(&self, error: &Error) -> bool {
        error.code() == Code::TargetLocked && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    /// Does `work`, which can be dropped at any time. `None`: the turn ends.
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

    /// Takes the mapping in force, to change it. `None`: not now, because writers hold it or the turn ends.
    pub(super) async fn grasp(&self, collection: &Collection) -> Option<Changing> {
        let patience = MOMENT.saturating_mul(1 << self.retry.failures().min(8)).min(LONGEST);
        let grasped = self.unless_stopped(timeout(patience, collection.change())).await?;
        // Once the turn ends, no one begins to write: what is in progress may be cut off.
        grasped.ok().filter(|_| !self.is_over())
    }

    /// Notes that a try has failed, and returns how long to wait before the next one.
    pub(super) fn failed(&mut self) -> Duration {
        self.retry.after_failure()
    }

    /// Notes that a try has failed, and waits before the next one. False: the turn ends.
    pub(super) async fn again(&mut self) -> bool {
        let delay = self.failed();
        self.waited += delay;
        self.unless_stopped(sleep(delay)).await.is_some()
    }

    /// Applies a batch over a session [in haste](super::ports::RowTarget::applier_in_haste), once no one has
    /// its rows or tables locked. False: the turn ends, and nothing is applied.
    pub(super) async fn apply(
        &mut self,
        applier: &mut dyn RowApplier,
        batch: &Batch<'_>,
        what: &str,
    ) -> Result<bool> {
        loop {
            match applier.apply(batch).await {
                Err(error) if self.outwait(&error) => self.warn_once(what, &error),
                applied => return applied.map(|_| true),
            }
            if !self.again().await {
                return Ok(false);
            }
        }
    }

    /// Logs what waits for another session's lock on one of these tables, and makes autovacuum give way to
    /// the next try.
    pub(super) async fn make_way(
        &mut self,
        session: &mut dyn TargetSession,
        what: &str,
        error: Error,
        tables: &[Table],
    ) -> Result<()> {
        let made = self.unless_stopped(session.make_way(error, tables)).await.transpose()?;
        if let Some(error) = made {
            self.warn_once(what, &error);
        }
        Ok(())
    }

    /// Returns how long it has waited between tries since the last call.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Logs what waits, and why: once, however many tries it takes.
    pub(super) fn warn_once(&mut self, what: &str, error: &Error) {
        if self.retry.failures() >= TOLD && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(code = %error.code(), "{what} wait: {error}");
        }
    }

    /// Notes that a try has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.retry.succeeded();
        self.is_told = false;
    }
}
