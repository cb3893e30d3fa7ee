//! A thousand differences of all kinds, planted while documents are written: all are found, nothing else is,
//! and they are repaired.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, doc, oid::ObjectId, spec::BinarySubtype};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::report;
use crate::support::{Home, Place};

/// The documents in which differences are planted; there are no other writes to them.
const QUIET: i32 = 700;
/// Those from here on are written all the time.
const LIVE: i32 = 10_000;

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// A document with a value of every type, and a misfit in every fifth.
fn thing(id: i32) -> Document {
    let mixed = if id % 5 == 0 { doc! { "is": id }.into() } else { Bson::from("plain") };
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    let blob = Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] };
    doc! {
        "_id": id, "flag": true, "small": id, "big": i64::from(id) << 33, "ratio": 0.5, "price": decimal("1.50"),
        "name": format!("n{id}"), "blob": blob, "uid": uuid, "at": DateTime::from_millis(1_600_000_000_000),
        "tree": { "a": [1, { "b": 2.5 }], "c": id }, "tags": ["x", "y"], "mixed": mixed, "touched": 0_i64,
        "lines": [{ "item": "pen" }, { "item": "ink" }],
    }
}

const THINGS: &str = r#"
table = "things"
extra = "_extra"
[key]
column = "id"
type = "bigint"
[columns]
flag = { path = "flag", type = "boolean" }
small = { path = "small", type = "integer" }
big = { path = "big", type = "bigint" }
ratio = { path = "ratio", type = "double precision" }
price = { path = "price", type = "numeric" }
name = { path = "name", type = "text" }
blob = { path = "blob", type = "bytea" }
uid = { path = "uid", type = "uuid" }
at = { path = "at", type = "timestamptz" }
tree = { path = "tree", type = "jsonb" }
tags = { path = "tags", type = "text[]" }
mixed = { path = "mixed", type = "text" }
touched = { path = "touched", type = "bigint" }
missing = { path = "missing", type = "text" }
[[tables]]
table = "lines"
path = "lines[]"
parent = "thing_id"
ordinals = ["line"]
columns = { item = { path = "item", type = "text" } }
"#;

const SOFT: &str = r#"
table = "soft"
extra = "_extra"
on_delete = "soft"
[key]
column = "id"
type = "bigint"
[columns]
touched = { path = "touched", type = "bigint" }
[[tables]]
table = "soft_lines"
path = "lines[]"
parent = "soft_id"
ordinals = ["line"]
columns = { item = { path = "item", type = "text" } }
"#;

const STRICT: &str = r#"
table = "strict"
extra = "_extra"
on_unfit = "dead_letter"
[key]
column = "id"
type = "bigint"
[columns]
age = { path = "age", type = "integer" }
"#;

const WHOLE: &str = r#"
table = "whole"
extra = "_extra"
[key]
column = "id"
type = "bigint"
[document]
column = "doc"
json = "relaxed"
"#;

/// The planted differences, as reported: table, key, row, kind, column.
#[derive(Default)]
struct Planted {
    expected: BTreeSet<String>,
    statements: Vec<String>,
}

impl Planted {
    /// Runs a statement for all of `ids`, each of which causes these differences.
    fn plant(&mut self, ids: std::ops::Range<i32>, statement: &str, makes: &[(&str, &str, &str, &str)]) {
        let list: Vec<_> = ids.clone().map(|id| id.to_string()).collect();
        self.statements.push(statement.replace("$ids", &list.join(",")));
        for id in ids {
            for (table, row, kind, column) in makes {
                self.expect(table, &id.to_string(), (row, kind, column));
            }
        }
    }

    fn expect(&mut self, table: &str, key: &str, (row, kind, column): (&str, &str, &str)) {
        assert!(self.expected.insert(format!("{table} {key} {row} {kind} {column}")));
    }
}

/// The differences of a report in the same form.
fn told(report: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let differences = report["differences"].as_array().unwrap();
    let told = differences.iter().map(|d| {
        let row: Vec<_> = d["row"].as_object().unwrap().values().map(text).collect();
        let parts = [text(&d["table"]), text(&d["key"]), row.join("."), text(&d["kind"]), text(&d["column"])];
        parts.join(" ")
    });
    let set: BTreeSet<_> = told.collect();
    assert_eq!(set.len(), differences.len(), "one is reported twice");
    set
}

