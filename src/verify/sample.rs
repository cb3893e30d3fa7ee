//! Selects the documents of a random sample. Pure.
//!
//! A hash of its key and the seed decides whether a document is in the sample. So each document is equally
//! likely, over the whole range of keys and all their types, and the same seed selects the same documents. A
//! sample of all of them has all of them.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{config::SampleSize, model::document_key::DocumentKey};

/// A random sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomSample {
    /// Its size.
    pub size: SampleSize,
    /// The same seed selects the same sample.
    pub seed: u64,
}

/// A sample's selection in one collection.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleChoice {
    /// In percent.
    pub(super) percent: f64,
    threshold: u64,
    seed: u64,
}

impl RandomSample {
    /// The selection among about this many documents. `None`: all of them.
    pub(super) fn choice(self, documents: u64) -> Option<SampleChoice> {
        // Both are estimates.
        #[allow(clippy::cast_precision_loss)]
        let percent = match self.size {
            SampleSize::Percent(percent) => percent,
            SampleSize::Documents(wanted) => 100.0 * wanted as f64 / documents.max(1) as f64,
        };
        // Saturating is intended.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let threshold = (percent / 100.0 * u64::MAX as f64) as u64;
        (percent < 100.0).then_some(SampleChoice { percent, threshold, seed: self.seed })
    }
}

impl SampleChoice {
    /// Whether a document is in the sample.
    pub(super) fn takes(&self, key: &DocumentKey) -> bool {
        xxh3_64_with_seed(key.as_bytes(), self.seed) < self.threshold
    }

    /// About how many of `documents` are in it.
    pub(super) fn expected(&self, documents: u64) -> u64 {
        // For the progress bar.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let of = (documents as f64 * self.percent / 100.0) as u64;
        of
    }

    /// The seed in PostgreSQL's form.
    pub(super) fn seed(&self) -> u64 {
        self.seed & u64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;
    use crate::model::document_key::Id;

    #[test]
    fn about_as_many_are_taken_as_wanted_and_the_same_again() {
        let keys: Vec<_> =
            (0..20_000).map(|id| DocumentKey::of(Id::of(&rawdoc! { "_id": id }).unwrap())).collect();
        let taken = |size, seed| {
            let choice = RandomSample { size, seed }.choice(20_000).unwrap();
            keys.iter().map(|key| choice.takes(key)).collect::<Vec<_>>()
        };
        let count = |taken: &[bool]| taken.iter().filter(|taken| **taken).count();
        let tenth = taken(SampleSize::Percent(10.0), 1);
        assert!((1700..2300).contains(&count(&tenth)), "{}", count(&tenth));
        assert_eq!(tenth, taken(SampleSize::Documents(2000), 1));
        assert_ne!(tenth, taken(SampleSize::Percent(10.0), 2));
        assert!(RandomSample { size: SampleSize::Percent(100.0), seed: 1 }.choice(20_000).is_none());
        assert!(RandomSample { size: SampleSize::Documents(20_000), seed: 1 }.choice(20_000).is_none());
    }
}
