//! The request that opens a change stream.
//!
//! The stream is opened on the database of the collections, or on the whole deployment if they are in
//! several, and filtered by collection name (`ns: {$in}` would be ten times slower than `ns.coll: {$in}`).
//! Events are minimal: no `updateLookup`, and only the fields that are read (which makes an update's reply 40
//! % smaller, at no cost for the server).

use mongodb::bson::{RawArrayBuf, RawDocumentBuf, Timestamp, cstr, rawdoc};
use xxhash_rust::xxh3::xxh3_64;

use super::server::Source;
use crate::model::change::{Namespace, Position};

/// Bounds a reply of small events: such an event takes several times its own size once parsed.
pub(super) const EVENTS_PER_REPLY: u32 = 1_000;

/// Where a stream starts.
#[derive(Clone, Debug)]
pub enum StreamStart {
    /// After this position, which may be one that ended a stream.
    After(Position),
    /// At the first event at this cluster time.
    At(Timestamp),
}

/// What the events of a stream contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEvents {
    /// The document of an insert and of a replace.
    WithDocuments,
    /// No document: an insert or a replace is like an update, whose document is looked up.
    WithoutDocuments,
}

/// What a stream is opened on.
#[derive(Debug)]
pub(super) struct StreamScope {
    /// `None`: the whole deployment.
    database: Option<String>,
    /// The names of the collections, sorted.
    collections: RawArrayBuf,
}

impl Source {
    /// Identifies the change stream of `namespaces` by its request: a change of what is followed, or of how
    /// docrow asks for it, changes the fingerprint; the order of the names does not, nor another build or
    /// run.
    ///
    /// Store it beside a position. A server finds a position only in a stream that has its event: in a stream
    /// of another fingerprint it may take the position for lost history (280). Open such a stream at the
    /// position's time ([`StreamStart::At`]), and drop what arrives up to the position.
    pub fn fingerprint(namespaces: &[Namespace]) -> i64 {
        StreamScope::new(namespaces).fingerprint()
    }
}

impl StreamScope {
    pub(super) fn new(namespaces: &[Namespace]) -> Self {
        let mut databases: Vec<_> = namespaces.iter().map(|namespace| namespace.database.as_str()).collect();
        databases.sort_unstable();
        databases.dedup();
        let database = match databases.as_slice() {
            [database] => Some((*database).to_owned()),
            _ => None,
        };
        let mut names: Vec<_> = namespaces.iter().map(|namespace| namespace.collection.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        Self { database, collections: RawArrayBuf::from_iter(names) }
    }

    /// The database of the stream; `None`: all databases.
    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    fn fingerprint(&self) -> i64 {
        let command = self.command(None, StreamEvents::WithDocuments);
        let asked = [self.database().unwrap_or_default().as_bytes(), command.as_bytes()];
        i64::from_le_bytes(xxh3_64(&asked.join(&0)).to_le_bytes())
    }

    /// The command that opens the stream, at its present end unless `start` says otherwise. Positions are the
    /// same for both kinds of `events`.
    pub(super) fn command(&self, start: Option<&StreamStart>, events: StreamEvents) -> RawDocumentBuf {
        let mut stream = RawDocumentBuf::new();
        match start {
            Some(StreamStart::After(position)) => {
                stream.append(cstr!("startAfter"), position.token().to_owned())
            }
            Some(StreamStart::At(time)) => stream.append(cstr!("startAtOperationTime"), *time),
            None => {}
        }
        if self.database.is_none() {
            stream.append(cstr!("allChangesForCluster"), true);
        }
        let names = || rawdoc! { "$in": self.collections.clone() };
        let of_all = ["dropDatabase", "invalidate"];
        let mut fields = rawdoc! { "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "wallTime": 1 };
        if events == StreamEvents::WithDocuments {
            fields.append(cstr!("fullDocument"), 1);
            fields.append(cstr!("updateDescription"), 1);
        }
        rawdoc! {
            "aggregate": 1,
            "pipeline": [
                { "$changeStream": stream },
                { "$match": { "$or": [
                    { "ns.coll": names() },
                    { "to.coll": names() },
                    { "operationType": { "$in": RawArrayBuf::from_iter(of_all) } },
                ] } },
                { "$project": fields },
            ],
            "cursor": { "batchSize": i64::from(EVENTS_PER_REPLY) },
            "readConcern": { "level": "majority" },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(names: &[&str]) -> i64 {
        let namespaces: Vec<_> = names.iter().map(|name| Namespace::parse(name).unwrap()).collect();
        Source::fingerprint(&namespaces)
    }

    /// If this fails, the request has changed: streams are then opened by time once. That works, but must not
    /// happen by accident.
    #[test]
    fn a_fingerprint_is_the_same_in_every_build() {
        assert_eq!(fingerprint(&["shop.orders", "shop.users"]), 2_185_792_127_812_780_432);
    }

    #[test]
    fn a_fingerprint_tells_streams_apart() {
        let shop = fingerprint(&["shop.orders", "shop.users"]);
        assert_eq!(shop, fingerprint(&["shop.users", "shop.orders"]));
        for other in
            [&["shop.orders"][..], &["crm.orders", "crm.users"], &["shop.orders", "shop.users", "crm.orders"]]
        {
            assert_ne!(shop, fingerprint(other), "{other:?}");
        }
    }
}