fn plan() -> Planted {
    let mut planted = Planted::default();
    let mut next = 0;
    let mut ids = |count: i32| {
        next += count;
        next - count..next
    };
    for (column, other) in [
        ("flag", "NOT flag"),
        ("small", "small + 1"),
        ("big", "big - 1"),
        ("ratio", "ratio * 2"),
        ("price", "1.5"),
        ("name", "name || ' '"),
        ("blob", "'\\x0102'"),
        ("uid", "gen_random_uuid()"),
        ("at", "at + interval '1 millisecond'"),
        ("tree", "tree || '{\"c\": -1}'"),
        ("tags", "'{y,x}'"),
        ("touched", "NULL"),
        ("missing", "'there'"),
    ] {
        let update = format!("UPDATE things SET {column} = {other} WHERE id IN ($ids)");
        planted.plant(ids(20), &update, &[("things", "", "column", column)]);
    }
    let column = |column| [("things", "", "column", column)];
    planted.plant(
        ids(20),
        "UPDATE things SET _extra = '{\"more\": 1}' WHERE id IN ($ids)",
        &column("_extra"),
    );
    let of_line = |row, kind, column| [("lines", row, kind, column)];
    planted.plant(
        ids(60),
        "DELETE FROM lines WHERE line = 1 AND thing_id IN ($ids)",
        &of_line("1", "missing_row", ""),
    );
    planted.plant(
        ids(60),
        "UPDATE lines SET item = NULL WHERE line = 0 AND thing_id IN ($ids)",
        &of_line("0", "column", "item"),
    );
    planted.plant(
        ids(60),
        "INSERT INTO lines SELECT id, 7, 'more' FROM unnest(ARRAY[$ids]) AS t (id)",
        &of_line("7", "extra_row", ""),
    );
    planted.plant(ids(60), "DELETE FROM things WHERE id IN ($ids)", &[("things", "", "missing_row", "")]);
    planted.plant(
        ids(10),
        "DELETE FROM things WHERE id IN ($ids); DELETE FROM lines WHERE thing_id IN ($ids)",
        &[
            ("things", "", "missing_row", ""),
            ("lines", "0", "missing_row", ""),
            ("lines", "1", "missing_row", ""),
        ],
    );
    assert!(ids(0).start <= QUIET);
    planted.plant(
        5000..5060,
        "INSERT INTO things (id, name) SELECT id, 'nobody' FROM unnest(ARRAY[$ids]) AS t (id)",
        &[("things", "", "no_document", "")],
    );
    planted.plant(
        5100..5160,
        "INSERT INTO lines SELECT id, n, 'nobody' FROM unnest(ARRAY[$ids]) AS t (id), generate_series(0, 2) AS n",
        &[("lines", "", "no_document", "")],
    );
    plan_others(&mut planted);
    planted
}

