//! The deployment that is read from, and what is asked of it as a whole.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicI64},
};

use mongodb::{
    Client,
    bson::{Bson, Document, RawDocumentBuf, Timestamp, doc, rawdoc},
    options::SelectionCriteria,
};

use super::{
    error::{self, SourceRequest},
    reply::malformed_reply,
    silence::Patience,
};
use crate::{
    error::{Code, Error, Result},
    model::change::Namespace,
};

/// A server's version: major, minor, patch.
pub(super) type Version = (u32, u32, u32);

/// A MongoDB deployment: connected, checked, and cheap to clone.
#[derive(Clone)]
pub struct Source {
    /// All clones share it, also when it is replaced.
    pub(super) client: Arc<RwLock<Client>>,
    /// For messages: `host:port`, with commas.
    pub(super) hosts: Arc<str>,
    pub(super) default_database: Option<String>,
    /// The server's version at the time of the connection.
    pub(super) version: Version,
    pub(super) sharded: bool,
    /// Its description, for people.
    pub(super) words: Arc<str>,
    /// The latest cluster time in any answer.
    pub(super) seen: Arc<Mutex<Timestamp>>,
    /// The latest time that the whole set is known to have reached.
    pub(super) newest: Arc<Mutex<Timestamp>>,
    /// By how many milliseconds its clock is ahead of this machine's.
    pub(super) offset: Arc<AtomicI64>,
    pub(super) patience: Patience,
}

impl Source {
    /// Closes its sessions. Nothing can be read afterwards, also by clones of this.
    pub async fn close(&self) {
        self.client().shutdown().immediate(true).await;
    }

    /// The driver's client. Operations that were started with an earlier one continue with that.
    pub(super) fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects with another login and certificate from now on, as in `uri`, which is otherwise the same.
    /// Errors: as [`Source::connect`]; then everything stays as it was.
    pub async fn log_in_again(&self, uri: &str) -> Result<()> {
        let client = Self::connect(uri).await?.client();
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }
}

/// Without the driver's part, which knows the credentials.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.hosts)
    }
}

/// No cluster time is before it.
pub(super) const BEGINNING: Timestamp = Timestamp { time: 0, increment: 0 };

impl Source {
    /// The hosts of the URI, for messages: `host:port`, with commas. Never credentials.
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Its description, for people: `MongoDB 6.0.5, replica set rs0`.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Whether it is a sharded cluster, whose shards have an oplog each.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// The cluster's current time: no event before it is still to come. Errors: the source is away.
    pub async fn operation_time(&self) -> Result<Timestamp> {
        let request = self.request("ask for the time", None);
        let reply = self.command(&request, "admin", doc! { "ping": 1 }).await;
        let reply = reply.map_err(|e| request.failed(&e))?;
        let time = reply.get_timestamp("operationTime").map_err(|_| no_operation_time(&request))?;
        Ok(self.saw(time))
    }

    /// The time of the oplog's first entry: history reaches back to it. `None`: unknown, because the user
    /// lacks the role `read` on the database `local`, or because this is a sharded cluster, where each shard
    /// has its own.
    pub async fn oplog_start(&self) -> Result<Option<Timestamp>> {
        if self.sharded {
            return Ok(None);
        }
        let request = self.request("read the oplog's first entry", Some("local"));
        let find =
            doc! { "find": "oplog.rs", "sort": { "$natural": 1 }, "limit": 1, "projection": { "ts": 1 } };
        loop {
            let reply = self.command(&request, "local", find.clone()).await;
            let first = match reply {
                Ok(reply) => reply,
                Err(error) if error::is_withheld(&error) => return Ok(None),
                // The first entry was removed while it was read; there is another one now.
                Err(error) if error::code_of(&error) == Some(error::CAPPED_POSITION_LOST) => continue,
                Err(error) => return Err(request.failed(&error)),
            };
            let first = first.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
            let entry = first.map_err(|_| malformed_reply())?.first().and_then(Bson::as_document);
            return Ok(entry.and_then(|entry| entry.get_timestamp("ts").ok()));
        }
    }

    pub(super) fn saw(&self, time: Timestamp) -> Timestamp {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = time.max(*seen);
        time
    }

    /// `readConcern: majority`, reading nothing older than `after`, nor than the time of any answer so far:
    /// another member may be asked than before, and may lag behind it.
    ///
    /// The position of a stream that has reached its end is one tick past the cluster's time, and a server
    /// refuses to read after a time that it has not reached. Nothing can have happened at such a time, so the
    /// cluster's time is equivalent.
    pub(super) async fn majority_after(&self, after: Timestamp) -> Result<RawDocumentBuf> {
        let seen = self.latest();
        let after = if after <= seen { seen } else { after.min(self.operation_time().await?) };
        Ok(rawdoc! { "level": "majority", "afterClusterTime": after })
    }

    /// Whether the members are one shard of a sharded cluster, or can become one; `false` also if the user
    /// may not ask.
    pub async fn is_shard(&self) -> bool {
        let request = self.request("read how mongod was started", None);
        let answer = self.command(&request, "admin", doc! { "getCmdLineOpts": 1 }).await;
        let role = |answer: &Document| {
            let parsed = answer.get_document("parsed").ok()?;
            Some(parsed.get_document("sharding").ok()?.get_str("clusterRole").ok()? == "shardsvr")
        };
        answer.ok().as_ref().and_then(role).unwrap_or(false)
    }

    pub(super) fn request(&self, what: impl Into<String>, database: Option<&str>) -> SourceRequest {
        SourceRequest { hosts: self.hosts.clone(), what: what.into(), database: database.map(str::to_owned) }
    }

    pub(super) fn request_on(&self, verb: &str, namespace: &Namespace) -> SourceRequest {
        self.request(format!("{verb} {namespace}"), Some(&namespace.database))
    }

    /// Where reads go: the URI's `readPreference`, by default the primary.
    pub(super) fn reads_from(&self) -> Option<SelectionCriteria> {
        self.client().selection_criteria().cloned()
    }
}

pub(super) fn no_operation_time(request: &SourceRequest) -> Error {
    let SourceRequest { hosts, what, .. } = request;
    let text =
        format!("{what}: the answer of {hosts} has no operationTime: it is not a member of a replica set");
    Error::new(Code::SourceStandalone, text)
}
