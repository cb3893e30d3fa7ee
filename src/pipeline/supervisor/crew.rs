//! The tasks of a turn, and how they end. [`supervisor`](super) says why a turn ends.

use std::sync::Arc;

use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::{
    error::{Error, Kind, Result},
    pipeline::{context::TaskOutcome, mappings::evolution::Evolution, stream::channel::Workers},
    shutdown::Shutdown,
};

/// All tasks of a turn. When it is dropped, the workers are dropped first: once no one applies changes any
/// more, it does no harm that a keeper's last transaction ends some time later.
pub(super) struct Crew {
    pub(super) running: JoinSet<Result<()>>,
    pub(super) workers: Arc<Workers>,
    pub(super) others: JoinSet<Result<TaskOutcome>>,
    pub(super) completing: AbortHandle,
    /// Asks the tasks that hand changes to the workers on their own to stop.
    pub(super) asking: Shutdown,
    pub(super) evolution: Evolution,
}

impl Crew {
    /// Ends all tasks in an orderly way. If the run ends by itself, all mappings take up what was discovered
    /// before.
    pub(super) async fn end(&mut self, finish: bool, shutdown: &Shutdown) -> Result<()> {
        self.completing.abort();
        self.asking.request();
        if !finish {
            self.evolution.stop();
            self.workers.ending.leave();
        }
        while let Some(ended) = self.others.join_next().await {
            match ended {
                Err(cut_off) if cut_off.is_cancelled() => {}
                ended => drop(came(ended)?),
            }
        }
        self.end_workers().await?;
        if finish {
            let orders = self.evolution.orders();
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                error = self.evolution.failed() => return Err(error),
                () = orders.finish() => {}
            }
        }
        self.evolution.end().await
    }

    async fn end_workers(&mut self) -> Result<()> {
        // Dropping the senders is not enough: the tailer may be held up with one.
        self.workers.ending.end();
        while let Some(ended) = self.running.join_next().await {
            ended.map_err(|e| Error::caused(Kind::Bug, "a partition's worker ended unexpectedly", e))??;
        }
        Ok(())
    }

    /// Cuts off all tasks.
    pub(super) async fn abort(mut self) {
        self.evolution.stop();
        self.running.shutdown().await;
        self.others.shutdown().await;
    }
}

/// Returns how a task ended.
pub(super) fn came(ended: Result<Result<TaskOutcome>, JoinError>) -> Result<TaskOutcome> {
    ended.map_err(|e| Error::caused(Kind::Bug, "a task of the pipeline ended unexpectedly", e))?
}
