//! G12: no log line, metric, error or panic contains a document's values or a password, however docrow fails,
//! and at any log level. `rules` tests what masks hide.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::bson::{Bson, Document, doc};

use crate::support::{Docrow, Ended, Home, Place, Proxy, RETRIES};

/// In every value and password, and nowhere else.
const SECRET: &str = "geheim";
/// In every `_id` that is a text: output about a document names it, a log does not.
const KEY: &str = "schluessel";

/// Two servers with passwords, full of secrets, and docrow between them.
struct Stage {
    mongod: Mongod,
    _postgres: Postgres,
    to_mongod: Proxy,
    to_postgres: Proxy,
    place: Place,
    home: Home,
}

impl Stage {
    async fn set() -> Self {
        let password = |of: &str| Some(format!("{SECRET}-{of}"));
        let options = MongodOptions { password: password("mongod"), ..Default::default() };
        let mongod = Mongod::start(options).await.unwrap();
        let options = PostgresOptions { password: password("postgres"), ..Default::default() };
        let postgres = Postgres::start(options).await.unwrap();
        let place = Place::on(&mongod.uri(), &postgres.uri("postgres"), "quiet").await;
        place.add_sentinels().await;
        for (name, documents) in [("people", people()), ("free", free()), ("strict", strict())] {
            place.collection(name).insert_many(documents).await.unwrap();
        }
        let (to_mongod, to_postgres) = (Proxy::to(mongod.port()).await, Proxy::to(postgres.port()).await);
        let mut home = Home::new(&place);
        home.set(
            "source.uri",
            to_mongod.uri(&mongod.uri()).replace("replicaSet=docrow", "directConnection=true"),
        );
        home.set("target.uri", to_postgres.uri(&place.postgres_uri));
        home.env("DOCROW_MASK_KEY", &format!("{SECRET}-pepper-and-more"));
        home.env("RUST_LOG", "trace");
        map(&home, &place, "people", "on_unfit = 'dead_letter'");
        map(&home, &place, "strict", "on_unfit = 'fail'");
        Self { mongod, _postgres: postgres, to_mongod, to_postgres, place, home }
    }

    /// Runs docrow to its end, which must be quiet, with this code.
    async fn finish(&self, arguments: &[&str], code: i32) -> Ended {
        look(self.home.finish(arguments).await.with_code(code))
    }

    async fn execute(&self, statements: &str) {
        self.place.postgres().await.batch_execute(statements).await.unwrap();
    }
}

fn map(home: &Home, place: &Place, name: &str, more: &str) {
    let mapping = format!(
        "collection = '{}.{name}'\ntable = '{name}'\nextra = '_extra'\n{more}\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\
         [columns]\nn = {{ path = 'n', type = 'bigint' }}\nname = {{ path = 'name', type = 'text' }}\n\
         mail = {{ path = 'mail', type = 'text', mask = 'sha256' }}\n",
        place.name
    );
    home.map(&format!("{name}.toml"), &mapping);
}

fn secret(what: impl std::fmt::Display) -> String {
    format!("{SECRET}-{what}")
}

fn person(id: impl Into<Bson>) -> Document {
    doc! { "_id": id, "n": 1, "name": secret("name"), "mail": secret("mail"), "deep": [{ "a": secret("deep") }] }
}

/// Some of them can't be mapped.
fn people() -> Vec<Document> {
    let mut people: Vec<_> = (0..50).map(person).collect();
    people.push(person(format!("{KEY}-1")));
    people.push(doc! { "_id": 100, "n": secret("number") });
    people.push(doc! { "_id": 101, "n": 1.5, "name": [secret("array")] });
    people
}

/// Documents of every shape that differ in what their fields hold.
fn free() -> Vec<Document> {
    let free = |id: i32| {
        let odd = if id % 2 == 0 { Bson::String(secret(id)) } else { doc! { "x": [secret(id)] }.into() };
        doc! { "_id": format!("{KEY}-{id}"), "odd": odd, "nul": format!("{SECRET}\0nul"), "name": secret("free") }
    };
    (0..50).map(free).collect()
}

fn strict() -> Vec<Document> {
    vec![doc! { "_id": 1, "n": 1, "name": secret("strict") }]
}

