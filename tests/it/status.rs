//! `docrow status` and `/status`: one document for every reader, whether or not a process runs the pipeline.

use std::collections::BTreeSet;

use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{Before, Docrow, Gate, Proxy, http::get, status::served};

/// Waits for a document at `address` that satisfies `condition`.
async fn until(docrow: &mut Docrow, address: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    docrow
        .until(what, async || {
            last = get(address, "/status").await.json();
            condition(&last)
        })
        .await;
    last
}

/// And everything that can be known is known.
fn is_live(status: &Value) -> bool {
    let is_counted = |collection: &Value| collection["misfits"].is_object();
    let is_known = status["source"]["oplog"].is_object()
        && status["spool"]["bytes"].is_u64()
        && status["collections"].as_array().is_some_and(|collections| collections.iter().all(is_counted));
    is_known && status["process"]["stage"] == "live" && status["lag_seconds"] == 0
}

/// The paths of all fields; those of list elements together.
fn fields(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = format!("{path}.{name}");
                    walk(value, &path, found);
                    found.insert(path);
                }
            }
            Value::Array(elements) => {
                elements.iter().for_each(|element| walk(element, &format!("{path}[]"), found))
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

/// Issue: `/status` is the same JSON document as `docrow status --json`; it works without the running
/// process.
#[tokio::test]
async fn one_document_with_and_without_the_process() {
    let (place, home) = served("status_document").await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    let served = until(&mut docrow, &address, "it is live", is_live).await;
    // By then the process has reported it.
    let mut printed = Value::Null;
    docrow
        .until("that is reported", async || {
            printed = home.status().await;
            is_live(&printed)
        })
        .await;
    for document in [&served, &printed] {
        assert_eq!(document["health"]["problems"], Value::Array(vec![]), "{document}");
    }
    assert_eq!(fields(&served), fields(&printed));
    for same in ["document", "pipeline", "health", "collections", "dead_letters", "target", "messages"] {
        let (mut served, mut printed) = (served[same].clone(), printed[same].clone());
        for document in [&mut served, &mut printed] {
            // They continue.
            for collection in document.as_array_mut().into_iter().flatten().filter(|c| c.is_object()) {
                collection["applied_up_to"] = Value::Null;
                collection["lag_seconds"] = Value::Null;
            }
        }
        assert_eq!(served, printed, "{same}");
    }
    assert_eq!(printed["health"]["words"], "live: all 2 collections are up to date");
    assert_eq!((&printed["health"]["level"], &printed["process"]["running"]), (&"ok".into(), &true.into()));
    let orders = &printed["collections"][1];
    assert_eq!(orders["name"], format!("{}.orders", place.name));
    assert_eq!((&orders["phase"], &orders["snapshot"]["documents"]), (&"live".into(), &50.into()));
    let tables: Vec<_> = orders["mapping"]["tables"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert_eq!(tables, ["orders", "orders_lines"]);
    assert_eq!(orders["mapping"]["tables"][0]["columns"][1]["name"], "name");
    assert_eq!(printed["partitions"].as_array().unwrap().len(), 4);
    assert!(printed["source"]["oplog"]["headroom_seconds"].is_u64(), "{printed}");
    assert!(printed["spool"]["budget"].as_u64() > Some(0), "{printed}");
    let table = home.finish(&["status"]).await.with_code(0).quiet().out;
    for part in
        ["● docrow  live: all 2", "run by docrow process", "COLLECTION", &format!("{}.orders", place.name)]
    {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    assert!(!table.contains('\u{1b}'), "{table}");
    let history = get(&address, "/history").await.json();
    let points = history["points"].as_array().unwrap();
    let last = points.last().unwrap()["at"].as_u64().unwrap();
    assert!(points[0].as_object().unwrap().len() == 5 && points.len() > 1, "{history}");
    let newer = get(&address, &format!("/history?since={last}")).await.json();
    assert!(
        newer["points"].as_array().unwrap().iter().all(|point| point["at"].as_u64() > Some(last)),
        "{newer}"
    );

    docrow.stop().await.quiet();
    let stopped = home.status().await;
    let mut same = fields(&stopped);
    same.retain(|field| !field.starts_with(".health.problems[]"));
    assert_eq!(same, fields(&printed));
    assert_eq!(
        (&stopped["process"]["running"], &stopped["process"]["stage"]),
        (&false.into(), &"ended".into())
    );
    assert!(stopped["health"]["words"].as_str().unwrap().starts_with("stopped on request"), "{stopped}");
    assert_eq!(stopped["source"]["answers"], true, "MongoDB is asked if no process does");
    let docrow = home.run();
    let mut docrow = docrow;
    let address = docrow.address().await;
    until(&mut docrow, &address, "it is live again", is_live).await;
    docrow.kill9().await;
    let mut killed = home.status().await;
    while killed["process"]["running"] == true {
        // The server takes a moment to notice.
        killed = home.status().await;
    }
    assert!(killed["health"]["words"].as_str().unwrap().contains("ended without reporting it"), "{killed}");
}

/// Every documented field exists.
#[tokio::test]
async fn the_documented_fields_are_those_that_there_are() {
    let (place, mut home) = served("status_docs").await;
    home.set("mapping.max_dead_letters", 2);
    let mapping = |name: &str, rest: &str| {
        let name = format!("collection = '{}.{name}'\ntable = '{name}'\nextra = '_extra'\n", place.name);
        format!("{name}{rest}\n[key]\ncolumn = 'id'\ntype = 'bigint'\n")
    };
    let credit = "[columns]\ncredit = { path = 'credit', type = 'bigint' }\n";
    home.map("customers.toml", &format!("{}{credit}", mapping("customers", "")));
    let customers = [doc! { "_id": "secret-key" }, doc! { "_id": 700, "credit": 0.5 }];
    place.collection("customers").insert_many(customers).await.unwrap();
    place.collection("orders").insert_many(["a", "b", "c"].map(|id| doc! { "_id": id })).await.unwrap();
    home.map("orders.toml", &mapping("orders", ""));
    let mut docrow = home.run();
    let address = docrow.address().await;
    let found = until(&mut docrow, &address, "one is live, one is stopped", |status| {
        is_live(status)
            && status["collections"][1]["stopped"].is_string()
            && status["health"]["level"] == "error"
    });
    let found = found.await;
    // Contract: dead letters by collection with reasons; a collection that is stopped and why.
    let group = &found["dead_letters"]["groups"][0];
    assert_eq!((&group["count"], &group["path"]), (&1.into(), &"_id".into()), "{found}");
    let stopped = found["collections"][1]["stopped"].as_str().unwrap();
    assert!(stopped.contains("max_dead_letters"), "{stopped}");
    assert!(found["messages"].as_array().unwrap().iter().any(|m| m["level"] == "error"), "{found}");
    let mut table = String::new();
    docrow
        .until("that is reported", async || {
            table = home.finish(&["status"]).await.with_code(0).out;
            table.contains("LAST WARNINGS")
        })
        .await;
    for part in ["stopped", "DEAD LETTERS", "LAST WARNINGS AND ERRORS", "could not be written"] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    // G12: paths and reasons, no values.
    for text in [&table, &found.to_string()] {
        assert!(!text.contains("secret-key"), "{text}");
    }
    docrow.stop().await;

    let documented = include_str!("../../docs/status.md");
    let (_, example) = documented.split_once("```json\n").unwrap();
    let example: Value = serde_json::from_str(example.split_once("\n```").unwrap().0).unwrap();
    assert_eq!(fields(&example), fields(&found));
    for field in fields(&found) {
        let name = field.trim_start_matches('.');
        assert!(documented.contains(&format!("`{name}`")), "docs/status.md does not describe `{name}`");
    }
}

#[tokio::test]
async fn nothing_has_been_run_yet() {
    let (_, home) = served("status_never").await;
    let found = home.status().await;
    assert_eq!(found["health"]["words"], "this pipeline has never been run");
    assert_eq!((&found["process"]["running"], &found["collections"]), (&false.into(), &Value::Array(vec![])));
    let table = home.finish(&["status"]).await.with_code(0).quiet().out;
    assert!(table.contains("never been run") && table.contains("run by no process"), "{table}");
}

/// Without a source, or with one that does not answer, the status contains everything from PostgreSQL.
/// Without PostgreSQL there is nothing: an error that says what does not answer, exit code 4.
#[tokio::test]
async fn a_server_that_is_away() {
    let (_, mut home) = served("status_away").await;
    home.backfill().await;
    home.set("source.uri", "mongodb://ada:hunter2@127.0.0.1:9/?serverSelectionTimeoutMS=500");
    let found = home.status().await;
    assert_eq!(found["source"]["answers"], false, "{found}");
    assert_eq!(found["collections"].as_array().unwrap().len(), 2);
    assert!(found["source"]["problem"].as_str().unwrap().contains("127.0.0.1:9"), "{found}");
    let table = home.finish(&["status"]).await.with_code(0).quiet().out;
    assert!(table.contains("MongoDB does not answer") && table.contains(".orders"), "{table}");
    home.set("source.uri", "${DOCROW_TEST_NOT_SET}");
    let without = home.status().await;
    assert_eq!(without["source"]["answers"], Value::Null);
    home.set("target.uri", "postgres://ada:hunter2@127.0.0.1:9/x");
    for arguments in [&["status"][..], &["status", "--json"], &["status", "--watch"]] {
        let ended = home.finish(arguments).await.with_code(4);
        assert!(ended.error().contains("connect to PostgreSQL at 127.0.0.1:9"), "{}", ended.log);
        assert!(ended.out.is_empty() && !ended.log.contains("hunter2"), "{}", ended.log);
    }
    assert!(!format!("{found}{table}").contains("hunter2"));
}

/// Issue: phase and progress of each collection, including intermediate progress with the total.
#[tokio::test]
async fn the_progress_of_a_snapshot() {
    let (place, home) = served("status_progress").await;
    let padding = "x".repeat(1_000_000);
    let large = (0..40).map(|id| doc! { "_id": id, "padding": &padding });
    place.collection("large").insert_many(large).await.unwrap();
    let first_only = "NEW.copied_at IS NOT NULL AND NEW.collection LIKE '%.large' AND NEW.chunk > 0";
    let gate = Gate::close(&place, Before::Update("docrow.chunks", first_only)).await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    let found = until(&mut docrow, &address, "some of it is copied", |status| {
        let snapshot = &status["collections"][1]["snapshot"];
        snapshot["documents"].as_u64() > Some(0) && status["process"]["stage"] == "copying"
    });
    let found = found.await;
    let large = &found["collections"][1];
    let snapshot = &large["snapshot"];
    assert_eq!((&large["phase"], &large["lag_seconds"]), (&"copying".into(), &Value::Null), "{large}");
    assert!(snapshot["documents"].as_u64() < Some(40) && snapshot["estimated"] == 40, "{snapshot}");
    assert!(snapshot["chunks_copied"].as_u64() < snapshot["chunks"].as_u64(), "{snapshot}");
    assert_eq!(found["health"]["level"], "busy");
    assert!(found["health"]["words"].as_str().unwrap().starts_with("copying "), "{found}");
    let mut table = String::new();
    docrow
        .until("that is reported", async || {
            table = home.finish(&["status"]).await.with_code(0).out;
            table.contains("% of 40")
        })
        .await;
    gate.open().await;
    until(&mut docrow, &address, "it is live", is_live).await;
    docrow.stop().await.quiet();
}

/// Traps: "Lag by wall clock lies under clock skew": it is MongoDB's time minus the applied time. It grows
/// while nothing is applied, and then goes to zero; meanwhile changes wait in the spool.
#[tokio::test]
async fn lag_and_spool_grow_and_shrink() {
    let (place, mut home) = served("status_lag").await;
    home.set("stream.partitions", 1);
    let gate = Gate::close(&place, Before::Update("docrow.progress", "true")).await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    gate.reached(&mut docrow, 1).await;
    let before = get(&address, "/status").await.json()["spool"]["bytes"].as_u64();
    let mut round = 0;
    let behind =
        until(&mut docrow, &address, "it is behind", |status| status["lag_seconds"].as_u64() >= Some(3));
    let write = async {
        loop {
            round += 1;
            place
                .collection("orders")
                .update_many(doc! {}, doc! { "$set": { "round": round } })
                .await
                .unwrap();
        }
    };
    let behind: Value = tokio::select! {
        behind = behind => behind,
        () = write => unreachable!(),
    };
    assert!(behind["collections"][0]["lag_seconds"].as_u64() >= Some(3), "{behind}");
    assert!(behind["partitions"][0]["lag_seconds"].as_u64() >= Some(3), "{behind}");
    let spooled = until(&mut docrow, &address, "it waits in the spool", |status| {
        status["spool"]["bytes"].as_u64() > before.max(Some(0))
    });
    spooled.await;
    gate.open().await;
    until(&mut docrow, &address, "it has caught up", |status| status["lag_seconds"] == 0).await;
    docrow.stop().await.quiet();
}

/// `--watch` refreshes it repeatedly, and ends cleanly by ^C.
#[tokio::test]
async fn watching_ends_when_told_to() {
    let (_, home) = served("status_watch").await;
    home.backfill().await;
    let mut watching = home.start(&["status", "--watch=1", "--json"]);
    let out = async |watching: &Docrow| watching.out().lines().count();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while out(&watching).await < 2 {
        assert!(!watching.has_ended() && tokio::time::Instant::now() < deadline, "{}", watching.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    watching.signal("INT").await;
    let ended = watching.ended().await.with_code(0).quiet();
    for line in ended.out.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["document"], 1);
    }
}

/// A process that can't reach PostgreSQL reports that, and what it knew; nothing in it is a secret.
#[tokio::test]
async fn postgres_goes_away_while_it_runs() {
    let (place, mut home) = served("status_outage").await;
    let proxy = Proxy::of(&place.postgres_uri).await;
    home.set("target.uri", proxy.uri(&place.postgres_uri));
    let mut docrow = home.run();
    let address = docrow.address().await;
    until(&mut docrow, &address, "it is live", is_live).await;
    proxy.refuse(true);
    proxy.cut();
    let found = until(&mut docrow, &address, "it is seen", |status| {
        status["target"]["answers"] == false && status["process"]["stage"] == "retrying"
    });
    let found = found.await;
    assert_eq!(found["health"]["level"], "error", "{found}");
    assert_eq!(found["collections"].as_array().unwrap().len(), 2, "as they were");
    assert_eq!(get(&address, "/readyz").await.code, 503);
    assert_eq!(get(&address, "/healthz").await.code, 200);
    proxy.refuse(false);
    until(&mut docrow, &address, "it is live again", is_live).await;
    docrow.stop().await;
}

/// Not "no process runs this pipeline" while it retries: also between two attempts, the status says that a
/// process does, and why it retries.
#[tokio::test]
async fn a_process_that_tries_again_runs_the_pipeline() {
    let (place, home) = served("status_retries").await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    until(&mut docrow, &address, "it is live", is_live).await;
    let refuse = "CREATE FUNCTION docrow.conflict() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$; \
        CREATE TRIGGER conflict BEFORE UPDATE ON docrow.progress FOR EACH ROW EXECUTE FUNCTION docrow.conflict()";
    place.postgres().await.batch_execute(refuse).await.unwrap();
    until(&mut docrow, &address, "it tries again", |status| status["process"]["stage"] == "retrying").await;
    let mut between = 0;
    // It holds the pipeline for a moment at each attempt.
    docrow
        .until("it was asked between tries", async || {
            let found = home.status().await;
            assert_eq!(found["process"]["running"], true, "{found}");
            let holder = found["process"]["holder"].as_str().unwrap();
            if holder.contains("between two attempts") {
                between += 1;
                let words = found["health"]["words"].as_str().unwrap();
                assert!(words.starts_with("retrying: ") && words.contains("40001"), "{words}");
            }
            between >= 3
        })
        .await;
    let mut told = String::new();
    docrow
        .until("it is between tries", async || {
            told = home.finish(&["resync", &format!("{}.orders", place.name)]).await.with_code(0).out;
            assert!(!told.contains("no process"), "{told}");
            told.contains("between two attempts")
        })
        .await;
    place.postgres().await.batch_execute("DROP TRIGGER conflict ON docrow.progress").await.unwrap();
    until(&mut docrow, &address, "it is live again", is_live).await;
    docrow.stop().await;
    assert_eq!(home.status().await["process"]["running"], false);
}
