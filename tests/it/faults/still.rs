//! Everything stalls, although nothing has failed: that is detected, reported, and ended; and what only looks
//! like it is not. And whatever hangs, docrow ends when it is stopped.

use std::time::Duration;

use mongodb::bson::doc;
use serde_json::Value;
use tokio::time::Instant;

use super::{change, fill};
use crate::support::{Code, Docrow, Home, Place, RETRIES, http::get};

/// The report of a stall.
const STILL: &str = "nothing has been applied for";

async fn scene(test: &str) -> (Place, Home) {
    let place = Place::shared(test).await;
    fill(&place).await;
    let mut home = Home::new(&place);
    home.set("stream.partitions", 1);
    home.serve();
    (place, home)
}

/// Changes something repeatedly until the status satisfies `condition`.
async fn writing_until(
    place: &Place,
    (docrow, address): (&mut Docrow, &str),
    what: &str,
    condition: impl Fn(&Value) -> bool,
) -> Value {
    let (mut round, mut status) = (0, Value::Null);
    docrow
        .until(what, async || {
            round += 1;
            let things = place.collection("things");
            things.update_one(doc! { "_id": 5 }, doc! { "$set": { "round": round } }).await.unwrap();
            status = get(address, "/status").await.json();
            condition(&status)
        })
        .await;
    status
}

fn words(status: &Value) -> &str {
    status["health"]["words"].as_str().unwrap_or_default()
}

async fn metric(address: &str, name: &str) -> Option<f64> {
    let metrics = get(address, "/metrics").await.body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// A future that is not polled, a lock that is not released: here, a worker that waits forever, and, after
/// starting over, once more.
#[tokio::test]
async fn standstill_of_a_worker_during_the_stream() {
    let (place, mut home) = scene("still_worker").await;
    home.set("stream.stall_after", "1s");
    home.env("DOCROW_FAILPOINT", "BatchBeforeCommit:12:hang:2");
    let mut docrow = home.run();
    let address = docrow.address().await;
    let still = |status: &Value| words(status).contains(STILL);
    let status = writing_until(&place, (&mut docrow, &address), "it stands still", still).await;
    assert_eq!(status["health"]["level"], "error", "{status}");
    let hindrance = status["process"]["hindrance"].as_str().unwrap();
    assert!(hindrance.contains("worker 0: writes a batch to PostgreSQL, for "), "{hindrance}");
    docrow.logs(" [DRW-9002] ").await;
    assert_eq!(get(&address, "/readyz").await.code, 503);
    assert!(metric(&address, "docrow_stalls_total").await >= Some(1.0));
    docrow.logs_times(" [DRW-9002] nothing has been applied", 2).await;
    place.settle(&mut docrow).await;
    let moves =
        |status: &Value| status["process"]["hindrance"].is_null() && words(status).contains("up to date");
    writing_until(&place, (&mut docrow, &address), "it goes on", moves).await;
    assert_eq!(get(&address, "/readyz").await.code, 200);
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&[STILL, RETRIES]).coded(Code::Stalled);
    assert_eq!(ended.log.matches("ERROR [DRW-9002]").count(), 2, "{}", ended.log);
}

/// The stream reader outlives attempts: it is replaced as well.
#[tokio::test]
async fn standstill_of_the_intake_during_the_snapshot() {
    let (place, mut home) = scene("still_intake").await;
    home.set("stream.stall_after", "1s");
    home.env("DOCROW_FAILPOINT", "SpoolBeforeWrite:1:hang");
    let mut docrow = home.run();
    let address = docrow.address().await;
    let still = |status: &Value| words(status).contains(STILL);
    let status = writing_until(&place, (&mut docrow, &address), "it stands still", still).await;
    assert!(words(&status).contains("the stream reader: puts changes into the spool"), "{status}");
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&[STILL, RETRIES]).coded(Code::Stalled);
}

