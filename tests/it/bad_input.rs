//! Errors that can be detected are reported at once: one line that names what is wrong, where, and what to
//! do, the right exit code, and nothing half written (DESIGN 3). Servers that are too old are tested where
//! their versions are checked.

use std::{fs, time::Duration};

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::bson::doc;
use tokio::time::Instant;

use crate::support::{Ended, Home, Place};

/// How long a user is willing to wait for an error.
const SECONDS: Duration = Duration::from_secs(20);

async fn place(test: &str) -> Place {
    let place = Place::shared(&format!("bad_{test}")).await;
    place.collection("orders").insert_one(doc! { "_id": 1, "secret": "gq7k" }).await.unwrap();
    place
}

/// Runs `docrow run` and `docrow backfill`, which must both refuse with `code` and an error that contains all
/// `parts`, and leave nothing behind.
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
        &["[DRW-2101] connect to MongoDB at 127.0.0.1:9", "refused", "check host and port"],
    )
    .await;
    home.set("source.uri", "mongodb://user:s3cret@nowhere.invalid/");
    assert_refused(&place, &home, 3, &["DRW-2102", "nowhere.invalid", "check its spelling"]).await;
}

#[tokio::test]
async fn a_wrong_target_host() {
    let place = place("target_host").await;
    let mut home = Home::new(&place);
    home.set("target.uri", "postgresql://user:s3cret@127.0.0.1:9/shop");
    let parts = ["[DRW-3101] connect to PostgreSQL at 127.0.0.1:9", "refused", "is PostgreSQL running there"];
    assert_refused(&place, &home, 4, &parts).await;
    home.set("target.uri", "postgresql://user:s3cret@nowhere.invalid/shop");
    assert_refused(&place, &home, 4, &["DRW-3103", "nowhere.invalid:5432"]).await;
}

#[tokio::test]
async fn a_uri_of_the_wrong_kind() {
    let place = place("uri_kind").await;
    let mut home = Home::new(&place);
    home.set("source.uri", place.postgres_uri.as_str());
    assert_refused(&place, &home, 2, &["DRW-1109", "source", "mongodb://"]).await;
    home.set("source.uri", place.mongodb_uri.as_str());
    home.set("target.uri", place.mongodb_uri.as_str());
    assert_refused(&place, &home, 2, &["DRW-1110", "target", "postgresql://"]).await;
}

