//! The model of MongoDB: a log of events, and the state of every document at any time.
//!
//! An event's position is its cluster time and its number at that time, since all events of a transaction
//! have the same time. A reply at the end of the log may have a position without an event: the present, which
//! comes before all events of that time, or one tick later.

use fastrand::Rng;
use mongodb::bson::{RawDocument, RawDocumentBuf, Timestamp, rawdoc};

use super::document::{self, DocumentState, shorthand};
use crate::{
    model::{
        change::{Change, CollectionId, Namespace, Op, Position},
        document_key::{DocumentKey, Id},
        resync_reason::Reason,
    },
    source::{Event, StreamStart},
};

/// The name of a collection: 0 is `db.c0`. Its [`CollectionId`] is its place in docrow's list, which may
/// differ.
pub(super) type CollectionName = usize;
/// The `_id` of a document.
pub(super) type DocumentNumber = usize;

pub(super) fn timestamp(time: u32) -> Timestamp {
    Timestamp { time, increment: 0 }
}

fn position(time: u32, kind: u8, number: usize) -> Position {
    Position::from_token(&rawdoc! { "_data": format!("82{time:08X}00000000{kind:02X}{number:04X}") }).unwrap()
}

/// A position without an event, before all events of its time.
pub(super) fn tick(time: u32) -> Position {
    position(time, 0, 0)
}

/// What an event of the log reports.
#[derive(Clone, Debug)]
enum LoggedEvent {
    Changed(DocumentNumber, Op),
    /// The whole collection changed. There are no events for its documents.
    DroppedOrReplaced(Reason),
}

#[derive(Debug)]
struct LogEntry {
    position: Position,
    time: u32,
    name: CollectionName,
    happened: LoggedEvent,
}

/// A state of a document, the time when it began, and the event that reports it.
#[derive(Clone, Debug)]
pub(super) struct TimedState {
    pub(super) time: u32,
    pub(super) state: DocumentState,
    pub(super) event: Option<Position>,
}

/// Everything that happened to a collection.
#[derive(Debug, Default)]
struct CollectionHistory {
    exists: bool,
    /// When it was last created, dropped or replaced.
    since: u32,
    /// All states of each document.
    states: Vec<Vec<TimedState>>,
    /// When it was dropped, or replaced by another collection.
    drops_and_replacements: Vec<Position>,
}

/// A reply of the change stream.
#[derive(Clone, Debug)]
pub(super) struct SimulatedReply {
    pub(super) events: Vec<Event>,
    pub(super) position: Position,
    pub(super) at_end: bool,
}

/// A collection's namespace.
pub(super) fn namespace(name: CollectionName) -> Namespace {
    Namespace::new("db", format!("c{name}"))
}

/// The collection with this namespace.
pub(super) fn name_of(collection: &str) -> CollectionName {
    collection.trim_start_matches("db.c").parse().unwrap()
}

/// MongoDB: its collections and its log.
#[derive(Debug)]
pub(super) struct MongoModel {
    pub(super) now: u32,
    /// The log no longer has events up to this time.
    pub(super) cut: u32,
    keys: Vec<(DocumentKey, RawDocumentBuf)>,
    log: Vec<LogEntry>,
    collections: Vec<CollectionHistory>,
    /// The last version that was written.
    versions: i32,
    /// How many fields are in use.
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
            states: vec![vec![beginning.clone()]; docs],
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
    pub(super) fn states(&self, name: CollectionName, doc: DocumentNumber) -> &[TimedState] {
        &self.collections[name].states[doc]
    }

    pub(super) fn state(&self, name: CollectionName, doc: DocumentNumber, time: u32) -> DocumentState {
        self.states(name, doc).iter().rev().find(|past| past.time <= time).and_then(|past| past.state)
    }

    /// The last time that a collection was dropped or replaced.
    pub(super) fn last_drop_or_replacement(&self, name: CollectionName) -> Option<&Position> {
        self.collections[name].drops_and_replacements.last()
    }

    /// Whether the states of a collection at `time` can still be read.
    pub(super) fn remembers(&self, name: CollectionName, time: u32) -> bool {
        !self.collections[name].exists || self.collections[name].since <= time
    }

