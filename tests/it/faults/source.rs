//! Faults of MongoDB.
//!
//! Each test has a separate server, because faults affect everything on it.

use std::time::Duration;

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::bson::{Document, doc};
use tokio::time::{sleep, timeout};

use super::{Phase, Scene, converges};
use crate::support::{Home, Place, RETRIES};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A place on a separate server.
async fn own(test: &str, options: MongodOptions) -> (Mongod, Place) {
    let mongod = Mongod::start(options).await.unwrap();
    let shared = Place::shared(test).await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, &format!("{test}_own")).await;
    (mongod, place)
}

/// One collection is copied after the other: `things` is in progress during the snapshot, `z_last` is still
/// to be read.
fn home_of(place: &Place) -> Home {
    let mut home = Home::new(place);
    home.set("snapshot.parallelism", 1);
    home
}

async fn held(test: &str, phase: Phase) -> (Mongod, Scene) {
    let (mongod, place) = own(test, MongodOptions::default()).await;
    let home = home_of(&place);
    (mongod, Scene::held(place, home, phase).await)
}

async fn admin(place: &Place, command: Document) -> Document {
    place.client.database("admin").run_command(command).await.unwrap()
}

/// Makes such commands of docrow's fail from now on.
async fn fail(place: &Place, commands: &[&str], mut data: Document) {
    data.extend(doc! { "failCommands": commands, "appName": "docrow" });
    admin(place, doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data }).await;
}

async fn fail_no_more(place: &Place) {
    admin(place, doc! { "configureFailPoint": "failCommand", "mode": "off" }).await;
}

/// How many commands were made to fail so far.
async fn failed(place: &Place) -> i64 {
    let found = admin(place, doc! { "getParameter": 1, "failpoint.failCommand": 1 }).await;
    let point = found.get_document("failpoint.failCommand").unwrap();
    point.get_i64("timesEntered").unwrap()
}

/// Lets docrow continue, and encounter one error after the other.
async fn meets(scene: &mut Scene, commands: &[&str], errors: &[Document]) {
    for error in errors {
        let before = failed(&scene.place).await;
        fail(&scene.place, commands, error.clone()).await;
        scene.open().await;
        let place = &scene.place;
        scene.docrow.until("a command fails", async || failed(place).await > before).await;
    }
    fail_no_more(&scene.place).await;
}

/// Transient errors: shutdown, stepdown, a closed connection; and one that docrow does not know.
async fn errors_of_the_server(test: &str, phase: Phase) {
    let (_mongod, mut scene) = held(test, phase).await;
    let codes = [91, 189, 11600, 123_456].map(|code| doc! { "errorCode": code });
    let errors = [&codes[..], &[doc! { "closeConnection": true }]].concat();
    meets(&mut scene, &["find", "aggregate", "getMore"], &errors).await;
    scene.converges_after_retries().await;
}

