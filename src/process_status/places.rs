//! What each part of a running pipeline is doing or waiting for, and since when. It decides only one thing:
//! whether the pipeline has stalled; the message then says where.
//!
//! A part has a [`Post`], and records there what it starts. It names collections, but no document's values
//! (G12).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// A part of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Prepares everything, and keeps the metadata.
    Attempt,
    /// Completes collections: copies, builds keys, sweeps.
    Completion,
    /// Changes a collection's mapping, by the collection's number.
    Evolution(usize),
    /// Looks for requests, and passes them on.
    Requests,
    /// Reads the stream and the spool.
    Intake,
    /// Applies a partition's changes.
    Worker(u16),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt => f.write_str("the supervisor"),
            Self::Completion => f.write_str("the copying"),
            Self::Evolution(_) => f.write_str("the mapping changes"),
            Self::Requests => f.write_str("the requests"),
            Self::Intake => f.write_str("the stream reader"),
            Self::Worker(partition) => write!(f, "worker {partition}"),
        }
    }
}

/// What a part is doing.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it does, or waits for.
    pub doing: Cow<'static, str>,
    /// Whether it has no work left.
    pub rests: bool,
    /// Since when.
    pub since: Instant,
    /// How many activities it has started.
    pub steps: u64,
}

/// What all parts are doing.
#[derive(Debug, Default)]
pub struct PartPlaces(Mutex<BTreeMap<Part, Place>>);

impl PartPlaces {
    /// All current parts.
    pub fn all(&self) -> BTreeMap<Part, Place> {
        self.places().clone()
    }

    /// The same in words, idle parts last.
    pub fn words(&self) -> String {
        let mut all: Vec<_> = self.all().into_iter().collect();
        all.sort_by_key(|(_, place)| place.rests);
        let words = all.iter().map(|(part, place)| {
            format!("{part}: {}, for {} s", place.doing, place.since.elapsed().as_secs())
        });
        words.collect::<Vec<_>>().join("; ")
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Part, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Through this, a part records what it does. The part exists until this is dropped.
#[derive(Debug)]
pub struct Post {
    places: Arc<PartPlaces>,
    part: Part,
}

impl Post {
    /// For a part that exists from now on.
    pub fn new(places: &Arc<PartPlaces>, part: Part) -> Self {
        let post = Self { places: places.clone(), part };
        post.enter("begins".into(), false);
        post
    }

    /// Records what the part now does, or waits for.
    pub fn at(&self, doing: impl Into<Cow<'static, str>>) {
        self.enter(doing.into(), false);
    }

    /// Records that it has done everything, and waits for more work.
    pub fn rests(&self, doing: impl Into<Cow<'static, str>>) {
        self.enter(doing.into(), true);
    }

    fn enter(&self, doing: Cow<'static, str>, rests: bool) {
        let mut places = self.places.places();
        let steps = places.get(&self.part).map_or(0, |place| place.steps.wrapping_add(1));
        places.insert(self.part, Place { doing, rests, since: Instant::now(), steps });
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.places.places().remove(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_where_it_last_said_until_it_is_gone() {
        let places = Arc::new(PartPlaces::default());
        let (intake, worker) = (Post::new(&places, Part::Intake), Post::new(&places, Part::Worker(3)));
        intake.rests("waits for the stream");
        worker.at("waits for PostgreSQL");
        let words =
            "worker 3: waits for PostgreSQL, for 0 s; the stream reader: waits for the stream, for 0 s";
        assert_eq!(places.words(), words);
        let before = places.all()[&Part::Worker(3)].steps;
        worker.at("waits for PostgreSQL");
        assert_ne!(places.all()[&Part::Worker(3)].steps, before, "it is there again, not still");
        drop(worker);
        assert_eq!(places.all().keys().collect::<Vec<_>>(), [&Part::Intake]);
    }
}
