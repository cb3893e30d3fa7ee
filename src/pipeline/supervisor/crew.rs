//! The tasks of a turn, and their end. See [`supervisor`](super) for why it comes.

use std::sync::Arc;

use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::{
    error::{Error, Kind, Result},
    pipeline::{mappings::evolution::Evolution, stream::channel::Workers},
    shutdown::Shutdown,
};

/// What a task of a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// All collections are complete.
    Complete,
    /// There is something to prepare.
    Asked,
    /// The command was stopped.
    Stopped,
}

/// How far the end of a turn has come for its workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    leaves: Shutdown,
    last: Shutdown,
}

impl Ending {
    /// Has them leave what the stream has sent and they have not begun: it is read again from the stored positions.
    /// Requests may still come.
    pub(crate) fn leave(&self) {
        self.leaves.request();
    }

    /// Whether they leave it.
    pub(crate) fn leaves(&self) -> bool {
        self.leaves.is_requested()
    }

    /// Says that nothing comes any more: they end, once they have done what they do not leave.
    fn end(&self) {
        self.last.request();
    }

    /// Waits until nothing comes any more.
    pub(crate) async fn ends(&self) {
        self.last.requested().await;
    }
}

/// All tasks of a turn. Dropped as a whole, it begins with the workers: once nobody applies changes any more, it does no
/// harm that a keeper's last transaction ends at some time.
pub(super) struct Crew {
    pub(super) running: JoinSet<Result<()>>,
    pub(super) workers: Arc<Workers>,
    pub(super) others: JoinSet<Result<Came>>,
    pub(super) completing: AbortHandle,
    /// Asks those to stop that hand changes to the workers on their own.
    pub(super) asking: Shutdown,
    pub(super) evolution: Evolution,
}

impl Crew {
    /// Has everybody end well. If the run is over by itself, all mappings take up what was discovered before.
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
        // Not only by dropping the senders: the tailer may be held up with one.
        self.workers.ending.end();
        while let Some(ended) = self.running.join_next().await {
            ended.map_err(|e| Error::caused(Kind::Bug, "a partition's worker broke off", e))??;
        }
        Ok(())
    }

    /// Cuts off everybody.
    pub(super) async fn abort(mut self) {
        self.evolution.stop();
        self.running.shutdown().await;
        self.others.shutdown().await;
    }
}

/// What a task has come to.
pub(super) fn came(ended: Result<Result<Came>, JoinError>) -> Result<Came> {
    ended.map_err(|e| Error::caused(Kind::Bug, "a task of the pipeline broke off", e))?
}
