//! Identifies the deployment, by what any reader may know: the same URI may lead to another one, whose change
//! stream would resume from any position whose time lies in its oplog.
//!
//! Its own id would be enough: for a replica set `replicaSetId`, which stays as long as the set's history,
//! for a sharded cluster `clusterId`. But asking for it requires a privilege that a read-only role lacks. So
//! docrow also looks at the collections: each has a UUID, which all members report alike, also in a restored
//! copy of the data files, and which no two deployments have in common. A collection with another UUID than
//! before was replaced: then the change stream has an event that says so, unless this is another deployment.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::try_join;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, cstr, doc, rawdoc};
use serde::{Deserialize, Serialize};

use super::{
    ask::ReplyOptions,
    change_stream::{AWAIT, position_of},
    collections::ListingScope,
    error,
    reply::documents,
    scope::EVENTS_PER_REPLY,
    server::Source,
};
use crate::{
    error::{Code, Error, Result},
    model::change::Namespace,
};

/// What identifies a deployment, stored beside positions in its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its own id. `None`: the user may not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The UUIDs of the included collections, by name.
    #[serde(default)]
    collections: BTreeMap<String, String>,
}

/// The result of comparing two deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// They are the same.
    Same,
    /// They are different.
    Other,
    /// They have none of the first one's collections in common: they are the same only if the change stream
    /// says what happened to each.
    Unless(BTreeSet<String>),
}

impl Deployment {
    /// Whether `now` is the same deployment. Only collections for which `count` is true are compared.
    pub fn compare(&self, now: &Self, count: impl Fn(&str) -> bool) -> Kinship {
        if let (Some(before), Some(now)) = (&self.id, &now.id) {
            return if before == now { Kinship::Same } else { Kinship::Other };
        }
        let known = || self.collections.iter().filter(|(name, _)| count(name));
        if known().next().is_none() || known().any(|(name, uuid)| now.collections.get(name) == Some(uuid)) {
            return Kinship::Same;
        }
        Kinship::Unless(known().map(|(name, _)| name.clone()).collect())
    }

    /// With the id that it had `before`, if it is no longer reported.
    #[must_use]
    pub fn as_before(self, before: &Self) -> Self {
        Self { id: self.id.or_else(|| before.id.clone()), ..self }
    }

    /// The names of its collections.
    pub fn collections(&self) -> impl Iterator<Item = &str> {
        self.collections.keys().map(String::as_str)
    }

    /// The stored form.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::caused(Code::Bug, "write the identity of MongoDB's deployment", e))
    }

    /// Reads the stored form.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| {
            Error::caused(Code::StoredUnreadable, "read the identity of MongoDB's deployment", e)
        })
    }
}

impl Source {
    /// The identity of this deployment, with the collections that `include` and `exclude` select.
    pub async fn deployment(&self, include: &[String], exclude: &[String]) -> Result<Deployment> {
        let choice = self.choice(include, exclude)?;
        let (found, id) = try_join!(self.find(&choice, ListingScope::Whole), self.deployment_id())?;
        let named =
            found.chosen.into_iter().filter_map(|listed| Some((listed.namespace.to_string(), listed.uuid?)));
        Ok(Deployment { id, collections: named.collect() })
    }

    async fn deployment_id(&self) -> Result<Option<String>> {
        let request = self.request("ask for the deployment's id", None);
        let (database, command) = if self.sharded {
            ("config", doc! { "find": "version", "limit": 1, "projection": { "clusterId": 1 } })
        } else {
            ("admin", doc! { "replSetGetConfig": 1 })
        };
        let reply = match self.command(&request, database, command).await {
            Err(error) if error::is_withheld(&error) => return Ok(None),
            reply => reply.map_err(|e| request.failed(&e))?,
        };
        Ok(id_in(&reply))
    }

    /// Whether the change stream after `since` reports for every one of these collections that it was
    /// dropped, renamed or replaced. Errors: the oplog does not reach back that far.
    pub async fn says_what_became_of(&self, names: &BTreeSet<String>, since: Timestamp) -> Result<bool> {
        let mut left: BTreeSet<Namespace> = names.iter().filter_map(|name| Namespace::parse(name)).collect();
        let now = self.operation_time().await?;
        let request = self.request("follow operations on whole collections", None);
        let (database, command) = of_whole_collections(&left, since);
        let replies =
            ReplyOptions { documents: EVENTS_PER_REPLY, wait: Some(AWAIT), ..ReplyOptions::default() };
        let cursor = self.open_cursor(&request, &database, command, replies).await;
        let mut cursor = cursor.map_err(|e| request.failed_to_open(&e))?;
        let mut reached = since;
        while reached <= now && !left.is_empty() {
            // It ends where the database was dropped.
            let Some(reply) = cursor.next().await else { break };
            let reply = reply.map_err(|e| request.failed_to_open(&e))?;
            for event in documents(&reply)? {
                strike(&mut left, event?);
            }
            reached = position_of(&request, reply.as_raw_document())?.cluster_time();
        }
        Ok(left.is_empty())
    }
}

