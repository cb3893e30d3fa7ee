//! `docrow verify`: differences are found, and named.

mod behind;
mod options;
mod planted;
mod repair;
mod schedule;

use mongodb::bson::{Bson, doc};
use serde_json::Value;

use crate::support::{Code, Ended, Home, Place};

/// The report printed as JSON.
fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}{}", ended.out, ended.log))
}

/// A proof is worth as much as the errors that it would find. Every planted difference is found, with table,
/// key and column.
#[tokio::test]
async fn planted_differences_are_found() {
    let place = Place::shared("verify").await;
    let orders = place.collection("orders");
    // Of two types, so that every fifth value is in `_extra`.
    let order = |id: i32| {
        let note = if id % 5 == 0 { doc! { "is": 1 }.into() } else { Bson::from("plain") };
        doc! { "_id": id, "total": 1.5, "note": note, "lines": [{ "item": "pen" }, { "item": "ink" }] }
    };
    orders.insert_many((0..1200).map(order)).await.unwrap();
    place.collection("others").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    let equal = place.assert_same(&home).await;
    assert!(equal.out.contains("1,200") && !equal.out.contains("difference"), "{}", equal.out);

    let orders = format!("{}.orders", place.name);
    for (plant, found) in [
        ("UPDATE orders SET total = total + 0.25 WHERE _id = 7", "orders, key 7: column total differs"),
        ("UPDATE orders SET total = NULL WHERE _id = 7", "orders, key 7: column total differs"),
        (
            "UPDATE orders_lines SET item = 'Pen' WHERE _id = 8 AND _ord = 0",
            "orders_lines, key 8, _ord 0: column item differs",
        ),
        (
            "DELETE FROM orders_lines WHERE _id = 1199 AND _ord = 1",
            "orders_lines, key 1199, _ord 1: missing row",
        ),
        ("INSERT INTO orders_lines VALUES (9, 2, 'more')", "orders_lines, key 9, _ord 2: unexpected row"),
        ("INSERT INTO orders_lines VALUES (7777, 0, 'orphan')", "orders_lines, key 7777: no such document"),
        ("INSERT INTO orders (_id) VALUES (8888)", "orders, key 8888: no such document"),
        ("DELETE FROM orders WHERE _id = 600", "orders, key 600: missing row"),
        (
            "UPDATE orders SET _extra = jsonb_set(_extra, '{more}', '1') WHERE _id = 10",
            "orders, key 10: column _extra differs",
        ),
        ("UPDATE orders SET _extra = NULL WHERE _id = 15", "orders, key 15: column _extra differs"),
    ] {
        let session = place.postgres().await;
        let save = "CREATE TABLE a AS TABLE orders; CREATE TABLE b AS TABLE orders_lines";
        session.batch_execute(save).await.unwrap();
        assert_eq!(session.execute(plant, &[]).await.unwrap(), 1, "{plant}");
        let ended = home.finish(&["verify"]).await.with_code(1).quiet();
        let lines: Vec<&str> = ended.out.lines().map(str::trim).collect();
        assert!(lines.contains(&found), "{plant}: {}", ended.out);
        assert!(
            lines.iter().any(|line| line.starts_with(&orders) && line.ends_with("1 difference")),
            "{}",
            ended.out
        );
        let restore = "TRUNCATE orders, orders_lines; INSERT INTO orders TABLE a; INSERT INTO orders_lines TABLE b; \
            DROP TABLE a, b";
        session.batch_execute(restore).await.unwrap();
    }
    place.assert_same(&home).await;

    // Many: all are counted, some are shown.
    place.postgres().await.batch_execute("DELETE FROM orders_lines").await.unwrap();
    let ended = home.finish(&["verify", "--limit", "3"]).await.with_code(1).quiet();
    assert!(ended.out.contains("2,400 differences") && ended.out.contains("and 2,397 more"), "{}", ended.out);
}

