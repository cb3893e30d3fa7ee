//! The model of MongoDB, and its ports: a log of events, and the state of every document at any time.
//!
//! An event's position is its cluster time and its number within it, since the events of a transaction share their time. A
//! reply that has come to the end of the log may bear a position without an event: one tick past the present, or the
//! present, which stands before the events of its time.

use fastrand::Rng;
use mongodb::bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::document::{self, DocumentState, word};
use crate::{
    model::{
        change::{Change, CollectionId, Namespace, Op, Position},
        document_key::{DocumentKey, Id},
        resync_reason::Reason,
    },
    source::{Event, StreamStart},
};

/// A collection. In which place it is in the list of a run is its [`CollectionId`].
pub(super) type CollectionName = usize;
pub(super) type DocumentNumber = usize;

pub(super) fn at(time: u32) -> Timestamp {
    Timestamp { time, increment: 0 }
}

fn position(time: u32, kind: u8, number: usize) -> Position {
    Position::from_token(&rawdoc! { "_data": format!("82{time:08X}00000000{kind:02X}{number:04X}") }).unwrap()
}

/// A position without an event: before all events of its time.
pub(super) fn tick(time: u32) -> Position {
    position(time, 0, 0)
}

/// The kind of change.
#[derive(Clone, Debug)]
enum LoggedEvent {
    Changed(DocumentNumber, Op),
    /// To the whole collection, which has no events for its documents then.
    Whole(Reason),
}

#[derive(Debug)]
struct LogEntry {
    position: Position,
    time: u32,
    name: CollectionName,
    happened: LoggedEvent,
}

/// A state of a document, since when, and the event that tells of it.
#[derive(Clone, Debug)]
pub(super) struct TimedState {
    pub(super) time: u32,
    pub(super) state: DocumentState,
    pub(super) event: Option<Position>,
}

#[derive(Debug, Default)]
struct CollectionHistory {
    exists: bool,
    /// When it was last created, dropped or exchanged.
    since: u32,
    /// Of each document.
    shown: Vec<Vec<TimedState>>,
    /// What happened to it as a whole.
    wholes: Vec<Position>,
}

/// A reply of the stream.
#[derive(Clone, Debug)]
pub(super) struct StreamReply {
    pub(super) events: Vec<Event>,
    pub(super) position: Position,
    pub(super) at_end: bool,
}

/// What a collection is called.
pub(super) fn namespace(name: CollectionName) -> Namespace {
    Namespace::new("db", format!("c{name}"))
}

/// The collection that is called so.
pub(super) fn name_of(collection: &str) -> CollectionName {
    collection.trim_start_matches("db.c").parse().unwrap()
}

#[derive(Debug)]
pub(super) struct MongoModel {
    pub(super) now: u32,
    /// The log has forgotten what happened until then.
    pub(super) cut: u32,
    keys: Vec<(DocumentKey, RawDocumentBuf)>,
    log: Vec<LogEntry>,
    collections: Vec<CollectionHistory>,
    versions: i32,
    /// How many of the fields are in use.
    pub(super) fields: usize,
}

impl MongoModel {
    pub(super) fn new(rng: &mut Rng, collections: usize, docs: usize) -> Self {
        let keys = (0..docs).map(|doc| {
            let key = rawdoc! { "_id": i32::try_from(doc).unwrap() };
            (DocumentKey::of(Id::of(&key).unwrap()), key)
        });
        let beginning = TimedState { time: 0, state: None, event: None };
        let collection = || CollectionHistory {
            shown: vec![vec![beginning.clone()]; docs],
            ..CollectionHistory::default()
        };
        let mut source = Self {
            now: 1,
            cut: 0,
            keys: keys.collect(),
            log: Vec::new(),
            collections: (0..collections).map(|_| collection()).collect(),
            versions: 0,
            fields: rng.usize(1..=document::FIELD_NAMES.len()),
        };
        for _ in 0..rng.usize(0..=2 * docs) {
            source.write(rng);
        }
        source
    }

    pub(super) fn docs(&self) -> std::ops::Range<DocumentNumber> {
        0..self.keys.len()
    }

    pub(super) fn names(&self) -> std::ops::Range<CollectionName> {
        0..self.collections.len()
    }

    pub(super) fn exists(&self, name: CollectionName) -> bool {
        self.collections[name].exists
    }

    pub(super) fn key(&self, doc: DocumentNumber) -> &DocumentKey {
        &self.keys[doc].0
    }

    pub(super) fn document_key(&self, doc: DocumentNumber) -> &RawDocumentBuf {
        &self.keys[doc].1
    }

    /// All states of a document, in order.
    pub(super) fn shown(&self, name: CollectionName, doc: DocumentNumber) -> &[TimedState] {
        &self.collections[name].shown[doc]
    }

    pub(super) fn state(&self, name: CollectionName, doc: DocumentNumber, time: u32) -> DocumentState {
        self.shown(name, doc).iter().rev().find(|shown| shown.time <= time).and_then(|shown| shown.state)
    }

    /// The last time that something happened to the whole collection.
    pub(super) fn last_whole(&self, name: CollectionName) -> Option<&Position> {
        self.collections[name].wholes.last()
    }

    /// Whether states of a collection at `time` can still be told.
    pub(super) fn remembers(&self, name: CollectionName, time: u32) -> bool {
        !self.collections[name].exists || self.collections[name].since <= time
    }

