//! Rows that are behind their documents are no difference, and no proof.

use std::time::Duration;

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::bson::doc;
use serde_json::Value;
use tokio::time::timeout;

use super::report;
use crate::support::{Before, Gate, Home, Place};

fn counts(report: &Value) -> (u64, u64) {
    let of = |name: &str| {
        let collections = report["collections"].as_array().unwrap();
        collections.iter().map(|collection| collection[name].as_u64().unwrap()).sum()
    };
    (of("differences"), of("unsettled"))
}

/// Changes made while no process ran the pipeline are distinguished from wrong rows, planted ones included.
#[tokio::test]
async fn changes_that_nobody_has_applied_are_no_differences() {
    let place = Place::shared("verify_stopped").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders
        .insert_many((0..100).map(|id| doc! { "_id": id, "n": 1, "lines": [{ "item": "pen" }] }))
        .await
        .unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    home.finish(&["verify"]).await.with_code(0).quiet();

    orders.update_many(doc! { "_id": { "$lt": 5 } }, doc! { "$set": { "n": 2 } }).await.unwrap();
    orders.delete_many(doc! { "_id": { "$gte": 97 } }).await.unwrap();
    orders.insert_many((200..202).map(|id| doc! { "_id": id, "n": 1 })).await.unwrap();
    place.postgres().await.batch_execute("UPDATE orders SET n = 3 WHERE _id = 50").await.unwrap();
    let ended = home.finish(&["verify", "--json"]).await.with_code(1).quiet();
    let found = report(&ended);
    assert_eq!(counts(&found), (1, 10), "{}", ended.out);
    assert_eq!(
        (&found["differences"][0]["key"], &found["differences"][0]["column"]),
        (&"50".into(), &"n".into())
    );
    assert!(ended.out.contains("documents changed since docrow stopped"), "{}", ended.out);

    // Only wrong rows are repaired; rows that are behind are left to the stream.
    let ended = home.finish(&["verify", "--json", "--repair"]).await.with_code(1).quiet();
    assert_eq!(report(&ended)["collections"][0]["mended"], 1, "{}", ended.out);
    assert_eq!(counts(&report(&ended)), (1, 10), "{}", ended.out);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// verify waits for a pipeline that is blocked, but not forever; errors in unchanged documents are reported
/// all the same.
#[tokio::test]
async fn a_pipeline_that_does_not_get_on_is_waited_for() {
    let place = Place::shared("verify_behind").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..100).map(|id| doc! { "_id": id, "n": 1 })).await.unwrap();
    let gate = Gate::close(&place, Before::Update("docrow.progress", "NEW.collection LIKE '%orders'")).await;
    gate.open().await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let gate = Gate::close_again(&place).await;
    orders.update_many(doc! { "_id": { "$lt": 5 } }, doc! { "$set": { "n": 2 } }).await.unwrap();
    gate.reached(&mut docrow, 1).await;
    place.postgres().await.batch_execute("UPDATE orders SET n = 3 WHERE _id = 50").await.unwrap();
    let ended = home.finish(&["verify", "--json", "--patience", "1"]).await.with_code(1).quiet();
    let (different, unsettled) = counts(&report(&ended));
    assert!(different == 1 && (1..=5).contains(&unsettled), "{}", ended.out);
    assert!(ended.out.contains("did not apply the changes in"), "{}", ended.out);

    // It continues while verify waits.
    let verify = home.start(&["verify", "--json"]);
    gate.open().await;
    let ended = verify.ended().await.with_code(1).quiet();
    assert_eq!(counts(&report(&ended)), (1, 0), "{}", ended.out);
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// A collection that is being copied is left out, and reported; if no process runs the pipeline, it is
/// compared as it is.
#[tokio::test]
async fn what_is_being_copied_is_not_compared() {
    let place = Place::shared("verify_copying").await;
    place.collection("orders").insert_many((0..100).map(|id| doc! { "_id": id })).await.unwrap();
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    let ended = home.finish(&["verify"]).await.with_code(1).quiet();
    assert!(ended.out.contains("is being copied") && ended.out.contains("0 of 1 chunks"), "{}", ended.out);
    docrow.kill9().await;
    gate.open().await;
    // A killed process counts as running for some seconds.
    let told = timeout(Duration::from_secs(30), async {
        while !home.finish(&["verify"]).await.with_code(1).quiet().out.contains("its copy is not complete") {}
    });
    told.await.unwrap();
    home.backfill().await;
    place.assert_same(&home).await;
}

/// There is no wait where nothing happens: the pipeline is at the end of the stream, and so is the
/// comparison.
#[tokio::test]
async fn a_difference_is_told_within_seconds_while_mongodb_is_idle() {
    // Other writes would hide it.
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let postgres = Place::shared("verify_idle").await.postgres_uri;
    let place = Place::on(&mongod.uri(), &postgres, "verify_idle_own").await;
    place.add_sentinels().await;
    for name in ["orders", "users"] {
        place.collection(name).insert_many((0..100).map(|id| doc! { "_id": id, "n": 1 })).await.unwrap();
    }
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let plant = "UPDATE orders SET n = 3 WHERE _id = 50; UPDATE users SET n = 3 WHERE _id = 7";
    place.postgres().await.batch_execute(plant).await.unwrap();
    let ended = home.finish(&["verify", "--json"]).await.with_code(1).quiet();
    let found = report(&ended);
    assert_eq!(counts(&found), (2, 0), "{}", ended.out);
    assert!(found["seconds"].as_f64().unwrap() < 6.0, "{}", ended.out);
    docrow.stop().await.quiet();
}
