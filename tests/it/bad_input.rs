//! What can't work is said at once: one line that names what, where and what to do, the right exit code, and nothing half
//! written (DESIGN 3). Servers that are too old are tested where their versions are judged.

use std::{fs, time::Duration};

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::bson::doc;
use tokio::time::Instant;

use crate::support::{Ended, Home, Place};

/// What a person is willing to wait for an error.
const SECONDS: Duration = Duration::from_secs(20);

async fn place(test: &str) -> Place {
    let place = Place::shared(&format!("bad_{test}")).await;
    place.collection("orders").insert_one(doc! { "_id": 1, "secret": "gq7k" }).await.unwrap();
    place
}

/// Runs `docrow run` and `docrow backfill`, which must both refuse with `code` and an error that has all the `parts`,
/// and leave nothing behind.
async fn assert_refused(place: &Place, home: &Home, code: i32, parts: &[&str]) {
    for command in ["run", "backfill"] {
        let ended = refused(home, command, code, parts).await;
        let written = "SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'";
        assert_eq!(place.number(written).await, Some(0), "{}", ended.log);
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(place.number(tables).await, Some(0), "{}", ended.log);
        assert!(!home.state().exists(), "{}", ended.log);
    }
}

async fn refused(home: &Home, command: &str, code: i32, parts: &[&str]) -> Ended {
    let started = Instant::now();
    let ended = home.finish(&[command]).await.with_code(code);
    assert!(started.elapsed() < SECONDS, "said after {:?}: {}", started.elapsed(), ended.log);
    let error = ended.error();
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(!ended.log.contains("gq7k") && !ended.log.contains("s3cret"), "{}", ended.log);
    ended
}

#[tokio::test]
async fn a_wrong_source_host() {
    let place = place("source_host").await;
    let mut home = Home::new(&place);
    home.set("source.uri", "mongodb://user:s3cret@127.0.0.1:9/?authSource=admin");
    assert_refused(
        &place,
        &home,
        3,
        &["connect to MongoDB at 127.0.0.1:9", "refused", "check host and port"],
    )
    .await;
    home.set("source.uri", "mongodb://user:s3cret@nowhere.invalid/");
    assert_refused(&place, &home, 3, &["nowhere.invalid", "check"]).await;
}

#[tokio::test]
async fn a_wrong_target_host() {
    let place = place("target_host").await;
    let mut home = Home::new(&place);
    home.set("target.uri", "postgresql://user:s3cret@127.0.0.1:9/shop");
    let parts = ["connect to PostgreSQL at 127.0.0.1:9", "refused", "is PostgreSQL running there"];
    assert_refused(&place, &home, 4, &parts).await;
    home.set("target.uri", "postgresql://user:s3cret@nowhere.invalid/shop");
    assert_refused(&place, &home, 4, &["nowhere.invalid:5432"]).await;
}

#[tokio::test]
async fn a_uri_of_the_wrong_kind() {
    let place = place("uri_kind").await;
    let mut home = Home::new(&place);
    home.set("source.uri", place.postgres_uri.as_str());
    assert_refused(&place, &home, 2, &["source", "mongodb://"]).await;
    home.set("source.uri", place.mongodb_uri.as_str());
    home.set("target.uri", place.mongodb_uri.as_str());
    assert_refused(&place, &home, 2, &["target", "postgresql://"]).await;
}

