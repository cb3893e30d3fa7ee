//! Which documents the target may already show in a newer state than the current event. Pure.
//!
//! A lookup reads a document as it is now, which is later than the event that asked for it. If an older
//! insert, replace or delete of the same document were then applied unchanged, the row would go backwards
//! (G3). So an event may be applied unchanged only if it is newer than anything the row may show. Otherwise
//! the document is looked up again, which always gives a newer state, and which also makes a replay after a
//! restart harmless.
//!
//! A row may be ahead of the stream for two reasons. It may have been written before this process started (or
//! reconnected): how far such rows may be ahead is stored with the positions, in each transaction that writes
//! rows (or before it, if it stores no position), and every event up to there counts as behind. Or a lookup
//! has put it ahead since then: so the hashes of the documents that were looked up are remembered, in Bloom
//! filters of fixed size, until the stream has passed the time of their lookup. A false positive costs one
//! lookup and nothing else.
//!
//! There are two filters. While updates continue, there is always a lookup that the stream has not passed
//! yet, so a single filter would never be emptied, and would fill up. New lookups go into the younger filter.
//! Once the stream has passed all lookups in the older one, it is emptied, and the two change places.

use mongodb::bson::Timestamp;

use crate::model::document_key::DocumentKey;

/// 1 Mbit, 128 KiB: with 10,000 documents ahead of the stream, about one event in 2,700 is looked up
/// needlessly.
const BITS: u64 = 1 << 20;
const WORDS: usize = 1 << 14;

/// What one worker knows about rows that may be ahead of its stream.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Up to here, every document may be ahead.
    all_until: Timestamp,
    noted: Timestamp,
    older: LookedUp,
    younger: LookedUp,
}

/// Documents that were looked up.
#[derive(Debug)]
struct LookedUp {
    /// Up to here, they may be ahead.
    until: Timestamp,
    filter: Vec<u64>,
}

impl Ahead {
    /// Begins with rows that may show states up to `shown`: the stored value, or else the present.
    pub(crate) fn new(shown: Timestamp) -> Self {
        let none = || LookedUp { until: shown, filter: vec![0; WORDS] };
        Self { all_until: shown, noted: shown, older: none(), younger: none() }
    }

    /// Records that every row may show a state as of `time`.
    pub(crate) fn raise(&mut self, time: Timestamp) {
        self.all_until = time.max(self.all_until);
        self.noted = time.max(self.noted);
    }

    /// Up to when rows may be ahead, as recorded: where the stream has passed since does not count.
    pub(crate) fn noted(&self) -> Timestamp {
        self.noted
    }

    /// The latest state that any row may show, apart from states that the stream brought.
    pub(crate) fn latest(&self) -> Timestamp {
        self.noted.max(self.older.until).max(self.younger.until)
    }

    /// Whether every row may show a newer state than an event at `time`.
    pub(crate) fn all_may_be(&self, time: Timestamp) -> bool {
        time <= self.all_until
    }

    /// Whether the row of `key` may show a newer state than an event at `time`.
    pub(crate) fn may_be(&self, key: &DocumentKey, time: Timestamp) -> bool {
        self.all_may_be(time) || self.older.may_be(key, time) || self.younger.may_be(key, time)
    }

    /// Records that the row of `key` is about to show a state as of `read_at` at the latest.
    pub(crate) fn looked_up(&mut self, key: &DocumentKey, read_at: Timestamp) {
        let LookedUp { until, filter } = &mut self.younger;
        *until = read_at.max(*until);
        for (word, mask) in places(key) {
            if let Some(bits) = filter.get_mut(word) {
                *bits |= mask;
            }
        }
    }

    /// Records that the stream has passed `time`: documents that were looked up before it are no longer
    /// ahead.
    pub(crate) fn passed(&mut self, time: Timestamp) {
        let Self { all_until, older, younger, .. } = self;
        if time > older.until && younger.until > *all_until {
            // No more events up to there should come; if one comes, its document is looked up.
            *all_until = older.until.max(*all_until);
            std::mem::swap(older, younger);
            younger.until = *all_until;
            younger.filter.fill(0);
        }
    }
}