/// With soft deletes, rows of deleted documents are no difference; wrong marks are.
#[tokio::test]
async fn marks_of_deleted_documents_are_verified() {
    let place = Place::shared("verify_soft").await;
    place.add_sentinels().await;
    let order = |id: i32| doc! { "_id": id, "lines": [{ "item": "pen" }, { "item": "ink" }] };
    let orders = place.collection("orders");
    orders.insert_many((0..30).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\non_delete = 'soft'\n\n\
         [key]\ncolumn = 'id'\ntype = 'bigint'\n\n\
         [[tables]]\ntable = 'lines'\npath = 'lines[]'\nparent = 'order_id'\nordinals = ['line']\n\
         columns = {{ item = {{ path = 'item', type = 'text' }} }}\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    orders.delete_many(doc! { "_id": { "$lt": 10 } }).await.unwrap();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    assert_eq!(place.number("SELECT count(*) FROM lines").await, Some(60));
    home.finish(&["verify"]).await.with_code(0).quiet();
    let session = place.postgres().await;
    for (plant, differences, found) in [
        (
            "UPDATE orders SET _deleted_at = NULL WHERE id = 5",
            "2 differences",
            "orders, key 5: no such document",
        ),
        (
            "UPDATE orders SET _deleted_at = now() WHERE id = 15",
            "3 differences",
            "orders, key 15: missing row",
        ),
        ("DELETE FROM orders WHERE id = 6", "1 difference", "lines, key 6: no such document"),
    ] {
        session.batch_execute("CREATE TABLE a AS TABLE orders").await.unwrap();
        assert_eq!(session.execute(plant, &[]).await.unwrap(), 1, "{plant}");
        let ended = home.finish(&["verify"]).await.with_code(1).quiet();
        assert!(ended.out.contains(differences) && ended.out.contains(found), "{plant}: {}", ended.out);
        session.batch_execute("TRUNCATE orders; INSERT INTO orders TABLE a; DROP TABLE a").await.unwrap();
    }
    home.finish(&["verify"]).await.with_code(0).quiet();
}

/// A dead letter is a document that PostgreSQL does not have: before a cut-over, success must not be
/// reported. It is said with its own word, by verify and by backfill, whenever it became one, and is accepted
/// by those who say so.
#[tokio::test]
async fn dead_letters_are_not_equal_and_not_done() {
    let place = Place::shared("verify_dead_letters").await;
    let orders = place.collection("orders");
    orders.insert_many((0..20).map(|id| doc! { "_id": id, "n": id })).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    let session = place.postgres().await;
    session.batch_execute("ALTER TABLE orders ADD CONSTRAINT small CHECK (n < 100)").await.unwrap();
    orders.update_many(doc! { "_id": { "$lt": 3 } }, doc! { "$set": { "n": 1000 } }).await.unwrap();
    let said = "PostgreSQL lacks 3 documents, which are dead letters: docrow dead-letters list shows them";
    // The second one has nothing to do, and they are still missing.
    for _ in 0..2 {
        let ended = home.finish(&["backfill"]).await.with_code(1);
        assert!(ended.log.contains(said), "{}", ended.log);
    }
    home.finish(&["backfill", "--allow-dead-letters"]).await.with_code(0).quiet();

    let ended = home.finish(&["verify"]).await.with_code(1).quiet();
    let line = ended.out.lines().find(|line| line.starts_with(&place.name)).unwrap();
    assert!(line.ends_with("  3 dead letters"), "{}", ended.out);
    assert!(ended.out.contains("docrow dead-letters list shows them"), "{}", ended.out);
    for (flags, code) in [(&["verify", "--json"][..], 1), (&["verify", "--json", "--allow-dead-letters"], 0)]
    {
        let found = report(&home.finish(flags).await.with_code(code).quiet());
        let of = &found["collections"][0];
        assert_eq!((&found["equal"], &of["equal"]), (&false.into(), &false.into()), "{found:#}");
        assert_eq!((&of["result"], &of["dead_letters"]), (&"dead_letters".into(), &3.into()), "{found:#}");
        assert_eq!(found["dead_letters_allowed"], code == 0, "{found:#}");
    }
    // Other errors are not accepted with them.
    session.batch_execute("UPDATE orders SET n = 50 WHERE _id = 7").await.unwrap();
    let ended = home.finish(&["verify", "--json", "--allow-dead-letters"]).await.with_code(1).quiet();
    assert_eq!(report(&ended)["collections"][0]["result"], "different", "{}", ended.out);
    session.batch_execute("UPDATE orders SET n = 7 WHERE _id = 7").await.unwrap();

    session.batch_execute("ALTER TABLE orders DROP CONSTRAINT small").await.unwrap();
    home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0);
    home.backfill().await;
    let ended = home.finish(&["verify", "--json"]).await.with_code(0).quiet();
    assert_eq!(report(&ended)["collections"][0]["result"], "equal", "{}", ended.out);
}

/// A row and a dead letter of a document that does not exist: two errors, each reported once.
#[tokio::test]
async fn a_row_with_a_dead_letter_is_told_once() {
    let place = Place::shared("verify_row_and_letter").await;
    let strict = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\non_unfit = 'dead_letter'\n\
         [key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\nage = {{ path = 'age', type = 'integer' }}\n",
        place.name
    );
    let orders = place.collection("orders");
    orders.insert_many([doc! { "_id": 1, "age": 1 }, doc! { "_id": 2, "age": "old" }]).await.unwrap();
    let home = Home::new(&place);
    home.map("orders.toml", &strict);
    home.finish(&["backfill", "--allow-dead-letters"]).await.with_code(0);
    let session = place.postgres().await;
    session.batch_execute("CREATE TABLE letters AS TABLE docrow.dead_letters").await.unwrap();
    orders.delete_one(doc! { "_id": 2 }).await.unwrap();
    home.finish(&["backfill"]).await.with_code(0);
    let columns = "pipeline, collection, key, key_hash, path, reason, document, document_key";
    let plant = format!(
        "INSERT INTO docrow.dead_letters ({columns}) SELECT {columns} FROM letters; DROP TABLE letters; \
         INSERT INTO orders (id) VALUES (2)"
    );
    session.batch_execute(&plant).await.unwrap();
    let report = report(&home.finish(&["verify", "--json"]).await.with_code(1));
    let told: Vec<_> = report["differences"].as_array().unwrap().iter().map(|d| d["table"].clone()).collect();
    assert_eq!(told, ["docrow.dead_letters", "orders"], "{report:#}");
    assert_eq!(report["collections"][0]["differences"], 2);
}

/// A collection that was never copied can't be compared, and the message says so.
#[tokio::test]
async fn what_was_never_copied_is_a_usage_error() {
    let place = Place::shared("verify_nothing").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    let ended = home.finish(&["verify"]).await.with_code(2).coded(Code::NotCopied);
    assert!(ended.error().contains("copy it with docrow run or backfill"), "{}", ended.log);
    home.backfill().await;
    place.collection("later").insert_one(doc! { "_id": 1 }).await.unwrap();
    let ended = home.finish(&["verify"]).await.with_code(2);
    assert!(ended.error().contains(&format!("{}.later has not been copied", place.name)), "{}", ended.log);
}
