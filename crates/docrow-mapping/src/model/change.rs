//! The nouns that flow from the source to the sink: [`Change`] and [`Position`].
//!
//! Positions order the change stream. They are MongoDB's resume tokens, kept as the raw BSON that the server
//! sent (a token that went through JSON loses its `_typeBits` and is refused with error 40648) and compared
//! only by `_data`: its hexadecimal keystring sorts, as bytes, in the order of the stream (server source:
//! `src/mongo/db/pipeline/resume_token.h`). Positions are never compared by cluster time: a transaction's
//! events all share one.

use std::{cmp::Ordering, fmt, sync::Arc};

use bson::{RawDocument, RawDocumentBuf, Timestamp};

use super::{document_key::DocumentKey, partial_update::Patch};
use crate::error::{Code, Error, Result};

/// A collection's full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    /// The database.
    pub database: String,
    /// The collection; may itself contain dots.
    pub collection: String,
}

impl Namespace {
    /// The namespace of `collection` in `database`.
    pub fn new(database: impl Into<String>, collection: impl Into<String>) -> Self {
        Self { database: database.into(), collection: collection.into() }
    }

    /// Splits `database.collection` at its first dot, as MongoDB does.
    pub fn parse(text: &str) -> Option<Self> {
        let (database, collection) = text.split_once('.')?;
        (!database.is_empty() && !collection.is_empty()).then(|| Self::new(database, collection))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// A collection's index in the list of the collections that a run replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub usize);

/// A position in the change stream: everything up to and including it has been seen.
#[derive(Clone)]
pub struct Position(Arc<ResumeToken>);

struct ResumeToken {
    raw: RawDocumentBuf,
    data: String,
    cluster_time: Timestamp,
}

impl Position {
    /// Parses a resume token (`{_data: "82…", …}`). Errors: the token has no `_data`, or its keystring does
    /// not begin with a timestamp.
    pub fn from_token(token: &RawDocument) -> Result<Self> {
        let malformed = || Error::bug("read a resume token: not of the form {_data: \"82…\"}");
        let data = token.get_str("_data").map_err(|_| malformed())?;
        let cluster_time = cluster_time_of(data).ok_or_else(malformed)?;
        Ok(Self(Arc::new(ResumeToken { raw: token.to_owned(), data: data.to_owned(), cluster_time })))
    }

    /// Reads the bytes that [`Self::as_bytes`] returned.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let token = RawDocument::from_bytes(bytes)
            .map_err(|e| Error::caused(Code::StoredUnreadable, "read a stored resume token", e))?;
        Self::from_token(token)
    }

    /// The token as raw BSON, for storing.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.raw.as_bytes()
    }

    /// The token, for `startAfter`.
    pub fn token(&self) -> &RawDocument {
        &self.0.raw
    }

    /// The token's keystring in hexadecimal: positions are ordered by it, byte for byte.
    pub fn data(&self) -> &str {
        &self.0.data
    }

    /// When, on the cluster's clock, the event happened; for a batch's own position, the time up to which it
    /// reaches.
    pub fn cluster_time(&self) -> Timestamp {
        self.0.cluster_time
    }

    /// Whether everything up to and including `time` has been seen. A position at exactly that time need not
    /// be past it: that of an empty batch is before the events of its time, of which a transaction has many.
    pub fn is_past(&self, time: Timestamp) -> bool {
        self.0.cluster_time > time
    }
}

/// The keystring of every token begins with 0x82 (a timestamp) and eight big-endian bytes: seconds,
/// increment.
fn cluster_time_of(data: &str) -> Option<Timestamp> {
    let hex = |range| u32::from_str_radix(data.get(range)?, 16).ok();
    (data.get(0..2)? == "82").then_some(())?;
    Some(Timestamp { time: hex(2..10)?, increment: hex(10..18)? })
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Position {}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.data.as_bytes().cmp(other.0.data.as_bytes())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timestamp { time, increment } = self.cluster_time();
        write!(f, "Position({time}.{increment})")
    }
}

/// A change of one document.
#[derive(Clone, Debug)]
pub struct Change {
    /// The document's collection.
    pub collection: CollectionId,
    /// The document's identity, equal for equal `_id`s.
    pub key: DocumentKey,
    /// The event's `documentKey` as the server sent it: `_id`, and before it the shard key if there is one.
    pub document_key: RawDocumentBuf,
    /// The kind of change.
    pub op: Op,
    /// The event's position in the stream.
    pub position: Position,
}

/// The kinds of change.
#[derive(Clone, Debug)]
pub enum Op {
    /// An insert or a replace: the event contains the document as it was then.
    Whole(RawDocumentBuf),
    /// An update of some fields.
    Patch(Patch),
    /// An update of unknown fields: the document must be looked up.
    Update,
    /// The document was deleted.
    Delete,
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn position(data: &str) -> Position {
        Position::from_token(&rawdoc! { "_data": data }).unwrap()
    }

    #[test]
    fn reads_the_cluster_time_of_a_token() {
        let at = position("8263F1C2A5000000022B022C0100296E5A1004").cluster_time();
        assert_eq!(at, Timestamp { time: 0x63F1_C2A5, increment: 2 });
    }

    #[test]
    fn orders_by_data_as_bytes() {
        assert!(
            position("8263F1C2A5000000022B0229296E04") < position("8263F1C2A5000000022B022C0100296E5A1004")
        );
        assert!(position("8263F1C2A500000009FF") < position("8263F1C2A50000000A00"));
    }

    #[test]
    fn refuses_what_is_no_token() {
        assert!(Position::from_token(&rawdoc! { "_data": "7x" }).is_err());
        assert!(Position::from_token(&rawdoc! { "data": "82" }).is_err());
    }
}
