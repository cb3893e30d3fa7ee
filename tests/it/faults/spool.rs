//! G6, G8: the oplog rolls over while docrow copies, while PostgreSQL is down, and while docrow is stopped.
//! On servers whose oplog really rolls over.

use docrow::demo::servers::{Mongod, Postgres, PostgresOptions};
use mongodb::bson::{Timestamp, doc};

use crate::support::{Before, Code, Docrow, Gate, Home, Place, RETRIES, oplog_start, roll_over, small_oplog};

const THINGS: i32 = 300;

/// A place on a separate server with a small oplog.
async fn place(name: &str, postgres_uri: &str) -> (Mongod, Place) {
    let mongod = Mongod::start(small_oplog()).await.unwrap();
    let place = Place::on(&mongod.uri(), postgres_uri, name).await;
    place.add_sentinels().await;
    for name in ["things", "others"] {
        let thing = |id: i32| doc! { "_id": id, "n": 0, "list": [{ "n": id }] };
        place.collection(name).insert_many((0..THINGS).map(thing)).await.unwrap();
    }
    (mongod, place)
}

async fn shared_postgres(test: &str) -> String {
    Place::shared(test).await.postgres_uri
}

async fn change(place: &Place, round: i32) {
    for name in ["things", "others"] {
        let things = place.collection(name);
        things
            .update_many(doc! {}, doc! { "$inc": { "n": 1 }, "$push": { "list": { "n": round } } })
            .await
            .unwrap();
        things.delete_one(doc! { "_id": round }).await.unwrap();
        let new = doc! { "$set": { "n": round } };
        things.update_one(doc! { "_id": 1000 + round }, new).upsert(true).await.unwrap();
    }
}

/// The server's time.
async fn now(place: &Place) -> Timestamp {
    let reply = place.client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
    reply.get_timestamp("operationTime").unwrap()
}

/// Waits until everything written before is in the spool: a docrow that has read further has a newer token.
async fn read_ahead(place: &Place, home: &Home, docrow: &mut Docrow) {
    let spooled = async || size(home);
    let before = spooled().await;
    change(place, 250).await;
    docrow.until("more is in the spool", async || spooled().await > before).await;
}

fn size(home: &Home) -> u64 {
    let files = std::fs::read_dir(home.state().join("db")).unwrap().flatten();
    let sizes =
        files.filter(|file| file.path().extension().is_some_and(|kind| kind == "log" || kind == "sst"));
    sizes.map(|file| file.metadata().map_or(0, |data| data.len())).sum()
}

/// Rolls the oplog past everything that PostgreSQL has reached.
async fn forget(place: &Place) {
    let until = now(place).await;
    roll_over(&place.client, until).await;
    let reached = "SELECT extract(epoch FROM min(cluster_time))::bigint FROM docrow.progress";
    if let Some(reached) = place.number(reached).await {
        assert!(
            i64::from(oplog_start(&place.client).await.time) >= reached,
            "what PostgreSQL has reached is lost"
        );
    }
}

/// G6: changes since the start are no longer in the oplog when the last chunk is copied, and docrow is
/// killed, too.
#[tokio::test]
async fn the_oplog_rolled_over_during_the_snapshot() {
    let (_mongod, place) = place("spool_snapshot_own", &shared_postgres("spool_snapshot").await).await;
    let home = Home::new(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "true")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    change(&place, 1).await;
    read_ahead(&place, &home, &mut docrow).await;
    forget(&place).await;
    change(&place, 2).await;
    read_ahead(&place, &home, &mut docrow).await;
    docrow.kill9().await.quiet();
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    change(&place, 3).await;
    gate.open().await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("changes out of the spool"), "{}", ended.log);
}

/// G6: PostgreSQL is down for longer than the oplog reaches back.
#[tokio::test]
async fn the_oplog_rolled_over_during_an_outage_of_postgres() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let (_mongod, place) = place("spool_outage", &postgres.uri("postgres")).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    postgres.kill9().await.unwrap();
    change(&place, 1).await;
    docrow.logs(RETRIES).await;
    read_ahead(&place, &home, &mut docrow).await;
    let until = now(&place).await;
    roll_over(&place.client, until).await;
    change(&place, 2).await;
    postgres.restart().await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&[RETRIES]);
    assert!(ended.log.contains("changes out of the spool"), "{}", ended.log);
}

/// G8: the oplog was not read for too long. That is reported, with its own exit code; and, if so configured,
/// repaired in place.
#[tokio::test]
async fn history_lost_while_docrow_was_stopped() {
    let (_mongod, place) = place("spool_history_own", &shared_postgres("spool_history").await).await;
    let mut home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    change(&place, 1).await;
    forget(&place).await;
    let ended = home.run().ended().await.with_code(5).coded(Code::HistoryLost);
    assert!(ended.error().contains("no longer holds the position"), "{}", ended.log);
    home.set("source.on_history_lost", "resync");
    let mut docrow = home.run();
    docrow.logs("things: copied again").await;
    change(&place, 2).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["no longer holds the position"]);
    assert!(ended.log.contains("in place: the oplog no longer holds its changes"), "{}", ended.log);
}

/// G8: `docrow resync` instead of a changed configuration: requested while no process runs.
#[tokio::test]
async fn history_lost_mended_by_a_resync_that_is_asked_for() {
    let (_mongod, place) = place("spool_asked_own", &shared_postgres("spool_asked").await).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    change(&place, 1).await;
    forget(&place).await;
    home.finish(&["resync", "*.*"]).await.with_code(0).quiet();
    let mut docrow = home.run();
    change(&place, 2).await;
    docrow.logs("others: copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// G8: docrow is frozen (SIGSTOP) for so long that its open cursor falls off the oplog.
#[tokio::test]
async fn history_lost_during_the_stream() {
    let (_mongod, place) = place("spool_paused_own", &shared_postgres("spool_paused").await).await;
    let mut home = Home::new(&place);
    home.set("source.on_history_lost", "resync");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.signal("STOP").await;
    change(&place, 1).await;
    forget(&place).await;
    docrow.signal("CONT").await;
    docrow.logs("things: copied again").await;
    change(&place, 2).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["no longer holds the position", RETRIES]);
}

/// G6, G11: a full spool is reported, and nothing is lost while the oplog holds the rest.
#[tokio::test]
async fn the_spool_full_during_the_snapshot() {
    let place = Place::shared("spool_full").await;
    place.add_sentinels().await;
    place.collection("things").insert_one(doc! { "_id": "first" }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("state.max_spool", "64MiB");
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "NEW.collection LIKE '%.things'")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    // A position holds the `_id`, and here that is most of it.
    let mut random = fastrand::Rng::with_seed(7);
    let mut id = || (0..1200).map(|_| random.alphanumeric()).collect::<String>();
    for _ in 0..24 {
        let documents: Vec<_> = (0..1000).map(|_| doc! { "_id": id(), "n": 1 }).collect();
        place.collection("things").insert_many(documents).await.unwrap();
        if docrow.log().contains("the spool is full") {
            break;
        }
    }
    docrow.logs("[DRW-6005] the spool is full").await;
    let full = size(&home);
    assert!(full < 160 << 20, "{full}");
    gate.open().await;
    docrow.logs("the spool has room again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["the spool is full", "the spool is almost full"]);
}
