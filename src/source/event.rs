//! Parses a change event in the server's form, in one pass.
//!
//! Events of collections that are not replicated arrive, too (for several databases, the server is asked by
//! the collection's name alone), and are skipped, as are events of unknown types.

use mongodb::bson::RawDocument;

use crate::{
    error::{Error, Result},
    model::{
        change::{Change, CollectionId, Namespace, Op, Position},
        document_key::{DocumentKey, Id},
        partial_update::Patch,
    },
};

/// The events of a change stream.
#[derive(Clone, Debug)]
pub enum Event {
    /// A document changed.
    Change(Change),
    /// A collection was dropped, with all its documents: there are no delete events for them.
    Dropped {
        /// Which.
        collection: CollectionId,
        /// The event's position in the stream.
        position: Position,
    },
    /// A collection was renamed: its documents are now under the new name, without any event for them, and
    /// those that were under that name before no longer exist. At least one of the names is replicated.
    Renamed {
        /// The collection that had the old name.
        from: Option<CollectionId>,
        /// The collection that has the new name.
        to: Option<CollectionId>,
        /// The event's position in the stream.
        position: Position,
    },
    /// A database was dropped. Before that, each of its collections was.
    DatabaseDropped {
        /// Its name.
        database: String,
        /// The event's position in the stream.
        position: Position,
    },
    /// The stream's database was dropped and the server ended the stream. It is opened again after this
    /// event.
    Invalidated {
        /// The event's position in the stream.
        position: Position,
    },
}

impl Event {
    /// The event's position in the stream.
    pub fn position(&self) -> &Position {
        match self {
            Event::Change(change) => &change.position,
            Event::Dropped { position, .. }
            | Event::Renamed { position, .. }
            | Event::DatabaseDropped { position, .. }
            | Event::Invalidated { position } => position,
        }
    }
}

/// The replicated collections, by name.
#[derive(Debug)]
pub struct IncludedCollections(Vec<(Namespace, CollectionId)>);

impl IncludedCollections {
    /// The index of a namespace in the list is its [`CollectionId`].
    pub fn new(namespaces: &[Namespace]) -> Self {
        let mut included: Vec<_> = namespaces.iter().cloned().zip((0..).map(CollectionId)).collect();
        included.sort();
        Self(included)
    }

    fn id(&self, database: &str, collection: &str) -> Option<CollectionId> {
        let wanted = (database, collection);
        let place = self
            .0
            .binary_search_by(|(n, _)| (n.database.as_str(), n.collection.as_str()).cmp(&wanted))
            .ok()?;
        self.0.get(place).map(|(_, id)| *id)
    }

    fn has_database(&self, database: &str) -> bool {
        self.0.iter().any(|(namespace, _)| namespace.database == database)
    }
}

/// The parsed fields of an event.
#[derive(Default)]
struct EventFields<'a> {
    token: Option<&'a RawDocument>,
    operation: Option<&'a str>,
    namespace: Option<&'a RawDocument>,
    to: Option<&'a RawDocument>,
    document_key: Option<&'a RawDocument>,
    full_document: Option<&'a RawDocument>,
    description: Option<&'a RawDocument>,
}

/// The result of parsing an event.
pub enum ReadEvent {
    /// It is for docrow.
    Event(Event),
    /// It belongs to a collection that is not replicated.
    Foreign,
    /// Its type is unknown.
    Unknown,
}

impl<'a> EventFields<'a> {
    fn read_from(event: &'a RawDocument) -> Result<Self> {
        let mut fields = Self::default();
        for element in event.iter_elements() {
            let element = element.map_err(|_| malformed("the event"))?;
            let value = || element.value().map_err(|_| malformed("a value"));
            match element.key().as_str() {
                "_id" => fields.token = value()?.as_document(),
                "operationType" => fields.operation = value()?.as_str(),
                "ns" => fields.namespace = value()?.as_document(),
                "to" => fields.to = value()?.as_document(),
                "documentKey" => fields.document_key = value()?.as_document(),
                "fullDocument" => fields.full_document = value()?.as_document(),
                "updateDescription" => fields.description = value()?.as_document(),
                _ => {}
            }
        }
        Ok(fields)
    }

    fn position(&self) -> Result<Position> {
        Position::from_token(self.token.ok_or_else(|| malformed("_id"))?)
    }

    fn change(self, collection: CollectionId, op: Op) -> Result<Event> {
        let document_key = self.document_key.ok_or_else(|| malformed("documentKey"))?;
        let id = Id::of(document_key).map_err(|_| malformed("documentKey._id"))?;
        Ok(Event::Change(Change {
            collection,
            key: DocumentKey::of(id),
            document_key: document_key.to_owned(),
            op,
            position: self.position()?,
        }))
    }
}

