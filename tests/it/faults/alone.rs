//! One collection's failure never affects another: where the stream starts, what is copied again, and with
//! which code docrow ends.

use docrow::demo::servers::Mongod;
use mongodb::bson::{Timestamp, doc};
use serde_json::Value;

use crate::support::{Code, Docrow, Home, Place, roll_over, small_oplog};

/// The log line of a collection that fails alone.
const STOPPED: &str = "is stopped, ";

/// A place whose oplog can be rolled over, with two healthy collections and one, `bad`, that may fail.
async fn place(test: &str) -> (Mongod, Place) {
    let mongod = Mongod::start(small_oplog()).await.unwrap();
    let postgres = Place::shared(test).await.postgres_uri;
    let place = Place::on(&mongod.uri(), &postgres, &format!("{test}_own")).await;
    place.add_sentinels().await;
    for name in ["things", "bad"] {
        fill(&place, name).await;
    }
    (mongod, place)
}

async fn fill(place: &Place, name: &str) {
    let documents = (0..50).map(|id| doc! { "_id": id, "n": 0, "list": [{ "n": id }] });
    place.collection(name).insert_many(documents).await.unwrap();
}

async fn change(place: &Place, name: &str) {
    place.collection(name).update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
}

async fn now(place: &Place) -> Timestamp {
    let reply = place.client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
    reply.get_timestamp("operationTime").unwrap()
}

/// Rolls the oplog over everything that was written, and the rest of that second.
async fn roll(place: &Place) {
    let until = Timestamp { time: now(place).await.time + 1, increment: 0 };
    roll_over(&place.client, until).await;
}

/// Documents that can't have the key in the mapping of `bad`.
async fn spoil(place: &Place) {
    let strings = (0..3).map(|id| doc! { "_id": format!("s{id}"), "n": 0 });
    place.collection("bad").insert_many(strings).await.unwrap();
}

/// The status of a collection.
async fn status(home: &Home, name: &str) -> Value {
    let ended = home.finish(&["status", "--json"]).await.with_code(0);
    let status: Value = serde_json::from_str(&ended.out).unwrap();
    let ends = |collection: &&Value| collection["name"].as_str().unwrap().ends_with(&format!(".{name}"));
    status["collections"].as_array().unwrap().iter().find(ends).cloned().unwrap_or_default()
}

fn stopped(status: &Value) -> &str {
    status["stopped"].as_str().unwrap_or_default()
}

/// Gets a docrow with `bad` stopped to where the oplog no longer holds the changes of `bad`.
async fn left_behind(place: &Place, home: &mut Home) -> Docrow {
    home.set("mapping.max_dead_letters", 1);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    spoil(place).await;
    docrow.logs(&format!("bad {STOPPED}")).await;
    change(place, "bad").await;
    change(place, "things").await;
    place.settle(&mut docrow).await;
    roll(place).await;
    docrow
}

