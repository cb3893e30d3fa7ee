//! How a verification compares.

use std::time::Duration;

use super::sample::RandomSample;

/// How to compare.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Which of the included collections, as `database.collection`, globs allowed; none: all.
    pub collections: Vec<String>,
    /// Only a random sample of the documents and of the rows.
    pub sample: Option<RandomSample>,
    /// The maximum number of documents per second.
    pub max_rate: Option<f64>,
    /// How many differences are kept per collection; all are counted.
    pub limit: usize,
    /// Whether differences include values.
    pub values: bool,
    /// How long to wait for the pipeline to apply a document's change.
    pub patience: Duration,
    /// Whether to have differences repaired.
    pub repair: bool,
    /// Whether dead letters are accepted.
    pub allow_dead_letters: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            collections: Vec::new(),
            sample: None,
            max_rate: None,
            limit: 1_000,
            values: false,
            patience: Duration::from_secs(60),
            repair: false,
            allow_dead_letters: false,
        }
    }
}
