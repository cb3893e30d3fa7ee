//! What happens when the oplog no longer holds the position from which the stream must continue (G8).
//!
//! The stream begins where the collection that is furthest behind needs it, so its failure says nothing about
//! the others. The server is asked where the stream could begin instead: positions are in the order of the
//! oplog, so those before some point are lost, and those from there on are not. A lost position concerns only
//! its own collection; the stream continues for the others.

use std::time::Duration;

use tokio::time::sleep;

use super::Tailer;
use crate::{
    config::OnHistoryLost,
    error::{Disposition, Error, Result},
    model::{change::CollectionId, resync_reason::Reason},
};

/// How long to wait before asking the server again, if it does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How many collections the log names.
const NAMED: usize = 10;

impl Tailer {
    /// Finds out whose history is lost. Each of these collections is copied again, or stops; the stream
    /// continues for the others. Errors: no collection is left for which it could continue, and lost history
    /// must stop them.
    pub(super) async fn lose_history(&mut self, error: Error) -> Result<()> {
        let lost = match self.lost().await {
            // The stream runs into this again, once there is an answer.
            Err(error) if error.kind().disposition() == Disposition::Retry => {
                tracing::debug!("{error}: asking again which collections have lost their history");
                sleep(AGAIN).await;
                self.read_on();
                return Ok(());
            }
            lost => lost?,
        };
        let collections = self.now.collections.clone();
        match self.on_history_lost {
            OnHistoryLost::Resync => {
                let names = self.abbreviated_names(&lost);
                tracing::warn!(code = %error.code(), "{error}: these collections are copied again, in place (on_history_lost = \"resync\"): {names}");
                for collection in lost.iter().filter_map(|id| collections.get(id.0)) {
                    self.require_resync(collection.namespace().clone(), Reason::HistoryLost);
                }
            }
            OnHistoryLost::Stop => {
                let mut all = (0..).map(CollectionId).zip(collections.iter());
                if all.all(|(id, collection)| collection.stopped().is_some() || lost.contains(&id)) {
                    return Err(error);
                }
                lost.iter().filter_map(|id| collections.get(id.0)).for_each(|lost| lost.stop_for_history());
            }
        }
        let saved = lost.into_iter().filter_map(|id| self.flow.abandon(id)).collect();
        self.owe(saved);
        self.pay().await?;
        self.read_on();
        Ok(())
    }

    /// The collections whose changes can't be read any more; all that are followed, if the server refuses
    /// none of their positions on its own.
    async fn lost(&self) -> Result<Vec<CollectionId>> {
        let mut followed: Vec<_> = self.flow.followed().collect();
        followed.sort_by(|a, b| self.flow.known(*a).cmp(&self.flow.known(*b)));
        let (mut lost, mut left) = (0, followed.len());
        while lost < left {
            let middle = usize::midpoint(lost, left);
            let Some(position) = followed.get(middle).and_then(|id| self.flow.known(*id)) else { break };
            if self.source.holds(&self.names, &self.beginning_at(position)).await? {
                left = middle;
            } else {
                lost = middle + 1;
            }
        }
        if lost > 0 {
            followed.truncate(lost);
        }
        Ok(followed)
    }

    fn abbreviated_names(&self, ids: &[CollectionId]) -> String {
        let names = ids.iter().filter_map(|id| self.now.collections.get(id.0)).take(NAMED);
        let names: Vec<_> = names.map(|collection| collection.name()).collect();
        match ids.len().saturating_sub(NAMED) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }
}
