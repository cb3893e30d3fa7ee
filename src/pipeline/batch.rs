//! What one transaction of a worker will change: the last event of each document, and the position reached. Pure.
//!
//! A document that changed many times is written once, as it was last (and a row is never hit twice in one statement,
//! which PostgreSQL refuses with SQLSTATE 21000).

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    change::{Change, CollectionId, Op, Position},
    key::DocumentKey,
};

/// A batch's documents may hold this many bytes; beyond, it is full (G11).
const MOST_BYTES: usize = 8 << 20;

/// Changes, folded to the last one of each document.
#[derive(Debug, Default)]
pub(super) struct Batch {
    changes: Vec<Change>,
    places: HashMap<(CollectionId, DocumentKey), usize>,
    events: u64,
    bytes: usize,
    position: Option<Position>,
}

impl Batch {
    /// Adds the stream's next change.
    pub(super) fn push(&mut self, change: Change) {
        self.events += 1;
        self.bytes += size(&change);
        self.position = Some(change.position.clone());
        match self.places.entry((change.collection, change.key.clone())) {
            Entry::Vacant(place) => {
                place.insert(self.changes.len());
                self.changes.push(change);
            }
            Entry::Occupied(place) => {
                if let Some(earlier) = self.changes.get_mut(*place.get()) {
                    self.bytes -= size(earlier);
                    *earlier = change;
                }
            }
        }
    }

    /// Notes that the stream has reached `position` without a further change for this worker.
    pub(super) fn reach(&mut self, position: Position) {
        self.position = Some(position);
    }

    /// Whether it should be written now, `most` documents being the limit.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.changes.len() >= most || self.bytes >= MOST_BYTES
    }

    /// Whether there is no change in it (it may have a position all the same).
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many events went in.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The documents' last changes, and the position that is reached once they are durable.
    pub(super) fn take(&mut self) -> (Vec<Change>, Option<Position>) {
        let Self { changes, position, .. } = std::mem::take(self);
        (changes, position)
    }
}

fn size(change: &Change) -> usize {
    let document = match &change.op {
        Op::Whole(document) => document.as_bytes().len(),
        Op::Update | Op::Delete => 0,
    };
    change.document_key.as_bytes().len() + document
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;
    use crate::key::Id;

    fn position(n: u32) -> Position {
        Position::from_token(&rawdoc! { "_data": format!("82{n:08X}00000001") }).unwrap()
    }

    fn change(id: i32, op: Op, at: u32) -> Change {
        Change {
            collection: CollectionId(0),
            key: DocumentKey::of(Id::of(&rawdoc! { "_id": id }).unwrap()),
            document_key: rawdoc! { "_id": id },
            op,
            position: position(at),
        }
    }

    fn whole(id: i32) -> Op {
        Op::Whole(rawdoc! { "_id": id })
    }

    #[test]
    fn keeps_the_last_change_of_each_document() {
        let mut batch = Batch::default();
        batch.push(change(1, whole(1), 1));
        batch.push(change(2, Op::Update, 2));
        batch.push(change(1, Op::Delete, 3));
        assert_eq!(batch.events(), 3);
        let (changes, position_reached) = batch.take();
        let ops: Vec<_> = changes.iter().map(|change| matches!(change.op, Op::Delete)).collect();
        assert_eq!(ops, [true, false]);
        assert_eq!(position_reached, Some(position(3)));
        assert!(batch.is_empty() && batch.events() == 0);
    }

    #[test]
    fn is_full_by_documents_not_by_events() {
        let mut batch = Batch::default();
        for at in 1..100 {
            batch.push(change(1, Op::Update, at));
        }
        assert!(!batch.is_full(2));
        batch.push(change(2, Op::Update, 100));
        assert!(batch.is_full(2));
    }

    /// G11: large documents fill a batch by their bytes.
    #[test]
    fn is_full_by_bytes() {
        let mut batch = Batch::default();
        let large = rawdoc! { "x": "y".repeat(MOST_BYTES) };
        batch.push(change(1, Op::Whole(large), 1));
        assert!(batch.is_full(1000));
        batch.push(change(1, Op::Delete, 2));
        assert!(!batch.is_full(1000), "what was folded away no longer counts");
    }
}
