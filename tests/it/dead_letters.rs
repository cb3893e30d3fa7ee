//! `docrow dead-letters`. G10: a bad document goes whole to `docrow.dead_letters` with key, path and reason,
//! and can be retried.

use std::time::{Duration, Instant};

use docrow::{
    model::partition::Partition,
    sink::{
        Target,
        metadata::{
            dead_letters::{self, DeadKey, DeadLetter},
            fence::{Fence, Holder, OnHeld},
        },
        rows::upsert::{Applier, Batch},
    },
};
use mongodb::bson::{doc, oid::ObjectId, rawdoc};
use serde_json::{Value, json};

use crate::support::{Capability, Code, Home, Place, lacks};

/// Three orders have an `_id` that is no number; the source is then no longer needed.
async fn place(test: &str) -> (Place, Home) {
    let place = Place::shared(&format!("dead_{test}")).await;
    let orders = place.collection("orders");
    orders.insert_many([doc! { "_id": 1 }, doc! { "_id": 2_i64 }]).await.unwrap();
    let oid = ObjectId::from_bytes([7; 12]);
    orders
        .insert_many([
            doc! { "_id": "\u{1b}[2Jx\u{202e}y", "n": 5_i64, "deep": [[1, { "a.b": null }], []] },
            doc! { "_id": oid, "text": "z\u{9b}" },
            doc! { "_id": 2.5 },
        ])
        .await
        .unwrap();
    let mut home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\n\n[key]\ncolumn = 'id'\ntype = 'bigint'\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    home.finish(&["backfill", "--allow-dead-letters"]).await.with_code(0);
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(3));
    home.set("source.uri", "${DOCROW_TEST_NOT_SET}");
    (place, home)
}

async fn list_json(home: &Home) -> Value {
    let ended = home.finish(&["dead-letters", "list", "--json"]).await.with_code(0).quiet();
    serde_json::from_str(&ended.out).unwrap()
}

/// The number of the letter whose key is `key` in Extended JSON.
async fn id_of(home: &Home, key: Value) -> String {
    let listed = list_json(home).await;
    let letters = listed["letters"].as_array().unwrap();
    letters.iter().find(|letter| letter["key"] == key).unwrap()["id"].to_string()
}