/// The request for the events of whole collections from `since` on, and its database.
fn of_whole_collections(names: &BTreeSet<Namespace>, since: Timestamp) -> (String, RawDocumentBuf) {
    let databases: BTreeSet<&str> = names.iter().map(|name| name.database.as_str()).collect();
    let mut stream = rawdoc! { "startAtOperationTime": since };
    let database = match databases.first() {
        Some(database) if databases.len() == 1 => (*database).to_owned(),
        _ => {
            stream.append(cstr!("allChangesForCluster"), true);
            "admin".to_owned()
        }
    };
    let command = rawdoc! {
        "aggregate": 1,
        "pipeline": [
            { "$changeStream": stream },
            { "$match": { "operationType": { "$in": ["drop", "rename", "dropDatabase"] } } },
            { "$project": { "operationType": 1, "ns": 1, "to": 1 } },
        ],
        "cursor": {},
        "readConcern": { "level": "majority" },
    };
    (database, command)
}

/// Removes the collections that an event of whole collections concerns.
fn strike(left: &mut BTreeSet<Namespace>, event: &RawDocument) {
    for field in ["ns", "to"] {
        let Ok(namespace) = event.get_document(field) else { continue };
        let Ok(database) = namespace.get_str("db") else { continue };
        match namespace.get_str("coll") {
            Ok(collection) => drop(left.remove(&Namespace::new(database, collection))),
            Err(_) => left.retain(|name| name.database != database),
        }
    }
}

/// The id in the answer to the request of [`Source::deployment_id`].
fn id_in(reply: &Document) -> Option<String> {
    let settings = reply.get_document("config").and_then(|config| config.get_document("settings"));
    let version = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let version = version.ok().and_then(|batch| batch.first()?.as_document());
    let id = settings.ok().and_then(|settings| settings.get("replicaSetId"));
    match id.or_else(|| version?.get("clusterId"))? {
        Bson::ObjectId(id) => Some(id.to_hex()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(id: Option<&str>, collections: &[(&str, &str)]) -> Deployment {
        let collections =
            collections.iter().map(|&(name, uuid)| (name.to_owned(), uuid.to_owned())).collect();
        Deployment { id: id.map(str::to_owned), collections }
    }

    #[test]
    fn deployments_are_told_by_their_ids() {
        let before = deployment(Some("a"), &[("shop.orders", "1")]);
        let moved = deployment(Some("a"), &[("shop.orders", "2")]);
        assert_eq!(before.compare(&moved, |_| true), Kinship::Same, "it was replaced");
        let restored = deployment(Some("b"), &[("shop.orders", "1")]);
        assert_eq!(before.compare(&restored, |_| true), Kinship::Other, "a copy of the files in another set");
    }

    #[test]
    fn deployments_without_ids_are_told_by_their_collections() {
        let before = deployment(None, &[("shop.orders", "1"), ("shop.users", "2")]);
        let compare =
            |now: &[(&str, &str)]| before.compare(&deployment(Some("a"), now), |name| name != "shop.left");
        assert_eq!(compare(&[("shop.orders", "9"), ("shop.users", "2")]), Kinship::Same, "one was replaced");
        let both = Kinship::Unless(["shop.orders", "shop.users"].map(str::to_owned).into());
        for now in [&[][..], &[("shop.orders", "8"), ("shop.users", "9")], &[("shop.new", "1")]] {
            assert_eq!(compare(now), both, "{now:?}");
        }
        assert_eq!(before.compare(&deployment(None, &[]), |_| false), Kinship::Same, "nothing counts");
        let with_id = deployment(Some("a"), &[]);
        assert_eq!(
            before.clone().as_before(&with_id).compare(&with_id, |_| true),
            Kinship::Same,
            "it is kept"
        );
        assert_eq!(deployment(None, &[]).compare(&before, |_| true), Kinship::Same, "nothing was copied");
    }

    #[test]
    fn what_is_stored_reads_back() {
        let all = deployment(Some("a"), &[("shop.orders", "1")]);
        assert_eq!(Deployment::parse(&all.to_text().unwrap()).unwrap(), all);
        assert_eq!(Deployment::parse("{\"of a later docrow\": 1}").unwrap(), Deployment::default());
    }

    #[test]
    fn ids_are_found_where_servers_write_them() {
        let id = bson::oid::ObjectId::new();
        let of_set = doc! { "config": { "settings": { "replicaSetId": id } } };
        let of_cluster = doc! { "cursor": { "firstBatch": [{ "_id": 1, "clusterId": id }] } };
        assert_eq!([id_in(&of_set), id_in(&of_cluster)], [Some(id.to_hex()), Some(id.to_hex())]);
        assert_eq!(id_in(&doc! { "ok": 1 }), None);
    }

    #[test]
    fn an_event_says_what_became_of_collections() {
        let left = |event: Document| {
            let names = ["shop.a", "shop.b", "crm.c"];
            let mut left = names.iter().filter_map(|name| Namespace::parse(name)).collect();
            strike(&mut left, &RawDocumentBuf::try_from(&event).unwrap());
            left.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(left(doc! { "ns": { "db": "shop", "coll": "a" } }), ["crm.c", "shop.b"]);
        let renamed = doc! { "ns": { "db": "shop", "coll": "tmp" }, "to": { "db": "shop", "coll": "b" } };
        assert_eq!(left(renamed), ["crm.c", "shop.a"]);
        assert_eq!(left(doc! { "ns": { "db": "shop" } }), ["crm.c"]);
        assert_eq!(left(doc! { "ns": { "db": "other", "coll": "a" } }).len(), 3);
    }
}
