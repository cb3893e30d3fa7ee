//! `docrow run`: the replica equals the source after every kind of change.

use std::sync::atomic::AtomicU64;

use docrow::demo::{
    servers::{Mongod, MongodOptions},
    users,
    writer::Writer,
};
use mongodb::bson::{Document, doc};

use crate::support::{Before, Code, Docrow, Gate, Home, Place, SENTINELS, http::get};

/// A document with an object and two arrays, one of them of objects that have an array.
fn order(id: i32) -> Document {
    doc! {
        "_id": id, "status": "new", "total": f64::from(id) + 0.5, "ship": { "city": "Lima", "zip": "01" },
        "tags": ["a", "b"], "lines": [{ "item": "pen", "parts": [{ "n": 1 }, { "n": 2 }] }, { "item": "ink" }],
    }
}

/// Lets docrow catch up, and compares.
async fn assert_followed(place: &Place, home: &Home, docrow: &mut Docrow) {
    place.settle(docrow).await;
    place.assert_same(home).await;
}

/// G1, acceptance 2: insert, update, replace, delete, array push and pull, unset, rename, upsert, bulk writes
/// and transactions, each followed by a comparison.
#[tokio::test]
async fn every_kind_of_change_is_followed() {
    let place = Place::shared("stream_kinds").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..100).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    assert_followed(&place, &home, &mut docrow).await;

    // Inserts.
    orders.insert_many((100..150).map(order)).await.unwrap();
    orders.insert_one(doc! { "_id": 150 }).await.unwrap();
    assert_followed(&place, &home, &mut docrow).await;

    // Updates of scalars, nested fields, types; unmapped fields.
    for (ids, change) in [
        (0..10, doc! { "$set": { "status": "paid", "total": 1 } }),
        (5..15, doc! { "$inc": { "total": 2.25 } }),
        (10..20, doc! { "$set": { "ship.city": "Quito", "ship.new": true, "lines.0.item": "quill" } }),
        (20..25, doc! { "$unset": { "ship": "", "tags": "", "total": "" } }),
        (25..30, doc! { "$unset": { "lines": "", "ship.zip": "" } }),
        (30..35, doc! { "$rename": { "status": "state", "ship": "delivery" } }),
        (35..40, doc! { "$set": { "status": 7, "total": "much", "tags": "none", "lines": 3 } }),
        (40..45, doc! { "$set": { "ship": null, "tags": [], "lines": [], "status": null } }),
    ] {
        let filter = doc! { "_id": { "$gte": ids.start, "$lt": ids.end } };
        orders.update_many(filter, change).await.unwrap();
    }
    assert_followed(&place, &home, &mut docrow).await;
    // And back.
    orders.update_many(doc! { "state": "new" }, doc! { "$rename": { "state": "status" } }).await.unwrap();
    orders
        .update_many(doc! { "status": 7 }, doc! { "$set": { "status": "7", "lines": [{ "item": "x" }] } })
        .await
        .unwrap();
    assert_followed(&place, &home, &mut docrow).await;

    // Arrays: at the end, at the front, in the middle, from within.
    for (ids, change) in [
        (50..55, doc! { "$push": { "lines": { "item": "cap", "parts": [{ "n": 9 }] }, "tags": "c" } }),
        (55..60, doc! { "$push": { "lines": { "$each": [{ "item": "first" }], "$position": 0 } } }),
        (60..65, doc! { "$push": { "lines.0.parts": { "$each": [{ "n": 3 }, { "n": 4 }] } } }),
        (65..70, doc! { "$pull": { "lines": { "item": "pen" }, "tags": "a" } }),
        (70..75, doc! { "$pop": { "lines": 1 }, "$set": { "lines.0.parts.1.n": 5 } }),
        (75..80, doc! { "$pop": { "lines.0.parts": -1 } }),
        (80..85, doc! { "$pull": { "lines": {} } }),
    ] {
        let filter = doc! { "_id": { "$gte": ids.start, "$lt": ids.end } };
        if let Err(error) = orders.update_many(filter, change.clone()).await {
            // Two operators on one array are refused by the server.
            assert!(error.to_string().contains("conflict"), "{change}: {error}");
        }
    }
    assert_followed(&place, &home, &mut docrow).await;

    // Replaces, deletes, an _id that comes back, upserts.
    orders.replace_one(doc! { "_id": 1 }, doc! { "other": 1 }).await.unwrap();
    orders.replace_one(doc! { "_id": 2 }, order(2)).await.unwrap();
    orders.delete_many(doc! { "_id": { "$gte": 85, "$lt": 95 } }).await.unwrap();
    orders.insert_one(doc! { "_id": 85, "status": "again" }).await.unwrap();
    for round in 0..20 {
        orders.delete_one(doc! { "_id": 86 }).await.unwrap();
        orders.insert_one(doc! { "_id": 86, "status": format!("round {round}") }).await.unwrap();
    }
    orders.update_one(doc! { "_id": 500 }, doc! { "$inc": { "total": 1 } }).upsert(true).await.unwrap();
    orders.replace_one(doc! { "_id": 501 }, doc! { "status": "new" }).upsert(true).await.unwrap();
    assert_followed(&place, &home, &mut docrow).await;
    assert_eq!(
        place.number("SELECT count(*) FROM orders WHERE _id = 86 AND status = 'round 19'").await,
        Some(1)
    );

    bulk_writes(&place).await;
    assert_followed(&place, &home, &mut docrow).await;
    transactions(&place).await;
    assert_followed(&place, &home, &mut docrow).await;

    orders.delete_many(doc! {}).await.unwrap();
    assert_followed(&place, &home, &mut docrow).await;
    for table in ["orders", "orders_lines", "orders_lines_parts"] {
        assert_eq!(place.number(&format!("SELECT count(*) FROM {table}")).await, Some(0), "{table}");
    }
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("stopped: "), "{}", ended.log);
}

