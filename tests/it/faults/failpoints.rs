//! docrow is ended at every point where it commits, stores or acknowledges something, and started again (G2).

use std::time::Duration;

use docrow::failpoint::Failpoint;
use futures_util::{FutureExt, StreamExt, stream};
use mongodb::bson::doc;
use tokio::time::interval;

use crate::support::{Docrow, Ended, Home, Place, RETRIES};

/// How many failpoints are tested at once: a machine with few cores mostly waits for the servers.
const ABREAST: usize = 3;

/// What docrow does until it reaches the failpoint.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// Everything from an empty target on, under writes: copy, build keys, follow, change a mapping.
    Start,
    /// Restart with another number of partitions.
    Repartition,
    /// Encounter a document that the target refuses.
    Refusal,
    /// Stop a collection.
    Stop,
    /// Resync everything.
    Resync,
    /// Follow while a collection is replaced as a whole.
    Replace,
    /// Start with a mapping file that widens columns.
    Widen,
    /// Get a request to retry letters of a collection that is no longer included.
    Letters,
}

/// In which scenario a failpoint is reached, and which time counts.
fn scenario(point: Failpoint) -> (Scenario, u32) {
    use Failpoint as F;
    match point {
        F::FenceTaken
        | F::BookkeepingCreated
        | F::PipelineRegistered
        | F::StateReconciled
        | F::StartTaken
        | F::PlanBeforeCommit
        | F::PlanCommitted
        | F::ForeignKeyBeforeCommit
        | F::ForeignKeyCommitted
        | F::VersionCommitted
        | F::FilledBeforeNoted
        | F::FilledNoted => (Scenario::Start, 1),
        // When some are through, and others are not.
        F::TablesBeforeCommit
        | F::TablesCommitted
        | F::CutSaved
        | F::ChunkBeforeCommit
        | F::ChunkCommitted
        | F::KeyBeforeCommit
        | F::KeyCommitted
        | F::SpoolBeforeWrite
        | F::SpoolWritten
        | F::SpoolDrained => (Scenario::Start, 2),
        F::SpoolTrimmed | F::SpoolClosed => (Scenario::Start, 1),
        F::ResyncNoted => (Scenario::Replace, 1),
        F::ResyncBeforeCommit
        | F::ResyncCommitted
        | F::ChunkReplaced
        | F::SweptBeforeNoted
        | F::SweptNoted => (Scenario::Resync, 2),
        F::BatchBeforeCommit
        | F::BatchSent
        | F::BatchCommitted
        | F::BatchBeforeAcknowledge
        | F::BatchAcknowledged => (Scenario::Start, 9),
        F::PositionsBeforeReset | F::PositionsReset => (Scenario::Repartition, 1),
        F::ColumnsBeforeCommit | F::ColumnsReplaced => (Scenario::Widen, 1),
        F::DocumentRefused | F::LetterCommitted => (Scenario::Refusal, 1),
        F::StopNoted => (Scenario::Stop, 1),
        F::LettersAnswered => (Scenario::Letters, 1),
    }
}

/// G2: after an end at any instant, a restart converges. A failpoint that is never reached fails, too.
#[tokio::test]
async fn docrow_aborted_during_everything() {
    let walk = |point: &'static Failpoint| async move {
        let walked = std::panic::AssertUnwindSafe(abort_at(*point)).catch_unwind().await;
        walked.is_err().then_some(*point)
    };
    let failed: Vec<_> =
        stream::iter(Failpoint::ALL).map(walk).buffer_unordered(ABREAST).collect::<Vec<_>>().await;
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "what comes after these is wrong: {failed:?}");
}

async fn abort_at(point: Failpoint) {
    let place = Place::shared(&format!("failpoint_{point:?}").to_lowercase()).await;
    let (scenario, nth) = scenario(point);
    let mut home = prepare(&place, scenario).await;
    home.env("DOCROW_FAILPOINT", &format!("{point:?}:{nth}"));
    let mut writes = Writes { place: &place, round: 0 };
    let ended = tokio::select! {
        biased;
        ended = home.run().ended() => ended,
        () = provoke(&mut writes, scenario) => unreachable!("the writes never end"),
    };
    assert_aborted(ended, point);
    home.env("DOCROW_FAILPOINT", "");
    go_on(&mut writes, &mut home, scenario).await;
}

/// The place, with documents, and docrow as far as the scenario needs it to have come before.
async fn prepare(place: &Place, scenario: Scenario) -> Home {
    place.add_sentinels().await;
    let things = (0..100).map(|id| doc! { "_id": id, "n": 0, "list": [{ "n": id }] });
    place.collection("things").insert_many(things).await.unwrap();
    let orders = (0..50).map(|id| doc! { "_id": id, "n": 0, "lines": [{ "n": id }, { "n": -id }] });
    place.collection("orders").insert_many(orders).await.unwrap();
    let mut home = Home::new(place);
    let on_unfit = if matches!(scenario, Scenario::Stop) { "fail" } else { "extra" };
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\nforeign_keys = true\non_unfit = '{on_unfit}'\n\
         [key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\nn = {{ path = 'n', type = 'bigint' }}\n\
         [[tables]]\ntable = 'orders_lines'\npath = 'lines[]'\nparent = 'order_id'\nordinals = ['line']\n\
         columns = {{ n = {{ path = 'n', type = 'bigint' }} }}\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    if matches!(scenario, Scenario::Start) {
        return home;
    }
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    match scenario {
        Scenario::Start => {}
        Scenario::Replace => drop(docrow.stop().await.quiet()),
        Scenario::Resync => {
            docrow.stop().await.quiet();
            home.finish(&["resync", "*.*"]).await.with_code(0).quiet();
        }
        Scenario::Repartition => {
            docrow.stop().await.quiet();
            home.set("stream.partitions", 3);
        }
        Scenario::Stop => drop(docrow.stop().await.quiet()),
        Scenario::Widen => {
            docrow.stop().await.quiet();
            home.map(
                "orders.toml",
                &mapping.replace("'n', type = 'bigint'", "'n', type = 'double precision'"),
            );
        }
        Scenario::Refusal => {
            forbid_negative(place).await;
            docrow.stop().await.quiet();
        }
        Scenario::Letters => {
            forbid_negative(place).await;
            make_negative(place).await;
            letter(place, &mut docrow).await;
            docrow.stop().await.quiet_but(&["dead letter"]);
            home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0);
            home.set("source.exclude", vec![format!("{}.things", place.name)]);
        }
    }
    home
}