#[tokio::test]
async fn letters_are_listed_and_shown_whole() {
    let (place, home) = place("list").await;
    let name = format!("{}.orders", place.name);
    let ended = home.finish(&["dead-letters", "list"]).await.with_code(0).quiet();
    assert!(ended.out.starts_with("id ") && ended.out.contains(&name), "{}", ended.out);
    let group = ended.out.lines().find(|line| line.starts_with("3 ")).unwrap();
    assert!(group.contains(&name) && group.contains("_id"), "{group}");
    // A key must not garble the terminal.
    assert!(ended.out.contains(r#""\u001b[2Jx\u202ey""#), "{}", ended.out);
    let few = home.finish(&["dead-letters", "list", "--limit", "1"]).await.with_code(0);
    assert!(few.out.contains("the latest 1 of 3"), "{}", few.out);
    let other = home.finish(&["dead-letters", "list", "--collection", "no.such"]).await.with_code(0);
    assert_eq!(other.out, "no dead letters\n");

    let listed = list_json(&home).await;
    assert_eq!((&listed["total"], &listed["counts"][0]["count"]), (&json!(3), &json!(3)));
    let string = id_of(&home, json!("\u{1b}[2Jx\u{202e}y")).await;
    let ended = home.finish(&["dead-letters", "show", &string]).await.with_code(0).quiet();
    let shown = r#"{
  "_id": "\u001b[2Jx\u202ey",
  "n": {"$numberLong": "5"},
  "deep": [
    [
      {"$numberInt": "1"},
      {
        "a.b": null
      }
    ],
    []
  ]
}"#;
    assert!(ended.out.starts_with(&format!("dead letter {string} of {name}\n")), "{}", ended.out);
    assert!(ended.out.ends_with(&format!("{shown}\n")), "{}", ended.out);
    assert!(ended.out.contains("\npath      _id\nreason    "), "{}", ended.out);
    let ended = home.finish(&["dead-letters", "show", "--json", &string]).await.with_code(0).quiet();
    let shown: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(shown["document"]["deep"][0][1], json!({ "a.b": null }));
    assert_eq!(shown["key"], shown["document"]["_id"]);

    let oid = id_of(&home, json!({ "$oid": "07".repeat(12) })).await;
    let ended = home.finish(&["dead-letters", "show", &oid]).await.with_code(0).quiet();
    assert!(ended.out.contains(r#""_id": {"$oid": "070707070707070707070707"}"#), "{}", ended.out);
    assert!(ended.out.contains(r#""text": "z\u009b""#), "{}", ended.out);

    // A pipe gets every reason in full.
    let longer =
        "UPDATE docrow.dead_letters SET reason = 'a reason ' || repeat('of many words ', 20) || 'ends'";
    place.postgres().await.batch_execute(longer).await.unwrap();
    let ended = home.finish(&["dead-letters", "list"]).await.with_code(0).quiet();
    assert_eq!(ended.out.matches("of many words ends").count(), 4, "three letters, one group: {}", ended.out);
}

#[tokio::test]
async fn what_is_not_stored_or_malformed_is_said() {
    let (place, home) = place("odd").await;
    let id = id_of(&home, json!({ "$numberDouble": "2.5" })).await;
    let show = ["dead-letters", "show", &id];
    let session = place.postgres().await;
    session
        .batch_execute(&format!("UPDATE docrow.dead_letters SET document = NULL WHERE id = {id}"))
        .await
        .unwrap();
    let ended = home.finish(&show).await.with_code(0).quiet();
    assert!(ended.out.contains("document  not stored"), "{}", ended.out);
    let malformed = format!(r"UPDATE docrow.dead_letters SET document = '\x00ff' WHERE id = {id}");
    session.batch_execute(&malformed).await.unwrap();
    let ended = home.finish(&show).await.with_code(0).quiet();
    assert!(ended.out.contains("malformed") && ended.out.contains("AP8="), "{}", ended.out);
    let ended = home.finish(&["dead-letters", "show", "--json", &id]).await.with_code(0).quiet();
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap()["bson"], json!("AP8="));
}

#[tokio::test]
async fn what_is_asked_for_is_there_for_the_next_run() {
    let (place, home) = place("next").await;
    let id = id_of(&home, json!({ "$numberDouble": "2.5" })).await;
    let ended = home.finish(&["dead-letters", "retry", &id]).await.with_code(0).quiet();
    assert!(
        ended.out.contains("no process runs pipeline docrow: the next `docrow run` retries 1"),
        "{}",
        ended.out
    );
    let target = Target::parse(&place.postgres_uri, "public", "docrow").unwrap();
    let session = target.connect().await.unwrap();
    let asked = dead_letters::asked(&session, "docrow").await.unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].id.to_string(), asked[0].document_key.as_ref()),
        (id.clone(), &*rawdoc! { "_id": 2.5 })
    );
    let ended = home.finish(&["dead-letters", "list"]).await.with_code(0);
    assert_eq!(ended.out.lines().filter(|line| line.ends_with("asked")).count(), 1, "{}", ended.out);
    let fence = Fence::acquire(&target, &Holder::new(), OnHeld::Refuse).await.unwrap();
    let mut writing = fence.target().connect().await.unwrap();
    dead_letters::answered(&mut writing, "docrow", &[asked[0].id]).await.unwrap();
    drop((fence, writing));
    assert_eq!(dead_letters::asked(&session, "docrow").await.unwrap(), []);

    // A letter of an earlier docrow has no separate key.
    place.postgres().await.batch_execute("UPDATE docrow.dead_letters SET document_key = NULL").await.unwrap();
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0).quiet();
    assert!(ended.out.contains("retries 3"), "{}", ended.out);
    let asked = dead_letters::asked(&session, "docrow").await.unwrap();
    assert!(asked.iter().any(|asked| asked.document_key == rawdoc! { "_id": 2.5 }), "{asked:?}");

    // A number without a letter is an error for every command, and nothing is done with the others.
    for command in [&["show"][..], &["retry"], &["discard"], &["retry", &id], &["discard", &id]] {
        let arguments = [&["dead-letters"], command, &["999999"]].concat();
        let ended = home.finish(&arguments).await.with_code(2).coded(Code::UnknownDeadLetter);
        assert!(ended.error().contains("there is no dead letter 999999"), "{}", ended.log);
        assert_eq!(ended.out, "");
    }
    let ended = home.finish(&["dead-letters", "discard", &id]).await.with_code(0).quiet();
    assert_eq!(ended.out, "1 discarded\n");
    let ended =
        home.finish(&["dead-letters", "discard", "--collection", "no.such"]).await.with_code(0).quiet();
    assert_eq!(ended.out, "0 discarded\n");
    let all = format!("{}.orders", place.name);
    let ended = home.finish(&["dead-letters", "discard", "--collection", &all]).await.with_code(0).quiet();
    assert_eq!(ended.out, "2 discarded\n");
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0).quiet();
    assert_eq!(ended.out, "no dead letters to retry\n");
}

