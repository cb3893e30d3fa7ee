//! Where each part of a running pipeline is: what it is doing, or waits for, and since when. Nothing is decided by it but
//! whether all has come to a standstill, and then it says where.
//!
//! A part has a [`Post`], and says there what it begins. It names collections, and no document's values (G12).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What makes everything ready, and keeps the books.
    Attempt,
    /// What completes collections: copies, builds keys, sweeps.
    Completion,
    /// What changes a collection's mapping, by the collection's number.
    Evolution(usize),
    /// What looks for requests, and hands them on.
    Requests,
    /// What reads the stream, and the spool.
    Intake,
    /// What applies a partition's changes.
    Worker(u16),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt => f.write_str("the bookkeeping"),
            Self::Completion => f.write_str("the copying"),
            Self::Evolution(_) => f.write_str("the evolving of mappings"),
            Self::Requests => f.write_str("the requests"),
            Self::Intake => f.write_str("the intake"),
            Self::Worker(partition) => write!(f, "worker {partition}"),
        }
    }
}

/// Where a part is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it does, or waits for.
    pub doing: Cow<'static, str>,
    /// Whether it has done all that it was given.
    pub rests: bool,
    /// Since when.
    pub since: Instant,
    /// How often it has begun something.
    pub steps: u64,
}

/// Where all parts are.
#[derive(Debug, Default)]
pub struct PartPlaces(Mutex<BTreeMap<Part, Place>>);

impl PartPlaces {
    /// All parts that there are now.
    pub fn all(&self) -> BTreeMap<Part, Place> {
        self.places().clone()
    }

    /// The same in words, those that rest last.
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

/// From where a part says what it does. It is there until this is dropped.
#[derive(Debug)]
pub struct Post {
    places: Arc<PartPlaces>,
    part: Part,
}

impl Post {
    /// Of a part that is there from now on.
    pub fn new(places: &Arc<PartPlaces>, part: Part) -> Self {
        let post = Self { places: places.clone(), part };
        post.enter("begins".into(), false);
        post
    }

    /// Notes what the part does now, or waits for.
    pub fn at(&self, doing: impl Into<Cow<'static, str>>) {
        self.enter(doing.into(), false);
    }

    /// Notes that it has done everything, and waits for this to be given more.
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
        let words = "worker 3: waits for PostgreSQL, for 0 s; the intake: waits for the stream, for 0 s";
        assert_eq!(places.words(), words);
        let before = places.all()[&Part::Worker(3)].steps;
        worker.at("waits for PostgreSQL");
        assert_ne!(places.all()[&Part::Worker(3)].steps, before, "it is there again, not still");
        drop(worker);
        assert_eq!(places.all().keys().collect::<Vec<_>>(), [&Part::Intake]);
    }
}
