//! Stored positions after the number of partitions has changed. Pure.
//!
//! A document's partition depends on how many there are, so after such a change nothing is known about a
//! partition by itself. What all partitions of a collection had reached together still holds for each of the
//! new ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::{model::partition::Partition, sink::metadata::positions::StoredPosition};

/// Whether every collection's positions were stored by exactly `partitions` partitions.
pub(crate) fn are_of(stored: &[StoredPosition], partitions: u16) -> bool {
    let mut by_collection: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    for StoredPosition { collection, partition, .. } in stored {
        by_collection.entry(collection).or_default().insert(partition.0);
    }
    by_collection.values().all(|found| found.iter().copied().eq(0..partitions))
}

/// The least position of each collection, for each of `partitions`.
pub(crate) fn spread(stored: &[StoredPosition], partitions: u16) -> Vec<StoredPosition> {
    let mut least: BTreeMap<&str, &StoredPosition> = BTreeMap::new();
    for position in stored {
        let known = least.entry(&position.collection).or_insert(position);
        if position.position < known.position {
            *known = position;
        }
    }
    let of = |number| {
        let partition = Partition(number);
        least.values().map(move |&position| StoredPosition { partition, ..position.clone() })
    };
    (0..partitions).flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;
    use crate::model::change::Position;

    fn stored(partition: u16, collection: &str, at: u32) -> StoredPosition {
        let position = Position::from_token(&rawdoc! { "_data": format!("82{at:08X}00000001") }).unwrap();
        StoredPosition {
            partition: Partition(partition),
            collection: collection.to_owned(),
            position,
            fingerprint: None,
        }
    }

    #[test]
    fn sees_that_the_number_of_partitions_changed() {
        let two = [stored(0, "a", 1), stored(1, "a", 2)];
        assert!(are_of(&two, 2) && !are_of(&two, 3) && !are_of(&two, 1));
        let mixed = [stored(0, "a", 1), stored(0, "b", 1), stored(1, "b", 1)];
        assert!(!are_of(&mixed, 2), "a collection that was added later hides nothing");
    }

    /// G2: no partition begins after a change that is not durable.
    #[test]
    fn every_partition_begins_at_the_least() {
        let spread = spread(&[stored(0, "a", 5), stored(1, "a", 3), stored(0, "b", 9)], 3);
        let expected: Vec<_> = (0..3).flat_map(|p| [stored(p, "a", 3), stored(p, "b", 9)]).collect();
        assert_eq!(spread, expected);
    }
}
