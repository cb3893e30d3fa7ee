//! Faults of PostgreSQL, or of the network to it.

use std::{ops::Range, time::Duration};

use docrow::{
    demo::servers::{Postgres, PostgresOptions},
    sink::{Target, metadata::schema},
};
use fastrand::Rng;
use mongodb::bson::doc;
use tokio::time::sleep;

use super::{Phase, Scene, change, converges, fill};
use crate::support::{Before, Code, Gate, Home, Place, Proxy, RETRIES, Trap};

/// The place of a test whose docrow reaches PostgreSQL through a proxy.
async fn proxied(test: &str) -> (Place, Home, Proxy) {
    let place = Place::shared(test).await;
    let proxy = Proxy::of(&place.postgres_uri).await;
    let mut home = Home::new(&place);
    home.set("target.uri", proxy.uri(&place.postgres_uri));
    (place, home, proxy)
}

/// A connection is cut at the COMMIT of a chunk, a key, or a batch.
async fn commit_trapped(test: &str, phase: Phase, trap: fn() -> Trap) {
    let (place, home, proxy) = proxied(test).await;
    let mut scene = Scene::held(place, home, phase).await;
    proxy.set(trap());
    scene.open().await;
    for cuts in 1.. {
        scene.docrow.until("a COMMIT is cut off", async || proxy.sprung() == cuts).await;
        scene.change().await;
        sleep(Duration::from_secs(1)).await;
        if scene.docrow.log().contains(RETRIES) {
            break;
        }
        // It was that of a report, which is left out.
        proxy.set(trap());
    }
    scene.converges_after_retries().await;
}

/// G2: the transaction is rolled back, and repeated.
#[tokio::test]
async fn connection_cut_before_commit_during_snapshot() {
    commit_trapped("cut_commit_snapshot", Phase::Snapshot, Trap::before_commit).await;
}

#[tokio::test]
async fn connection_cut_before_commit_during_hand_over() {
    commit_trapped("cut_commit_hand_over", Phase::HandOver, Trap::before_commit).await;
}

#[tokio::test]
async fn connection_cut_before_commit_during_stream() {
    commit_trapped("cut_commit_stream", Phase::Stream, Trap::before_commit).await;
}

/// G2: whether it was applied does not matter; here it was.
#[tokio::test]
async fn answer_to_commit_lost_during_snapshot() {
    commit_trapped("answer_lost_snapshot", Phase::Snapshot, Trap::after_commit).await;
}

#[tokio::test]
async fn answer_to_commit_lost_during_hand_over() {
    commit_trapped("answer_lost_hand_over", Phase::HandOver, Trap::after_commit).await;
}

#[tokio::test]
async fn answer_to_commit_lost_during_stream() {
    commit_trapped("answer_lost_stream", Phase::Stream, Trap::after_commit).await;
}

/// G2: the connection is cut at random, repeatedly, under writes.
async fn cut_at_any_byte(test: &str, phase: Phase, bytes: Range<usize>) {
    let (place, home, proxy) = proxied(test).await;
    fill(&place).await;
    let padding = "x".repeat(20_000);
    let large = (0..100).map(|id| doc! { "_id": id, "n": 0, "padding": &padding });
    place.collection("large").insert_many(large).await.unwrap();
    let mut docrow = home.run();
    if phase == Phase::Stream {
        place.settle(&mut docrow).await;
    }
    let (mut rng, mut round) = (Rng::with_seed(7), 0);
    for cuts in 1..=6 {
        proxy.set(Trap::Bytes(rng.usize(bytes.clone())));
        docrow
            .until("a connection is cut off", async || {
                round += 1;
                change(&place, round).await;
                proxy.sprung() == cuts
            })
            .await;
    }
    converges(&place, &home, docrow).await.quiet_but(&[RETRIES]);
}

#[tokio::test]
async fn connection_cut_at_any_byte_during_snapshot() {
    cut_at_any_byte("any_byte_snapshot", Phase::Snapshot, 1..600_000).await;
}

#[tokio::test]
async fn connection_cut_at_any_byte_during_stream() {
    cut_at_any_byte("any_byte_stream", Phase::Stream, 1..60_000).await;
}

