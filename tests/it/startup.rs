//! A start while a server is in a state that passes by itself: docrow waits for it, as long as `--wait` says.

use std::time::{Duration, Instant};

use docrow::{
    demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    error::Code,
};
use mongodb::bson::doc;

use crate::support::{Home, Place, connect};

/// What docrow warns of while it waits.
const WAITING: &str = "(--wait)";

/// A place on a mongod of its own.
async fn with_mongod(test: &str) -> (Mongod, Place) {
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let shared = Place::shared(test).await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, &format!("{test}_own")).await;
    place.add_sentinels().await;
    place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    (mongod, place)
}

/// Leaves the set without a primary for so many seconds.
async fn step_down(place: &Place, seconds: i32) {
    let step_down = doc! { "replSetStepDown": seconds, "secondaryCatchUpPeriodSecs": 0, "force": true };
    place.client.database("admin").run_command(step_down).await.unwrap();
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let (_mongod, place) = with_mongod("startup_election").await;
    let home = Home::new(&place);
    step_down(&place, 10).await;
    let mut docrow = home.run();
    docrow.logs(WAITING).await;
    docrow.logs("has no primary").await;
    place.settle(&mut docrow).await;
    docrow.stop().await.with_code(0).quiet_but(&[WAITING]);
    place.assert_same(&home).await;
}

#[tokio::test]
async fn a_set_without_a_primary_is_an_error_after_the_wait() {
    let (_mongod, place) = with_mongod("startup_no_primary").await;
    let home = Home::new(&place);
    step_down(&place, 120).await;
    let began = Instant::now();
    let ended = home.finish(&["backfill", "--wait", "8s"]).await.with_code(3).coded(Code::SourceNoPrimary);
    assert!(ended.log.contains("waited for 8 s (--wait)"), "{}", ended.log);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

/// It shuts down, is away, and comes back; each is another answer.
#[tokio::test]
async fn a_restart_of_postgres_is_waited_for() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let uri = postgres.uri("postgres");
    let shared = Place::shared("startup_restart").await;
    let place = Place::on(&shared.mongodb_uri, &uri, "startup_restart_own").await;
    place.add_sentinels().await;
    place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    // While a session is open, a server that is to shut down when all are gone refuses new ones.
    let session = connect(&uri).await;
    postgres.signal("TERM").unwrap();
    let mut docrow = home.run();
    docrow.logs("57P03").await;
    docrow.logs(WAITING).await;
    drop(session);
    docrow.logs("refused").await;
    postgres.restart().await.unwrap();
    place.settle(&mut docrow).await;
    docrow.stop().await.with_code(0).quiet_but(&[WAITING]);
    place.assert_same(&home).await;
}

#[tokio::test]
async fn a_stop_ends_the_wait() {
    let (_mongod, place) = with_mongod("startup_stop").await;
    let home = Home::new(&place);
    step_down(&place, 120).await;
    let mut docrow = home.run();
    docrow.logs(WAITING).await;
    docrow.stop().await.with_code(0).quiet_but(&[WAITING]);
}

/// What must be corrected is said at once.
#[tokio::test]
async fn a_wrong_port_is_not_waited_for() {
    let place = Place::shared("startup_port").await;
    place.add_sentinels().await;
    let mut home = Home::new(&place);
    home.set("target.uri", "postgresql://postgres@127.0.0.1:1/postgres");
    let began = Instant::now();
    home.finish(&["backfill"]).await.with_code(4).coded(Code::TargetUnreachable);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