/// Many writes in one command, several of one document.
async fn bulk_writes(place: &Place) {
    place.collection("orders").insert_many((1000..1300).map(order)).ordered(false).await.unwrap();
    let update = |id: i32| {
        let change = match id % 3 {
            0 => doc! { "$push": { "lines": { "item": "late" } } },
            1 => doc! { "status": "replaced", "total": id },
            _ => doc! { "$unset": { "lines.0": "" }, "$mul": { "total": 2 } },
        };
        doc! { "q": { "_id": 1000 + id % 250 }, "u": change }
    };
    let updates: Vec<_> = (0..1000).map(update).collect();
    let deletes: Vec<_> = (1200..1260).map(|id| doc! { "q": { "_id": id }, "limit": 1 }).collect();
    for command in [
        doc! { "update": "orders", "updates": updates, "ordered": false },
        doc! { "delete": "orders", "deletes": deletes, "ordered": false },
    ] {
        let answer = place.database().run_command(command).await.unwrap();
        assert!(!answer.contains_key("writeErrors"), "{answer}");
    }
}

/// Transactions over two collections: one that commits, one that is aborted.
async fn transactions(place: &Place) {
    let (orders, sentinels) = (place.collection("orders"), place.collection("sentinels"));
    for commit in [true, false] {
        let mut session = place.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let start = if commit { 2000 } else { 3000 };
        orders.insert_many((start..start + 300).map(order)).session(&mut session).await.unwrap();
        let filter = doc! { "_id": { "$gte": start, "$lt": start + 100 } };
        orders
            .update_many(filter, doc! { "$set": { "status": "paid" } })
            .session(&mut session)
            .await
            .unwrap();
        orders.delete_one(doc! { "_id": start }).session(&mut session).await.unwrap();
        orders
            .replace_one(doc! { "_id": start + 1 }, doc! { "status": "x" })
            .session(&mut session)
            .await
            .unwrap();
        let change = doc! { "$set": { "by": "transaction" } };
        sentinels.update_many(doc! {}, change).session(&mut session).await.unwrap();
        if commit {
            session.commit_transaction().await.unwrap();
        } else {
            session.abort_transaction().await.unwrap();
        }
    }
}

