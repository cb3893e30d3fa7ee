//! `docrow backfill`: the copy equals the source.

use std::sync::atomic::AtomicU64;

use docrow::demo::{samples, users};
use mongodb::bson::{Bson, doc};

use crate::support::{Home, Place, ids_of_all_types};

/// The users workload's mapping file, for the place's own database.
fn users_mapping(place: &Place) -> String {
    let text = include_str!("../../../schemas/users.toml");
    text.replace("sample_db.users", &format!("{}.users", place.name))
}

/// G1: 20,000 documents of 15 tables each, by mapping file and then by automatic mapping.
#[tokio::test]
async fn users_are_copied_by_mapping_file_and_automatically() {
    let place = Place::shared("snapshot_users").await;
    let loaded = AtomicU64::new(0);
    users::load(&place.database().collection("users"), 1, 0..20_000, &loaded).await.unwrap();

    let home = Home::new(&place);
    home.map("users.toml", &users_mapping(&place));
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 20,000 documents copied as"), "{}", ended.log);
    place.assert_same(&home).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(place.number(tables).await, Some(15));
    let keys = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";
    assert_eq!(place.number(keys).await, Some(15));
    let chunks = "SELECT count(*) FROM docrow.chunks";
    assert!(place.number(chunks).await > Some(5));
    // Again: nothing is left to copy.
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 0 documents copied as 0 rows"), "{}", ended.log);

    let fresh = "DROP SCHEMA public, docrow CASCADE; CREATE SCHEMA public";
    place.postgres().await.batch_execute(fresh).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    place.assert_same(&home).await;
}

/// G1: real documents: nulls, field names with spaces and as data, numbers that are sometimes strings.
#[tokio::test]
async fn real_documents_are_copied() {
    let place = Place::shared("snapshot_real").await;
    samples::load(&place.database()).await.unwrap();
    let home = Home::new(&place);
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 1,317 documents copied"), "{}", ended.log);
    place.assert_same(&home).await;
}

/// What users type first: no configuration file.
#[tokio::test]
async fn flags_are_enough() {
    let place = Place::shared("snapshot_flags").await;
    place.collection("orders").insert_one(doc! { "_id": 1, "lines": [{ "item": "pen" }] }).await.unwrap();
    place.collection("others").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    std::fs::remove_file(home.path().join("docrow.toml")).unwrap();
    let include = format!("{}.ord*", place.name);
    let flags = ["--source", &place.mongodb_uri, "--target", &place.postgres_uri, "--include", &include];
    for command in ["backfill", "verify"] {
        let arguments: Vec<_> = [command].iter().chain(&flags).chain(&["--state", "here"]).copied().collect();
        // Another docrow may have the default port.
        home.finish(&arguments).await.with_code(0).quiet_but(&["serve.listen"]);
    }
    assert!(home.path().join("here").exists());
    let line = "SELECT count(*) FROM orders JOIN orders_lines USING (_id) WHERE item = 'pen'";
    assert_eq!(place.number(line).await, Some(1));
    assert_eq!(place.number("SELECT count(*) FROM others").await, None);
}