#[tokio::test]
async fn errors_of_the_server_during_snapshot() {
    errors_of_the_server("errors_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn errors_of_the_server_during_hand_over() {
    errors_of_the_server("errors_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn errors_of_the_server_during_stream() {
    errors_of_the_server("errors_stream", Phase::Stream).await;
}

/// The primary steps down, and is elected again.
async fn primary_steps_down(test: &str, phase: Phase) {
    let (_mongod, mut scene) = held(test, phase).await;
    admin(&scene.place, doc! { "replSetStepDown": 2, "force": true }).await;
    scene.open().await;
    let probe = scene.place.client.database("probe").collection("probe");
    let elected = async {
        while probe.insert_one(doc! {}).await.is_err() {
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, elected).await.expect("it is elected again");
    scene.change().await;
    scene.converges(&[RETRIES]).await;
}

#[tokio::test]
async fn primary_steps_down_during_snapshot() {
    primary_steps_down("stepdown_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn primary_steps_down_during_hand_over() {
    primary_steps_down("stepdown_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn primary_steps_down_during_stream() {
    primary_steps_down("stepdown_stream", Phase::Stream).await;
}

/// A chunk of several replies, because it grew after it was planned, is interrupted in the middle:
/// CursorKilled, CursorNotFound, a closed connection. A part of it is not taken for all of it.
#[tokio::test]
async fn cursor_killed_during_snapshot() {
    let (_mongod, mut scene) = held("killed_snapshot", Phase::Snapshot).await;
    let grown = (1000..1400).map(|id| doc! { "_id": id, "padding": "x".repeat(100_000) });
    scene.place.collection("z_last").insert_many(grown).await.unwrap();
    let of_z = doc! { "namespace": format!("{}.z_last", scene.place.name) };
    let errors = [doc! { "errorCode": 237 }, doc! { "errorCode": 43 }, doc! { "closeConnection": true }];
    let errors = errors.map(|error| of_z.clone().into_iter().chain(error).collect());
    meets(&mut scene, &["getMore"], &errors).await;
    scene.converges_after_retries().await;
}

/// Kills the cursors of change streams. Returns whether there was one.
async fn kill_stream(place: &Place) -> bool {
    let namespace = format!("{}.$cmd.aggregate", place.name);
    let stream = doc! { "$match": { "cursor.tailable": true, "ns": namespace } };
    let operations = [doc! { "$currentOp": { "idleCursors": true } }, stream];
    let mut found = place.client.database("admin").aggregate(operations).await.unwrap();
    let mut cursors = Vec::new();
    while found.advance().await.unwrap() {
        let operation = found.deserialize_current().unwrap();
        cursors.push(operation.get_document("cursor").unwrap().get_i64("cursorId").unwrap());
    }
    // An empty list is an error for 4.4.
    if cursors.is_empty() {
        return false;
    }
    let kill = doc! { "killCursors": "$cmd.aggregate", "cursors": cursors };
    let killed = place.database().run_command(kill).await.unwrap();
    !killed.get_array("cursorsKilled").unwrap().is_empty()
}

/// Really killed: the cursor of the change stream.
#[tokio::test]
async fn cursor_killed_during_stream() {
    let (_mongod, mut scene) = held("killed_stream", Phase::Stream).await;
    let place = &scene.place;
    scene.docrow.until("its cursor is killed", async || kill_stream(place).await).await;
    scene.open().await;
    scene.converges_after_retries().await;
}

/// Every session is killed, with all it has.
async fn sessions_killed(test: &str, phase: Phase) {
    let (_mongod, mut scene) = held(test, phase).await;
    admin(&scene.place, doc! { "killAllSessions": [] }).await;
    scene.change().await;
    scene.converges(&[RETRIES]).await;
}

#[tokio::test]
async fn sessions_killed_during_snapshot() {
    sessions_killed("sessions_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn sessions_killed_during_hand_over() {
    sessions_killed("sessions_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn sessions_killed_during_stream() {
    sessions_killed("sessions_stream", Phase::Stream).await;
}

/// How docrow's privileges are revoked.
#[derive(Clone, Copy)]
enum Taken {
    Role,
    User,
}

/// docrow's privileges are revoked: it reports what is missing and ends. Once they are granted again, it
/// resumes.
async fn rights_taken(test: &str, phase: Phase, taken: Taken) {
    let options = MongodOptions { password: Some("s3cret-root".to_owned()), ..Default::default() };
    let (mongod, place) = own(test, options).await;
    let root = place.client.database("admin");
    let roles = [doc! { "role": "read", "db": &place.name }];
    let create = doc! { "createUser": "reader", "pwd": "s3cret-reader", "roles": &roles[..] };
    let advice = format!("grant it the role read on the database {}", place.name);
    let (take, give, advice) = match taken {
        Taken::Role => {
            let take = doc! { "revokeRolesFromUser": "reader", "roles": &roles[..] };
            (take, doc! { "grantRolesToUser": "reader", "roles": &roles[..] }, &*advice)
        }
        Taken::User => (doc! { "dropUser": "reader" }, create.clone(), "check user, password and authSource"),
    };
    root.run_command(create).await.unwrap();
    let login = "mongodb://reader:s3cret-reader@127.0.0.1";
    let mut home = home_of(&place);
    home.set("source.uri", format!("{login}:{}/?replicaSet=docrow&authSource=admin", mongod.port()));
    let mut scene = Scene::held(place, home, phase).await;
    root.run_command(take).await.unwrap();
    scene.change().await;
    scene.open().await;
    let Scene { place, home, docrow, .. } = scene;
    let ended = docrow.ended().await.with_code(3);
    assert!(ended.log.contains("grant it the role read") || ended.log.contains(advice), "{}", ended.log);
    assert!(!ended.log.contains("s3cret"), "{}", ended.log);
    let ended = home.finish(&["run"]).await.with_code(3);
    assert!(ended.error().contains(advice), "{}", ended.log);
    root.run_command(give).await.unwrap();
    converges(&place, &home, home.run()).await.quiet();
}

#[tokio::test]
async fn rights_revoked_during_snapshot() {
    rights_taken("rights_snapshot", Phase::Snapshot, Taken::Role).await;
}

#[tokio::test]
async fn rights_revoked_during_hand_over() {
    rights_taken("rights_hand_over", Phase::HandOver, Taken::Role).await;
}

#[tokio::test]
async fn rights_revoked_during_stream() {
    rights_taken("rights_stream", Phase::Stream, Taken::Role).await;
}

#[tokio::test]
async fn user_dropped_during_snapshot() {
    rights_taken("user_snapshot", Phase::Snapshot, Taken::User).await;
}

#[tokio::test]
async fn user_dropped_during_stream() {
    rights_taken("user_stream", Phase::Stream, Taken::User).await;
}