/// Parses an event of a stream over the `included` collections, and maybe others. Errors: it does not have
/// MongoDB's form.
pub fn read(event: &RawDocument, included: &IncludedCollections) -> Result<ReadEvent> {
    let fields = EventFields::read_from(event)?;
    let collection = || fields.namespace.and_then(|namespace| id_of(namespace, included));
    let op = match fields.operation.ok_or_else(|| malformed("operationType"))? {
        // An event without its document is as good as an update: the document is looked up.
        "insert" | "replace" => fields.full_document.map_or(Op::Update, |whole| Op::Whole(whole.to_owned())),
        "update" => {
            let patch = fields.description.zip(fields.document_key);
            patch
                .and_then(|(description, key)| Patch::of_event(description, key))
                .map_or(Op::Update, Op::Patch)
        }
        "delete" => Op::Delete,
        "drop" => {
            let Some(collection) = collection() else { return Ok(ReadEvent::Foreign) };
            return Ok(ReadEvent::Event(Event::Dropped { collection, position: fields.position()? }));
        }
        "rename" => {
            let (from, to) = (collection(), fields.to.and_then(|to| id_of(to, included)));
            if from.or(to).is_none() {
                return Ok(ReadEvent::Foreign);
            }
            return Ok(ReadEvent::Event(Event::Renamed { from, to, position: fields.position()? }));
        }
        "dropDatabase" => {
            let database = fields.namespace.and_then(|namespace| namespace.get_str("db").ok());
            let Some(database) = database.filter(|database| included.has_database(database)) else {
                return Ok(ReadEvent::Foreign);
            };
            let database = database.to_owned();
            return Ok(ReadEvent::Event(Event::DatabaseDropped { database, position: fields.position()? }));
        }
        "invalidate" => return Ok(ReadEvent::Event(Event::Invalidated { position: fields.position()? })),
        _ => return Ok(ReadEvent::Unknown),
    };
    match collection() {
        Some(collection) => fields.change(collection, op).map(ReadEvent::Event),
        None => Ok(ReadEvent::Foreign),
    }
}

fn id_of(namespace: &RawDocument, included: &IncludedCollections) -> Option<CollectionId> {
    included.id(namespace.get_str("db").ok()?, namespace.get_str("coll").ok()?)
}

fn malformed(what: &str) -> Error {
    Error::bug(format!("read a change event: {what} is missing or malformed"))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{RawDocumentBuf, rawdoc};

    use super::*;

    fn event(operation: &str, collection: &str) -> RawDocumentBuf {
        rawdoc! {
            "_id": { "_data": "8263F1C2A5000000022B0229296E04" },
            "operationType": operation,
            "ns": { "db": "shop", "coll": collection },
            "to": { "db": "shop", "coll": "orders" },
            "documentKey": { "_id": 7 },
            "fullDocument": { "_id": 7, "a": 1 },
        }
    }

    fn read_one(event: &RawDocument) -> ReadEvent {
        let included =
            IncludedCollections::new(&[Namespace::new("shop", "users"), Namespace::new("shop", "orders")]);
        read(event, &included).unwrap()
    }

    #[test]
    fn an_insert_and_a_replace_carry_the_document() {
        for operation in ["insert", "replace"] {
            let ReadEvent::Event(Event::Change(change)) = read_one(&event(operation, "orders")) else {
                panic!()
            };
            assert_eq!(change.collection, CollectionId(1));
            assert!(matches!(change.op, Op::Whole(whole) if whole == rawdoc! { "_id": 7, "a": 1 }));
            assert_eq!(change.document_key, rawdoc! { "_id": 7 });
        }
    }

    #[test]
    fn an_update_and_a_delete_carry_none() {
        let ReadEvent::Event(Event::Change(change)) = read_one(&event("update", "users")) else { panic!() };
        assert!(matches!((change.op, change.collection), (Op::Update, CollectionId(0))));
        let ReadEvent::Event(Event::Change(change)) = read_one(&event("delete", "users")) else { panic!() };
        assert!(matches!(change.op, Op::Delete));
    }

    #[test]
    fn a_rename_onto_a_replicated_collection_is_seen() {
        let ReadEvent::Event(Event::Renamed { from, to, .. }) = read_one(&event("rename", "tmp")) else {
            panic!()
        };
        assert_eq!((from, to), (None, Some(CollectionId(1))));
    }

    #[test]
    fn foreign_and_unknown_events_are_passed_over() {
        for operation in ["insert", "update", "delete", "drop"] {
            assert!(matches!(read_one(&event(operation, "carts")), ReadEvent::Foreign));
        }
        for operation in [
            "create",
            "createIndexes",
            "dropIndexes",
            "modify",
            "shardCollection",
            "refineCollectionShardKey",
            "reshardCollection",
            "endOfTransaction",
            "to be invented",
        ] {
            assert!(matches!(read_one(&event(operation, "orders")), ReadEvent::Unknown), "{operation}");
        }
        // Only its type is known.
        assert!(matches!(read_one(&rawdoc! { "operationType": "to be invented" }), ReadEvent::Unknown));
    }
}
