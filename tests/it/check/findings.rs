//! Findings of `docrow check` other than privileges.

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::{
    bson::{Document, doc, oid::ObjectId},
    options::TimeseriesOptions,
};
use serde_json::json;

use super::{about, check, of, only};
use crate::support::{Capability, Home, Place, lack, lacks};

async fn place(test: &str) -> (Place, Home) {
    let place = Place::shared(&format!("check_{test}")).await;
    let order = |id: i32| doc! { "_id": id, "total": 1.5, "lines": [{ "item": "gq7k" }, { "item": "ink" }] };
    place.collection("orders").insert_many((0..20).map(order)).await.unwrap();
    let home = Home::new(&place);
    (place, home)
}

/// The servers' own words.
async fn mongodb(place: &Place) -> String {
    let said = place.client.database("admin").run_command(doc! { "buildInfo": 1 }).await.unwrap();
    format!("MongoDB {}", said.get_str("version").unwrap())
}

async fn postgresql(place: &Place) -> String {
    let said = place.postgres().await.query_one("SHOW server_version", &[]).await.unwrap();
    format!("PostgreSQL {}", said.get::<_, String>(0))
}

/// "Nothing is written", on either side.
async fn assert_untouched(place: &Place, home: &Home) {
    let written = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow') + (SELECT count(*) FROM pg_tables WHERE schemaname = 'public')";
    assert_eq!(place.number(written).await, Some(0));
    assert!(!home.state().exists());
}

#[tokio::test]
async fn all_is_well_and_said_so() {
    let (place, home) = place("well").await;
    let report = check(&home, 0).await;
    assert_eq!(of(&report, "note").len(), 0, "{report:#}");
    let orders = format!("{}.orders", place.name);
    about(&report, "ok", "connection", &format!("{}, replica set docrow", mongodb(&place).await));
    about(&report, "ok", "connection", &postgresql(&place).await);
    about(&report, "ok", "collections", "1 collection in");
    about(&report, "ok", "change stream", "opened");
    about(
        &report,
        "ok",
        &orders,
        "20 of about 20 documents tested (mapped automatically, tables: 2): all fit",
    );
    about(&report, "ok", "time", "20 documents");
    about(&report, "ok", "oplog", "reaches back");
    about(&report, "ok", "spool", "free at docrow-state, max_spool 10.0 GiB");
    assert_untouched(&place, &home).await;
    let text = home.finish(&["check"]).await.with_code(0).quiet().out;
    let first = format!("source\n  ok      connection         {}", mongodb(&place).await);
    assert!(text.starts_with(&first), "{text}");
    assert!(text.ends_with("\n\nno problems, no notes\n"), "{text}");
    assert!(!text.contains(['\u{1b}', '✓']) && text.lines().all(|line| line.chars().count() < 130), "{text}");
    // After a run, too, and while there are tables.
    home.backfill().await;
    check(&home, 0).await;
    place.assert_same(&home).await;
}

/// One shard has a part of its cluster's documents.
#[tokio::test]
async fn one_shard_is_not_the_cluster() {
    let shared = Place::shared("check_shard").await;
    let arguments = vec!["--shardsvr".to_owned()];
    let mongod = Mongod::start(MongodOptions { arguments, ..Default::default() }).await.unwrap();
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, "check_shard_own").await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    about(&check(&home, 0).await, "note", "connection", "a shard (--shardsvr)");
    home.backfill().await;
    place.assert_same(&home).await;
}

/// "every finding says what to do"; a server that is down does not hide errors of the other.
#[tokio::test]
async fn one_side_away_hides_nothing_of_the_other() {
    let (place, mut home) = place("away").await;
    home.set("target.uri", "postgresql://user:s3cret@127.0.0.1:9/shop");
    home.set("source.include", vec![format!("{}.odrers", place.name)]);
    let report = check(&home, 1).await;
    about(&report, "problem", "connection", "connect to PostgreSQL at 127.0.0.1:9");
    let idle = about(&report, "problem", &format!("include {}.odrers", place.name), "matches no collection");
    assert_eq!(idle["advice"], format!("is {}.orders meant?", place.name));

    home.set("target.uri", place.postgres_uri.as_str());
    home.set("source.include", vec![format!("{}.*", place.name)]);
    home.set("source.uri", "mongodb://user:s3cret@127.0.0.1:9/?authSource=admin");
    let report = check(&home, 1).await;
    let problem = only(&report, "problem");
    assert!(problem["what"].as_str().unwrap().contains("check host and port"), "{problem}");
    about(&report, "ok", "connection", &postgresql(&place).await);
    about(&report, "ok", "mapping files", "0 in schemas");

    home.set("target.uri", "mysql://user:s3cret@db/x");
    let report = check(&home, 1).await;
    assert_eq!(of(&report, "problem").len(), 2, "{report:#}");
    assert!(!report.to_string().contains("s3cret"));
    // What can't be read at all is no finding.
    home.set("stream.order", "random");
    home.finish(&["check"]).await.with_code(2);
    assert_untouched(&place, &home).await;
}