#[tokio::test]
async fn a_wrong_source_password() {
    let place = place("source_password").await;
    let options = MongodOptions { password: Some("right".to_owned()), ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("source.uri", mongod.uri().replace("right", "s3cret"));
    let at = format!("127.0.0.1:{}", mongod.port());
    assert_refused(&place, &home, 3, &["DRW-2201", &at, "check user, password and authSource"]).await;
    home.set("source.uri", mongod.uri().replace("postgres:right@", ""));
    assert_refused(&place, &home, 3, &["DRW-2202", &at, "name a user in the URI and grant it the role"])
        .await;
}

#[tokio::test]
async fn a_wrong_target_password() {
    let place = place("target_password").await;
    let options = PostgresOptions { password: Some("right".to_owned()), ..Default::default() };
    let postgres = Postgres::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", postgres.uri("postgres").replace("right", "s3cret"));
    let at = format!("127.0.0.1:{}", postgres.port());
    assert_refused(&place, &home, 4, &["DRW-3201", &at, "check user and password in the target URI"]).await;
    // None at all.
    home.set("target.uri", postgres.uri("postgres").replace(":right", ""));
    assert_refused(&place, &home, 4, &["DRW-3201", &at]).await;
}

#[tokio::test]
async fn a_standalone_mongod() {
    let place = place("standalone").await;
    let options = MongodOptions { replica_set: false, ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let mut home = Home::new(&place);
    home.set("source.uri", mongod.uri());
    let at = format!("127.0.0.1:{}", mongod.port());
    assert_refused(
        &place,
        &home,
        3,
        &["DRW-2203", &at, "not a replica set member", "start mongod with --replSet"],
    )
    .await;
}

#[tokio::test]
async fn a_missing_target_database() {
    let place = place("database").await;
    let mut home = Home::new(&place);
    home.set("target.uri", format!("{}_absent", place.postgres_uri));
    let absent = format!("{}_absent", place.name);
    assert_refused(&place, &home, 4, &["DRW-3202", &absent, "CREATE DATABASE"]).await;
}

#[tokio::test]
async fn no_privilege_to_create() {
    let place = place("privilege").await;
    // Without what everyone may do before 15.
    let role = "DROP ROLE IF EXISTS docrow_bad_privilege; CREATE ROLE docrow_bad_privilege LOGIN; \
        REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    place.postgres().await.batch_execute(role).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", place.postgres_uri.replace("//postgres@", "//docrow_bad_privilege@"));
    let create = "CREATE SCHEMA \"docrow\" AUTHORIZATION \"docrow_bad_privilege\"";
    assert_refused(&place, &home, 4, &["DRW-3203", create]).await;
    place.postgres().await.batch_execute(create).await.unwrap();
    let grant = "GRANT USAGE, CREATE ON SCHEMA \"public\" TO \"docrow_bad_privilege\"";
    for command in ["run", "backfill"] {
        refused(&home, command, 4, &["DRW-3203", grant]).await;
    }
    // Following the messages' advice is enough.
    place.postgres().await.batch_execute(grant).await.unwrap();
    home.backfill().await;
    place.assert_same(&home).await;
}

#[tokio::test]
async fn a_configuration_that_is_wrong() {
    let place = place("configuration").await;
    for (key, value, parts) in [
        ("source.inclued", "x", ["[DRW-1104] docrow.toml", "inclued", "include"]),
        ("stream.batch_age", "soon", ["[DRW-1106] docrow.toml", "stream.batch_age", "50ms"]),
        ("stream.order", "random", ["[DRW-1106] docrow.toml", "stream.order", "\"document\""]),
        ("target.schema", "", ["[DRW-1106] docrow.toml", "target.schema", "1 to 63 bytes"]),
        (
            "name",
            "${DOCROW_TEST_NOT_SET}",
            ["[DRW-1108] docrow.toml", "name", "DOCROW_TEST_NOT_SET is not set"],
        ),
    ] {
        let mut home = Home::new(&place);
        home.set(key, value);
        assert_refused(&place, &home, 2, &parts).await;
    }
    let mut home = Home::new(&place);
    home.set("stream.partitions", 0);
    assert_refused(&place, &home, 2, &["docrow.toml", "stream.partitions", "not between 1 and 64"]).await;
    let mut home = Home::new(&place);
    home.set("source.include", "shop.*");
    assert_refused(&place, &home, 2, &["[DRW-1103] docrow.toml", "expected a"]).await;
    fs::write(home.path().join("docrow.toml"), "name = 'x'").unwrap();
    assert_refused(&place, &home, 2, &["[DRW-1107] docrow.toml: source.uri: missing"]).await;
}

/// No key is ignored: a key of a later version is refused until then.
#[tokio::test]
async fn what_is_not_supported_yet() {
    let place = place("not_yet").await;
    for (key, value) in [("source.full_document", "update_lookup"), ("source.full_document", "post_image")] {
        let mut home = Home::new(&place);
        home.set(key, value);
        let parts = ["[DRW-1105] docrow.toml", key, "not supported yet"];
        let ended = refused(&home, "run", 2, &parts).await;
        assert!(!home.state().exists(), "{}", ended.log);
    }
}

#[tokio::test]
async fn no_configuration_at_all() {
    let place = place("nothing").await;
    let home = Home::new(&place);
    fs::remove_file(home.path().join("docrow.toml")).unwrap();
    assert_refused(&place, &home, 2, &["DRW-1101", "docrow.toml", "--source and --target"]).await;
    let ended = home.finish(&["run", "--config", "elsewhere.toml"]).await.with_code(2);
    assert!(ended.error().starts_with("[DRW-1102] read configuration elsewhere.toml"), "{}", ended.log);
    let ended = home.finish(&["run", "--sauce", "x"]).await.with_code(2);
    assert!(
        ended.log.starts_with("error [DRW-1001]: unexpected") && ended.log.contains("--source"),
        "{}",
        ended.log
    );
}

#[tokio::test]
async fn an_include_that_matches_nothing() {
    let place = place("include").await;
    let mut home = Home::new(&place);
    let glob = format!("{}.odrers*", place.name);
    home.set("source.include", vec![glob.clone()]);
    let there = format!("{}.orders", place.name);
    assert_refused(&place, &home, 2, &["DRW-1302", &glob, &there]).await;
    home.set("source.include", vec!["orders"]);
    assert_refused(&place, &home, 2, &["DRW-1301", "write database.collection"]).await;
    let view = doc! { "create": "seen", "viewOn": "orders", "pipeline": [] };
    place.database().run_command(view).await.unwrap();
    home.set("source.include", vec![format!("{}.seen", place.name)]);
    assert_refused(&place, &home, 2, &["DRW-1303", "it is a view"]).await;
}

/// `check` also reports settings that would have an unintended effect, or fail only at runtime.
#[tokio::test]
async fn a_place_that_cannot_be_meant() {
    let place = place("nowhere").await;
    let mut home = Home::new(&place);
    let everywhere = async |home: &Home, code: i32, parts: &[&str]| {
        assert_refused(&place, home, 2, parts).await;
        refused(home, "plan", 2, parts).await;
        let ended = home.finish(&["check"]).await.with_code(code);
        assert!(format!("{}{}", ended.out, ended.log).contains(parts[1]), "{}", ended.out);
    };
    let (server, _) = place.postgres_uri.rsplit_once('/').unwrap();
    home.set("target.uri", server);
    everywhere(&home, 1, &["DRW-1110", "the target URI names no database"]).await;
    home.set("target.uri", place.postgres_uri.as_str());
    home.set("target.schema", "docrow");
    everywhere(&home, 2, &["DRW-1106", "\"docrow\" can't have your tables"]).await;
}

#[tokio::test]
async fn a_mapping_file_that_is_wrong() {
    let place = place("mapping").await;
    for (text, parts) in [
        ("collection = 'x.y'\ntabel = 'y'\n", ["[DRW-1104] schemas/orders.toml:2", "tabel", "table"]),
        ("collection = \n", ["[DRW-1103] schemas/orders.toml:1", "string", "quoted"]),
    ] {
        let home = Home::new(&place);
        home.map("orders.toml", text);
        let ended = refused(&home, "run", 2, &parts[..2]).await;
        assert!(ended.error().contains(parts[2]), "{}", ended.log);
    }
    let name = &place.name;
    let head = |table: &str| format!("collection = '{name}.orders'\ntable = '{table}'\n");
    let file = |before: &str, columns: &str| {
        let key = "[key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\n";
        format!("{}{before}\n{key}{columns}\n", head("orders"))
    };
    let extra = "extra = '_extra'";
    let wide: String = (0..1600).map(|n| format!("c{n} = {{ path = 'c{n}', type = 'text' }}\n")).collect();
    for (text, parts) in [
        (file("extra = '_extra'\non_unfit = 'cry'", ""), ["DRW-1201", "on_unfit"]),
        (file(extra, "a = { path = 'b..c', type = 'text' }"), ["DRW-1202", "columns.a.path"]),
        (
            file(extra, "ID = { path = 'b', type = 'text' }"),
            ["DRW-1203", "differs from one in use only in case"],
        ),
        (file(extra, "a = { path = 'a', type = 'varchar' }"), ["DRW-1204", "varchar"]),
        (file("", ""), ["DRW-1205", "_extra"]),
        (file(extra, &wide), ["DRW-1206", "1600"]),
        (file(extra, "a = { path = 'a', type = 'text' }\n[document]"), ["DRW-1211", "[document]"]),
    ] {
        let home = Home::new(&place);
        home.map("orders.toml", &text);
        refused(&home, "run", 2, &parts).await;
    }
    let home = Home::new(&place);
    home.map("orders.toml", &file(extra, ""));
    home.map("again.toml", &file(extra, ""));
    refused(&home, "run", 2, &["DRW-1207", "has another mapping file"]).await;
    home.map("again.toml", &format!("optional = true\n{}", file(extra, "").replace(".orders", ".others")));
    refused(&home, "run", 2, &["DRW-1210", "another collection has a table of that name"]).await;
    fs::remove_file(home.path().join("schemas/again.toml")).unwrap();
    fs::create_dir(home.path().join("schemas/again.toml")).unwrap();
    refused(&home, "run", 2, &["DRW-1208", "schemas"]).await;
}

/// A mapping file that hides the secrets in `orders`.
fn masking(place: &Place) -> String {
    format!(
        "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\
         [columns]\nsecret = {{ path = 'secret', type = 'text', mask = 'redact' }}\n",
        place.name
    )
}

/// A mapping file that is not applied would silently omit its masks: it is refused before anything is
/// written, whatever the cause.
#[tokio::test]
async fn a_mapping_file_that_would_not_be_applied() {
    let place = place("unapplied").await;
    let mapping = masking(&place);
    let everywhere = async |home: &Home, parts: &[&str]| {
        assert_refused(&place, home, 2, parts).await;
        refused(home, "plan", 2, parts).await;
        let report = home.finish(&["check", "--json"]).await.with_code(1).quiet().out;
        assert!(parts[1..].iter().all(|part| report.contains(part)), "{parts:?}: {report}");
    };
    let mut home = Home::new(&place);
    home.set("mapping.dir", "mappings");
    everywhere(&home, &["DRW-1208", "mappings: No such file"]).await;
    home.unset("mapping.dir");
    home.map("orders.tml", &mapping);
    everywhere(&home, &["DRW-1213", "schemas/orders.tml", "rename it to schemas/orders.toml"]).await;
    fs::remove_file(home.path().join("schemas/orders.tml")).unwrap();
    let misspelt = mapping.replace(".orders", ".odrers");
    home.map("orders.toml", &misspelt);
    let meant = format!("is {}.orders meant?", place.name);
    everywhere(&home, &["DRW-1212", "schemas/orders.toml: it is for", &meant, "optional = true"]).await;
    home.set("source.exclude", vec![format!("{}.orders", place.name)]);
    place.collection("others").insert_one(doc! { "_id": 1 }).await.unwrap();
    home.map("orders.toml", &mapping);
    everywhere(&home, &["DRW-1212", "schemas/orders.toml: it is for", "which is not included"]).await;
    // It is created later.
    home.map("orders.toml", &format!("optional = true\n{mapping}"));
    home.backfill().await;
    home.unset("source.exclude");
    home.backfill().await;
    let shown = "SELECT count(*) FROM orders WHERE secret = '***'";
    assert_eq!(place.number(shown).await, Some(1));
    // A collection that was copied once is no mistake, even if it no longer exists.
    home.map("orders.toml", &mapping);
    place.collection("orders").drop().await.unwrap();
    home.finish(&["backfill"]).await.with_code(0).quiet_but(&["is gone from MongoDB"]);
}

/// Relative paths of the configuration are relative to it, wherever docrow is started: otherwise masks would
/// depend on that.
#[tokio::test]
async fn a_configuration_of_another_folder() {
    let place = place("elsewhere").await;
    let mapping = masking(&place);
    let (home, elsewhere) = (Home::new(&place), Home::new(&place));
    home.map("orders.toml", &mapping);
    let file = home.path().join("docrow.toml").display().to_string();
    for command in ["check", "plan", "backfill", "verify"] {
        elsewhere.finish(&["--config", &file, command]).await.with_code(0).quiet();
    }
    let shown = "SELECT count(*) FROM orders WHERE secret = '***' AND _extra IS NULL";
    assert_eq!(place.number(shown).await, Some(1));
    assert!(home.state().exists() && !elsewhere.state().exists());
}

/// A wrong kind of target is not fixed by waiting, either.
#[tokio::test]
async fn a_target_that_will_not_do() {
    let place = place("unfit").await;
    let (mut home, latin) = (Home::new(&place), format!("{}_latin", place.name));
    let session = place.postgres().await;
    session.batch_execute(&format!("DROP DATABASE IF EXISTS {latin}")).await.unwrap();
    let create = format!("CREATE DATABASE {latin} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    session.batch_execute(&create).await.unwrap();
    home.set("target.uri", place.postgres_uri.replace(&place.name, &latin));
    assert_refused(&place, &home, 4, &["DRW-3205", "LATIN1"]).await;
    session.batch_execute(&format!("DROP DATABASE {latin}")).await.unwrap();

    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", place.name);
    session.batch_execute(&read_only).await.unwrap();
    home.set("target.uri", place.postgres_uri.as_str());
    assert_refused(&place, &home, 4, &["DRW-3206", "read-only"]).await;
    let role = "DROP ROLE IF EXISTS docrow_bad_limit; CREATE ROLE docrow_bad_limit LOGIN CONNECTION LIMIT 0";
    session.batch_execute(role).await.unwrap();
    home.set("target.uri", place.postgres_uri.replace("//postgres@", "//docrow_bad_limit@"));
    assert_refused(&place, &home, 4, &["DRW-3106", "raise max_connections"]).await;
    let separator = if place.postgres_uri.contains('?') { '&' } else { '?' };
    let with = |option: &str| format!("{}{separator}{option}", place.postgres_uri);
    home.set("target.uri", with("sslmode=require"));
    assert_refused(&place, &home, 4, &["DRW-3207", "TLS"]).await;
    home.set("target.uri", with("sslmode=verify-ca&sslrootcert=absent.pem"));
    assert_refused(&place, &home, 2, &["DRW-1112", "absent.pem"]).await;
}

#[tokio::test]
async fn another_replica_set() {
    let place = place("set").await;
    let mut home = Home::new(&place);
    let separator = if place.mongodb_uri.contains('?') { '&' } else { '?' };
    let uri = place.mongodb_uri.replace("replicaSet=", "appName=");
    home.set("source.uri", format!("{uri}{separator}replicaSet=another"));
    assert_refused(&place, &home, 3, &["DRW-2205", "not another"]).await;
}

/// Tests may run as root, who may write everywhere, except below a file.
#[tokio::test]
async fn a_state_directory_that_cannot_be_written() {
    let place = place("state").await;
    let mut home = Home::new(&place);
    home.set("state.dir", "docrow.toml/state");
    assert_refused(&place, &home, 2, &["DRW-6003", "docrow.toml/state", "--state"]).await;
}

#[tokio::test]
async fn a_state_directory_of_another_pipeline() {
    let place = place("state_other").await;
    let mut home = Home::new(&place);
    home.backfill().await;
    home.set("name", "another");
    refused(&home, "run", 2, &["DRW-6004", "docrow-state", "pipeline \"docrow\"", "\"another\"", "--state"])
        .await;
    assert_eq!(place.number("SELECT count(*) FROM docrow.pipelines").await, Some(1));
}

/// G9: a second process with the same pipeline is refused, with the same state directory or another; the
/// first continues.
#[tokio::test]
async fn a_second_process() {
    let place = place("second").await;
    place.add_sentinels().await;
    let (home, other) = (Home::new(&place), Home::new(&place));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    refused(&home, "run", 6, &["DRW-5003", "docrow-state", "another docrow process", "--state"]).await;
    refused(&other, "run", 6, &["DRW-5001", "pipeline docrow", "stop the other process", "another name"])
        .await;
    refused(&other, "backfill", 6, &["pipeline docrow"]).await;
    place.collection("orders").insert_one(doc! { "_id": 2 }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
    // Free again.
    other.backfill().await;
}
