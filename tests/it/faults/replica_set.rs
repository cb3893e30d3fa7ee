//! What happens to a replica set of several members: elections, kills, partitions, rollbacks, new members,
//! new versions.

use mongodb::bson::{Document, doc};

use super::{Phase, Scene};
use crate::support::{Home, Place, RETRIES, ReplicaSet, mongod_program};

/// What docrow may say about a member that does not answer, or that is behind afterwards.
const SILENCE: [&str; 6] = [
    RETRIES,
    "gives no answer",
    "gave no answer",
    "MongoDB at",
    "no majority of its replica set",
    "secondaries are",
];

async fn place_on(set: &ReplicaSet, test: &str) -> Place {
    let shared = Place::shared(test).await;
    Place::on(&set.uri(), &shared.postgres_uri, &format!("{test}_own")).await
}

/// One collection is copied after the other, and a silent member is not waited for for long.
fn home_of(place: &Place, options: &str) -> Home {
    let mut home = Home::new(place);
    home.set("snapshot.parallelism", 1);
    home.set("source.uri", format!("{}&socketTimeoutMS=3000{options}", place.mongodb_uri));
    home
}

/// Three members, and docrow held in a phase.
async fn held(test: &str, phase: Phase, options: &str) -> (ReplicaSet, Scene) {
    let set = ReplicaSet::of_three().await;
    let place = place_on(&set, test).await;
    let home = home_of(&place, options);
    (set, Scene::held(place, home, phase).await)
}

/// Goes on, with writes to the primary that there is now.
async fn goes_on(set: &ReplicaSet, scene: &mut Scene) {
    scene.place.client = set.writable().await;
    scene.open().await;
    scene.change().await;
}