/// Asserts that nothing is revealed.
#[track_caller]
fn look(ended: Ended) -> Ended {
    for (text, words) in [(&ended.log, [SECRET, KEY].as_slice()), (&ended.out, &[SECRET])] {
        let line = text.lines().find(|line| words.iter().any(|word| line.contains(word)));
        assert_eq!(line, None, "a secret is revealed");
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    ended
}

/// A user's constraints on a table, which documents violate.
const DEMANDS: &str = "ALTER TABLE people ADD CONSTRAINT small CHECK (n < 1000);
    CREATE UNIQUE INDEX one_name ON people (name) WHERE n = 7;
    ALTER TABLE people ADD COLUMN made integer GENERATED ALWAYS AS (CASE WHEN n = 8 THEN name::integer END) STORED;
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'no %', NEW.name USING DETAIL = NEW.name, HINT = NEW.name; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON people FOR EACH ROW WHEN (NEW.n = 9) EXECUTE FUNCTION refuse()";

/// All errors while docrow runs.
#[tokio::test]
async fn secrets_are_told_by_no_failure_of_a_run() {
    let stage = Stage::set().await;
    stage.finish(&["plan"], 0).await;
    stage.finish(&["plan", "--apply"], 0).await;
    stage.execute(DEMANDS).await;
    let people = stage.place.collection("people");
    // Refused one by one during the snapshot, and then during the stream.
    let violate = async |ids: std::ops::Range<i32>| {
        for (id, n) in ids.zip([5000, 7, 7, 8, 9]) {
            people.update_one(doc! { "_id": id }, doc! { "$set": { "n": n } }).await.unwrap();
        }
    };
    violate(0..5).await;
    let mut docrow = stage.home.run();
    stage.place.settle(&mut docrow).await;
    violate(10..15).await;
    people.insert_many((200..210).map(|id| person(format!("{KEY}-{id}")))).await.unwrap();
    let new = doc! { "$set": { "grown": secret("new field"), "list": [{ "a": secret("new table") }] } };
    stage.place.collection("free").update_many(doc! {}, new).await.unwrap();
    // The whole collection is stopped.
    let unfit = doc! { "_id": 2, "n": secret("does not fit") };
    stage.place.collection("strict").insert_one(unfit).await.unwrap();
    cut_off(&stage, &mut docrow).await;
    docrow.logs("strict is stopped").await;
    stage.place.settle(&mut docrow).await;
    let ended = look(docrow.stop().await);
    for failure in
        ["(SQLSTATE 23514)", "(SQLSTATE 23505)", "(SQLSTATE 22P02)", "a trigger or function", RETRIES]
    {
        assert!(ended.log.contains(failure), "{failure} did not happen");
    }
    let letters = stage.place.number("SELECT count(*) FROM docrow.dead_letters").await;
    assert!(letters > Some(20), "{letters:?}");

    stage.finish(&["dead-letters", "list"], 0).await;
    stage.finish(&["dead-letters", "list", "--json"], 0).await;
    differ(&stage).await;
    lose_history(&stage).await;
    assert_state_holds_no_values(&stage.home.state());
}

/// Both connections are cut, and a server refuses its requests.
async fn cut_off(stage: &Stage, docrow: &mut Docrow) {
    for way in [&stage.to_postgres, &stage.to_mongod] {
        let tries = docrow.log().matches(RETRIES).count();
        way.refuse(true);
        way.cut();
        let update = doc! { "$set": { "name": secret("cut") } };
        stage.place.collection("free").update_many(doc! {}, update).await.unwrap();
        docrow.logs_times(RETRIES, tries + 1).await;
        way.refuse(false);
    }
}

/// Everything that `docrow verify` finds.
async fn differ(stage: &Stage) {
    stage
        .execute(
            "UPDATE free SET name = 'geheim-planted' WHERE _id LIKE '%-3'; DELETE FROM free WHERE _id LIKE '%-5'; \
             UPDATE people SET _extra = '{\"x\": \"geheim-planted\"}' WHERE id = 20; INSERT INTO people (id, n, name) VALUES (999, 1, 'geheim')",
        )
        .await;
    let ended = stage.finish(&["verify"], 1).await;
    assert!(ended.out.contains("differ") && ended.out.contains(KEY), "{}", ended.out);
}

/// The server says that the position is gone.
async fn lose_history(stage: &Stage) {
    let admin = stage.place.client.database("admin");
    let fail = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": { "errorCode": 286, "failCommands": ["aggregate"] },
    };
    admin.run_command(fail).await.unwrap();
    let ended = stage.finish(&["run"], 5).await;
    assert!(ended.log.contains("286"), "{}", ended.log);
    assert!(stage.mongod.pid().is_some());
}

/// Keys may be in it, and must: nothing else. And no other user can look.
fn assert_state_holds_no_values(state: &Path) {
    assert_eq!(fs::metadata(state).unwrap().permissions().mode() & 0o777, 0o700);
    let (mut folders, mut files) = (vec![state.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "a value is in {}", path.display());
            files += 1;
        }
    }
    assert!(files > 3, "{files}");
}

