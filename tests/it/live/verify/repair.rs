//! Repairs of `docrow verify --repair` other than rows.

use mongodb::bson::doc;

use crate::support::{Home, Place};

/// A dropped column, or table: found, and created again by the resync of the next run.
#[tokio::test]
async fn what_was_dropped_is_made_again() {
    let place = Place::shared("verify_dropped").await;
    place.add_sentinels().await;
    let order = |id: i32| doc! { "_id": id, "total": 1.5, "lines": [{ "item": "pen" }, { "item": "ink" }] };
    place.collection("orders").insert_many((0..100).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    for (drop, found) in [
        ("ALTER TABLE orders DROP COLUMN total", "orders: column total is missing"),
        ("DROP TABLE orders_lines", "orders_lines: the table is missing"),
    ] {
        place.postgres().await.batch_execute(drop).await.unwrap();
        let ended = home.finish(&["verify"]).await.with_code(1).quiet();
        assert!(ended.out.contains(found) && ended.out.contains("--repair"), "{}", ended.out);
        let ended = home.finish(&["run"]).await.with_code(4);
        assert!(ended.error().contains("docrow resync"), "{}", ended.log);
        let ended = home.finish(&["verify", "--repair"]).await.with_code(1).quiet();
        assert!(ended.out.contains("docrow run now starts a resync"), "{}", ended.out);
        let mut docrow = home.run();
        docrow.logs("copied again").await;
        place.settle(&mut docrow).await;
        docrow.stop().await.quiet();
        place.assert_same(&home).await;
    }
}

/// G10: a document that PostgreSQL refuses during a repair becomes a dead letter; then the rest is correct.
#[tokio::test]
async fn what_is_refused_becomes_a_dead_letter() {
    let place = Place::shared("verify_refused").await;
    place.add_sentinels().await;
    place.collection("orders").insert_many((0..10).map(|id| doc! { "_id": id, "n": id })).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let session = place.postgres().await;
    session.batch_execute("UPDATE orders SET n = 7 WHERE _id = 3").await.unwrap();
    session.batch_execute("ALTER TABLE orders ADD CONSTRAINT no_three CHECK (n <> 3)").await.unwrap();
    home.finish(&["verify"]).await.with_code(1).quiet();
    let ended = home.finish(&["verify", "--repair"]).await.with_code(1).quiet();
    assert!(ended.out.contains("1 difference repaired, 1 dead letter"), "{}", ended.out);
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(1));
    let ended = home.finish(&["verify"]).await.with_code(1).quiet();
    assert!(!ended.out.contains("difference") && ended.out.contains("1 dead letter"), "{}", ended.out);
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
    docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);
}
