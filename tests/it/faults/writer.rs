//! G9, one writer: standbys, and holders that die, are stopped, or come back. Whole processes.

use std::time::{Duration, Instant};

use docrow::demo::servers::{Postgres, PostgresOptions};
use mongodb::bson::doc;
use tokio::time::sleep;

use crate::support::{Before, Docrow, Gate, Home, Place, RETRIES};

const STANDS_BY: &str = "standing by: pipeline docrow is run by docrow process";
const TAKES_OVER: &str = "taking pipeline docrow over";
const SILENT: &str = "is silent: taking pipeline";
const FENCED: i32 = 6;

async fn fill(place: &Place) {
    place.add_sentinels().await;
    let document = |id: i32| doc! { "_id": id, "n": 0, "list": [{ "n": id }] };
    place.collection("things").insert_many((0..300).map(document)).await.unwrap();
}

async fn change(place: &Place, round: i32) {
    let things = place.collection("things");
    things
        .update_many(doc! {}, doc! { "$inc": { "n": 1 }, "$push": { "list": { "n": round } } })
        .await
        .unwrap();
    things.delete_one(doc! { "_id": round }).await.unwrap();
    things.insert_one(doc! { "_id": 1000 + round, "n": round }).await.unwrap();
}

/// A standby with its own state directory, which it does not touch yet.
async fn stand_by(home: &Home) -> Docrow {
    let mut standby = home.start(&["run", "--standby"]);
    standby.logs(STANDS_BY).await;
    assert!(!home.state().exists(), "the state directory is left alone until the pipeline is taken");
    standby
}

/// Records which session commits to `docrow.progress`.
async fn audit(place: &Place) {
    let audit = "CREATE TABLE docrow.audit (pid integer, epoch bigint); \
        CREATE FUNCTION docrow.audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            INSERT INTO docrow.audit SELECT pg_backend_pid(), epoch FROM docrow.pipelines; RETURN NULL; END $$; \
        CREATE TRIGGER audit AFTER INSERT OR UPDATE ON docrow.progress \
            FOR EACH STATEMENT EXECUTE FUNCTION docrow.audit()";
    place.postgres().await.batch_execute(audit).await.unwrap();
}

/// The highest number of different epochs that a session has written in; and the last epoch.
async fn epochs(place: &Place) -> (Option<i64>, Option<i64>) {
    let most =
        "SELECT max(n) FROM (SELECT count(DISTINCT epoch) AS n FROM docrow.audit GROUP BY pid) AS by_pid";
    (place.number(most).await, place.number("SELECT epoch FROM docrow.pipelines").await)
}

/// G9, G7: a standby takes over within seconds of the holder's death, without its state directory.
#[tokio::test]
async fn docrow_killed_during_the_stream_while_another_stands_by() {
    let place = Place::shared("writer_killed").await;
    fill(&place).await;
    let (first, second) = (Home::new(&place), Home::new(&place));
    let mut holder = first.run();
    place.settle(&mut holder).await;
    let mut standby = stand_by(&second).await;
    let refused = second.finish(&["run"]).await.with_code(FENCED);
    assert!(
        refused.error().contains("another docrow runs pipeline docrow (docrow process"),
        "{}",
        refused.log
    );
    change(&place, 1).await;
    holder.kill9().await.quiet();
    let killed = Instant::now();
    change(&place, 2).await;
    standby.logs(TAKES_OVER).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    place.settle(&mut standby).await;
    place.assert_same(&second).await;
    // In the other direction; and a standby that is stopped ends at once, as it should.
    let idle = stand_by(&Home::new(&place)).await;
    idle.stop().await.quiet();
    let mut former = first.start(&["run", "--standby"]);
    former.logs(STANDS_BY).await;
    change(&place, 3).await;
    standby.stop().await.quiet();
    former.logs(TAKES_OVER).await;
    place.settle(&mut former).await;
    place.assert_same(&first).await;
    former.stop().await.quiet();
}

