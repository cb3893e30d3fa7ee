//! SIGHUP: a running docrow reloads a changed configuration, mapping files and secrets; collections are added
//! and removed without a restart, and `docrow forget` removes what is stored about removed ones.

use std::fs;

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{Code, Docrow, Home, Place, RETRIES, status::of};

/// A place with sentinels and two collections.
async fn place(test: &str) -> Place {
    let place = Place::shared(&format!("reload_{test}")).await;
    fill(&place).await;
    place
}

async fn fill(place: &Place) {
    place.add_sentinels().await;
    for name in ["orders", "people"] {
        let documents = (0..20).map(|id| doc! { "_id": id, "mail": "ada@example.org", "n": 0 });
        place.collection(name).insert_many(documents).await.unwrap();
    }
}

/// Sends SIGHUP, and waits for the result.
async fn hang_up(docrow: &mut Docrow, said: &str) {
    let times = docrow.log().matches(said).count();
    docrow.signal("HUP").await;
    docrow.logs_times(said, times + 1).await;
}

/// Collections are excluded and included again while docrow runs: an excluded one is no longer followed at
/// once and does not count; it resumes when it is included again, and is new once it was forgotten.
#[tokio::test]
async fn collections_come_and_go_without_a_restart() {
    let place = place("set").await;
    let mut home = Home::new(&place);
    let people = format!("{}.people", place.name);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let pid = docrow.pid();
    let refused = home.finish(&["forget", &people]).await.with_code(2).coded(Code::StillFollowed);
    assert!(refused.error().contains("remove it from include"), "{}", refused.log);

    home.set("source.exclude", vec![people.clone()]);
    hang_up(&mut docrow, "SIGHUP: reloaded: source.exclude; ").await;
    docrow.logs(&format!("{people} is no longer followed, because it is not included")).await;
    place.collection("people").update_many(doc! {}, doc! { "$set": { "n": 1 } }).await.unwrap();
    place.settle(&mut docrow).await;
    let found = home.status().await;
    let left = of(&found, "people");
    assert_eq!((&left["absent"], &left["lag_seconds"]), (&"excluded".into(), &Value::Null), "{left:#}");
    let words = found["health"]["words"].as_str().unwrap();
    assert!(words.contains("all 2 collections"), "{words}");
    let table = home.finish(&["status"]).await.with_code(0).out;
    assert!(table.contains("no longer followed"), "{table}");
    assert_eq!(place.number("SELECT count(*) FROM people WHERE n = 1").await, Some(0));

    // It resumes where it was: nothing is copied again.
    home.unset("source.exclude");
    hang_up(&mut docrow, "SIGHUP: reloaded: source.exclude; ").await;
    let applied = "SELECT count(*) FROM people WHERE n = 1";
    docrow.until("its changes are applied", async || place.number(applied).await == Some(20)).await;
    assert_eq!(docrow.log().matches("people: about 20 documents to copy").count(), 1, "{}", docrow.log());

    // Forgotten, its tables no longer belong to docrow; dropped, it is new.
    home.set("source.exclude", vec![people.clone()]);
    hang_up(&mut docrow, "SIGHUP: reloaded: source.exclude; ").await;
    docrow.logs_times("people is no longer followed", 2).await;
    let said = home.finish(&["forget", "*.people", "--drop"]).await.with_code(0).quiet().out;
    assert!(said.contains(&format!("forgotten: {people}")) && said.contains("dropped"), "{said}");
    assert_eq!(of(&home.status().await, "people"), &Value::Null);
    assert_eq!(place.number("SELECT count(*) FROM people").await, None);
    let stored = "SELECT (SELECT count(*) FROM docrow.schemas WHERE collection LIKE '%people') \
        + (SELECT count(*) FROM docrow.chunks WHERE collection LIKE '%people') \
        + (SELECT count(*) FROM docrow.progress WHERE collection LIKE '%people')";
    assert_eq!(place.number(stored).await, Some(0));
    home.unset("source.exclude");
    hang_up(&mut docrow, "SIGHUP: reloaded: source.exclude; ").await;
    docrow.until("it is copied", async || place.number(applied).await == Some(20)).await;
    assert_eq!(docrow.pid(), pid);
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Forgotten without `--drop`, its tables stay, and docrow does not write to them.
#[tokio::test]
async fn what_is_forgotten_may_leave_its_tables() {
    let place = place("keep").await;
    let mut home = Home::new(&place);
    home.backfill().await;
    home.set("source.exclude", vec![format!("{}.people", place.name)]);
    home.finish(&["forget", &format!("{}.people", place.name)]).await.with_code(2).coded(Code::StillFollowed);
    home.backfill().await;
    let ended = home.finish(&["forget", "*.orders"]).await.with_code(2).coded(Code::NothingMatched);
    assert!(ended.error().contains(".people"), "{}", ended.log);
    let said = home.finish(&["forget", "*"]).await.with_code(0).quiet().out;
    assert!(said.contains("its tables stay as they are") && !said.contains("orders"), "{said}");
    assert_eq!(place.number("SELECT count(*) FROM people").await, Some(20));
    assert_eq!(home.status().await["collections"].as_array().unwrap().len(), 2);
    home.finish(&["forget", "*"]).await.with_code(2).coded(Code::NothingMatched);
    home.backfill().await;
}

/// A mapping file with additions, new limits, and settings that need a restart: each is reported.
#[tokio::test]
async fn mapping_files_and_limits_are_taken_up() {
    let place = place("files").await;
    let mut home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.people'\ntable = 'people'\nextra = '_extra'\n[key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\n",
        place.name
    );
    home.map("people.toml", &mapping);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    hang_up(&mut docrow, "SIGHUP: there is nothing to reload").await;

    home.map("people.toml", &format!("{mapping}mail = {{ path = 'mail', type = 'text' }}\n"));
    home.set("stream.batch_rows", 10);
    home.set("stream.partitions", 7);
    home.set("name", "other");
    docrow.signal("HUP").await;
    docrow.logs("changed, but needs a restart: name, stream.partitions").await;
    docrow.logs("SIGHUP: reloaded: stream.batch_rows, mapping files (schemas/people.toml)").await;
    let filled = "SELECT count(*) FROM people WHERE mail = 'ada@example.org'";
    docrow.until("the new column is filled", async || place.number(filled).await == Some(20)).await;
    home.unset("name");
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["changed, but needs a restart"]);
}