#[tokio::test]
async fn a_wrong_source_password() {
    let place = place("source_password").await;
    let options = MongodOptions { password: Some("right".to_owned()), ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("source.uri", mongod.uri().replace("right", "s3cret"));
    let at = format!("127.0.0.1:{}", mongod.port());
    assert_refused(&place, &home, 3, &[&at, "check user, password and authSource"]).await;
    home.set("source.uri", mongod.uri().replace("postgres:right@", ""));
    assert_refused(&place, &home, 3, &[&at, "name a user in the URI and grant it the role"]).await;
}

#[tokio::test]
async fn a_wrong_target_password() {
    let place = place("target_password").await;
    let options = PostgresOptions { password: Some("right".to_owned()), ..Default::default() };
    let postgres = Postgres::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", postgres.uri("postgres").replace("right", "s3cret"));
    let at = format!("127.0.0.1:{}", postgres.port());
    assert_refused(&place, &home, 4, &[&at, "check user and password in the target URI"]).await;
}

#[tokio::test]
async fn a_standalone_mongod() {
    let place = place("standalone").await;
    let options = MongodOptions { replica_set: false, ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("source.uri", mongod.uri());
    let at = format!("127.0.0.1:{}", mongod.port());
    assert_refused(&place, &home, 3, &[&at, "not a replica set member", "start mongod with --replSet"]).await;
}

#[tokio::test]
async fn a_missing_target_database() {
    let place = place("database").await;
    let mut home = Home::new(&place);
    home.set("target.uri", format!("{}_absent", place.postgres_uri));
    let absent = format!("{}_absent", place.name);
    assert_refused(&place, &home, 4, &[&absent, "CREATE DATABASE"]).await;
}

#[tokio::test]
async fn no_privilege_to_create() {
    let place = place("privilege").await;
    let role = "DROP ROLE IF EXISTS docrow_bad_privilege; CREATE ROLE docrow_bad_privilege LOGIN";
    place.postgres().await.batch_execute(role).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", place.postgres_uri.replace("//postgres@", "//docrow_bad_privilege@"));
    let grant = format!("GRANT CREATE ON DATABASE \"{}\" TO \"docrow_bad_privilege\"", place.name);
    assert_refused(&place, &home, 4, &[&grant]).await;
    place.postgres().await.batch_execute(&grant).await.unwrap();
    let grant = "GRANT USAGE, CREATE ON SCHEMA \"public\" TO \"docrow_bad_privilege\"";
    assert_refused(&place, &home, 4, &[grant]).await;
    // What the messages say to do is enough.
    place.postgres().await.batch_execute(grant).await.unwrap();
    home.backfill().await;
    place.assert_same(&home).await;
}

#[tokio::test]
async fn a_configuration_that_is_wrong() {
    let place = place("configuration").await;
    for (key, value, parts) in [
        ("source.inclued", "x", ["docrow.toml", "inclued", "include"]),
        ("stream.batch_age", "soon", ["docrow.toml", "stream.batch_age", "50ms"]),
        ("stream.order", "random", ["docrow.toml", "stream.order", "\"document\""]),
        ("target.schema", "", ["docrow.toml", "target.schema", "1 to 63 bytes"]),
        ("name", "${DOCROW_TEST_NOT_SET}", ["docrow.toml", "name", "DOCROW_TEST_NOT_SET is not set"]),
    ] {
        let mut home = Home::new(&place);
        home.set(key, value);
        assert_refused(&place, &home, 2, &parts).await;
    }
    let mut home = Home::new(&place);
    home.set("stream.partitions", 0);
    assert_refused(&place, &home, 2, &["docrow.toml", "stream.partitions", "not between 1 and 64"]).await;
}

/// No key is ignored: what a later version serves is refused until then.
#[tokio::test]
async fn what_is_not_supported_yet() {
    let place = place("not_yet").await;
    for (key, value) in [
        ("source.full_document", "update_lookup"),
        ("source.full_document", "post_image"),
        ("serve.listen", "127.0.0.1:8745"),
    ] {
        let mut home = Home::new(&place);
        home.set(key, value);
        let parts = ["docrow.toml", key, "not supported yet"];
        let ended = refused(&home, "run", 2, &parts).await;
        assert!(!home.state().exists(), "{}", ended.log);
    }
}

#[tokio::test]
async fn no_configuration_at_all() {
    let place = place("nothing").await;
    let home = Home::new(&place);
    fs::remove_file(home.path().join("docrow.toml")).unwrap();
    assert_refused(&place, &home, 2, &["docrow.toml", "--source and --target"]).await;
    let ended = home.finish(&["run", "--config", "elsewhere.toml"]).await.with_code(2);
    assert!(ended.error().contains("elsewhere.toml"), "{}", ended.log);
    let ended = home.finish(&["run", "--sauce", "x"]).await.with_code(2);
    assert!(ended.log.contains("--source"), "{}", ended.log);
}

#[tokio::test]
async fn an_include_that_matches_nothing() {
    let place = place("include").await;
    let mut home = Home::new(&place);
    let glob = format!("{}.odrers*", place.name);
    home.set("source.include", vec![glob.clone()]);
    let there = format!("{}.orders", place.name);
    assert_refused(&place, &home, 2, &[&glob, &there]).await;
}

#[tokio::test]
async fn a_mapping_file_that_is_wrong() {
    let place = place("mapping").await;
    for (text, parts) in [
        ("collection = 'x.y'\ntabel = 'y'\n", ["orders.toml", "tabel", "table"]),
        ("collection = \n", ["orders.toml:1", "string", "quoted"]),
    ] {
        let home = Home::new(&place);
        home.map("orders.toml", text);
        let ended = refused(&home, "run", 2, &parts[..2]).await;
        assert!(ended.error().contains(parts[2]), "{}", ended.log);
    }
}

/// Tests may run as root, who may write everywhere; but not below a file.
#[tokio::test]
async fn a_state_directory_that_cannot_be_written() {
    let place = place("state").await;
    let mut home = Home::new(&place);
    home.set("state.dir", "docrow.toml/state");
    assert_refused(&place, &home, 2, &["docrow.toml/state", "--state"]).await;
}

#[tokio::test]
async fn a_state_directory_of_another_pipeline() {
    let place = place("state_other").await;
    let mut home = Home::new(&place);
    home.backfill().await;
    home.set("name", "another");
    refused(&home, "run", 2, &["docrow-state", "pipeline \"docrow\"", "\"another\"", "--state"]).await;
    assert_eq!(place.number("SELECT count(*) FROM docrow.pipelines").await, Some(1));
}

/// G9: a second process with the same pipeline is refused, with the same state directory or another; the first goes on.
#[tokio::test]
async fn a_second_process() {
    let place = place("second").await;
    place.add_sentinels().await;
    let (home, other) = (Home::new(&place), Home::new(&place));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    refused(&home, "run", 6, &["docrow-state", "another docrow process", "--state"]).await;
    refused(&other, "run", 6, &["pipeline docrow", "stop the other process", "another name"]).await;
    refused(&other, "backfill", 6, &["pipeline docrow"]).await;
    place.collection("orders").insert_one(doc! { "_id": 2 }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
    // Free again.
    other.backfill().await;
}