/// G9, G3: a stopped holder loses the pipeline; when it continues, it can't write what it still had to write.
#[tokio::test]
async fn docrow_paused_during_the_stream_while_another_stands_by() {
    let place = Place::shared("writer_paused").await;
    fill(&place).await;
    let (first, second) = (Home::new(&place), Home::new(&place));
    let mut holder = first.run();
    place.settle(&mut holder).await;
    audit(&place).await;
    change(&place, 1).await;
    let mut standby = stand_by(&second).await;
    change(&place, 2).await;
    holder.signal("STOP").await;
    // The holder's work when it continues.
    change(&place, 3).await;
    standby.logs(TAKES_OVER).await;
    place.settle(&mut standby).await;
    let before = epochs(&place).await;
    holder.signal("CONT").await;
    let ended = holder.ended().await.with_code(FENCED);
    assert!(ended.log.contains("pipeline"), "{}", ended.log);
    change(&place, 4).await;
    place.settle(&mut standby).await;
    place.assert_same(&second).await;
    assert_eq!(epochs(&place).await, (Some(1), before.1), "no session writes across a take-over");
    standby.stop().await.quiet_but(&[SILENT]);
}

/// G9, G5: the same in the middle of a chunk. A fenced-off process becomes a standby again.
#[tokio::test]
async fn docrow_paused_during_the_snapshot_while_another_stands_by() {
    let place = Place::shared("writer_paused_copy").await;
    fill(&place).await;
    let (first, second) = (Home::new(&place), Home::new(&place));
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let mut holder = first.start(&["run", "--standby"]);
    gate.reached(&mut holder, 1).await;
    let mut standby = stand_by(&second).await;
    holder.signal("STOP").await;
    standby.logs(TAKES_OVER).await;
    // The holder's unfinished work is gone by now.
    gate.reached(&mut standby, 1).await;
    holder.signal("CONT").await;
    holder.logs(STANDS_BY).await;
    gate.open().await;
    place.settle(&mut standby).await;
    change(&place, 1).await;
    standby.kill9().await.quiet_but(&[SILENT]);
    holder.logs(TAKES_OVER).await;
    place.settle(&mut holder).await;
    place.assert_same(&first).await;
    holder.stop().await.quiet_but(&[RETRIES]);
}

/// G9: of two standbys one takes over, and the other is now its standby.
#[tokio::test]
async fn docrow_killed_while_two_stand_by() {
    let place = Place::shared("writer_two").await;
    fill(&place).await;
    let homes = [(); 3].map(|()| Home::new(&place));
    let mut holder = homes[0].run();
    place.settle(&mut holder).await;
    audit(&place).await;
    let standbys = [stand_by(&homes[1]).await, stand_by(&homes[2]).await];
    change(&place, 1).await;
    holder.kill9().await.quiet();
    let deadline = Instant::now() + Duration::from_secs(60);
    let taker = loop {
        let took = standbys.iter().position(|standby| standby.log().contains(TAKES_OVER));
        if let Some(taker) = took {
            break taker;
        }
        assert!(Instant::now() < deadline, "{}", standbys[0].log());
        sleep(Duration::from_millis(20)).await;
    };
    let [one, other] = standbys;
    let ((mut taker, mut idle), idle_home) =
        if taker == 0 { ((one, other), &homes[2]) } else { ((other, one), &homes[1]) };
    // It is now the other one's standby.
    idle.logs_times(STANDS_BY, 2).await;
    assert!(!idle_home.state().exists());
    place.settle(&mut taker).await;
    change(&place, 2).await;
    taker.kill9().await.quiet();
    idle.logs(TAKES_OVER).await;
    place.settle(&mut idle).await;
    place.assert_same(idle_home).await;
    assert_eq!(epochs(&place).await, (Some(1), Some(3)));
    idle.stop().await.quiet();
}

/// G9: PostgreSQL is killed while a standby waits. The holder of the pipeline continues; the standby remains
/// a standby.
#[tokio::test]
async fn postgres_killed_while_one_stands_by() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let shared = Place::shared("writer_restart").await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), "writer_restart_own").await;
    fill(&place).await;
    let (first, second) = (Home::new(&place), Home::new(&place));
    let mut holder = first.run();
    place.settle(&mut holder).await;
    let mut standby = stand_by(&second).await;
    postgres.kill9().await.unwrap();
    change(&place, 1).await;
    holder.logs(RETRIES).await;
    standby.logs("standing by until that is over").await;
    postgres.restart().await.unwrap();
    place.settle(&mut holder).await;
    standby.logs_times(STANDS_BY, 2).await;
    change(&place, 2).await;
    holder.kill9().await.quiet_but(&[RETRIES]);
    standby.logs(TAKES_OVER).await;
    place.settle(&mut standby).await;
    place.assert_same(&second).await;
    standby.stop().await.quiet_but(&["standing by until that is over"]);
}
