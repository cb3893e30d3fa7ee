//! What one transaction of a worker will change: the last event of each document, and the positions reached.
//! Pure.
//!
//! A document that changed many times is written once, in its last state. (So no statement hits a row twice,
//! which PostgreSQL refuses with SQLSTATE 21000.)

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    mem,
};

use mongodb::bson::Timestamp;

use crate::{
    model::{
        change::{Change, CollectionId, Op, Position},
        document_key::DocumentKey,
        partial_update::Patch,
    },
    pipeline::planted::{self, Bug},
};

/// A batch whose documents hold this many bytes is full (G11).
const MOST_BYTES: usize = 8 << 20;

/// Changes, folded to the last one of each document.
#[derive(Debug)]
pub struct ChangeBatch {
    changes: Vec<Change>,
    places: HashMap<(CollectionId, DocumentKey), usize>,
    events: u64,
    bytes: usize,
    positions: Positions,
    /// The time of its latest change.
    latest: Timestamp,
}

/// How far a batch reaches in each collection.
pub type Positions = BTreeMap<CollectionId, Position>;

impl Default for ChangeBatch {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            places: HashMap::new(),
            events: 0,
            bytes: 0,
            positions: Positions::new(),
            latest: Timestamp { time: 0, increment: 0 },
        }
    }
}

impl ChangeBatch {
    /// Adds the stream's next change.
    pub fn push(&mut self, change: Change) {
        self.events += 1;
        self.reach(change.collection, &change.position);
        self.latest = change.position.cluster_time().max(self.latest);
        match self.places.entry((change.collection, change.key.clone())) {
            Entry::Vacant(place) => {
                place.insert(self.changes.len());
                self.bytes += size(&change);
                self.changes.push(change);
            }
            Entry::Occupied(place) => {
                if let Some(earlier) = self.changes.get_mut(*place.get()) {
                    self.bytes -= size(earlier);
                    earlier.op = fold(mem::replace(&mut earlier.op, Op::Update), change.op);
                    // A retried document comes with an earlier position.
                    if earlier.position < change.position {
                        earlier.position = change.position;
                    }
                    self.bytes += size(earlier);
                }
            }
        }
    }

    /// Records that a collection has reached `position`, without a further change for this worker.
    pub(crate) fn reach(&mut self, collection: CollectionId, position: &Position) {
        match self.positions.get_mut(&collection) {
            Some(reached) if *reached < *position => *reached = position.clone(),
            Some(_) => {}
            None => drop(self.positions.insert(collection, position.clone())),
        }
    }

    /// Whether it should be written now; `most` is the maximum number of documents.
    pub fn is_full(&self, most: usize) -> bool {
        self.changes.len() >= most || self.bytes >= MOST_BYTES
    }

    /// Whether all its changes are earlier than `time`.
    pub(crate) fn ends_before(&self, time: Timestamp) -> bool {
        self.latest < time
    }

    /// Whether it contains no changes; it may have positions all the same.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The number of events added.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Takes out the documents' last changes, and the positions that are reached once these are durable.
    pub fn take(&mut self) -> (Vec<Change>, Positions) {
        let mut places = mem::take(&mut self.places);
        places.clear();
        let Self { changes, positions, .. } = mem::replace(self, Self { places, ..Self::default() });
        (changes, positions)
    }
}

/// Folds two changes of one document into one.
fn fold(earlier: Op, later: Op) -> Op {
    match (earlier, later) {
        (Op::Patch(earlier), Op::Patch(later)) => earlier.then(&later).map_or(Op::Update, Op::Patch),
        (Op::Whole(_), patch @ Op::Patch(_)) if planted::has(Bug::PatchOntoWhole) => patch,
        (_, Op::Patch(_)) => Op::Update,
        (_, later) => later,
    }
}

fn size(change: &Change) -> usize {
    let document = match &change.op {
        Op::Whole(document) | Op::Patch(Patch { document, .. }) => document.as_bytes().len(),
        Op::Update | Op::Delete => 0,
    };
    change.document_key.as_bytes().len() + document
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{raw::CString, rawdoc};

    use super::*;
    use crate::model::document_key::Id;

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
        let mut batch = ChangeBatch::default();
        batch.push(change(1, whole(1), 1));
        batch.push(change(2, Op::Update, 2));
        batch.push(change(1, Op::Delete, 3));
        assert_eq!(batch.events(), 3);
        let (changes, positions) = batch.take();
        let ops: Vec<_> = changes.iter().map(|change| matches!(change.op, Op::Delete)).collect();
        assert_eq!(ops, [true, false]);
        assert_eq!(positions, Positions::from([(CollectionId(0), position(3))]));
        assert!(batch.is_empty() && batch.events() == 0);
    }

    /// A patch is combined with an earlier patch, and with nothing else.
    #[test]
    fn patches_are_folded_into_patches_only() {
        let patch = |field: &str| {
            let field = CString::try_from(field).unwrap();
            let description = rawdoc! { "updatedFields": { field: 1 } };
            Op::Patch(Patch::of_event(&description, &rawdoc! { "_id": 1 }).unwrap())
        };
        let folded = |earlier: Op, later: Op| {
            let mut batch = ChangeBatch::default();
            batch.push(change(1, earlier, 1));
            batch.push(change(1, later, 2));
            batch.take().0.remove(0).op
        };
        let Op::Patch(both) = folded(patch("a"), patch("b")) else { panic!() };
        assert_eq!(both.document, rawdoc! { "_id": 1, "a": 1, "b": 1 });
        for earlier in [whole(1), Op::Delete, Op::Update] {
            assert!(matches!(folded(earlier, patch("a")), Op::Update));
        }
        assert!(matches!(folded(patch("a"), Op::Delete), Op::Delete));
        assert!(matches!(folded(patch("a"), Op::Update), Op::Update));
    }

    /// G3: a retried document does not make the change before it an older one.
    #[test]
    fn a_change_never_becomes_older() {
        let mut batch = ChangeBatch::default();
        batch.push(change(1, whole(1), 5));
        batch.push(change(1, Op::Update, 3));
        let (changes, _) = batch.take();
        assert_eq!(changes[0].position, position(5));
        assert!(matches!(changes[0].op, Op::Update));
    }

    /// G2: a retried document brings no position of its own.
    #[test]
    fn a_position_never_goes_back() {
        let mut batch = ChangeBatch::default();
        batch.reach(CollectionId(0), &position(5));
        batch.push(change(1, Op::Update, 3));
        batch.reach(CollectionId(1), &position(4));
        let (_, positions) = batch.take();
        assert_eq!(
            positions,
            Positions::from([(CollectionId(0), position(5)), (CollectionId(1), position(4))])
        );
    }

    #[test]
    fn is_full_by_documents_not_by_events() {
        let mut batch = ChangeBatch::default();
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
        let mut batch = ChangeBatch::default();
        let large = rawdoc! { "x": "y".repeat(MOST_BYTES) };
        batch.push(change(1, Op::Whole(large), 1));
        assert!(batch.is_full(1000));
        batch.push(change(1, Op::Delete, 2));
        assert!(!batch.is_full(1000), "a document that was folded away no longer counts");
    }
}