/// "mapping dry run with counts of misfits by path", without values (G12).
#[tokio::test]
async fn documents_are_tried() {
    let (place, mut home) = place("documents").await;
    let orders = place.collection("orders");
    let odd = |total: &str| doc! { "_id": ObjectId::new(), "total": total, "note": "gq7k" };
    orders.insert_many([odd("gq7k1"), odd("gq7k2")]).await.unwrap();
    orders
        .insert_many((100..103).map(|id| doc! { "_id": id, "total": "gq7k", "lines": ["gq7k"] }))
        .await
        .unwrap();
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\n\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\n\
         [columns]\ntotal = {{ path = 'total', type = 'double precision' }}\n\n\
         [[tables]]\ntable = 'lines'\npath = 'lines[]'\nparent = 'order_id'\nordinals = ['line']\n\
         columns = {{ item = {{ path = 'item', type = 'text' }} }}\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    let name = format!("{}.orders", place.name);
    let report = check(&home, 0).await;
    let tried = about(
        &report,
        "note",
        &name,
        "25 of about 25 documents tested (tables: 2): 20 fit, 2 would be dead letters",
    );
    let expected = json!([
        { "path": "_id", "type": null, "count": 2, "fate": "a dead letter: the _id does not fit the type of the key column" },
        { "path": "lines[]", "type": "string", "count": 3, "fate": "does not fit: to _extra" },
        { "path": "total", "type": "string", "count": 3, "fate": "does not fit: to _extra" },
    ]);
    assert_eq!(tried["misfits"], expected, "{tried:#}");
    assert!(!report.to_string().contains("gq7k"), "{report:#}");
    let text = home.finish(&["check", "--size", "25"]).await.with_code(0).out;
    assert!(text.contains("total: 3 × string, does not fit: to _extra\n"), "{text}");
    assert!(!text.contains("gq7k"), "{text}");

    // The first one stops it.
    home.map("orders.toml", &mapping.replace("extra = '_extra'", "extra = '_extra'\non_unfit = 'fail'"));
    let report = check(&home, 1).await;
    about(&report, "problem", &name, "5 can't have rows, and the first would stop the collection");
    home.map("orders.toml", &mapping);

    // More than a collection may have.
    home.set("mapping.max_dead_letters", 1);
    let report = check(&home, 1).await;
    assert_eq!(only(&report, "problem")["subject"], name);
    assert_untouched(&place, &home).await;
    // It is as reported.
    home.set("mapping.max_dead_letters", 2);
    home.finish(&["backfill"]).await.with_code(1);
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(2));
    let noted = "SELECT count(*) FROM orders WHERE _extra ? 'total' AND _extra ? 'lines.0'";
    assert_eq!(place.number(noted).await, Some(3));
}

