//! Every fault, at every moment: the test's name contains both; each ends in the same comparison.

mod alone;
mod deployment;
mod disk;
mod distant;
mod evolution;
#[cfg(feature = "failpoints")]
mod failpoints;
mod frozen;
mod full;
mod log;
mod members;
mod memory;
mod order;
mod quiet;
mod replica_set;
mod restored;
mod resync;
mod silence;
mod source;
mod spool;
mod state;
#[cfg(feature = "failpoints")]
mod still;
mod tables;
mod target;
mod whole;
mod writer;
mod writes;

use mongodb::bson::{Document, doc};

use crate::support::{Before, Docrow, Ended, Gate, Home, Place, RETRIES};

/// When a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Some chunks are copied; one is in progress, and has no marker yet.
    Snapshot,
    /// Everything is copied, primary keys are being built.
    HandOver,
    /// Changes are being applied: a batch is in progress, its positions are not committed.
    Stream,
}

/// docrow, held in a phase, for a fault to happen there.
struct Scene {
    place: Place,
    home: Home,
    docrow: Docrow,
    gate: Option<Gate>,
    round: i32,
}

impl Scene {
    /// Fills a place, and gets docrow to `phase` there.
    async fn held(place: Place, home: Home, phase: Phase) -> Self {
        fill(&place).await;
        let (mut docrow, gate) = match phase {
            Phase::Snapshot => {
                let marks = Before::Update("docrow.chunks", "NEW.collection LIKE '%.things'");
                let gate = Gate::close(&place, marks).await;
                (home.run(), gate)
            }
            Phase::HandOver => {
                let gate = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
                (home.run(), gate)
            }
            Phase::Stream => {
                let mut docrow = home.run();
                place.settle(&mut docrow).await;
                let gate = Gate::close(&place, Before::Update("docrow.progress", "true")).await;
                change(&place, 0).await;
                (docrow, gate)
            }
        };
        gate.reached(&mut docrow, 1).await;
        if phase != Phase::Stream {
            change(&place, 0).await;
        }
        Self { place, home, docrow, gate: Some(gate), round: 0 }
    }

    /// Changes documents, different ones each time.
    async fn change(&mut self) {
        self.round += 1;
        change(&self.place, self.round).await;
    }

    /// Lets docrow continue.
    async fn open(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.open().await;
        }
    }

    /// All faults end the same way: everything is applied, and equal. `expected` are texts of warnings that
    /// may be logged.
    async fn converges(mut self, expected: &[&str]) -> Ended {
        self.open().await;
        change(&self.place, self.round + 1).await;
        converges(&self.place, &self.home, self.docrow).await.quiet_but(expected)
    }

    /// The same, after docrow has detected it.
    async fn converges_after_retries(mut self) -> Ended {
        self.docrow.logs(RETRIES).await;
        self.converges(&[RETRIES]).await
    }
}

async fn converges(place: &Place, home: &Home, mut docrow: Docrow) -> Ended {
    place.settle(&mut docrow).await;
    place.assert_same(home).await;
    docrow.stop().await
}

/// How many `things` there are to begin with, and in each of some smaller collections.
const THINGS: i32 = 300;
const OTHERS: i32 = 20;

fn thing(id: i32) -> Document {
    doc! { "_id": id, "n": 0, "name": format!("thing {id}"), "list": [{ "n": id }, { "n": -id }] }
}

/// Some collections of a chunk each, and the sentinels.
async fn fill(place: &Place) {
    place.add_sentinels().await;
    place.collection("things").insert_many((0..THINGS).map(thing)).await.unwrap();
    for other in ["a_first", "b_second", "z_last"] {
        place.collection(other).insert_many((0..OTHERS).map(thing)).await.unwrap();
    }
}

/// Changes, inserts and deletes things, each round others, and some of the other collections'.
async fn change(place: &Place, round: i32) {
    let things = place.collection("things");
    let some = |from: i32| doc! { "_id": { "$gte": from, "$lt": from + 10 } };
    let change = doc! { "$inc": { "n": 1 }, "$push": { "list": { "n": 1000 + round } } };
    let start = (round * 20) % (THINGS - 20);
    things.update_many(some(start), change.clone()).await.unwrap();
    things.delete_one(doc! { "_id": start + 10 }).await.unwrap();
    things.insert_one(thing(10_000 + round)).await.unwrap();
    place.collection("a_first").update_many(some(0), change.clone()).await.unwrap();
    place.collection("z_last").update_many(some(5), change).await.unwrap();
}
