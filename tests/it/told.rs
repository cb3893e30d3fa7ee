//! What operators learn, from the log and from outside: while docrow can hardly connect, before history is
//! lost, and while a long chunk is copied.

use docrow::demo::servers::Mongod;
use mongodb::bson::{Timestamp, doc};
use serde_json::Value;

use crate::support::{Home, Place, http::get, oplog_start, roll_over, small_oplog, status::served};

/// A role that may have few connections: the process reports that it can't continue, and nothing claims that
/// it does not run.
#[tokio::test]
async fn a_role_with_few_connections_runs_the_pipeline_all_the_same() {
    for limit in [2, 6] {
        let (place, mut home) = served(&format!("told_limit_{limit}")).await;
        let (postgres, role) = (place.postgres().await, format!("{}_few", place.name));
        let make = format!(
            "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT {limit}; \
             GRANT CREATE, TEMPORARY ON DATABASE {name} TO {role}; GRANT USAGE, CREATE ON SCHEMA public TO {role}",
            name = place.name
        );
        postgres.batch_execute(&make).await.unwrap();
        let (_, server) = place.postgres_uri.rsplit_once('@').unwrap();
        home.set("target.uri", format!("postgres://{role}:few@{server}"));
        let outside = Home::new(&place);
        let mut docrow = home.run();
        docrow.logs("trying again").await;
        let (mut tries, mut last) = (0, Value::Null);
        docrow
            .until("it was seen to try again", async || {
                last = outside.status().await;
                assert_eq!(last["process"]["running"], true, "limit {limit}: {last}");
                let words = last["health"]["words"].as_str().unwrap();
                tries += i32::from(words.starts_with("retrying: [DRW-3106] "));
                tries >= 20
            })
            .await;
        docrow.stop().await;
        let drop = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
        postgres.batch_execute(&drop).await.unwrap();
    }
}

/// Stopped, and the oplog has moved on: lost history is reported before a run encounters it, and until then,
/// how long it is not lost.
#[tokio::test]
async fn lost_history_is_seen_before_a_run_meets_it() {
    let mongod = Mongod::start(small_oplog()).await.unwrap();
    let shared = Place::shared("told_postgres").await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, "told_foreseen").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    docrow.logs("live: 1 collection follows MongoDB").await;
    docrow.stop().await.quiet();
    let check =
        async || -> Value { serde_json::from_str(&home.finish(&["check", "--json"]).await.out).unwrap() };
    let found = home.status().await;
    let words = found["health"]["problems"].to_string();
    assert!(
        words.contains("no process runs this pipeline; it can still resume if started within about "),
        "{words}"
    );
    assert_eq!(found["source"]["oplog"]["is_history_lost"], false, "{found}");
    assert!(check().await.to_string().contains("the oplog holds the position to resume from, for about"));
    let now = u32::try_from(seconds(&found["source"]["time"])).unwrap();
    roll_over(&place.client, Timestamp { time: now + 1, increment: 0 }).await;
    let lost = home.status().await;
    let words = lost["health"]["words"].as_str().unwrap();
    assert!(words.starts_with("history is lost: ") && words.ends_with("docrow explain DRW-4000"), "{words}");
    assert!(oplog_start(&place.client).await.time > now, "it is");
    home.finish(&["status", "--exit-code"]).await.with_code(8).quiet();
    let report = check().await;
    let problem = |finding: &Value| finding["subject"] == "history" && finding["severity"] == "problem";
    assert!(report["findings"].as_array().unwrap().iter().any(problem), "{report:#}");
    // And a run encounters it.
    home.finish(&["run"]).await.with_code(5);
    let ended = home.status().await;
    assert!(ended["process"]["problem"].as_str().unwrap().starts_with("[DRW-40"), "{ended}");
}

/// A time in a document, in seconds since 1970.
fn seconds(time: &Value) -> u64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The log names source and target, and reports when the pipeline is live; it contains no password.
#[tokio::test]
async fn the_log_begins_with_what_is_done() {
    let (place, home) = served("told_log").await;
    let mut docrow = home.run();
    docrow.logs("live: 2 collections follow MongoDB").await;
    let log = docrow.log();
    let first = log.lines().find(|line| line.contains(" docrow ")).unwrap();
    assert!(first.ends_with(&format!("docrow {}: pipeline docrow", env!("CARGO_PKG_VERSION"))), "{log}");
    let second = log.lines().find(|line| line.contains(" from MongoDB ")).unwrap();
    for part in [", at ", ", to PostgreSQL ", &format!("database {}, schema public", place.name)] {
        assert!(second.contains(part), "{part}: {second}");
    }
    docrow.stop().await.quiet();
    // Resynced, and no row had to be changed.
    home.finish(&["resync", &format!("{}.orders", place.name)]).await.with_code(0);
    let ended = home.backfill().await;
    assert!(ended.log.contains("done: 50 documents copied again, 0 rows changed, "), "{}", ended.log);
    assert!(ended.log.contains(".orders: copied again, 0 rows changed, in "), "{}", ended.log);
}

/// On a slow network a chunk takes long: every figure shows its progress.
#[tokio::test]
async fn a_snapshot_goes_on_within_a_chunk() {
    let (place, mut home) = served("told_within").await;
    let padding = "x".repeat(100_000);
    let large = (0..100).map(|id| doc! { "_id": id, "padding": &padding });
    place.collection("large").insert_many(large).await.unwrap();
    home.set("snapshot.parallelism", 1);
    // One of the last documents of the only chunk waits, in the middle of the chunk's transaction.
    let postgres = place.postgres().await;
    let wait = "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7003); RETURN NEW; END $$; \
        CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF to_regclass('public.large') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'wait') THEN \
                CREATE TRIGGER wait BEFORE INSERT ON public.large FOR EACH ROW WHEN (NEW._id = 95) \
                    EXECUTE FUNCTION public.wait(); \
            END IF; END $$; \
        CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.watch(); \
        SELECT pg_advisory_lock(7003)";
    postgres.batch_execute(wait).await.unwrap();
    let mut docrow = home.run();
    let (address, mut last) = (docrow.address().await, Value::Null);
    docrow
        .until("some of the chunk is written", async || {
            last = get(&address, "/status").await.json();
            let snapshot = &last["collections"][1]["snapshot"];
            let documents = snapshot["documents"].as_u64().unwrap_or(0);
            let is_part = documents > 0 && documents < 100 && snapshot["bytes"].as_u64() > Some(0);
            is_part && (&snapshot["chunks"], &snapshot["chunks_copied"]) == (&1.into(), &0.into())
        })
        .await;
    let name = format!("docrow_snapshot_documents_done{{collection=\"{}.large\"}} ", place.name);
    let metrics = get(&address, "/metrics").await.body;
    let done: f64 = metrics.lines().find_map(|line| line.strip_prefix(&*name)?.parse().ok()).unwrap();
    assert!(done > 0.0 && done < 100.0, "{done}");
    postgres.batch_execute("SELECT pg_advisory_unlock(7003)").await.unwrap();
    docrow.logs("live: 3 collections follow MongoDB").await;
    docrow
        .until("all of the chunk is shown", async || {
            last = get(&address, "/status").await.json();
            last["collections"][1]["snapshot"]["documents"] == 100
        })
        .await;
    docrow.stop().await;
}