/// What a start would refuse is refused, with the reason, and everything continues as before.
#[tokio::test]
async fn what_is_wrong_is_not_taken_up() {
    let place = place("wrong").await;
    let mut home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.people'\ntable = 'people'\nextra = '_extra'\n[key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\n\
         mail = {{ path = 'mail', type = 'text', mask = 'redact' }}\n",
        place.name
    );
    home.map("people.toml", &mapping);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let refused = "the configuration is rejected, and docrow continues as before: ";
    let file = home.path().join("docrow.toml");
    let right = fs::read_to_string(&file).unwrap();
    fs::write(&file, "name = ").unwrap();
    hang_up(&mut docrow, &format!("{refused}docrow.toml:1")).await;
    fs::write(&file, &right).unwrap();
    home.set("source.include", vec!["nowhere.*"]);
    hang_up(&mut docrow, &format!("{refused}include nowhere.*: no collection")).await;
    home.set("source.include", vec![format!("{}.*", place.name)]);
    // It would drop a column, omit masks, or be for no collection.
    for (text, said) in [
        (mapping.replace("mail = ", "address = "), "differs from the mapping"),
        ("collection = ".to_owned(), "schemas/people.toml:1"),
        (mapping.replace(".people", ".peolpe"), ".people meant?"),
    ] {
        home.map("people.toml", &text);
        let times = docrow.log().matches(said).count();
        docrow.signal("HUP").await;
        docrow.logs_times(said, times + 1).await;
    }
    home.map("people.toml", &mapping);
    hang_up(&mut docrow, "SIGHUP: there is nothing to reload").await;
    place.collection("people").update_many(doc! {}, doc! { "$set": { "n": 1 } }).await.unwrap();
    place.settle(&mut docrow).await;
    // The independent comparison knows no masks.
    home.finish(&["verify"]).await.with_code(0).quiet();
    docrow.stop().await.quiet_but(&[refused]);
}