    /// Writes to one document, or to several in a transaction. Returns what it did, for the story.
    pub(super) fn write(&mut self, rng: &mut Rng) -> String {
        self.now += 1;
        let writes = if rng.u8(..3) == 0 { rng.usize(2..=4) } else { 1 };
        let mut written = format!("at {}:", self.now);
        for number in 0..writes {
            let (name, doc) = (rng.usize(self.names()), rng.usize(self.docs()));
            let before = self.states(name, doc).last().unwrap().state;
            self.versions += 1;
            let (op, state) =
                document::write(rng, self.document_key(doc), before, self.versions, self.fields);
            written += &format!(" c{name}/{doc} is {}", shorthand(state));
            let collection = &mut self.collections[name];
            if !collection.exists {
                (collection.exists, collection.since) = (true, self.now);
            }
            let event = position(self.now, 1, number);
            collection.states[doc].push(TimedState { time: self.now, state, event: Some(event.clone()) });
            let happened = LoggedEvent::Changed(doc, op);
            self.log.push(LogEntry { position: event, time: self.now, name, happened });
        }
        written
    }

    /// Drops a collection, or replaces it by another one. Returns what it did, for the story.
    pub(super) fn drop_or_replace(&mut self, rng: &mut Rng) -> String {
        self.now += 1;
        let (name, drops) = (rng.usize(self.names()), rng.bool());
        let event = position(self.now, 1, 0);
        let collection = &mut self.collections[name];
        if !collection.exists {
            return format!("at {}: nothing", self.now);
        }
        (collection.exists, collection.since) = (!drops, self.now);
        for states in &mut collection.states {
            self.versions += 1;
            let fields = document::fields_of_version(self.versions, self.fields);
            let state = Some(fields).filter(|_| !drops && rng.bool());
            states.push(TimedState { time: self.now, state, event: None });
        }
        collection.drops_and_replacements.push(event.clone());
        let reason = if drops { Reason::Dropped } else { Reason::Replaced };
        self.log.push(LogEntry {
            position: event,
            time: self.now,
            name,
            happened: LoggedEvent::DroppedOrReplaced(reason),
        });
        format!("at {}: c{name} is {reason:?}", self.now)
    }

    /// The start position of a new stream: nothing that has already happened comes after it.
    pub(super) fn start(&self, rng: &mut Rng) -> Position {
        let is_quiet = self.log.last().is_none_or(|entry| entry.time < self.now);
        if is_quiet { self.end(rng) } else { tick(self.now + 1) }
    }

    /// A position at the end of the stream.
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

    /// The next reply of a change stream of these collections. `None`: history is lost.
    pub(super) fn read(
        &self,
        rng: &mut Rng,
        names: &[CollectionName],
        start: &StreamStart,
    ) -> Option<SimulatedReply> {
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
        Some(SimulatedReply { events, position, at_end })
    }

    fn event(&self, collection: CollectionId, entry: &LogEntry) -> Event {
        let position = entry.position.clone();
        match entry.happened.clone() {
            LoggedEvent::Changed(doc, op) => {
                let (key, document_key) = self.keys[doc].clone();
                Event::Change(Change { collection, key, document_key, op, position })
            }
            LoggedEvent::DroppedOrReplaced(Reason::Dropped) => Event::Dropped { collection, position },
            // Another collection was renamed to its name.
            LoggedEvent::DroppedOrReplaced(_) => {
                Event::Renamed { from: None, to: Some(collection), position }
            }
        }
    }

    /// Whether a collection has an event that is after one position, and not of a later time than the other.
    pub(super) fn has_between(&self, name: CollectionName, after: &Position, until: &Position) -> bool {
        let first = self.log.partition_point(|entry| entry.position <= *after);
        self.log[first..].iter().any(|entry| entry.name == name && entry.time <= until.cluster_time().time)
    }
}

/// The document with this key, which [`MongoModel::document_key`] made.
pub(super) fn doc_of(document_key: &RawDocument) -> DocumentNumber {
    // An encoded key loses the type of the number.
    let number = document_key.get_i32("_id").map(i64::from).or_else(|_| document_key.get_i64("_id"));
    usize::try_from(number.unwrap()).unwrap()
}
