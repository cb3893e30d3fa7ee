//! What the benches are fed: replies of a change stream over the users, as the server sends them.

use std::sync::LazyLock;

use docrow::{
    demo::users,
    model::change::{Change, Namespace, Position},
    source::event::{self, Event, IncludedCollections, ReadEvent},
};
use mongodb::bson::{RawDocumentBuf, rawdoc};

/// The events of one reply.
pub(crate) type Reply = Vec<RawDocumentBuf>;

/// A reply ends with either.
const REPLY_BYTES: usize = 16 << 20;
pub(crate) const REPLY_EVENTS: u32 = 10_000;

static INCLUDED: LazyLock<IncludedCollections> = LazyLock::new(|| IncludedCollections::new(&[namespace()]));

pub(crate) fn namespace() -> Namespace {
    Namespace::new("sample_db", "users")
}

/// The position of the `at`-th event.
pub(crate) fn position(at: u32) -> Position {
    Position::from_token(&token(at)).unwrap()
}

fn token(at: u32) -> RawDocumentBuf {
    let (time, increment) = (0x6700_0000 + at / 1000, at % 1000 + 1);
    // A time, the collection's UUID, and the `_id`.
    let data = format!(
        "82{time:08X}{increment:08X}2B022C0100296E5A10049D4E0F1B7C3A4B6F8E2D5A1C0B9F7E6D461E5F6964002C{at:08X}000004"
    );
    rawdoc! { "_data": data }
}

/// Inserts of so many users.
pub(crate) fn inserts(count: u32) -> impl Iterator<Item = RawDocumentBuf> {
    (0..count).map(|at| {
        let id = i32::try_from(at).unwrap();
        let event = rawdoc! {
            "_id": token(at + 1),
            "operationType": "insert",
            "fullDocument": users::user(1, id),
            "ns": { "db": "sample_db", "coll": "users" },
            "documentKey": { "_id": id },
        };
        // What was made field by field has room for more fields.
        (*event).to_owned()
    })
}

/// Updates of one field each, the first at position `from`: of `documents` users cyclically.
pub(crate) fn updates(from: u32, count: u32, documents: u32) -> Reply {
    let update = |at: u32| {
        rawdoc! {
            "_id": token(at),
            "operationType": "update",
            "ns": { "db": "sample_db", "coll": "users" },
            "documentKey": { "_id": i32::try_from(at % documents).unwrap() },
            "updateDescription": { "updatedFields": { "age": 42 }, "removedFields": [], "truncatedArrays": [] },
        }
    };
    (from..from + count).map(update).collect()
}

/// The events in replies as large as a server makes them.
pub(crate) fn replies(events: impl Iterator<Item = RawDocumentBuf>) -> Vec<Reply> {
    let (mut replies, mut reply, mut bytes) = (Vec::new(), Reply::new(), 0);
    for event in events {
        bytes += event.as_bytes().len();
        if bytes > REPLY_BYTES || reply.len() == REPLY_EVENTS as usize {
            replies.push(std::mem::take(&mut reply));
            bytes = event.as_bytes().len();
        }
        reply.push(event);
    }
    replies.push(reply);
    replies
}

/// The changes in a reply.
pub(crate) fn read(reply: &Reply) -> Vec<Change> {
    let read = |event: &RawDocumentBuf| match event::read(event, &INCLUDED).unwrap() {
        ReadEvent::Event(Event::Change(change)) => change,
        _ => unreachable!("every event is a change of a user"),
    };
    reply.iter().map(read).collect()
}
