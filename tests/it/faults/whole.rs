//! Events of whole collections while docrow copies, hands over and follows (TRAPS: drop, rename,
//! dropDatabase, `$out`, a collection created later). Whatever happens, the tables end up equal to the
//! collections.

use mongodb::bson::doc;

use crate::support::{Before, Docrow, Gate, Home, Place};

/// Enough to distinguish rows of one collection from those of another.
const MANY: i32 = 300;

async fn fill(place: &Place, name: &str, from: i32) {
    let document = |id: i32| doc! { "_id": id, "from": name, "n": 0, "list": [{ "n": id }, { "n": -id }] };
    place.collection(name).insert_many((from..from + MANY).map(document)).await.unwrap();
}

/// Starts it and waits until it is live.
async fn followed(place: &Place, home: &Home) -> Docrow {
    place.add_sentinels().await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow
}

async fn rename(place: &Place, from: &str, to: &str) {
    let full = |name: &str| format!("{}.{name}", place.name);
    let command = doc! { "renameCollection": full(from), "to": full(to), "dropTarget": true };
    place.client.database("admin").run_command(command).await.unwrap();
}

async fn assert_converges(place: &Place, home: &Home, mut docrow: Docrow, expected: &[&str]) {
    place.settle(&mut docrow).await;
    place.assert_same(home).await;
    docrow.stop().await.quiet_but(expected);
}

const GONE: &str = "is gone from MongoDB";

/// `on_drop = "keep"`, the default: rows stay when the collection is dropped; when it exists again, they are
/// its rows.
#[tokio::test]
async fn drop_and_create_during_the_stream_keeping() {
    let place = Place::shared("drop_keep").await;
    fill(&place, "orders", 0).await;
    let home = Home::new(&place);
    let mut docrow = followed(&place, &home).await;
    place.collection("orders").drop().await.unwrap();
    docrow.logs("orders is gone from MongoDB: its rows are kept").await;
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(MANY.into()));
    // A collection that can't be continued does not count as behind.
    place.settle(&mut docrow).await;
    let status = home.finish(&["status", "--json"]).await.with_code(0).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let gone = &status["collections"][0];
    assert_eq!(
        (&gone["absent"], &gone["lag_seconds"]),
        (&"dropped".into(), &serde_json::Value::Null),
        "{gone}"
    );
    docrow.stop().await.quiet_but(&[GONE]);
    // It is still gone, which is not logged again.
    let docrow = home.run();
    fill(&place, "orders", 200).await;
    let mut docrow = docrow;
    docrow.logs("orders: copied again").await;
    place.collection("orders").update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    assert_converges(&place, &home, docrow, &[GONE]).await;
    assert_eq!(place.number("SELECT min(_id) FROM orders").await, Some(200));
}

/// Dropped and filled again before docrow notices.
#[tokio::test]
async fn drop_and_create_at_once_during_the_stream() {
    let place = Place::shared("drop_at_once").await;
    fill(&place, "orders", 0).await;
    let home = Home::new(&place);
    let mut docrow = followed(&place, &home).await;
    place.collection("orders").drop().await.unwrap();
    fill(&place, "orders", 250).await;
    docrow.logs("orders: copied again").await;
    assert_converges(&place, &home, docrow, &[GONE]).await;
    assert_eq!(place.number("SELECT min(_id) FROM orders").await, Some(250));
}

/// `on_drop = "truncate"` and `"drop"`.
#[tokio::test]
async fn drop_during_the_stream_emptying_and_dropping() {
    for (on_drop, left) in [("truncate", Some(0)), ("drop", None)] {
        let place = Place::shared(&format!("drop_{on_drop}")).await;
        fill(&place, "orders", 0).await;
        let mut home = Home::new(&place);
        home.set("source.on_drop", on_drop);
        let mut docrow = followed(&place, &home).await;
        place.collection("orders").drop().await.unwrap();
        docrow.logs(GONE).await;
        docrow
            .until("it is as on_drop says", async || {
                place.number("SELECT count(*) FROM orders").await == left
                    && place.number("SELECT count(*) FROM orders_list").await == left
            })
            .await;
        place.settle(&mut docrow).await;
        fill(&place, "orders", 100).await;
        docrow
            .until("it is there again", async || {
                place.number("SELECT count(*) FROM orders").await == Some(MANY.into())
            })
            .await;
        assert_converges(&place, &home, docrow, &[GONE]).await;
    }
}