/// Passwords are changed on both servers: docrow reads the new ones, and uses them for connections from then
/// on.
#[tokio::test]
async fn new_passwords_are_taken_up() {
    let password = || Some("former".to_owned());
    let mongod = Mongod::start(MongodOptions { password: password(), ..Default::default() }).await.unwrap();
    let postgres =
        Postgres::start(PostgresOptions { password: password(), ..Default::default() }).await.unwrap();
    let place = Place::on(&mongod.uri(), &postgres.uri("postgres"), "reload_secrets").await;
    fill(&place).await;
    let mut home = Home::new(&place);
    for (key, uri) in [("source.uri", &place.mongodb_uri), ("target.uri", &place.postgres_uri)] {
        home.set(key, uri.replace(":former@", "@"));
    }
    let secret = home.path().join("password");
    fs::write(&secret, "former\n").unwrap();
    for side in ["SOURCE", "TARGET"] {
        home.env(&format!("DOCROW_{side}_PASSWORD_FILE"), secret.to_str().unwrap());
    }
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    // A wrong one is not reloaded.
    fs::write(&secret, "mistaken\n").unwrap();
    hang_up(&mut docrow, "the configuration is rejected, and docrow continues as before: ").await;

    let user = place.mongodb_uri.split("//").nth(1).unwrap().split(':').next().unwrap();
    let change = doc! { "updateUser": user, "pwd": "after" };
    place.client.database("admin").run_command(change).await.unwrap();
    let session = place.postgres().await;
    session.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'after'").await.unwrap();
    fs::write(&secret, "after\n").unwrap();
    hang_up(&mut docrow, "SIGHUP: reloaded: the login to MongoDB, the login to PostgreSQL").await;
    // All connections are opened again: the old password would be refused, and end docrow.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'docrow%'";
    session.batch_execute(end).await.unwrap();
    docrow.logs(RETRIES).await;
    place.collection("people").update_many(doc! {}, doc! { "$set": { "n": 5 } }).await.unwrap();
    let applied = "SELECT count(*) FROM people WHERE n = 5";
    let count = async || session.query_one(applied, &[]).await.unwrap().get::<_, i64>(0);
    docrow.until("changes are applied", async || count().await == 20).await;
    let ended = docrow.stop().await;
    assert!(!ended.log.contains("28P01"), "{}", ended.log);
    for password in ["former", "after", "mistaken"] {
        assert!(!ended.log.contains(password), "{}", ended.log);
    }
}

/// Flags that deployments set may come from the environment; those of the command line take precedence.
#[tokio::test]
async fn flags_may_come_from_the_environment() {
    let place = place("environment").await;
    let (home, mut elsewhere) = (Home::new(&place), Home::new(&place));
    let file = home.path().join("docrow.toml").display().to_string();
    fs::remove_file(elsewhere.path().join("docrow.toml")).unwrap();
    elsewhere.env("DOCROW_CONFIG", &file);
    elsewhere.env("DOCROW_STATE", "by-the-environment");
    elsewhere.env("DOCROW_INCLUDE", &format!("{}.{{orders,people}}", place.name));
    elsewhere.env("DOCROW_LOG_FORMAT", "json");
    let ended = elsewhere.finish(&["backfill"]).await.with_code(0);
    assert!(ended.log.lines().all(|line| line.starts_with('{')), "{}", ended.log);
    assert!(elsewhere.path().join("by-the-environment/pipeline").exists() && !home.state().exists());
    assert_eq!(home.status().await["collections"].as_array().unwrap().len(), 2);
    let ended = elsewhere.finish(&["backfill", "--state", "by-the-flag", "--log-format", "text"]).await;
    assert!(!ended.with_code(0).quiet().log.starts_with('{'));
    assert!(elsewhere.path().join("by-the-flag/pipeline").exists());
    elsewhere.env("DOCROW_STANDBY", "true");
    elsewhere.env("DOCROW_LOG_FORMAT", "text");
    let first = home.run();
    let mut first = first;
    place.settle(&mut first).await;
    let mut standby = elsewhere.run();
    standby.logs("standing by: pipeline docrow is run by").await;
    standby.stop().await.quiet();
    first.stop().await.quiet();
}
