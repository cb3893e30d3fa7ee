//! How far each collection is: the least of its partitions' stored positions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    change::{CollectionId, Position},
    partition::Partition,
};

/// The stored position of every partition in every collection.
#[derive(Debug, Default)]
pub(crate) struct Watermark(BTreeMap<(CollectionId, Partition), Position>);

impl Watermark {
    /// With the positions that are stored at the start.
    pub(crate) fn new(stored: impl IntoIterator<Item = ((Partition, CollectionId), Position)>) -> Self {
        Self(stored.into_iter().map(|((partition, id), position)| ((id, partition), position)).collect())
    }

    /// Notes a stored position. A partition never goes back. Returns whether this one gets further.
    pub(crate) fn advance(&mut self, partition: Partition, id: CollectionId, position: &Position) -> bool {
        let reached = self.0.get_mut(&(id, partition)).filter(|reached| **reached < *position);
        reached.map(|reached| *reached = position.clone()).is_some()
    }

    /// Returns the least position of each partition in these collections.
    pub(crate) fn by_partition(&self, ids: &BTreeSet<CollectionId>) -> BTreeMap<Partition, &Position> {
        let mut least: BTreeMap<Partition, &Position> = BTreeMap::new();
        for ((_, partition), position) in self.0.iter().filter(|((id, _), _)| ids.contains(id)) {
            let least = least.entry(*partition).or_insert(position);
            *least = position.min(*least);
        }
        least
    }

    /// Returns the position up to and including which all of the collection's changes are durable.
    pub(crate) fn least(&self, id: CollectionId) -> Option<&Position> {
        let partitions = (id, Partition(0))..=(id, Partition(u16::MAX));
        self.0.range(partitions).map(|(_, position)| position).min()
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    fn position(n: u32) -> Position {
        Position::from_token(&rawdoc! { "_data": format!("82{n:08X}00000001") }).unwrap()
    }

    /// G2: a collection is never resumed from beyond what some partition still has to write.
    #[test]
    fn is_the_least_of_a_collections_partitions_and_never_goes_back() {
        let id = CollectionId(1);
        let stored = |partition, id, n| ((Partition(partition), CollectionId(id)), position(n));
        let mut watermark =
            Watermark::new([stored(0, 1, 1), stored(1, 1, 2), stored(0, 0, 0), stored(0, 2, 0)]);
        assert_eq!(watermark.least(id), Some(&position(1)));
        watermark.advance(Partition(0), id, &position(9));
        assert_eq!(watermark.least(id), Some(&position(2)));
        watermark.advance(Partition(1), id, &position(4));
        watermark.advance(Partition(1), id, &position(3));
        assert_eq!(watermark.least(id), Some(&position(4)));
        assert_eq!(watermark.least(CollectionId(3)), None);
        let by_partition = watermark.by_partition(&[CollectionId(0), id].into());
        let expected = [(Partition(0), &position(0)), (Partition(1), &position(4))];
        assert_eq!(by_partition.into_iter().collect::<Vec<_>>(), expected);
    }
}