/// A new collection, which makes docrow start a new attempt, is copied and followed.
async fn another(place: &Place, docrow: &mut Docrow) {
    fill(place, "another").await;
    let rows = "SELECT count(*) FROM another";
    docrow.until("the new one is copied", async || place.number(rows).await == Some(50)).await;
    change(place, "another").await;
    change(place, "things").await;
    place.settle(docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things WHERE n = 2").await, Some(50));
}

/// G8: the oplog moves past a stopped collection. The others continue through a new attempt and a restart,
/// and the status says what the collection needs; after that, it continues, too.
#[tokio::test]
async fn history_lost_of_a_stopped_collection() {
    let (_mongod, place) = place("alone_stopped").await;
    let mut home = Home::new(&place);
    let mut docrow = left_behind(&place, &mut home).await;
    docrow.logs(&format!("[{}]", Code::CollectionHistoryLost)).await;
    let resync = format!("docrow resync '{}.bad'", place.name);
    let is_said = async || {
        let known = status(&home, "bad").await;
        stopped(&known).contains("more than 1 documents") && stopped(&known).contains(&resync)
    };
    docrow.until("the status has it", is_said).await;
    another(&place, &mut docrow).await;
    docrow.stop().await.coded(Code::CollectionHistoryLost).quiet_but(&[STOPPED, "dead letter"]);

    let mut docrow = home.run();
    docrow.logs("bad is stopped, other collections continue: the oplog no longer holds its changes").await;
    change(&place, "things").await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things WHERE n = 3").await, Some(50));
    docrow.until("the status has it", async || stopped(&status(&home, "bad").await).contains(&resync)).await;

    place.collection("bad").delete_many(doc! { "_id": { "$type": "string" } }).await.unwrap();
    home.finish(&["resync", &format!("{}.bad", place.name)]).await.with_code(0).quiet();
    docrow.logs("bad: copied again").await;
    assert!(!docrow.log().contains("things: about"), "{}", docrow.log());
    change(&place, "bad").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(status(&home, "bad").await["stopped"], Value::Null);
    docrow.stop().await.quiet_but(&[STOPPED]);
}

/// G8: with `on_history_lost = "resync"` only that collection is copied again: when docrow is started, and
/// only once, whether or not the cause of its stop is fixed.
#[tokio::test]
async fn history_lost_of_a_stopped_collection_with_resync() {
    let (_mongod, place) = place("alone_resync").await;
    let mut home = Home::new(&place);
    home.set("source.on_history_lost", "resync");
    let mut docrow = left_behind(&place, &mut home).await;
    another(&place, &mut docrow).await;
    let ended = docrow.stop().await.quiet_but(&[STOPPED, "dead letter"]);
    assert!(!ended.log.contains("copy again"), "{}", ended.log);

    let mut docrow = home.run();
    docrow.logs(&format!("bad {STOPPED}")).await;
    roll(&place).await;
    fill(&place, "one_more").await;
    docrow.logs("one_more: copied").await;
    change(&place, "things").await;
    docrow
        .until("the others follow", async || {
            place.number("SELECT count(*) FROM things WHERE n = 3").await == Some(50)
        })
        .await;
    let ended = docrow.stop().await.quiet_but(&[STOPPED, "no longer holds", "dead letter"]);
    assert_eq!(ended.log.matches("to copy again").count(), 1, "{}", ended.log);
    assert!(ended.log.contains("bad: about") && !ended.log.contains("things: about"), "{}", ended.log);

    place.collection("bad").delete_many(doc! { "_id": { "$type": "string" } }).await.unwrap();
    let mut docrow = home.run();
    docrow.logs("bad: copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["no longer holds"]);
}

/// G8: a collection is excluded by the configuration while the oplog rolls over, and included again. It is
/// reported, and the others are not affected.
#[tokio::test]
async fn history_lost_of_a_collection_that_was_left_out() {
    let (_mongod, place) = place("alone_left_out").await;
    let mut home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    home.set("source.exclude", vec![format!("{}.bad", place.name)]);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let known = status(&home, "bad").await;
    assert_eq!((&known["absent"], &known["lag_seconds"]), (&"excluded".into(), &Value::Null), "{known}");
    change(&place, "bad").await;
    roll(&place).await;
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    home.unset("source.exclude");
    let mut docrow = home.run();
    docrow.logs("bad is stopped, other collections continue: the oplog no longer holds its changes").await;
    change(&place, "things").await;
    place.settle(&mut docrow).await;
    docrow.stop().await.coded(Code::CollectionHistoryLost).quiet_but(&["bad is stopped"]);
    home.set("source.on_history_lost", "resync");
    let mut docrow = home.run();
    docrow.logs("bad: copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["no longer holds"]);
    assert!(!ended.log.contains("things: about"), "{}", ended.log);
}

/// A user's table has the name of a new collection's table.
#[tokio::test]
async fn a_table_in_the_way_of_a_new_collection() {
    let place = Place::shared("alone_table").await;
    place.add_sentinels().await;
    fill(&place, "things").await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let theirs = "CREATE TABLE later (note text); INSERT INTO later VALUES ('mine')";
    place.postgres().await.batch_execute(theirs).await.unwrap();
    fill(&place, "later").await;
    docrow.logs(&format!("later {STOPPED}other collections continue")).await;
    change(&place, "things").await;
    place.settle(&mut docrow).await;
    docrow.until("the status has it", async || !stopped(&status(&home, "later").await).is_empty()).await;
    let known = status(&home, "later").await;
    assert!(stopped(&known).contains(r#""public"."later": "#), "{known}");
    // After a restart it is the same; one process reports it only once.
    let ended = docrow.stop().await.coded(Code::TableInTheWay).quiet_but(&[STOPPED]);
    assert_eq!(ended.log.matches(STOPPED).count(), 1, "{}", ended.log);
    let mut docrow = home.run();
    docrow.logs(&format!("later {STOPPED}other collections continue")).await;
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet_but(&[STOPPED]);

    place.postgres().await.batch_execute("DROP TABLE later").await.unwrap();
    let mut docrow = home.run();
    docrow.logs("later: copied").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// `on_drop = "drop"`, and a user's view depends on the table.
#[tokio::test]
async fn a_view_on_a_table_that_is_to_be_dropped() {
    let place = Place::shared("alone_view").await;
    place.add_sentinels().await;
    for name in ["things", "orders"] {
        fill(&place, name).await;
    }
    let mut home = Home::new(&place);
    home.set("source.on_drop", "drop");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let session = place.postgres().await;
    session.batch_execute("CREATE VIEW numbers AS SELECT n FROM orders").await.unwrap();
    place.collection("orders").drop().await.unwrap();
    docrow.logs("orders is gone from MongoDB, and its tables stay for now").await;
    change(&place, "things").await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM numbers").await, Some(50));
    docrow.stop().await.coded(Code::TableInUse).quiet_but(&["view public.numbers"]);

    session.batch_execute("DROP VIEW numbers").await.unwrap();
    let mut docrow = home.run();
    docrow.logs("its tables are dropped").await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM orders").await, None);
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["its tables are dropped"]);
}

/// A collection gets other keys, so that its tables must be created again, and a user's view depends on one.
#[tokio::test]
async fn a_view_on_a_table_that_is_to_be_made_again() {
    let place = Place::shared("alone_again").await;
    place.add_sentinels().await;
    for name in ["things", "orders"] {
        fill(&place, name).await;
    }
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let session = place.postgres().await;
    session.batch_execute("CREATE VIEW numbers AS SELECT n FROM orders").await.unwrap();
    let strings = [
        doc! { "$set": { "_id": { "$concat": ["s", { "$toString": "$_id" }] } } },
        doc! { "$out": "orders" },
    ];
    place.collection("things").aggregate(strings).await.unwrap();
    docrow.logs(&format!("orders {STOPPED}other collections continue")).await;
    change(&place, "things").await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM numbers").await, Some(50));
    docrow.until("the status has it", async || !stopped(&status(&home, "orders").await).is_empty()).await;
    docrow.stop().await.coded(Code::TableInUse).quiet_but(&["view public.numbers"]);

    session.batch_execute("DROP VIEW numbers").await.unwrap();
    let mut docrow = home.run();
    docrow.logs("orders: copied").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["has keys that its tables can't hold"]);
}