fn plan_others(planted: &mut Planted) {
    planted.plant(
        0..50,
        "UPDATE soft SET _deleted_at = NULL WHERE id IN ($ids)",
        &[("soft", "", "no_document", ""), ("soft_lines", "", "no_document", "")],
    );
    planted.plant(
        100..150,
        "UPDATE soft SET _deleted_at = now() WHERE id IN ($ids)",
        &[("soft", "", "missing_row", ""), ("soft_lines", "0", "missing_row", "")],
    );
    planted.plant(
        5000..5050,
        "INSERT INTO soft_lines SELECT id, 0, 'nobody' FROM unnest(ARRAY[$ids]) AS t (id)",
        &[("soft_lines", "", "no_document", "")],
    );
    planted.plant(
        0..50,
        "UPDATE whole SET doc = doc || '{\"touched\": -1}' WHERE id IN ($ids)",
        &[("whole", "", "column", "doc")],
    );
    planted.plant(50..80, "DELETE FROM whole WHERE id IN ($ids)", &[("whole", "", "missing_row", "")]);
    planted.plant(
        5000..5030,
        "INSERT INTO whole (id, doc) SELECT id, '{}' FROM unnest(ARRAY[$ids]) AS t (id)",
        &[("whole", "", "no_document", "")],
    );
    // Some of these are keys that no document can have: docrow would write them in another form.
    for (key, statement) in [
        ("nobody", "INSERT INTO free (_id) VALUES ('nobody')"),
        ("{\"not\" :  \"canonical\"}", "INSERT INTO free (_id) VALUES ('{\"not\" :  \"canonical\"}')"),
        ("null", "INSERT INTO free (_id) VALUES ('null')"),
        ("[no json", "INSERT INTO free (_id) VALUES ('[no json')"),
    ] {
        planted.statements.push(statement.to_owned());
        planted.expect("free", key, ("", "no_document", ""));
    }
    for id in 0..40 {
        let key = format!("{id:024x}");
        planted.statements.push(format!("UPDATE free SET touched = touched - 1 WHERE _id = '{key}'"));
        planted.expect("free", &key, ("", "column", "touched"));
    }
    for id in 40..60 {
        planted.statements.push(format!("DELETE FROM free_lines WHERE _id = '{id:024x}'"));
        planted.expect("free_lines", &format!("{id:024x}"), ("0", "missing_row", ""));
    }
    for id in 0..20 {
        let letter = format!("collection LIKE '%.strict' AND key = '{{\"$numberInt\":\"{id}\"}}'");
        planted.statements.push(format!("DELETE FROM docrow.dead_letters WHERE {letter}"));
        planted.expect("strict", &id.to_string(), ("", "no_dead_letter", ""));
    }
    planted.plant(
        20..25,
        "INSERT INTO strict (id) SELECT id FROM unnest(ARRAY[$ids]) AS t (id)",
        &[("strict", "", "extra_row", "")],
    );
    for id in 0..10 {
        let key = format!("{{\"$numberInt\":\"{}\"}}", 7000 + id);
        let hash = u128::from_be_bytes(xxh3_128(key.as_bytes()).to_be_bytes());
        let document_key = doc! { "_id": 7000 + id }.to_vec().unwrap();
        let bytes: String = document_key.iter().map(|byte| format!("{byte:02x}")).collect();
        planted.statements.push(format!(
            "INSERT INTO docrow.dead_letters (pipeline, collection, key, key_hash, document_key, reason) \
             SELECT 'docrow', current_database() || '.things', '{key}', '{hash:032x}'::uuid, '\\x{bytes}', 'planted'"
        ));
        planted.expect("docrow.dead_letters", &key, ("", "no_document", ""));
    }
}

/// The collections, with quiet documents.
async fn fill(place: &Place) {
    let small = |id: i32| doc! { "_id": id, "touched": 0_i64, "lines": [{ "item": "pen" }] };
    place.collection("things").insert_many((0..QUIET + 100).map(thing)).await.unwrap();
    // Of which the first half are dead letters.
    let age = |id: i32| if id < 25 { Bson::from("old") } else { Bson::from(id) };
    place
        .collection("strict")
        .insert_many((0..50).map(|id| doc! { "_id": id, "age": age(id) }))
        .await
        .unwrap();
    for name in ["soft", "whole"] {
        place.collection(name).insert_many((0..300).map(small)).await.unwrap();
    }
    let object_id = |id: i32| ObjectId::parse_str(format!("{id:024x}")).unwrap();
    let free = (0..150).map(|id| {
        let id = if id < 100 { Bson::from(object_id(id)) } else { Bson::from(format!("Key {id}")) };
        doc! { "_id": id, "touched": 0_i64, "lines": [{ "item": "pen" }] }
    });
    place.collection("free").insert_many(free).await.unwrap();
}