/// A whole database, including the end of its stream.
#[tokio::test]
async fn drop_database_during_the_stream() {
    let place = Place::shared("drop_database").await;
    fill(&place, "orders", 0).await;
    let home = Home::new(&place);
    let mut docrow = followed(&place, &home).await;
    place.database().drop().await.unwrap();
    docrow.logs_times(GONE, 2).await;
    fill(&place, "orders", 100).await;
    place.add_sentinels().await;
    docrow.logs("sentinels: copied again").await;
    docrow
        .until("orders are there again", async || {
            place.number("SELECT min(_id) FROM orders").await == Some(100)
        })
        .await;
    assert_converges(&place, &home, docrow, &[GONE]).await;
}

/// Renames from, to, and over included names; `$out` (a rename from a temporary name) and `$merge`.
#[tokio::test]
async fn renames_and_out_and_merge_during_the_stream() {
    let place = Place::shared("renames").await;
    for (name, from) in [("orders", 0), ("users", 1000), ("carts", 2000)] {
        fill(&place, name, from).await;
    }
    let home = Home::new(&place);
    let mut docrow = followed(&place, &home).await;
    rename(&place, "orders", "bills").await;
    docrow
        .until("the new name is copied", async || {
            place.number("SELECT count(*) FROM bills").await == Some(MANY.into())
        })
        .await;
    rename(&place, "carts", "users").await;
    docrow
        .until("the other's rows are there", async || {
            place.number("SELECT min(_id) FROM users").await == Some(2000)
        })
        .await;
    let out = [doc! { "$match": { "_id": { "$lt": 50 } } }, doc! { "$out": "users" }];
    place.collection("bills").aggregate(out).await.unwrap();
    let merge = [doc! { "$set": { "merged": true } }, doc! { "$merge": { "into": "users" } }];
    place.collection("bills").aggregate(merge).await.unwrap();
    docrow
        .until("what was put out and merged is there", async || {
            place.number("SELECT count(*) FROM users WHERE merged").await == Some(MANY.into())
        })
        .await;
    place.collection("users").delete_many(doc! { "_id": { "$lt": 10 } }).await.unwrap();
    assert_converges(&place, &home, docrow, &[GONE]).await;
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(MANY.into()), "rows are kept");
}

/// `$out` replaces a collection by documents with keys of another type. None of them could have rows in its
/// tables, which are created again under their names.
#[tokio::test]
async fn out_with_keys_of_another_type_during_the_stream() {
    let place = Place::shared("out_keys").await;
    fill(&place, "orders", 0).await;
    let others = (0..MANY).map(|n| doc! { "n": n, "list": [{ "n": n }] });
    place.collection("others").insert_many(others).await.unwrap();
    let mut home = Home::new(&place);
    home.set("mapping.max_dead_letters", 5);
    let mut docrow = followed(&place, &home).await;
    place.collection("others").aggregate([doc! { "$out": "orders" }]).await.unwrap();
    let keys = "SELECT count(*) FROM orders WHERE length(_id::text) = 24";
    docrow.until("they are copied", async || place.number(keys).await == Some(MANY.into())).await;
    place.collection("orders").update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    let again = "has keys that its tables can't hold";
    assert_converges(&place, &home, docrow, &[again]).await;
    assert_eq!(place.number("SELECT count(*) FROM orders_list").await, Some(MANY.into()));
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(0));
}

/// A collection that was in that state before: `docrow resync` is the way out. A few keys that do not fit are
/// not that.
#[tokio::test]
async fn a_resync_of_a_collection_whose_keys_do_not_fit() {
    let place = Place::shared("resync_keys").await;
    fill(&place, "orders", 0).await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    home.backfill().await;
    let string = |id: i32| doc! { "_id": format!("s{id}"), "n": id };
    let orders = place.collection("orders");
    orders.insert_one(string(1)).await.unwrap();
    let name = format!("{}.orders", place.name);
    for (few, left) in [(true, 1_i32), (false, 0)] {
        if !few {
            orders.delete_many(doc! { "_id": { "$type": "int" } }).await.unwrap();
            orders.insert_many((2..10).map(string)).await.unwrap();
        }
        home.finish(&["resync", &name]).await.with_code(0).quiet();
        let ended = home
            .finish(&["backfill"])
            .await
            .with_code(left)
            .quiet_but(&["dead letter", "has keys that its tables can't hold"]);
        assert_eq!(ended.log.contains("has keys that its tables can't hold"), !few, "{}", ended.log);
        assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(i64::from(left)));
    }
    place.assert_exact().await;
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE _id LIKE 's%'").await, Some(9));
}