async fn forbid_negative(place: &Place) {
    let constraint = "ALTER TABLE things ADD CONSTRAINT positive CHECK (n >= 0)";
    place.postgres().await.batch_execute(constraint).await.unwrap();
}

async fn make_negative(place: &Place) {
    let update = doc! { "$set": { "n": -1_000_000 } };
    place.collection("things").update_one(doc! { "_id": 7 }, update).await.unwrap();
}

async fn letter(place: &Place, docrow: &mut Docrow) {
    let letters = "SELECT count(*) FROM docrow.dead_letters";
    docrow.until("there is a dead letter", async || place.number(letters).await == Some(1)).await;
}

/// The action that leads to the failpoint, and endless writes.
async fn provoke(writes: &mut Writes<'_>, scenario: Scenario) {
    match scenario {
        Scenario::Start | Scenario::Resync | Scenario::Repartition | Scenario::Widen | Scenario::Letters => {}
        Scenario::Replace => {
            let out = [doc! { "$match": { "_id": { "$lt": 40 } } }, doc! { "$out": "orders" }];
            drop(writes.place.collection("things").aggregate(out).await.unwrap());
        }
        Scenario::Refusal => make_negative(writes.place).await,
        Scenario::Stop => {
            let unfit = doc! { "$set": { "n": "no number" } };
            writes.place.collection("orders").update_one(doc! { "_id": 49 }, unfit).await.unwrap();
        }
    }
    let mut ticks = interval(Duration::from_millis(5));
    loop {
        ticks.tick().await;
        writes.write().await;
    }
}

#[track_caller]
fn assert_aborted(ended: Ended, point: Failpoint) {
    let ended = ended.with_code(None).quiet_but(&[RETRIES, "dead letter", "is stopped"]);
    assert!(ended.log.contains(&format!("failpoint {point:?} is reached")), "{}", ended.log);
}

/// Starts docrow again, which must converge.
async fn go_on(writes: &mut Writes<'_>, home: &mut Home, scenario: Scenario) {
    let place = writes.place;
    match scenario {
        Scenario::Stop => drop(place.collection("orders").delete_one(doc! { "_id": 49 }).await.unwrap()),
        Scenario::Letters => home.set("source.exclude", Vec::<String>::new()),
        Scenario::Start
        | Scenario::Resync
        | Scenario::Replace
        | Scenario::Repartition
        | Scenario::Widen
        | Scenario::Refusal => {}
    }
    writes.write().await;
    let mut docrow = home.run();
    writes.write().await;
    place.settle(&mut docrow).await;
    if matches!(scenario, Scenario::Refusal | Scenario::Letters) {
        letter(place, &mut docrow).await;
    }
    if matches!(scenario, Scenario::Widen) {
        let wide = "SELECT count(*) FROM pg_attribute WHERE attname = 'n' AND atttypid = 'float8'::regtype \
            AND attrelid IN ('orders'::regclass, 'orders_lines'::regclass)";
        docrow.until("the columns are wide", async || place.number(wide).await == Some(2)).await;
    }
    place.assert_same(home).await;
    // A transaction of a dead process may commit beside the next one, which then reads the positions again.
    docrow.stop().await.quiet_but(&[RETRIES, "dead letter"]);
}

/// Changes of every kind, one after the other.
struct Writes<'a> {
    place: &'a Place,
    round: i32,
}

impl Writes<'_> {
    async fn write(&mut self) {
        self.round += 1;
        let round = self.round;
        let (things, orders) = (self.place.collection("things"), self.place.collection("orders"));
        let (one, another) = (doc! { "_id": 10 + round % 80 }, doc! { "_id": round % 48 });
        let change = match round % 4 {
            // Repeatedly a field that is not mapped yet, however late the first one is created.
            0 => doc! { "$set": { format!("field{}", round / 100): round } },
            1 => doc! { "$inc": { "n": 1 }, "$push": { "list": { "n": round } } },
            2 => doc! { "$pop": { "list": -1 } },
            _ => doc! { "$set": { "list": [{ "n": round, "deep": { "x": [1, 2] } }] } },
        };
        things.update_one(one.clone(), change).await.unwrap();
        orders.update_one(another, doc! { "$push": { "lines": { "n": round } } }).await.unwrap();
        match round % 5 {
            0 => drop(things.delete_one(one).await.unwrap()),
            1 => drop(things.insert_one(doc! { "_id": 1000 + round, "n": round }).await.unwrap()),
            2 => drop(things.replace_one(one, doc! { "n": round }).upsert(true).await.unwrap()),
            _ => {}
        }
    }
}