/// Inserts, updates, replaces and deletes without a pause, until it is stopped; and two documents change all
/// the time.
async fn write(place: &Place, stop: &AtomicBool, written: &AtomicU64) {
    let ordinary = async {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            let id = LIVE + round % 400;
            for name in ["things", "soft", "whole", "free"] {
                let (collection, which) = (place.collection(name), doc! { "_id": id });
                match round % 7 {
                    0 | 1 => {
                        let insert = collection.replace_one(which, thing(id)).upsert(true).await;
                        insert.unwrap();
                    }
                    2 => drop(collection.delete_one(which).await.unwrap()),
                    3 => {
                        let push = doc! { "$push": { "lines": { "item": format!("i{round}") } } };
                        collection.update_one(which, push).upsert(true).await.unwrap();
                    }
                    _ => {
                        let set = doc! { "$set": { "touched": i64::from(round), "mixed": round } };
                        collection.update_one(which, set).upsert(true).await.unwrap();
                    }
                }
                written.fetch_add(1, Ordering::Relaxed);
            }
            round += 3;
        }
    };
    let restless = async {
        let mut on = false;
        while !stop.load(Ordering::Relaxed) {
            on = !on;
            for name in ["things", "free"] {
                let set = doc! { "$set": { "flag": on, "touched": i64::from(on) } };
                let (collection, which) = (place.collection(name), doc! { "_id": LIVE - 1 });
                collection.update_one(which, set).upsert(true).await.unwrap();
            }
        }
    };
    tokio::join!(ordinary, restless);
}

fn map(home: &Home, place: &Place) {
    for (name, text) in [("things", THINGS), ("soft", SOFT), ("strict", STRICT), ("whole", WHOLE)] {
        home.map(&format!("{name}.toml"), &format!("collection = \"{}.{name}\"\n{text}", place.name));
    }
}

/// `verify` finds every one of 1,000 planted differences of all kinds and nothing else under live writes, and
/// `--repair` repairs them.
#[tokio::test]
async fn all_that_is_planted_is_found_and_nothing_else_and_mended() {
    let place = Place::shared("verify_planted").await;
    place.add_sentinels().await;
    fill(&place).await;
    let home = Home::new(&place);
    map(&home, &place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.collection("soft").delete_many(doc! { "_id": { "$lt": 60 } }).await.unwrap();
    place.settle(&mut docrow).await;
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();

    let planted = plan();
    assert!(planted.expected.len() >= 1000, "{}", planted.expected.len());
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let check = async {
        docrow.until("much is written", async || written.load(Ordering::Relaxed) > 200).await;
        // Nothing is found if nothing is wrong.
        let ended = home.finish(&["verify", "--allow-dead-letters", "--json"]).await.with_code(0).quiet();
        assert!(report(&ended)["differences"].as_array().unwrap().is_empty(), "{}", ended.out);

        let session = place.postgres().await;
        for statement in &planted.statements {
            session.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
        }
        let before = written.load(Ordering::Relaxed);
        let ended = home.finish(&["verify", "--json", "--limit", "5000"]).await.with_code(1).quiet();
        assert!(written.load(Ordering::Relaxed) > before, "nothing was written meanwhile");
        let found = told(&report(&ended));
        let (missed, wrong): (Vec<_>, Vec<_>) =
            (planted.expected.difference(&found).collect(), found.difference(&planted.expected).collect());
        assert!(missed.is_empty() && wrong.is_empty(), "missed: {missed:#?}\nnot planted: {wrong:#?}");
        let unsettled = |report: &Value| -> u64 {
            report["collections"].as_array().unwrap().iter().map(|c| c["unsettled"].as_u64().unwrap()).sum()
        };
        assert_eq!(unsettled(&report(&ended)), 0, "{}", ended.out);

        let ended = home
            .finish(&["verify", "--allow-dead-letters", "--repair", "--json", "--limit", "5000"])
            .await
            .with_code(0)
            .quiet();
        let mended = report(&ended);
        assert_eq!(told(&mended), planted.expected);
        assert!(
            mended["differences"].as_array().unwrap().iter().all(|d| d["mended"] == true),
            "{}",
            ended.out
        );
        home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(write(&place, &stop, &written), check);
    place.settle(&mut docrow).await;
    place.assert_exact().await;
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
    docrow.stop().await.quiet();

    // The same while no process runs the pipeline.
    let session = place.postgres().await;
    for statement in &planted.statements {
        session.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
    let ended = home
        .finish(&["verify", "--allow-dead-letters", "--repair", "--json", "--limit", "5000"])
        .await
        .with_code(0)
        .quiet();
    assert_eq!(told(&report(&ended)), planted.expected);
    place.assert_exact().await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_exact().await;
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
    docrow.stop().await.quiet();
}