impl LookedUp {
    fn may_be(&self, key: &DocumentKey, time: Timestamp) -> bool {
        time <= self.until
            && places(key).all(|(word, mask)| self.filter.get(word).is_some_and(|bits| bits & mask != 0))
    }
}

/// Two places in the filter, from the two halves of the key's hash.
fn places(key: &DocumentKey) -> impl Iterator<Item = (usize, u64)> {
    let hash = key.hash64();
    [hash, hash.rotate_right(32)].into_iter().map(|half| {
        let bit = half % BITS;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;
    use crate::model::document_key::Id;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 0 }
    }

    fn key(id: i32) -> DocumentKey {
        DocumentKey::of(Id::of(&rawdoc! { "_id": id }).unwrap())
    }

    /// G3: nothing is known about the time before the start, so no event from then is applied unchanged.
    #[test]
    fn everything_may_be_ahead_until_the_start() {
        let ahead = Ahead::new(at(10));
        assert!(ahead.may_be(&key(1), at(10)));
        assert!(!ahead.may_be(&key(1), at(11)));
    }

    /// G3: rows that were copied while the stream continued are ahead of it.
    #[test]
    fn everything_may_be_ahead_until_its_copy_was_complete() {
        let mut ahead = Ahead::new(at(10));
        ahead.raise(at(20));
        ahead.raise(at(15));
        assert!(ahead.may_be(&key(1), at(20)));
        assert!(!ahead.may_be(&key(1), at(21)));
    }

    /// G3: a document looked up at 20 must not be overwritten by its state at 15.
    #[test]
    fn a_looked_up_document_is_ahead_until_the_stream_has_passed() {
        let mut ahead = Ahead::new(at(10));
        ahead.looked_up(&key(1), at(20));
        assert!(ahead.may_be(&key(1), at(15)) && ahead.may_be(&key(1), at(20)));
        assert!(!ahead.may_be(&key(2), at(15)));
        ahead.passed(at(15));
        assert!(ahead.may_be(&key(1), at(20)));
        ahead.passed(at(21));
        assert!(!ahead.may_be(&key(1), at(22)));
    }

    /// Updates that never end do not turn every other event into a lookup.
    #[test]
    fn a_document_is_forgotten_while_others_are_looked_up() {
        let mut ahead = Ahead::new(at(10));
        ahead.looked_up(&key(1), at(20));
        for time in 15..40 {
            // Every lookup is a little ahead of the stream.
            ahead.looked_up(&key(2), at(time + 5));
            ahead.passed(at(time));
            assert!(ahead.may_be(&key(2), at(time + 5)), "{time}");
        }
        assert!(!ahead.may_be(&key(1), at(40)));
        assert!(ahead.may_be(&key(3), at(20)), "events up to where the stream has passed stay behind");
    }

    proptest::proptest! {
        /// G3: whatever the order, an event is never taken for newer than a row that is ahead of it.
        #[test]
        fn no_document_that_is_ahead_is_forgotten(steps in proptest::collection::vec((0..8i32, 0..30u32, 0..5u32), 1..60)) {
            let (mut ahead, mut stream, mut shows) = (Ahead::new(at(0)), 0, std::collections::HashMap::new());
            for (id, lead, advance) in steps {
                stream += advance;
                // A lookup is of a time that the stream has reached, or of a later one.
                let read_at = stream + lead;
                ahead.looked_up(&key(id), at(read_at));
                let shown = shows.entry(id).or_insert(read_at);
                *shown = read_at.max(*shown);
                ahead.passed(at(stream));
                for (id, shown) in &shows {
                    proptest::prop_assert!((0..=*shown).all(|time| ahead.may_be(&key(*id), at(time))));
                }
            }
        }
    }
}