/// The command waits for the running process's result, and reports it.
#[tokio::test]
async fn the_outcome_is_told_while_the_pipeline_runs() {
    let (place, home) = place("running").await;
    let target = Target::parse(&place.postgres_uri, "public", "docrow").unwrap();
    let fence = Fence::acquire(&target, &Holder::new(), OnHeld::Refuse).await.unwrap();
    let target = fence.target();
    let mut session = target.connect().await.unwrap();
    let mut command = home.start(&["dead-letters", "retry", "--all"]);
    let mut asked = Vec::new();
    command
        .until("letters are asked for", async || {
            asked = dead_letters::asked(&session, "docrow").await.unwrap();
            asked.len() == 3
        })
        .await;
    // One is written, one fails again, one can't be looked up.
    let mut applier = Applier::new(target.connect().await.unwrap(), target, Partition(0), 0).await.unwrap();
    let collection = format!("{}.orders", place.name);
    let healed = [DeadKey { collection: collection.clone(), key: r#"{"$numberDouble":"2.5"}"#.into() }];
    let letters = [DeadLetter {
        collection,
        key: format!(r#"{{"$oid":"{}"}}"#, "07".repeat(12)),
        document_key: asked[1].document_key.as_bytes().to_vec(),
        path: None,
        reason: "dead for another reason".into(),
        document: None,
    }];
    applier.apply(&Batch { healed: &healed, dead_letters: &letters, ..Batch::default() }).await.unwrap();
    let left = dead_letters::asked(&session, "docrow").await.unwrap();
    assert_eq!(left.len(), 1, "who is buried again has been answered");
    dead_letters::answered(&mut session, "docrow", &[left[0].id]).await.unwrap();
    let ended = command.ended().await.with_code(1).quiet();
    assert!(ended.out.contains("PostgreSQL process ") && ended.out.contains("to retry 3"), "{}", ended.out);
    assert!(ended.out.contains("1 written, or deleted in MongoDB"), "{}", ended.out);
    assert!(
        ended.out.contains("still dead") && ended.out.contains("dead for another reason"),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn what_cannot_be_meant_is_said() {
    let (_place, home) = place("usage").await;
    let ended =
        home.finish(&["dead-letters", "show", "999999"]).await.with_code(2).coded(Code::UnknownDeadLetter);
    assert!(ended.error().contains("no dead letter 999999: `docrow dead-letters list`"), "{}", ended.log);
    for arguments in [&["retry"][..], &["discard"], &["discard", "1", "--all"], &["retry", "x"], &["bury"]] {
        home.finish(&[&["dead-letters"], arguments].concat()).await.with_code(2);
    }
    // A target that docrow has never written to, known only from the command line.
    let fresh = Place::shared("dead_fresh").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let empty = elsewhere.path().join("docrow.toml");
    std::fs::write(&empty, "").unwrap();
    let arguments =
        ["dead-letters", "list", "--config", empty.to_str().unwrap(), "--target", &fresh.postgres_uri];
    assert_eq!(home.finish(&arguments).await.with_code(0).quiet().out, "no dead letters\n");
    assert_eq!(fresh.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'").await, Some(0));
}

/// G10: once the cause is fixed, a retry writes the document's current state, whether a process runs the
/// pipeline or is started later.
#[tokio::test]
async fn a_retry_brings_the_current_document_in() {
    let place = Place::shared("dead_retry").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_many((0..40).map(|id| doc! { "_id": id, "kind": "good" })).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let session = place.postgres().await;
    session.batch_execute("ALTER TABLE orders ADD CONSTRAINT good CHECK (kind <> 'bad')").await.unwrap();
    let set = async |kind: &str, ids: [i32; 3]| {
        let filter = doc! { "_id": { "$in": ids.to_vec() } };
        orders.update_many(filter, doc! { "$set": { "kind": kind } }).await.unwrap();
    };
    set("bad", [1, 2, 3]).await;
    place.settle(&mut docrow).await;
    let dead = "SELECT count(*) FROM docrow.dead_letters";
    assert_eq!(place.number(dead).await, Some(3));

    // Nothing is fixed yet.
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(1).quiet();
    assert!(ended.out.contains("0 written") && ended.out.contains("good"), "{}", ended.out);
    assert_eq!(place.number(dead).await, Some(3));

    session.batch_execute("ALTER TABLE orders DROP CONSTRAINT good").await.unwrap();
    let one = id_of(&home, json!({ "$numberInt": "2" })).await;
    let ended = home.finish(&["dead-letters", "retry", &one]).await.with_code(0).quiet();
    assert!(ended.out.contains("1 written, or deleted in MongoDB"), "{}", ended.out);
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE kind = 'bad'").await, Some(1));

    // Letters of a collection that is no longer replicated stay, and the answer comes soon.
    let moved = "UPDATE docrow.dead_letters SET collection = 'gone.away' \
        WHERE id = (SELECT min(id) FROM docrow.dead_letters)";
    session.batch_execute(moved).await.unwrap();
    let ended =
        home.finish(&["dead-letters", "retry", "--collection", "gone.away"]).await.with_code(1).quiet();
    assert!(ended.out.contains("0 written") && !ended.out.contains("not retried yet"), "{}", ended.out);
    let back = format!("UPDATE docrow.dead_letters SET collection = '{}.orders'", place.name);
    session.batch_execute(&back).await.unwrap();
    docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);

    // By the next run; one of them was deleted meanwhile.
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0).quiet();
    assert!(ended.out.contains("the next `docrow run`"), "{}", ended.out);
    orders.delete_one(doc! { "_id": 3 }).await.unwrap();
    let mut docrow = home.run();
    docrow.until("the letters are tried", async || place.number(dead).await == Some(0)).await;
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE kind = 'bad'").await, Some(2));
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Dead letters of a stopped collection are not retried before docrow is restarted: the command does not wait
/// for that.
#[tokio::test]
async fn who_asks_for_a_stopped_collection_is_told_at_once() {
    let place = Place::shared("dead_stopped").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("mapping.max_dead_letters", 1);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    orders.insert_many(["a", "b", "c"].map(|id| doc! { "_id": id })).await.unwrap();
    let stopped = "SELECT count(*) FROM docrow.schemas WHERE stopped IS NOT NULL";
    docrow.until("it is stopped", async || place.number(stopped).await == Some(1)).await;
    let asked = Instant::now();
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(1);
    assert!(ended.out.contains("not retried until it resumes"), "{}", ended.out);
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    docrow.stop().await;
}

/// G3: with `order = "commit"`, too, a retry writes the document's current state, not the one from when the
/// run began.
#[tokio::test]
async fn a_retry_in_the_order_of_commits_brings_nothing_of_the_past() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let place = Place::shared("dead_commit").await;
    place.add_sentinels().await;
    let orders = place.collection("orders");
    orders.insert_one(doc! { "_id": 1, "kind": "good" }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("stream.order", "commit");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let session = place.postgres().await;
    session.batch_execute("ALTER TABLE orders ADD CONSTRAINT good CHECK (kind <> 'bad')").await.unwrap();
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "kind": "bad" } }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(1));
    session.batch_execute("ALTER TABLE orders DROP CONSTRAINT good").await.unwrap();
    let ended = home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0).quiet();
    assert!(ended.out.contains("1 written, or deleted in MongoDB"), "{}", ended.out);
    assert_eq!(place.number("SELECT count(*) FROM orders WHERE kind = 'bad'").await, Some(1));
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);
}