    /// Writes something to one document, or in a transaction to several. Says what.
    pub(super) fn write(&mut self, rng: &mut Rng) -> String {
        self.now += 1;
        let writes = if rng.u8(..3) == 0 { rng.usize(2..=4) } else { 1 };
        let mut said = format!("at {}:", self.now);
        for number in 0..writes {
            let (name, doc) = (rng.usize(self.names()), rng.usize(self.docs()));
            let before = self.shown(name, doc).last().unwrap().state;
            self.versions += 1;
            let (op, state) =
                document::write(rng, self.document_key(doc), before, self.versions, self.fields);
            said += &format!(" c{name}/{doc} is {}", word(state));
            let collection = &mut self.collections[name];
            if !collection.exists {
                (collection.exists, collection.since) = (true, self.now);
            }
            let event = position(self.now, 1, number);
            collection.shown[doc].push(TimedState { time: self.now, state, event: Some(event.clone()) });
            let happened = LoggedEvent::Changed(doc, op);
            self.log.push(LogEntry { position: event, time: self.now, name, happened });
        }
        said
    }

    /// Drops a collection, or puts another in its place.
    pub(super) fn whole(&mut self, rng: &mut Rng) -> String {
        self.now += 1;
        let (name, drops) = (rng.usize(self.names()), rng.bool());
        let event = position(self.now, 1, 0);
        let collection = &mut self.collections[name];
        if !collection.exists {
            return format!("at {}: nothing", self.now);
        }
        (collection.exists, collection.since) = (!drops, self.now);
        for shown in &mut collection.shown {
            self.versions += 1;
            let fields = document::of_version(self.versions, self.fields);
            let state = Some(fields).filter(|_| !drops && rng.bool());
            shown.push(TimedState { time: self.now, state, event: None });
        }
        collection.wholes.push(event.clone());
        let reason = if drops { Reason::Dropped } else { Reason::Replaced };
        self.log.push(LogEntry {
            position: event,
            time: self.now,
            name,
            happened: LoggedEvent::Whole(reason),
        });
        format!("at {}: c{name} is {reason:?}", self.now)
    }

    /// The present end of a stream that is only begun: nothing that has happened comes after it.
    pub(super) fn start(&self, rng: &mut Rng) -> Position {
        let is_quiet = self.log.last().is_none_or(|entry| entry.time < self.now);
        if is_quiet { self.end(rng) } else { tick(self.now + 1) }
    }

    /// The present end of the stream.
    pub(super) fn end(&self, rng: &mut Rng) -> Position {
        tick(self.now + u32::from(rng.bool()))
    }

    /// Whether the log reaches back to before `start`.
    pub(super) fn reaches(&self, start: &StreamStart) -> bool {
        match start {
            StreamStart::After(position) => position.cluster_time().time > self.cut,
            StreamStart::At(time) => time.time > self.cut,
        }
    }

    /// The next reply of a stream of these collections. `None`: history is lost.
    pub(super) fn read(
        &self,
        rng: &mut Rng,
        names: &[CollectionName],
        start: &StreamStart,
    ) -> Option<StreamReply> {
        if !self.reaches(start) {
            return None;
        }
        let first = match start {
            StreamStart::After(position) => self.log.partition_point(|entry| entry.position <= *position),
            StreamStart::At(time) => self.log.partition_point(|entry| entry.time < time.time),
        };
        let mut coming = self.log[first..].iter().filter_map(|entry| {
            let id = CollectionId(names.iter().position(|name| *name == entry.name)?);
            Some((id, entry))
        });
        let some: Vec<_> = coming.by_ref().take(rng.usize(1..=6)).collect();
        let events = some.iter().map(|(id, entry)| self.event(*id, entry)).collect();
        let last = some.last().map(|(_, entry)| entry.position.clone());
        let from = match start {
            StreamStart::After(position) => position.clone(),
            StreamStart::At(time) => tick(time.time),
        };
        let at_end = last.is_none();
        let mut position = last.unwrap_or_else(|| self.end(rng).max(from));
        if coming.next().is_none() && rng.u8(..4) == 0 {
            position = self.end(rng).max(position);
        }
        Some(StreamReply { events, position, at_end })
    }

    fn event(&self, collection: CollectionId, entry: &LogEntry) -> Event {
        let position = entry.position.clone();
        match entry.happened.clone() {
            LoggedEvent::Changed(doc, op) => {
                let (key, document_key) = self.keys[doc].clone();
                Event::Change(Change { collection, key, document_key, op, position })
            }
            LoggedEvent::Whole(Reason::Dropped) => Event::Dropped { collection, position },
            // Another one gets its name.
            LoggedEvent::Whole(_) => Event::Renamed { from: None, to: Some(collection), position },
        }
    }

    /// Whether any event of a collection comes after the one, and is not of a later time than the other.
    pub(super) fn has_between(&self, name: CollectionName, after: &Position, until: &Position) -> bool {
        let first = self.log.partition_point(|entry| entry.position <= *after);
        self.log[first..].iter().any(|entry| entry.name == name && entry.time <= until.cluster_time().time)
    }
}

/// The document of a key that [`MongoModel::document_key`] gave.
pub(super) fn doc_of(document_key: &RawDocument) -> DocumentNumber {
    // An encoded key does not tell of which type the number was.
    let number = document_key.get_i32("_id").map(i64::from).or_else(|_| document_key.get_i64("_id"));
    usize::try_from(number.unwrap()).unwrap()
}
