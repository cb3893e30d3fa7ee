//! The cluster's clock, for figures that people look at. What is read, and from where, never depends on it.
//!
//! The cluster's own time, by which events are ordered, is told in whole seconds, and moves only when something is
//! written. So how long ago something happened is told by the wall clock of the server that is asked: by how much it
//! differs from this machine's is measured now and then, to half the time that the question takes.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use mongodb::bson::{DateTime, Timestamp, doc};
use tokio::time::Instant;

use super::server::Source;
use crate::error::Result;

/// A question that takes longer says too little about the clock.
const PROMPT: Duration = Duration::from_millis(100);

impl Source {
    /// Asks for the cluster's present time, and looks at its clock on the way. Errors: the source is away.
    pub async fn look_at_clock(&self) -> Result<Timestamp> {
        let request = self.request("ask for the time", None);
        let (began, before) = (Instant::now(), DateTime::now().timestamp_millis());
        let reply = self.command(&request, "admin", doc! { "hello": 1 }).await;
        let reply = reply.map_err(|e| request.failed(&e))?;
        let took = began.elapsed();
        if let (Ok(there), true) = (reply.get_datetime("localTime"), took <= PROMPT) {
            let half = i64::try_from(took.as_millis() / 2).unwrap_or(0);
            let ahead = there.timestamp_millis().saturating_sub(before.saturating_add(half));
            self.offset.store(ahead, Ordering::Relaxed);
        }
        if let (Ok(gossip), false) = (reply.get_document("$clusterTime"), self.sharded) {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            *newest = gossip.get_timestamp("clusterTime").map_or(*newest, |time| time.max(*newest));
        }
        Ok(reply.get_timestamp("operationTime").map_or_else(|_| self.latest(), |time| self.saw(time)))
    }

    /// The time of the set's newest operation, for telling how far behind its rows are: a member that does not apply what
    /// the others write hears of it all the same. A router hears of all that happens anywhere, replicated or not, so of
    /// a sharded cluster it is the [latest](Self::latest).
    pub fn newest(&self) -> Timestamp {
        self.latest().max(*self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The latest time of the cluster that any answer stated.
    pub fn latest(&self) -> Timestamp {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago, by the server's clock, something happened there.
    pub fn elapsed_since(&self, then: DateTime) -> Duration {
        let now = DateTime::now().timestamp_millis().saturating_add(self.offset.load(Ordering::Relaxed));
        let elapsed = now.saturating_sub(then.timestamp_millis());
        Duration::from_millis(u64::try_from(elapsed).unwrap_or(0))
    }
}