/// While one of its chunks is copied, a collection is dropped and filled with other documents.
#[tokio::test]
async fn drop_and_create_during_the_snapshot() {
    let place = Place::shared("drop_snapshot").await;
    fill(&place, "orders", 0).await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 2).await;
    place.collection("orders").drop().await.unwrap();
    fill(&place, "orders", 200).await;
    gate.open().await;
    docrow.logs("orders: copied again").await;
    assert_converges(&place, &home, docrow, &[GONE]).await;
    assert_eq!(place.number("SELECT min(_id) FROM orders").await, Some(200));
}

/// Copied, but not handed over: its primary keys do not exist yet.
#[tokio::test]
async fn rename_over_it_during_the_hand_over() {
    let place = Place::shared("rename_hand_over").await;
    fill(&place, "orders", 0).await;
    place.add_sentinels().await;
    let mut home = Home::new(&place);
    home.set("source.exclude", vec![format!("{}.other", place.name)]);
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let mut docrow = home.run();
    keys.reached(&mut docrow, 1).await;
    fill(&place, "other", 500).await;
    rename(&place, "other", "orders").await;
    keys.open().await;
    docrow.logs("orders: copied again").await;
    assert_converges(&place, &home, docrow, &[]).await;
    assert_eq!(place.number("SELECT min(_id) FROM orders").await, Some(500));
}

/// A collection that is created while docrow runs is copied and followed, without a restart.
#[tokio::test]
async fn a_collection_created_during_the_stream() {
    let place = Place::shared("created_later").await;
    let home = Home::new(&place);
    let mut docrow = followed(&place, &home).await;
    fill(&place, "later", 0).await;
    docrow
        .until("it is copied", async || place.number("SELECT count(*) FROM later").await == Some(MANY.into()))
        .await;
    place.collection("later").delete_many(doc! { "_id": { "$lt": 50 } }).await.unwrap();
    assert_converges(&place, &home, docrow, &[]).await;
}

/// Changes of options, and events of types that docrow need not know, are skipped.
#[tokio::test]
async fn coll_mod_and_unknown_events_during_the_stream() {
    let place = Place::shared("coll_mod").await;
    fill(&place, "orders", 0).await;
    let home = Home::new(&place);
    let docrow = followed(&place, &home).await;
    let database = place.database();
    for command in [
        doc! { "collMod": "orders", "validator": { "n": { "$exists": true } }, "validationLevel": "moderate" },
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "n": 1 }, "name": "n" }] },
        doc! { "dropIndexes": "orders", "index": "n" },
    ] {
        database.run_command(command).await.unwrap();
        place.collection("orders").update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    }
    assert_converges(&place, &home, docrow, &[]).await;
}

/// Never stalls: while one collection is being copied, the changes of the others are applied.
#[tokio::test]
async fn others_go_on_during_the_snapshot_of_one() {
    let place = Place::shared("others_go_on").await;
    fill(&place, "orders", 0).await;
    let home = Home::new(&place);
    let docrow = followed(&place, &home).await;
    docrow.stop().await.quiet();
    fill(&place, "later", 0).await;
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    place.collection("orders").update_many(doc! {}, doc! { "$set": { "n": 7 } }).await.unwrap();
    place.collection("later").update_many(doc! {}, doc! { "$set": { "n": 7 } }).await.unwrap();
    docrow
        .until("the other's changes are applied", async || {
            place.number("SELECT count(*) FROM orders WHERE n = 7").await == Some(MANY.into())
        })
        .await;
    assert_eq!(place.number("SELECT count(*) FROM later").await, Some(0));
    gate.open().await;
    assert_converges(&place, &home, docrow, &[]).await;
}