#[tokio::test]
async fn mapping_files_are_all_looked_at() {
    let (place, home) = place("files").await;
    home.map("broken.toml", "collection = \n");
    home.map("wrong.toml", "collection = 'x.y'\ntabel = 'y'\n");
    let mapping = format!(
        "collection = '{}.odrers'\ntable = 'o'\nextra = '_extra'\n\n[key]\ncolumn = 'id'\ntype = 'text'\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    let report = check(&home, 1).await;
    about(&report, "problem", "mapping files", "broken.toml:1");
    about(&report, "problem", "mapping files", "did you mean \"table\"?");
    let meant = format!("does not exist: is {}.orders meant?", place.name);
    about(&report, "problem", "mapping files", &meant);
    about(&report, "ok", "connection", &postgresql(&place).await);
    assert_untouched(&place, &home).await;
}

/// Trap: "Views, time-series, system collections … refused by name in `check`, with the reason".
#[tokio::test]
async fn what_cannot_be_replicated_is_said() {
    let (place, mut home) = place("kinds").await;
    let database = place.database();
    database.create_collection("a_view").view_on("orders".to_owned()).pipeline(Vec::new()).await.unwrap();
    let named = |name: &str| format!("{}.{name}", place.name);
    let report = check(&home, 0).await;
    about(&report, "note", &named("a_view"), "left out: a view, which has no change stream");
    about(&report, "ok", "collections", "1 collection in");
    home.set("source.include", vec![named("orders"), named("a_view")]);
    let report = check(&home, 1).await;
    let refused = about(&report, "problem", &named("a_view"), "a view, which has no change stream");
    assert_eq!(refused["advice"], "remove it from include");
    home.finish(&["backfill"]).await.with_code(2);
}

/// A server that reports what it removes from a capped collection is one that needs no note.
#[tokio::test]
async fn rows_that_a_capped_collection_would_leave_are_noted() {
    let (place, home) = place("ring").await;
    place.database().create_collection("ring").capped(true).size(4096).max(2).await.unwrap();
    let report = check(&home, 0).await;
    let stays = lack(Capability::CappedDeletes).await.is_some();
    assert_eq!(report.to_string().contains("capped"), stays, "{report:#}");
}

/// Before `run` does.
#[tokio::test]
async fn a_server_that_cannot_read_the_past_is_no_source_in_the_order_of_commits() {
    let (place, mut home) = place("past").await;
    home.set("stream.order", "commit");
    let refused = lack(Capability::StatesOfThePast).await.is_some();
    let report = check(&home, i32::from(refused)).await;
    if refused {
        about(&report, "problem", "stream.order", "set [stream] order = \"document\"");
    }
    let ended = home.finish(&["backfill"]).await.with_code(if refused { 3 } else { 0 });
    assert_eq!(
        ended.log.contains("read several documents as they were at one time"),
        refused,
        "{}",
        ended.log
    );
    drop(place);
}

#[tokio::test]
async fn a_time_series_is_left_out_and_that_is_said() {
    if lacks(Capability::TimeSeries).await {
        return;
    }
    let (place, home) = place("series").await;
    let series = TimeseriesOptions::builder().time_field("at".to_owned()).build();
    place.database().create_collection("a_series").timeseries(series).await.unwrap();
    let report = check(&home, 0).await;
    about(&report, "note", &format!("{}.a_series", place.name), "left out: a time-series collection");
    about(&report, "ok", "collections", "1 collection in");
}

#[tokio::test]
async fn a_capped_collection_loses_its_rows() {
    if lacks(Capability::CappedDeletes).await {
        return;
    }
    let (place, home) = place("capped").await;
    place.add_sentinels().await;
    place.database().create_collection("ring").capped(true).size(4096).max(2).await.unwrap();
    let ring = place.collection("ring");
    let mut docrow = home.run();
    for round in 0..3 {
        place.settle(&mut docrow).await;
        ring.insert_many([doc! { "_id": 2 * round }, doc! { "_id": 2 * round + 1 }]).await.unwrap();
    }
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM ring").await, Some(2));
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

#[tokio::test]
async fn tables_in_the_way_sessions_and_state() {
    let (place, mut home) = place("way").await;
    let session = place.postgres().await;
    session.batch_execute("CREATE TABLE orders (_id bigint, total numeric(9,2))").await.unwrap();
    let orders = format!("{}.orders", place.name);
    let report = check(&home, 1).await;
    let there = "found \"total\" numeric(9,2), wanted \"total\" double precision";
    let problem = about(&report, "problem", &orders, there);
    assert!(problem["advice"].as_str().unwrap().contains("docrow plan"), "{problem}");
    session.batch_execute("DROP TABLE orders").await.unwrap();

    let role = "DROP ROLE IF EXISTS docrow_check_few; CREATE ROLE docrow_check_few LOGIN CONNECTION LIMIT 3";
    session.batch_execute(role).await.unwrap();
    let grants = format!(
        "GRANT CREATE ON DATABASE {} TO docrow_check_few; GRANT CREATE, USAGE ON SCHEMA public TO docrow_check_few",
        place.name
    );
    session.batch_execute(&grants).await.unwrap();
    home.set("target.uri", place.postgres_uri.replace("//postgres@", "//docrow_check_few@"));
    let report = check(&home, 1).await;
    let what = only(&report, "problem")["what"].as_str().unwrap();
    assert!(what.contains("copiers + 4 workers") && what.ends_with("only 2 are free"), "{what}");

    home.set("target.uri", place.postgres_uri.as_str());
    home.set("state.dir", "docrow.toml/state");
    about(&check(&home, 1).await, "problem", "state directory", "can't be written");
    home.set("state.dir", "docrow-state");
    std::fs::create_dir(home.state()).unwrap();
    std::fs::write(home.state().join("pipeline"), "another\n").unwrap();
    about(&check(&home, 1).await, "problem", "state directory", "belongs to pipeline \"another\"");
}

#[tokio::test]
async fn hostile_names_do_not_reach_the_terminal() {
    let place = Place::shared("check_names").await;
    let name = "o\u{1b}[2J\"; DROP TABLE x; --";
    let documents = [doc! { "_id": 1, "\u{9b}a\u{202e}": "x" }, doc! { "_id": 2, "\u{9b}a\u{202e}": 1 }];
    place.database().collection::<Document>(name).insert_many(documents).await.unwrap();
    let home = Home::new(&place);
    let out = home.finish(&["check"]).await.with_code(0).quiet().out;
    assert!(!out.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{out}");
    assert!(out.contains(r"o\u001b[2J") && out.contains(r"\u009ba"), "{out}");
}
