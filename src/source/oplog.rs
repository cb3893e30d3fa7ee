//! The state of the oplog: how far it reaches back, and how fast it grows.

use mongodb::bson::{Timestamp, rawdoc};

use super::{ask::ReplyOptions, error, server::Source};
use crate::error::Result;

/// A replica set's oplog. Timestamps are of the cluster's clock.
#[derive(Clone, Copy, Debug)]
pub struct Oplog {
    /// The time of its first entry: history reaches back to it.
    pub first: Timestamp,
    /// The cluster's current time.
    pub now: Timestamp,
    /// Whether nothing was ever removed from it: it begins with the replica set.
    pub is_whole: bool,
    /// Its size. `None`: the user may not ask for it.
    pub size: Option<OplogSize>,
}

/// How large an oplog is.
#[derive(Clone, Copy, Debug)]
pub struct OplogSize {
    /// How many entries it has. An entry may be a whole transaction, or only a sign of life.
    pub entries: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The size from which on the oldest entries are removed.
    pub most: u64,
}

impl Source {
    /// The oplog. `None`: as for [`Self::oplog_start`].
    pub async fn oplog(&self) -> Result<Option<Oplog>> {
        let Some(first) = self.oplog_start().await? else { return Ok(None) };
        let now = self.operation_time().await?;
        let request = self.request("measure the oplog", Some("local"));
        // The first entry of a replica set that has just been initiated.
        let initiated = rawdoc! {
            "find": "oplog.rs",
            "filter": { "ts": first, "op": "n", "o.msg": "initiating set" },
            "limit": 1,
        };
        let initiated = self.all(&request, "local", initiated, ReplyOptions::default()).await;
        let is_whole = !initiated.map_err(|e| request.failed(&e))?.is_empty();
        let measure = rawdoc! {
            "aggregate": "oplog.rs",
            "pipeline": [
                { "$collStats": { "storageStats": {} } },
                { "$project": {
                    "entries": { "$toLong": "$storageStats.count" },
                    "bytes": { "$toLong": "$storageStats.size" },
                    "most": { "$toLong": "$storageStats.maxSize" },
                } },
            ],
            "cursor": {},
        };
        let measured = self.all(&request, "local", measure, ReplyOptions::default()).await;
        let size = match measured {
            Err(error) if error::is_withheld(&error) => None,
            measured => measured.map_err(|e| request.failed(&e))?.first().and_then(|stats| {
                let get = |key| u64::try_from(stats.get_i64(key).ok()?).ok();
                Some(OplogSize { entries: get("entries")?, bytes: get("bytes")?, most: get("most")? })
            }),
        };
        Ok(Some(Oplog { first, now, is_whole, size }))
    }
}
