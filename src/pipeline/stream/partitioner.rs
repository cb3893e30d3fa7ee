//! Which worker a change goes to. Pure.
//!
//! All changes of a document go to one partition, so their order is kept without locks. A change that its
//! partition has already made durable, before a restart, is dropped here (G2).

use std::collections::HashMap;

use crate::model::{
    change::{Change, CollectionId, Position},
    document_key::DocumentKey,
    partition::Partition,
};

/// Routes changes by document, and drops those that are already durable.
#[derive(Debug)]
pub struct Router {
    partitions: u16,
    durable: HashMap<(Partition, CollectionId), Position>,
}

impl Router {
    /// A router over `partitions` workers, each of which has reached what `durable` says.
    pub fn new(partitions: u16, durable: HashMap<(Partition, CollectionId), Position>) -> Self {
        Self { partitions, durable }
    }

    /// Spreads a batch of the stream over the partitions; each keeps the stream's order.
    pub fn route(&self, changes: impl IntoIterator<Item = Change>) -> Vec<Vec<Change>> {
        let mut routed: Vec<Vec<Change>> =
            std::iter::repeat_with(Vec::new).take(self.partitions.into()).collect();
        for change in changes {
            let partition = self.partition(&change.key);
            if self.is_durable(partition, &change) {
                continue;
            }
            if let Some(changes) = routed.get_mut(usize::from(partition.0)) {
                changes.push(change);
            }
        }
        routed
    }

    /// The partition of a document.
    pub(crate) fn partition(&self, key: &DocumentKey) -> Partition {
        let partition = key.hash64() % u64::from(self.partitions.max(1));
        Partition(u16::try_from(partition).unwrap_or(0))
    }

    fn is_durable(&self, partition: Partition, change: &Change) -> bool {
        self.durable.get(&(partition, change.collection)).is_some_and(|reached| change.position <= *reached)
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{change::Op, document_key::Id};

    fn position(n: u32) -> Position {
        Position::from_token(&rawdoc! { "_data": format!("82{n:08X}00000001") }).unwrap()
    }

    fn change(id: i32, at: u32) -> Change {
        Change {
            collection: CollectionId(0),
            key: DocumentKey::of(Id::of(&rawdoc! { "_id": id }).unwrap()),
            document_key: rawdoc! { "_id": id },
            op: Op::Update,
            position: position(at),
        }
    }

    proptest! {
        /// G3: all changes of a document meet in one partition, in the stream's order; none is lost.
        #[test]
        fn keeps_each_documents_order(ids in prop::collection::vec(0..20i32, 0..200), partitions in 1..8u16) {
            let router = Router::new(partitions, HashMap::new());
            let changes = ids.iter().zip(1..).map(|(id, at)| change(*id, at));
            let routed = router.route(changes);
            prop_assert_eq!(routed.iter().map(Vec::len).sum::<usize>(), ids.len());
            for id in 0..20 {
                let holding: Vec<_> = routed.iter().filter(|p| p.iter().any(|c| c.key == change(id, 1).key)).collect();
                prop_assert!(holding.len() <= 1);
            }
            for partition in routed {
                prop_assert!(partition.windows(2).all(|pair| pair[0].position < pair[1].position));
            }
        }
    }

    /// G2: a partition is not given changes again that it has made durable.
    #[test]
    fn drops_what_is_durable() {
        let durable = HashMap::from([((Partition(0), CollectionId(0)), position(5))]);
        let router = Router::new(1, durable);
        let left = router.route((1..=8).map(|at| change(1, at))).concat();
        assert_eq!(left.iter().map(|c| c.position.clone()).collect::<Vec<_>>(), [6, 7, 8].map(position));
    }
}