/// The random writer of the demo, with every operator it knows.
#[tokio::test]
async fn random_changes_are_followed() {
    let place = Place::shared("stream_random").await;
    place.add_sentinels().await;
    let collection = place.database().collection("users");
    users::load(&collection, 3, 0..300, &AtomicU64::new(0)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    let mut writer = Writer::new(&place.client, &collection, 3, 0..300);
    for _ in 0..3 {
        writer.write_times(400).await.unwrap();
        assert_followed(&place, &home, &mut docrow).await;
    }
    docrow.stop().await.quiet();
}

/// Trap: `ON CONFLICT` hits one row twice in a statement. Many changes of one document are one write, and the
/// last wins.
#[tokio::test]
async fn changes_of_one_document_are_folded() {
    let place = Place::shared("stream_fold").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_one(doc! { "_id": 1, "n": 0 }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("stream.batch_age", "1s");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let count = "CREATE TABLE writes AS SELECT 0 AS n WHERE false; \
        CREATE FUNCTION count_writes() RETURNS trigger LANGUAGE plpgsql AS $$ \
        BEGIN INSERT INTO public.writes VALUES (1); RETURN NEW; END $$; \
        CREATE TRIGGER count_writes AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION count_writes()";
    place.postgres().await.batch_execute(count).await.unwrap();
    let updates: Vec<_> =
        (0..1000).map(|_| doc! { "q": { "_id": 1 }, "u": { "$inc": { "n": 1 } } }).collect();
    place.database().run_command(doc! { "update": "orders", "updates": updates }).await.unwrap();
    assert_followed(&place, &home, &mut docrow).await;
    assert_eq!(place.number("SELECT n FROM orders").await, Some(1000));
    let writes = place.number("SELECT count(*) FROM writes").await.unwrap();
    assert!((1..100).contains(&writes), "1000 changes were {writes} writes");
    docrow.stop().await.quiet();
}

/// Trap: the saved position of an idle stream ages out of the oplog. It advances even if no included
/// collection changes.
#[tokio::test]
async fn the_position_of_an_idle_stream_moves() {
    let place = Place::shared("stream_idle").await;
    place.collection("orders").insert_one(order(1)).await.unwrap();
    let mut home = Home::new(&place);
    home.set("source.include", vec![format!("{}.orders", place.name)]);
    let mut docrow = home.run();
    let least = "SELECT extract(epoch FROM min(cluster_time))::bigint FROM docrow.progress";
    docrow.until("there is a position", async || place.number(least).await.is_some()).await;
    let before = place.number(least).await.unwrap();
    let others = place.collection("others");
    let moved = async || {
        others.insert_one(doc! {}).await.unwrap();
        place.number(least).await > Some(before + 2)
    };
    docrow.until("every position moves", moved).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains(" 0 changes applied"), "{}", ended.log);
    assert_eq!(place.number("SELECT count(*) FROM others").await, None);
}

/// G2: changes that are committed when docrow is asked to stop are not applied again, and the rest is
/// applied.
#[tokio::test]
async fn a_stop_is_resumed_without_replaying() {
    let place = Place::shared("stream_stop").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..50).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    for signal in ["TERM", "INT"] {
        orders.update_many(doc! {}, doc! { "$inc": { "total": 1 } }).await.unwrap();
        place.settle(&mut docrow).await;
        // Written, but perhaps not applied when the signal comes.
        orders.update_many(doc! {}, doc! { "$inc": { "total": 1 } }).await.unwrap();
        docrow.signal(signal).await;
        let first = docrow.ended().await.with_code(0).quiet();
        let known = applied(&first.log);
        orders.update_many(doc! {}, doc! { "$inc": { "total": 1 } }).await.unwrap();
        docrow = home.run();
        place.settle(&mut docrow).await;
        let second = docrow.stop().await.quiet();
        assert!(second.log.contains("stopped: 0 documents copied"), "{}", second.log);
        // Of both runs together: three times all sentinels, three times all orders, and nothing twice.
        let changes = 3 * SENTINELS.unsigned_abs() + 3 * 50;
        assert_eq!(known + applied(&second.log), changes, "{}{}", first.log, second.log);
        docrow = home.run();
        assert_followed(&place, &home, &mut docrow).await;
    }
    docrow.stop().await.quiet();
}