/// Traps: `_id` ranges that follow types lose documents; 1 and "1" and an ObjectId's digits are different.
/// Acceptance: all types of `_id` arrive, in a snapshot of several chunks, and when they are inserted,
/// updated and deleted later.
#[tokio::test]
async fn ids_of_all_types_arrive() {
    let place = Place::shared("snapshot_ids").await;
    place.add_sentinels().await;
    let (copied, followed) = (place.collection("copied"), place.collection("followed"));
    let padding = "x".repeat(600_000);
    let ids = ids_of_all_types();
    let documents = |with: &str| {
        let document =
            |(n, id): (i32, &Bson)| doc! { "_id": id.clone(), "n": n, "list": [{ "n": n }], "x": with };
        (0..).zip(&ids).map(document).collect::<Vec<_>>()
    };
    copied.insert_many(documents(&padding)).await.unwrap();
    followed.insert_one(doc! { "_id": "first", "n": -1, "list": [{ "n": 1 }], "x": "x" }).await.unwrap();

    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let chunks = format!("SELECT count(*) FROM docrow.chunks WHERE collection = '{}.copied'", place.name);
    assert!(place.number(&chunks).await >= Some(4));
    let count = i64::try_from(ids.len()).unwrap();
    assert_eq!(place.number("SELECT count(*) FROM copied").await, Some(count));
    place.assert_same(&home).await;

    followed.insert_many(documents("y")).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM followed").await, Some(count + 1));
    place.assert_same(&home).await;

    for collection in [&copied, &followed] {
        let change = doc! { "$inc": { "n": 1000 }, "$push": { "list": { "n": 7 } } };
        collection.update_many(doc! {}, change).await.unwrap();
    }
    place.settle(&mut docrow).await;
    let changed = "SELECT count(*) FROM copied_list WHERE n = 7";
    assert!(place.number(changed).await >= Some(count));
    place.assert_same(&home).await;

    for collection in [&copied, &followed] {
        collection.delete_many(doc! { "n": { "$mod": [2, 0] } }).await.unwrap();
    }
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM copied").await, Some(count / 2));
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Trap: a collection named `x"; DROP TABLE y; --` is just a name, and so are its fields. Empty ones have
/// tables, too.
#[tokio::test]
async fn names_are_just_names() {
    let place = Place::shared("snapshot_names").await;
    place.add_sentinels().await;
    let names = ["x\"; DROP TABLE docrow.chunks; --", "it's.dotted.and spaced", "größe", "user", "empty"];
    for name in names {
        let document = doc! {
            "_id": 1, "a.b": 1, "say \"hi\"": "x'); --", "select": true, "": 0, "Größe": { "x y": 1.5 },
            "list": [{ "_id": 1, "_ord": 2, "a\"b": "c" }],
        };
        place.collection(name).insert_one(document).await.unwrap();
    }
    place.collection("empty").delete_many(doc! {}).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let ended = place.assert_same(&home).await;
    for name in names {
        assert!(ended.out.contains(&format!("{}.{name} ", place.name)), "{}", ended.out);
        let more = doc! { "_id": 2, "a.b": [1], "say \"hi\"": null, "list": [{ "a\"b": 1 }, 2] };
        place.collection(name).insert_one(more).await.unwrap();
    }
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// G10: a document that can't have rows stops nothing and does not disappear; the snapshot and the stream
/// treat it alike. Trap: an index key has at most 2.7 kB.
#[tokio::test]
async fn a_document_without_rows_is_a_dead_letter() {
    let place = Place::shared("snapshot_dead").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    let long = |n: u32| format!("{n}{}", "x".repeat(3000));
    things.insert_many([doc! { "_id": long(1), "n": 1 }, doc! { "_id": "short", "n": 1 }]).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    assert_eq!(dead(&place).await, [long(1)]);
    things.insert_many([doc! { "_id": long(2), "n": 2 }, doc! { "_id": "other", "n": 2 }]).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(dead(&place).await, [long(1), long(2)]);
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(2));
    let ended = place.assert_same(&home).await;
    assert!(ended.out.contains("equal"), "{}", ended.out);
    for n in [1, 2] {
        things.delete_one(doc! { "_id": long(n) }).await.unwrap();
    }
    place.settle(&mut docrow).await;
    assert_eq!(dead(&place).await, [""; 0]);
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("2 documents could not be written"), "{}", ended.log);
}

/// G10: of documents that the target's own constraints refuse, only the offending ones become dead letters,
/// in the snapshot and in the stream; they are written once they are fixed. G12: the log quotes no value.
#[tokio::test]
async fn a_refused_document_is_a_dead_letter_until_it_is_mended() {
    let place = Place::shared("snapshot_refused").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    let document =
        |id: i32| doc! { "_id": id, "n": if id % 10 == 3 { -4711 } else { 4711 }, "list": [{ "id": id }] };
    things.insert_many((0..100).map(document)).await.unwrap();
    // docrow creates the table without keys, and it gets the constraint at once.
    let constrain = "CREATE FUNCTION constrain() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF to_regclass('public.things') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'positive') \
        THEN ALTER TABLE public.things ADD CONSTRAINT positive CHECK (n > 0); END IF; END $$; \
        CREATE EVENT TRIGGER constrain ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION constrain()";
    place.postgres().await.batch_execute(constrain).await.unwrap();

    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(90));
    assert_eq!(place.number("SELECT count(*) FROM things_list").await, Some(90));
    assert_eq!(dead(&place).await.len(), 10);
    place.assert_same(&home).await;

    things.insert_many((100..200).map(document)).await.unwrap();
    docrow.until("twenty are dead", async || dead(&place).await.len() == 20).await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(180));
    place.assert_same(&home).await;

    // A fixed one, a deleted one, and one that was valid until now: its rows must not stay.
    things.update_many(doc! { "n": -4711, "_id": { "$gt": 50 } }, doc! { "$set": { "n": 1 } }).await.unwrap();
    things.delete_many(doc! { "n": -4711 }).await.unwrap();
    things.update_one(doc! { "_id": 0 }, doc! { "$set": { "n": -4711 } }).await.unwrap();
    // A batch with a refused document is written in parts, so that everything is settled only with the last
    // of them.
    docrow.until("one is left", async || dead(&place).await == [r#"{"$numberInt":"0"}"#]).await;
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(194));
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["is copied document by document", "becomes a dead letter"]);
    assert!(ended.log.contains("\"positive\"") && !ended.log.contains("4711"), "{}", ended.log);
}

/// The keys of the dead letters, in order; strings without their quotes.
async fn dead(place: &Place) -> Vec<String> {
    let question = "SELECT trim('\"' FROM key) FROM docrow.dead_letters ORDER BY key";
    place.postgres().await.query(question, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
