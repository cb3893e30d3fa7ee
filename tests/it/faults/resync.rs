//! Resync in place (G8): rows are replaced while readers read and writers write, rows of deleted documents
//! are removed last, and it resumes where it was interrupted.

use std::sync::atomic::AtomicU64;

use docrow::demo::{users, writer::Writer};
use mongodb::bson::doc;

use crate::support::{Before, Gate, Home, Place};

/// Half a megabyte each: some chunks.
const LARGE: i32 = 100;

async fn fill(place: &Place) {
    place.add_sentinels().await;
    let padding = "x".repeat(500_000);
    let document = |id: i32| doc! { "_id": id, "n": 0, "x": &padding, "list": [{ "n": id }, { "n": -id }] };
    place.collection("large").insert_many((0..LARGE).map(document)).await.unwrap();
}

/// Deletes, inserts and changes rows behind docrow's back, which only a resync repairs.
async fn damage(place: &Place) {
    let damage = "DELETE FROM large WHERE _id % 10 = 3; DELETE FROM large_list WHERE _id % 10 = 4; \
        UPDATE large SET n = 77 WHERE _id % 10 = 5; \
        INSERT INTO large (_id, n) SELECT 10000 + g, 1 FROM generate_series(1, 500) g; \
        INSERT INTO large_list (_id, _ord, n) SELECT 20000 + g, 0, 1 FROM generate_series(1, 50) g";
    place.postgres().await.batch_execute(damage).await.unwrap();
}

/// `docrow resync`, requested from a running process: other collections continue, and readers never see an
/// empty table.
#[tokio::test]
async fn asked_for_during_the_stream_under_live_writes() {
    let place = Place::shared("resync_live").await;
    fill(&place).await;
    let collection = place.database().collection("users");
    users::load(&collection, 8, 0..300, &AtomicU64::new(0)).await.unwrap();
    let home = Home::new(&place);
    let mut writer = Writer::new(&place.client, &collection, 8, 0..300);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    damage(&place).await;
    let asked = home.finish(&["resync", "--json", &format!("{}.*", place.name)]).await.with_code(0).quiet();
    let asked: serde_json::Value = serde_json::from_str(&asked.out).unwrap();
    assert_eq!(asked["pipeline"], "docrow");
    assert!(
        asked["collections"].as_array().unwrap().contains(&format!("{}.users", place.name).into()),
        "{asked}"
    );
    assert!(asked["runner"].as_str().unwrap().starts_with("docrow process "), "{asked}");
    let reader = place.postgres().await;
    let (mut fewest, mut n) = (i64::MAX, 0);
    while !docrow.log().contains("large: copied again") {
        n += 1;
        writer.write_times(5).await.unwrap();
        place
            .collection("large")
            .update_one(doc! { "_id": n % LARGE }, doc! { "$inc": { "n": 1 } })
            .await
            .unwrap();
        let rows: i64 = reader.query_one("SELECT count(*) FROM large", &[]).await.unwrap().get(0);
        fewest = fewest.min(rows);
        assert!(n < 20_000, "{}", docrow.log());
    }
    assert!(fewest >= i64::from(LARGE) * 9 / 10, "a reader saw {fewest} rows");
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Killed while chunks are replaced, and again before the sweep: replaced chunks are not replaced again.
#[tokio::test]
async fn docrow_killed_during_a_resync() {
    let place = Place::shared("resync_killed").await;
    fill(&place).await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    damage(&place).await;
    // Requested from the next process.
    home.finish(&["resync", &format!("{}.large", place.name)]).await.with_code(0).quiet();
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "NEW.chunk >= 2")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    docrow.kill9().await.quiet();
    let copied = "SELECT count(copied_at) FROM docrow.chunks WHERE collection LIKE '%large'";
    assert_eq!(place.number(copied).await, Some(2));
    place.collection("large").delete_many(doc! { "_id": { "$lt": 5 } }).await.unwrap();
    place.collection("large").update_many(doc! {}, doc! { "$push": { "list": { "n": 9 } } }).await.unwrap();
    let mut docrow = home.run();
    docrow.logs("chunks are left").await;
    gate.open().await;
    docrow.logs("large: copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// The first copy was interrupted when a resync is requested.
#[tokio::test]
async fn asked_for_during_the_snapshot() {
    let place = Place::shared("resync_snapshot").await;
    fill(&place).await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "NEW.chunk >= 2")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    home.finish(&["resync", &format!("{}.large", place.name)]).await.with_code(0).quiet();
    docrow.logs("to copy again").await;
    gate.open().await;
    place.collection("large").delete_many(doc! { "_id": { "$lt": 5 } }).await.unwrap();
    docrow.logs("large: copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["trying again"]);
}

/// Documents that no longer exist have no dead letters after a resync, nor do these count towards the limit
/// while it is copied.
#[tokio::test]
async fn dead_letters_of_vanished_documents_during_a_resync() {
    let place = Place::shared("resync_letters").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    let order = |id: i32| doc! { "_id": id, "kind": "good" };
    orders.insert_many((0..20).map(order)).await.unwrap();
    let mut home = Home::new(&place);
    home.set("mapping.max_dead_letters", 3);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let constraint = "ALTER TABLE orders ADD CONSTRAINT good CHECK (kind <> 'bad')";
    place.postgres().await.batch_execute(constraint).await.unwrap();
    let bad = async |from: i32, to: i32| {
        let filter = doc! { "_id": { "$gte": from, "$lt": to } };
        orders.update_many(filter, doc! { "$set": { "kind": "bad" } }).await.unwrap();
    };
    bad(0, 3).await;
    place.settle(&mut docrow).await;
    let letters = "SELECT count(*) FROM docrow.dead_letters";
    assert_eq!(place.number(letters).await, Some(3));
    docrow.stop().await.quiet_but(&["dead letter"]);

    // Two others are as bad.
    orders.drop().await.unwrap();
    orders.insert_many((2..40).map(order)).await.unwrap();
    bad(10, 12).await;
    let mut docrow = home.run();
    docrow.logs("orders: copied again").await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number(letters).await, Some(2));
    orders.update_many(doc! {}, doc! { "$set": { "kind": "good" } }).await.unwrap();
    place.settle(&mut docrow).await;
    // They may still be swept: then their changes wait, and those of the sentinels do not.
    docrow.until("no document is dead", async || place.number(letters).await == Some(0)).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["dead letter"]);
    assert!(!ended.log.contains("is stopped"), "{}", ended.log);
}