/// How many changes a run says it has applied.
fn applied(log: &str) -> u64 {
    let (before, _) = log.rsplit_once(" changes applied").unwrap();
    let (_, number) = before.rsplit_once(' ').unwrap();
    number.replace(',', "").parse().unwrap()
}

/// G2: documents move between partitions when their number changes; no change is lost or reverted.
#[tokio::test]
async fn the_number_of_partitions_may_change() {
    let place = Place::shared("stream_partitions").await;
    place.add_sentinels().await;
    let collection = place.database().collection("users");
    users::load(&collection, 4, 0..200, &AtomicU64::new(0)).await.unwrap();
    let mut writer = Writer::new(&place.client, &collection, 4, 0..200);
    let mut home = Home::new(&place);
    for partitions in [4, 3, 5, 1] {
        home.set("stream.partitions", partitions);
        writer.write_times(100).await.unwrap();
        let mut docrow = home.run();
        writer.write_times(150).await.unwrap();
        assert_followed(&place, &home, &mut docrow).await;
        assert_eq!(
            place.number("SELECT count(DISTINCT partition) FROM docrow.progress").await,
            Some(partitions)
        );
        writer.write_times(50).await.unwrap();
        docrow.stop().await.quiet();
    }
}

/// A collection that is included later is copied, while the others just continue.
#[tokio::test]
async fn a_collection_may_be_added() {
    let place = Place::shared("stream_added").await;
    place.add_sentinels().await;
    for name in ["orders", "later"] {
        place.collection(name).insert_many((0..100).map(order)).await.unwrap();
    }
    let mut home = Home::new(&place);
    home.set("source.exclude", vec![format!("{}.later", place.name)]);
    let mut docrow = home.run();
    assert_followed(&place, &home, &mut docrow).await;
    docrow.stop().await.quiet();
    assert_eq!(place.number("SELECT count(*) FROM later").await, None);

    for name in ["orders", "later"] {
        place.collection(name).update_many(doc! {}, doc! { "$inc": { "total": 1 } }).await.unwrap();
    }
    home.set("source.exclude", Vec::<String>::new());
    let mut docrow = home.run();
    assert_followed(&place, &home, &mut docrow).await;
    place.collection("later").delete_many(doc! { "_id": { "$lt": 50 } }).await.unwrap();
    assert_followed(&place, &home, &mut docrow).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("stopped: 100 documents copied"), "{}", ended.log);
}

/// Trap: a transaction's events share one cluster time, and one reply does not hold them all. A backfill that
/// has seen only the first of them has not caught up.
#[tokio::test]
async fn a_backfill_ends_after_the_whole_of_the_last_transaction() {
    // On a separate server, so that nothing is written after the transaction.
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let shared = Place::shared("stream_transaction").await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, "stream_transaction_own").await;
    let orders = place.collection("orders");
    orders.insert_one(doc! { "_id": -1 }).await.unwrap();
    let home = Home::new(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let mut docrow = home.start(&["backfill"]);
    gate.reached(&mut docrow, 1).await;
    let mut session = place.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    orders.insert_many((0..25_000).map(|id| doc! { "_id": id })).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    gate.open().await;
    docrow.ended().await.with_code(0).quiet();
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(25_001));
    place.assert_same(&home).await;
}

/// A service waits for the first collection; a backfill reports that there is none.
#[tokio::test]
async fn an_empty_database_is_waited_for() {
    let place = Place::shared("stream_empty").await;
    let mut home = Home::new(&place);
    home.finish(&["backfill"]).await.with_code(2).coded(Code::NothingMatched);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    docrow.logs("waiting until there is one").await;
    let words = async || get(&address, "/status").await.json()["health"]["words"].to_string();
    docrow.until("it says so", async || words().await.contains("no collection matches include yet")).await;
    assert_eq!(get(&address, "/healthz").await.code, 200);
    place.add_sentinels().await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["waiting until there is one"]);
}
