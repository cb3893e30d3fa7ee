//! The cluster's clock, for figures that people look at. It never decides what is read, or from where.
//!
//! The cluster's own time, which orders events, is in whole seconds, and advances only with writes. So the
//! age of an event is computed from the wall clock of the server that is asked. How much that differs from
//! this machine's clock is measured from time to time, to within half the duration of the request.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use mongodb::bson::{DateTime, Timestamp, doc};
use tokio::time::Instant;

use super::{ask::majority_behind, server::Source};
use crate::error::Result;

/// What a look at the clock shows.
#[derive(Clone, Copy, Debug)]
pub struct ClockLook {
    /// The cluster's current time.
    pub now: Timestamp,
    /// Up to when a majority of the replica set has everything, if that is not everything.
    pub majority: Option<Timestamp>,
}

/// A request that takes longer says too little about the clock.
const PROMPT: Duration = Duration::from_millis(100);

impl Source {
    /// Asks for the cluster's current time, and measures its clock at the same time. Errors: the source is
    /// away.
    pub async fn look_at_clock(&self) -> Result<ClockLook> {
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
        let now = reply.get_timestamp("operationTime").map_or_else(|_| self.latest(), |time| self.saw(time));
        Ok(ClockLook { now, majority: majority_behind(&reply) })
    }

    /// The time of the set's newest operation, to compute how far behind its rows are: a member that does not
    /// apply what the others write still hears of it. A router hears of everything, replicated or not, so for
    /// a sharded cluster it is the [latest](Self::latest).
    pub fn newest(&self) -> Timestamp {
        self.latest().max(*self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The latest cluster time in any answer.
    pub fn latest(&self) -> Timestamp {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago, by the server's clock, an event happened there.
    pub fn elapsed_since(&self, then: DateTime) -> Duration {
        let now = DateTime::now().timestamp_millis().saturating_add(self.offset.load(Ordering::Relaxed));
        let elapsed = now.saturating_sub(then.timestamp_millis());
        Duration::from_millis(u64::try_from(elapsed).unwrap_or(0))
    }
}
