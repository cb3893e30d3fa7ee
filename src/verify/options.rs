//! How a verification compares.

use std::time::Duration;

use super::sample::RandomSample;

/// How to compare.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Which of the included collections, as `database.collection`, globs allowed; none: all.
    pub collections: Vec<String>,
    /// Not all documents, but a random sample of them and of the rows.
    pub sample: Option<RandomSample>,
    /// At most so many documents a second.
    pub max_rate: Option<f64>,
    /// How many differences of each collection are kept; all are counted.
    pub limit: usize,
    /// Whether differences tell the values.
    pub values: bool,
    /// How long the pipeline is waited for where a document changed.
    pub patience: Duration,
    /// Whether to have differences mended.
    pub repair: bool,
    /// Whether documents that are dead letters are accepted.
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