/// All errors before it starts.
#[tokio::test]
async fn secrets_are_told_by_no_failure_to_start() {
    let place = Place::shared("quiet_start").await;
    place.collection("free").insert_many(free()).await.unwrap();
    let hosts = |scheme: &str| {
        [
            format!("{scheme}://user:geheim@127.0.0.1:9/db"),
            format!("{scheme}://user:geheim@nowhere.invalid/db"),
            format!("{scheme}://user:gehe:im-geheim@127.0.0.1:9/db"),
            format!("{scheme}://user:geheim/geheim@127.0.0.1:9/db"),
            format!("{scheme}://user:geheim@geheim@127.0.0.1:9/db"),
            format!("{scheme}://user:geheim%zz@127.0.0.1:9/db"),
            format!("{scheme}://user:geheim@127.0.0.1:port/db"),
            format!("{scheme}://user:geheim@127.0.0.1:99999/db"),
            format!("{scheme}://user:geheim"),
            format!("{scheme}://user:geheim@"),
            format!("{scheme}://user:geheim@127.0.0.1:9/db?nonsense=1"),
            format!("{scheme}:user:geheim@127.0.0.1:9"),
            format!("{scheme}://user:geheim@127.0.0.1:9/db?connectTimeoutMS=x&connect_timeout=x"),
            "geheim".to_owned(),
            String::new(),
        ]
    };
    for (key, argument, scheme) in [
        ("source.uri", "--source", "mongodb"),
        ("source.uri", "--source", "mongodb+srv"),
        ("target.uri", "--target", "postgresql"),
    ] {
        for uri in hosts(scheme) {
            let mut home = Home::new(&place);
            home.env("RUST_LOG", "trace");
            // Both ways to give it.
            let ended = home.finish(&["run", &format!("{argument}={uri}")]).await;
            assert!(ended.code != Some(0), "{uri}");
            look(ended);
            home.set(key, uri.as_str());
            look(home.finish(&["plan"]).await);
        }
    }
}

/// A configuration that can't be read is not quoted where it holds a password.
#[tokio::test]
async fn secrets_are_told_by_no_failure_to_read_the_configuration() {
    let place = Place::shared("quiet_config").await;
    let home = Home::new(&place);
    let uri = "mongodb://user:geheim@127.0.0.1:9/db";
    for text in [
        format!("[source]\nuri = \"{uri}\n"),
        format!("[source]\nuri = {uri}\n"),
        format!("[source]\nuri = \"{uri}\" x\n"),
        format!("[source]\nuri = [\"{uri}\"]\n"),
        format!("[source]\nurl = \"{uri}\"\n"),
        format!("[source]\nuri = \"{uri}\"\nuri = \"{uri}\"\n"),
        format!("[source]\nuri = \"{uri}${{\"\n"),
        format!("[source]\nuri = \"{uri}${{DOCROW_TEST_NOT_SET}}\"\n"),
        format!("source = \"{uri}\"\n"),
        format!("[source]\nuri = \"{uri}\\q\"\n"),
        format!("[source]\ninclude = \"{uri}\"\n"),
        format!("[target]\nuri = \"{uri}\"\nschema = \"x\"\n[source]\nuri = \"{uri}\"\n"),
    ] {
        fs::write(home.path().join("docrow.toml"), &text).unwrap();
        for command in ["run", "verify", "plan"] {
            let ended = look(home.finish(&[command]).await);
            assert!(ended.code != Some(0), "{text}");
        }
    }
}

/// A password that is refused, and a sample that is written down.
#[tokio::test]
async fn secrets_are_told_by_no_refusal_and_no_sample() {
    let stage = Stage::set().await;
    stage.finish(&["infer", "--print", &format!("{}.free", stage.place.name)], 0).await;
    for (key, code) in [("source.uri", 3), ("target.uri", 4)] {
        let mut home = Home::new(&stage.place);
        home.env("RUST_LOG", "trace");
        home.env("DOCROW_MASK_KEY", &format!("{SECRET}-{SECRET}-{SECRET}"));
        let right = if key == "source.uri" { &stage.place.mongodb_uri } else { &stage.place.postgres_uri };
        home.set(key, right.replace(&format!("{SECRET}-"), &format!("{SECRET}-not-")));
        for command in ["run", "backfill", "verify"] {
            look(home.finish(&[command]).await.with_code(code));
        }
    }
    // The user loses its password while docrow runs.
    let mut docrow = stage.home.run();
    stage.place.settle(&mut docrow).await;
    stage.execute("ALTER ROLE postgres PASSWORD 'geheim-other'").await;
    stage.to_postgres.cut();
    let ended = look(docrow.ended().await.with_code(4));
    assert!(ended.log.contains("28P01"), "{}", ended.log);
}
