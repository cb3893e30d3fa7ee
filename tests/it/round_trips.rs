//! How many round trips docrow needs, counted by proxies before both servers: with a network between, these
//! are what a start takes.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use mongodb::bson::doc;

use crate::support::{Home, Pace, Place, Proxy};

/// Round trips to MongoDB, and to PostgreSQL, including those that connect.
#[derive(Clone, Copy, Debug)]
struct RoundTrips {
    source: usize,
    target: usize,
}

struct Counted {
    place: Place,
    home: Home,
    source: Proxy,
    target: Proxy,
}

impl Counted {
    async fn of(test: &str) -> Self {
        let place = Place::shared(&format!("round_trips_{test}")).await;
        let source = Proxy::of(&place.mongodb_uri).await;
        let target = Proxy::of(&place.postgres_uri).await;
        let mut home = Home::new(&place);
        home.set("source.uri", source.mongodb_uri());
        home.set("target.uri", target.uri(&place.postgres_uri));
        Self { place, home, source, target }
    }

    /// Adds collections of ten documents each.
    async fn add(&self, collections: std::ops::Range<i32>) {
        for number in collections {
            let documents = (0..10).map(|id| doc! { "_id": id, "name": format!("thing {id}"), "list": [id] });
            let name = format!("things_{number}");
            self.place.collection(&name).insert_many(documents).await.unwrap();
        }
    }

    async fn backfill(&self) -> RoundTrips {
        let (source, target) = (self.source.round_trips(), self.target.round_trips());
        self.home.backfill().await;
        let source = self.source.round_trips() - source;
        RoundTrips { source, target: self.target.round_trips() - target }
    }
}

/// Unlike `println!`, this is not captured.
fn say(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "round trips of a backfill: {words}");
}

#[tokio::test]
async fn one_document() {
    let counted = Counted::of("one").await;
    counted.place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    let RoundTrips { source, target } = counted.backfill().await;
    say(format_args!("one document: {source} to MongoDB, {target} to PostgreSQL"));
    assert!(source <= 55 && target <= 95, "{source}, {target}");
}

/// What counts is how many of them come one after the other.
#[tokio::test]
async fn one_document_at_a_distance() {
    let counted = Counted::of("distance").await;
    counted.place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    let pace = Pace { round_trip: Duration::from_millis(20), megabits_per_second: 1_000.0 };
    let mut home = Home::new(&counted.place);
    let _links = home.move_away_from(&counted.place, pace);
    let began = Instant::now();
    home.backfill().await;
    let took = began.elapsed();
    say(format_args!("one document: {:.0} of 20 ms, one after the other", took.as_secs_f64() / 0.02));
    assert!(took < 100 * pace.round_trip, "{took:?}");
}

/// A restart with nothing to do asks as much for many collections as for a few.
#[tokio::test]
async fn a_restart_asks_as_much_for_many_collections_as_for_a_few() {
    let counted = Counted::of("restart").await;
    counted.add(0..4).await;
    let first = counted.backfill().await;
    let few = counted.backfill().await;
    counted.add(4..40).await;
    let added = counted.backfill().await;
    let many = counted.backfill().await;
    say(format_args!("4 collections: {first:?}, again {few:?}; 36 more: {added:?}, again {many:?}"));
    assert!(many.target <= few.target + 20, "{few:?}, {many:?}");
    assert!(many.source <= few.source + 20, "{few:?}, {many:?}");
}