/// Nothing is answered, for a while, and nothing ends: docrow waits, and continues.
#[tokio::test]
async fn target_silent_during_stream() {
    let (place, home, proxy) = proxied("silent_stream").await;
    let mut scene = Scene::held(place, home, Phase::Stream).await;
    proxy.stall(true);
    for _ in 0..20 {
        scene.change().await;
    }
    scene.open().await;
    proxy.stall(false);
    scene.converges(&[]).await;
}

/// The server can't be reached for a while.
async fn unreachable(test: &str, phase: Phase) {
    let (place, home, proxy) = proxied(test).await;
    let mut scene = Scene::held(place, home, phase).await;
    proxy.refuse(true);
    proxy.cut();
    scene.docrow.logs_times(RETRIES, 3).await;
    scene.change().await;
    proxy.refuse(false);
    scene.converges(&[RETRIES]).await.coded(Code::TargetLost);
}

#[tokio::test]
async fn target_unreachable_during_snapshot() {
    unreachable("unreachable_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn target_unreachable_during_hand_over() {
    unreachable("unreachable_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn target_unreachable_during_stream() {
    unreachable("unreachable_stream", Phase::Stream).await;
}

/// A user's transaction and docrow's wait for each other; PostgreSQL ends docrow's.
async fn deadlock(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    fill(&place).await;
    let user = place.postgres().await;
    // docrow waits less long than the user before it looks for a deadlock, so that it is the one that finds
    // it.
    let patience = format!("ALTER DATABASE {} SET deadlock_timeout = '3s'", place.name);
    user.batch_execute(&patience).await.unwrap();
    user.batch_execute("SET deadlock_timeout = '15s'").await.unwrap();
    let mut gate = None;
    let mut docrow = if phase == Phase::Snapshot {
        let closed =
            Gate::close(&place, Before::Update("docrow.chunks", "NEW.collection LIKE '%.a_first'")).await;
        let mut docrow = home.run();
        closed.reached(&mut docrow, 1).await;
        gate = Some(closed);
        docrow
    } else {
        let mut docrow = home.run();
        place.settle(&mut docrow).await;
        docrow
    };
    let mut round = 0;
    while !docrow.log().contains("deadlock detected") {
        user.batch_execute("BEGIN; LOCK TABLE things_list IN EXCLUSIVE MODE").await.unwrap();
        if let Some(gate) = gate.take() {
            gate.open().await;
        }
        // An update alone writes the documents' own table first.
        round += 1;
        let update = doc! { "$set": { "n": round, "list": [{ "n": round }] } };
        place.collection("things").update_many(doc! { "_id": { "$lt": 10 } }, update).await.unwrap();
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'things_list'::regclass";
        docrow.until("docrow waits for the user", async || place.number(waits).await > Some(0)).await;
        // If the user is the one who gives way after all, there is another time.
        let _ = user.batch_execute("LOCK TABLE things IN EXCLUSIVE MODE").await;
        user.batch_execute("ROLLBACK").await.unwrap();
    }
    change(&place, 3).await;
    let ended = converges(&place, &home, docrow).await.quiet_but(&[RETRIES]).coded(Code::TargetConflict);
    assert!(ended.log.contains("SQLSTATE 40P01"), "{}", ended.log);
}

#[tokio::test]
async fn deadlock_during_snapshot() {
    deadlock("deadlock_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn deadlock_during_stream() {
    deadlock("deadlock_stream", Phase::Stream).await;
}

/// The server refuses some transactions for no fault of theirs.
async fn serialization_failure(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let home = Home::new(&place);
    fill(&place).await;
    let (kind, value, attach) = match phase {
        Phase::Snapshot => ("trigger", "NEW", "TRIGGER conflict BEFORE UPDATE ON docrow.chunks FOR EACH ROW"),
        Phase::HandOver => {
            let attach = "EVENT TRIGGER conflict ON ddl_command_start WHEN TAG IN ('ALTER TABLE')";
            ("event_trigger", "", attach)
        }
        Phase::Stream => ("trigger", "NEW", "TRIGGER conflict BEFORE UPDATE ON docrow.progress FOR EACH ROW"),
    };
    let make = format!(
        "CREATE SEQUENCE docrow.conflicts; \
         CREATE FUNCTION docrow.conflict() RETURNS {kind} LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('docrow.conflicts') <= 3 THEN RAISE 'could not serialize' USING ERRCODE = '40001'; END IF; \
         RETURN {value}; END $$; CREATE {attach} EXECUTE FUNCTION docrow.conflict()"
    );
    let mut docrow = if phase == Phase::Stream {
        let mut docrow = home.run();
        place.settle(&mut docrow).await;
        place.postgres().await.batch_execute(&make).await.unwrap();
        docrow
    } else {
        let target = Target::parse(&place.postgres_uri, "public", "docrow").unwrap();
        schema::create(&mut target.connect().await.unwrap(), "public").await.unwrap();
        place.postgres().await.batch_execute(&make).await.unwrap();
        home.run()
    };
    change(&place, 1).await;
    docrow.logs(RETRIES).await;
    change(&place, 2).await;
    let ended = converges(&place, &home, docrow).await.quiet_but(&[RETRIES]);
    assert!(ended.log.contains("SQLSTATE 40001"), "{}", ended.log);
}

#[tokio::test]
async fn serialization_failure_during_snapshot() {
    serialization_failure("conflict_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn serialization_failure_during_hand_over() {
    serialization_failure("conflict_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn serialization_failure_during_stream() {
    serialization_failure("conflict_stream", Phase::Stream).await;
}

/// docrow's statements are cancelled (57014, as by a statement timeout).
async fn statement_cancelled(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let home = Home::new(&place);
    let mut scene = Scene::held(place, home, phase).await;
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'docrow' AND wait_event_type = 'Lock'";
    assert!(scene.place.number(cancel).await > Some(0));
    scene.docrow.logs("[DRW-3113] ").await;
    scene.change().await;
    scene.converges_after_retries().await;
}

#[tokio::test]
async fn statement_cancelled_during_snapshot() {
    statement_cancelled("cancelled_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn statement_cancelled_during_hand_over() {
    statement_cancelled("cancelled_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn statement_cancelled_during_stream() {
    statement_cancelled("cancelled_stream", Phase::Stream).await;
}

/// Timeouts that suit applications are none of docrow's: it does not even notice.
async fn timeouts_of_the_database(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let home = Home::new(&place);
    for timeout in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
        let set = format!("ALTER DATABASE {} SET {timeout} = '300ms'", place.name);
        place.postgres().await.batch_execute(&set).await.unwrap();
    }
    let mut scene = Scene::held(place, home, phase).await;
    let late = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'docrow' AND wait_event_type = 'Lock' AND now() - query_start > '1s'";
    let place = &scene.place;
    scene.docrow.until("a statement takes long", async || place.number(late).await > Some(0)).await;
    scene.converges(&[]).await;
}

#[tokio::test]
async fn timeouts_of_the_database_during_snapshot() {
    timeouts_of_the_database("timeouts_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn timeouts_of_the_database_during_stream() {
    timeouts_of_the_database("timeouts_stream", Phase::Stream).await;
}

/// The server ends at once, all sessions with it, and comes back.
async fn target_stopped_immediately(test: &str, phase: Phase) {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let shared = Place::shared(test).await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), test).await;
    let home = Home::new(&place);
    let mut scene = Scene::held(place, home, phase).await;
    postgres.signal("QUIT").unwrap();
    scene.docrow.logs(RETRIES).await;
    scene.change().await;
    // Its holder went with the server.
    drop(scene.gate.take());
    postgres.restart().await.unwrap();
    scene.converges(&[RETRIES]).await;
}

#[tokio::test]
async fn target_stopped_immediately_during_snapshot() {
    target_stopped_immediately("stopped_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn target_stopped_immediately_during_hand_over() {
    target_stopped_immediately("stopped_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn target_stopped_immediately_during_stream() {
    target_stopped_immediately("stopped_stream", Phase::Stream).await;
}