/// Another session's lock blocks everything for longer than a stall may last: the table and the holder are
/// reported.
#[tokio::test]
async fn lock_on_a_table_held_for_long_during_the_stream() {
    let (place, mut home) = scene("still_locked").await;
    home.set("stream.stall_after", "1s");
    let mut docrow = home.run();
    let address = docrow.address().await;
    place.settle(&mut docrow).await;
    let somebody = place.postgres().await;
    somebody
        .batch_execute("SET application_name = 'a report'; BEGIN; LOCK TABLE things IN SHARE MODE")
        .await
        .unwrap();
    let locked = |status: &Value| words(status).contains("waits for a lock on");
    let status = writing_until(&place, (&mut docrow, &address), "the lock is seen", locked).await;
    let parts = [
        "things that another session holds (PostgreSQL process ",
        ", application a report, in a transaction since 20",
        "; this ends it: SELECT pg_terminate_backend(",
    ];
    for part in parts {
        assert!(words(&status).contains(part), "{part}: {status}");
    }
    // Far longer than the limit of a stall.
    let later = Instant::now() + Duration::from_secs(6);
    let is_later = |status: &Value| locked(status) && Instant::now() > later;
    writing_until(&place, (&mut docrow, &address), "it waits on", is_later).await;
    assert_eq!(get(&address, "/readyz").await.code, 200, "to end the attempt would not help");
    somebody.batch_execute("COMMIT").await.unwrap();
    let free = |status: &Value| status["process"]["hindrance"].is_null();
    writing_until(&place, (&mut docrow, &address), "it goes on", free).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["waits for a lock on"]);
    assert_eq!(ended.log.matches("waits for a lock on").count(), 1, "{}", ended.log);
}

/// SIGTERM ends it within a stated time, with an explanation, whatever hangs.
#[tokio::test]
async fn stop_asked_for_during_a_standstill() {
    let (place, mut home) = scene("still_stop").await;
    home.env("DOCROW_FAILPOINT", "BatchBeforeCommit:8:hang");
    let mut docrow = home.run();
    docrow.logs("failpoint BatchBeforeCommit is reached").await;
    let began = Instant::now();
    docrow.signal("TERM").await;
    let ended = docrow.ended().await.with_code(1).coded(Code::StopOverdue);
    assert!(began.elapsed() < Duration::from_secs(30), "Kubernetes kills after 30 s: {:?}", began.elapsed());
    assert!(ended.log.contains("worker 0: writes a batch to PostgreSQL, for "), "{}", ended.log);
    home.env_remove("DOCROW_FAILPOINT");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Workers have been sent more than a slow PostgreSQL takes in minutes: docrow does not write all of it
/// before it ends, and resumes there when it is started again.
#[tokio::test]
async fn stop_asked_for_while_much_waits_for_a_slow_postgres() {
    let (place, mut home) = scene("still_slow").await;
    home.set("stream.batch_rows", 5);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_catalog.pg_sleep(0.2); RETURN NULL; END $$; \
        CREATE TRIGGER slow AFTER INSERT OR UPDATE ON things FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    place.postgres().await.batch_execute(slow).await.unwrap();
    let many = (10_000..14_000).map(|id| doc! { "_id": id, "round": 1 });
    place.collection("things").insert_many(many).await.unwrap();
    let some = "SELECT count(*) FROM things WHERE _id >= 10000";
    docrow.until("some are written", async || place.number(some).await > Some(20)).await;
    let began = Instant::now();
    docrow.stop().await.quiet();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(
        place.number(some).await < Some(1000),
        "there must be far more documents than can be written meanwhile"
    );
    place.postgres().await.batch_execute("DROP TRIGGER slow ON things").await.unwrap();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// The same if a thread hangs that polls all of docrow's own tasks: a second signal ends it at once.
#[tokio::test]
async fn stop_insisted_on_while_a_thread_hangs() {
    let (place, mut home) = scene("still_insist").await;
    home.env("DOCROW_FAILPOINT", "StateReconciled:1:block");
    let mut docrow = home.run();
    docrow.logs("failpoint StateReconciled is reached").await;
    docrow.signal("TERM").await;
    docrow.logs("signal again to stop at once").await;
    let began = Instant::now();
    docrow.signal("INT").await;
    docrow.ended().await.with_code(1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    home.env_remove("DOCROW_FAILPOINT");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}