async fn primary_steps_down(test: &str, phase: Phase) {
    let (set, mut scene) = held(test, phase, "").await;
    for _ in 0..2 {
        set.step_down().await;
        goes_on(&set, &mut scene).await;
    }
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn another_member_is_elected_during_snapshot() {
    primary_steps_down("elected_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn another_member_is_elected_during_hand_over() {
    primary_steps_down("elected_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn another_member_is_elected_during_stream() {
    primary_steps_down("elected_stream", Phase::Stream).await;
}

async fn primary_killed(test: &str, phase: Phase) {
    let (mut set, mut scene) = held(test, phase, "").await;
    let primary = set.primary().await;
    set.members[primary].kill9().await.unwrap();
    set.primary_but(Some(primary)).await;
    goes_on(&set, &mut scene).await;
    set.revive(primary).await;
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn primary_of_three_killed_during_snapshot() {
    primary_killed("primary_killed_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn primary_of_three_killed_during_hand_over() {
    primary_killed("primary_killed_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn primary_of_three_killed_during_stream() {
    primary_killed("primary_killed_stream", Phase::Stream).await;
}

/// Without a majority there is no primary, until one is back.
async fn majority_killed(test: &str, phase: Phase) {
    let (mut set, mut scene) = held(test, phase, "").await;
    let killed = set.secondaries().await;
    for at in &killed {
        set.members[*at].kill9().await.unwrap();
    }
    set.leaderless().await;
    scene.open().await;
    set.members[killed[0]].restart().await.unwrap();
    goes_on(&set, &mut scene).await;
    set.revive(killed[1]).await;
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn majority_killed_during_snapshot() {
    majority_killed("majority_killed_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn majority_killed_during_stream() {
    majority_killed("majority_killed_stream", Phase::Stream).await;
}

/// The primary stops in the middle of everything, and continues as if nothing had been, when another has
/// taken its place.
async fn primary_frozen(test: &str, phase: Phase) {
    let (set, mut scene) = held(test, phase, "").await;
    let primary = set.primary().await;
    set.members[primary].signal("STOP").unwrap();
    set.primary_but(Some(primary)).await;
    goes_on(&set, &mut scene).await;
    set.members[primary].signal("CONT").unwrap();
    set.follows(primary).await;
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn primary_of_three_frozen_during_snapshot() {
    primary_frozen("primary_frozen_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn primary_of_three_frozen_during_stream() {
    primary_frozen("primary_frozen_stream", Phase::Stream).await;
}

/// Neither docrow nor the others reach the primary; nothing tells them that it is gone.
async fn primary_cut_off(test: &str, phase: Phase) {
    let (set, mut scene) = held(test, phase, "").await;
    let primary = set.primary().await;
    set.ways[primary].stall(true);
    set.primary_but(Some(primary)).await;
    goes_on(&set, &mut scene).await;
    set.ways[primary].stall(false);
    set.follows(primary).await;
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn primary_of_three_cut_off_during_snapshot() {
    primary_cut_off("cut_off_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn primary_of_three_cut_off_during_stream() {
    primary_cut_off("cut_off_stream", Phase::Stream).await;
}

/// The primary has writes that no other member has, and takes them back when it follows another: they must
/// not have come to PostgreSQL.
async fn writes_rolled_back(test: &str, phase: Phase) {
    let (mut set, mut scene) = held(test, phase, "").await;
    let primary = set.primary().await;
    let followers = set.secondaries().await;
    for at in &followers {
        set.fail(*at, "stopReplProducer", true).await;
    }
    let name = scene.place.name.clone();
    let of_things = |id: i32| doc! { "_id": id };
    let (changed, deleted, inserted) = (of_things(150), of_things(151), of_things(20_000));
    let update = doc! { "q": changed.clone(), "u": { "$set": { "name": "rolled back" } } };
    set.write(primary, &name, doc! { "update": "z_last", "updates": [update.clone()] }).await;
    set.write(primary, &name, doc! { "update": "things", "updates": [update] }).await;
    let delete = doc! { "q": deleted, "limit": 1 };
    set.write(primary, &name, doc! { "delete": "things", "deletes": [delete] }).await;
    set.write(primary, &name, doc! { "insert": "things", "documents": [inserted.clone()] }).await;
    // docrow goes on, with these before its eyes.
    scene.open().await;
    let rollback = doc! { "replSetGetRBID": 1 };
    let before = set.command(primary, rollback.clone()).await.get_i32("rbid").unwrap();
    set.members[primary].kill9().await.unwrap();
    for at in &followers {
        set.fail(*at, "stopReplProducer", false).await;
    }
    set.primary_but(Some(primary)).await;
    goes_on(&set, &mut scene).await;
    set.revive(primary).await;
    let after = set.command(primary, rollback).await.get_i32("rbid").unwrap();
    assert!(after > before, "{before}, {after}: nothing was rolled back");
    let things = scene.place.collection("things");
    assert_eq!(things.count_documents(inserted).await.unwrap(), 0);
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn writes_rolled_back_during_snapshot() {
    writes_rolled_back("rolled_back_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn writes_rolled_back_during_stream() {
    writes_rolled_back("rolled_back_stream", Phase::Stream).await;
}

/// The secondary that is read is lost, and the other one is behind; then the other way round.
async fn secondaries_lost(test: &str, phase: Phase) {
    let (mut set, mut scene) = held(test, phase, "&readPreference=secondary").await;
    let both = set.secondaries().await;
    for (lost, behind) in [(both[0], both[1]), (both[1], both[0])] {
        set.fail(behind, "rsSyncApplyStop", true).await;
        let primary = set.primary().await;
        let update = doc! { "q": {}, "u": { "$inc": { "n": 1 } }, "multi": true };
        set.write(primary, &scene.place.name, doc! { "update": "things", "updates": [update] }).await;
        scene.open().await;
        set.members[lost].kill9().await.unwrap();
        set.fail(behind, "rsSyncApplyStop", false).await;
        goes_on(&set, &mut scene).await;
        set.revive(lost).await;
    }
    scene.converges(&SILENCE).await;
}

#[tokio::test]
async fn secondaries_lost_during_snapshot() {
    secondaries_lost("secondaries_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn secondaries_lost_during_stream() {
    secondaries_lost("secondaries_stream", Phase::Stream).await;
}

/// With an arbiter there is a primary when the only other copy is lost, but nothing is safe: docrow waits.
#[tokio::test]
async fn a_copy_beside_an_arbiter_is_lost() {
    let set = [doc! { "priority": 2 }, doc! { "priority": 1 }, doc! { "arbiterOnly": true }];
    let mut set = ReplicaSet::start(&set, None).await;
    let place = place_on(&set, "arbiter").await;
    let mut scene = Scene::held(place.clone(), home_of(&place, ""), Phase::Stream).await;
    let primary = set.primary().await;
    let other = 1 - primary;
    set.members[other].kill9().await.unwrap();
    scene.open().await;
    let insert = doc! { "insert": "things", "documents": [{ "_id": 30_000 }] };
    set.write(primary, &place.name, insert).await;
    scene.docrow.logs("no majority of its replica set").await;
    assert_eq!(place.number("SELECT count(*) FROM things WHERE _id = 30000").await, Some(0));
    set.revive(other).await;
    set.step_down().await;
    goes_on(&set, &mut scene).await;
    scene.converges(&SILENCE).await;
}

/// A hidden member, one that is a day behind, and docrow, which may read from any.
#[tokio::test]
async fn hidden_and_delayed_members_are_not_read() {
    let shared = Place::shared("hidden").await;
    let build = shared.database().run_command(doc! { "buildInfo": 1 }).await.unwrap();
    let is_old = build.get_array("versionArray").unwrap()[0].as_i32() < Some(5);
    let delay = if is_old { "slaveDelay" } else { "secondaryDelaySecs" };
    let outside = |delay: Document| {
        let mut member = doc! { "priority": 0, "votes": 0, "hidden": true };
        member.extend(delay);
        member
    };
    let set = [doc! {}, doc! {}, outside(doc! {}), outside(doc! { delay: 86_400 })];
    let set = ReplicaSet::start(&set, None).await;
    let place = place_on(&set, "hidden").await;
    let home = home_of(&place, "&readPreference=nearest");
    let mut scene = Scene::held(place, home, Phase::Stream).await;
    set.step_down().await;
    goes_on(&set, &mut scene).await;
    scene.converges(&SILENCE).await;
}

/// A member that copies everything, and becomes the primary.
#[tokio::test]
async fn a_new_member_takes_over() {
    let (mut set, mut scene) = held("new_member", Phase::Stream, "&readPreference=secondaryPreferred").await;
    let added = set.add_member().await;
    goes_on(&set, &mut scene).await;
    set.follows(added).await;
    for former in 0..added {
        goes_on(&set, &mut scene).await;
        set.members[former].kill9().await.unwrap();
        set.primary_but(Some(former)).await;
        goes_on(&set, &mut scene).await;
        set.revive(former).await;
    }
    scene.converges(&SILENCE).await;
}

/// Member by member, to the next version and the one after it, with docrow running and writes between.
#[tokio::test]
async fn members_are_upgraded_one_by_one() {
    let settings = [doc! {}, doc! {}, doc! {}];
    let mut set = ReplicaSet::start(&settings, Some(mongod_program("4.4.2"))).await;
    let place = place_on(&set, "upgraded").await;
    let mut scene = Scene::held(place.clone(), home_of(&place, ""), Phase::Stream).await;
    scene.open().await;
    for (version, features) in [("5.0.32", "5.0"), ("6.0.27", "6.0")] {
        let program = mongod_program(version);
        for at in set.secondaries().await {
            set.members[at].restart_as(program.clone()).await.unwrap();
            set.follows(at).await;
            goes_on(&set, &mut scene).await;
        }
        let last = set.primary().await;
        set.step_down().await;
        set.members[last].restart_as(program).await.unwrap();
        set.follows(last).await;
        set.enable(features).await;
        goes_on(&set, &mut scene).await;
        scene.place.settle(&mut scene.docrow).await;
    }
    scene.converges(&SILENCE).await;
}
