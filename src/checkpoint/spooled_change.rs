//! A change in the spool, and how it is written: its key, by which changes are in order, and its value.

use std::fmt;

use mongodb::bson::{RawDocument, RawDocumentBuf, rawdoc};

use super::failure::{StoreFailure, StoreResult};
use crate::model::change::Position;

/// A spooled change.
#[derive(Clone, PartialEq)]
pub struct Waiting {
    /// Its position in the stream.
    pub position: Position,
    /// The event's `documentKey`.
    pub document_key: RawDocumentBuf,
}

/// Without the key, whose values must not be shown (G12).
impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)
    }
}

/// The prefix of the keys of changes, and a key after all of them.
pub(super) const CHANGE: &[u8] = b"c";
pub(super) const PAST: &[u8] = b"d";

pub(super) fn start(id: i64) -> Vec<u8> {
    [CHANGE, &id.to_be_bytes()].concat()
}

/// After all of a span's changes: `_data` is hexadecimal.
pub(super) fn end(id: i64) -> Vec<u8> {
    [start(id).as_slice(), &[0xFF]].concat()
}

pub(super) fn key(id: i64, position: &Position) -> Vec<u8> {
    [start(id).as_slice(), position.data().as_bytes()].concat()
}

/// The least key after that of `position`.
pub(super) fn after(id: i64, position: &Position) -> Vec<u8> {
    [key(id, position).as_slice(), &[0]].concat()
}

pub(super) fn value(number: i64, position: &Position, document_key: &RawDocument) -> Vec<u8> {
    // A token is only `_data`, unless it comes from an old server.
    let token =
        if position.as_bytes() == token_of(position.data()).as_bytes() { &[] } else { position.as_bytes() };
    [number.to_be_bytes().as_slice(), &[u8::from(!token.is_empty())], token, document_key.as_bytes()].concat()
}

fn token_of(data: &str) -> RawDocumentBuf {
    rawdoc! { "_data": data }
}

pub(super) fn number_of(value: &[u8]) -> StoreResult<i64> {
    value
        .first_chunk()
        .copied()
        .map(i64::from_be_bytes)
        .ok_or(StoreFailure::Inconsistent("a change has no number"))
}

/// The change that [`key`] and [`value`] encode.
pub(super) fn read(key: &[u8], value: &[u8]) -> StoreResult<Waiting> {
    let parse = || {
        let (_, value) = value.split_at_checked(size_of::<i64>())?;
        let (has_token, rest) = value.split_first()?;
        let (token, document_key) = match has_token {
            0 => (token_of(std::str::from_utf8(key.get(1 + size_of::<i64>()..)?).ok()?), rest),
            _ => {
                let length = usize::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok()?;
                let (token, rest) = rest.split_at_checked(length)?;
                (RawDocumentBuf::from_bytes(token.to_vec()).ok()?, rest)
            }
        };
        let position = Position::from_token(&token).ok()?;
        Some(Waiting { position, document_key: RawDocumentBuf::from_bytes(document_key.to_vec()).ok()? })
    };
    parse().ok_or(StoreFailure::Inconsistent("a change can't be read"))
}
