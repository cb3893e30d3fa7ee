//! Services that are compatible with MongoDB, but lack some of it: docrow does without, or says what is
//! missing.

use mongodb::bson::doc;

use crate::support::{Absent, Code, CompatibleService, Ended, Home, Place, SHARD_KEY, shard_key};

/// Enough documents for several chunks.
const COUNT: i32 = 5_000;

async fn without(absent: Absent) -> (Place, Home, CompatibleService) {
    place_without(&format!("without_{absent:?}").to_lowercase(), absent).await
}

async fn place_without(test: &str, absent: Absent) -> (Place, Home, CompatibleService) {
    let place = Place::shared(test).await;
    place.add_sentinels().await;
    let thing = |id: i32| doc! { "_id": id, SHARD_KEY: shard_key(id), "n": id, "text": "x".repeat(500) };
    place.collection("things").insert_many((0..COUNT).map(thing)).await.unwrap();
    let (_, address) = place.mongodb_uri.rsplit_once("//").unwrap();
    let port = address.split(['/', '?']).next().unwrap().rsplit_once(':').unwrap().1;
    let service = CompatibleService::without(absent, port.parse().unwrap()).await;
    let mut home = Home::new(&place);
    home.set("source.uri", service.uri());
    (place, home, service)
}

/// docrow needs none of it: it copies, follows, is killed and resumes.
async fn is_done_without(absent: Absent) -> Ended {
    let (place, home, _service) = without(absent).await;
    home.finish(&["check"]).await.with_code(0);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let things = place.collection("things");
    things.update_many(doc! { "n": { "$lt": 100 } }, doc! { "$set": { "n": -1 } }).await.unwrap();
    // What is not a plain assignment is looked up.
    let pipeline = vec![doc! { "$set": { "text": { "$concat": ["$text", "y"] } } }];
    things.update_many(doc! { "n": { "$lt": 200 } }, pipeline).await.unwrap();
    things.delete_many(doc! { "n": { "$gt": 4_900 } }).await.unwrap();
    docrow.kill9().await;
    things.delete_many(doc! { "n": { "$gt": 4_000 } }).await.unwrap();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let ended = docrow.stop().await.with_code(0);
    place.assert_same(&home).await;
    ended
}

/// docrow can't do without it, and says so before it copies anything, and does not try again.
async fn is_missed(absent: Absent, code: Code, words: &str) {
    let (place, home, _service) = without(absent).await;
    let checked = home.finish(&["check"]).await.with_code(1);
    assert!(checked.out.contains(words), "{}{}", checked.out, checked.log);
    for command in ["run", "backfill"] {
        let ended = home.finish(&[command]).await.with_code(3).coded(code);
        assert!(ended.error().contains(words), "{command}: {}", ended.log);
    }
    let copied = place.number("SELECT count(*) FROM things").await;
    assert!(matches!(copied, None | Some(0)), "{copied:?}");
}

#[tokio::test]
async fn split_vector_is_done_without() {
    is_done_without(Absent::SplitVector).await.quiet();
}

#[tokio::test]
async fn large_events_are_not_split() {
    is_done_without(Absent::SplitLargeEvent).await.quiet();
}

#[tokio::test]
async fn a_start_at_a_time_is_done_without() {
    is_done_without(Absent::StartAtOperationTime).await.quiet();
}

#[tokio::test]
async fn server_parameters_are_done_without() {
    is_done_without(Absent::ServerParameters).await.quiet();
}

#[tokio::test]
async fn members_are_done_without() {
    is_done_without(Absent::Members).await.quiet();
}

#[tokio::test]
async fn operations_in_progress_are_done_without() {
    is_done_without(Absent::CurrentOp).await.quiet();
}

/// A collection that is added can only be followed from a given time on: docrow ends, each time it is
/// started, until the collection is left out.
#[tokio::test]
async fn a_start_at_a_time_is_missed_where_a_collection_is_added() {
    let (place, mut home, _service) = place_without("added_without", Absent::StartAtOperationTime).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.collection("more").insert_one(doc! { "_id": 1 }).await.unwrap();
    for _ in 0..2 {
        let ended = docrow.ended().await.with_code(3).coded(Code::SourceLacks);
        assert!(ended.error().contains("startAtOperationTime"), "{}", ended.log);
        docrow = home.run();
    }
    docrow.ended().await.with_code(3);
    let added = format!("{}.more", place.name);
    home.set("source.exclude", vec![added.clone()]);
    place.collection("things").delete_many(doc! { "n": { "$gt": 4_000 } }).await.unwrap();
    let mut docrow = home.run();
    docrow.logs("is no longer followed").await;
    home.finish(&["forget", &added, "--drop"]).await.with_code(0);
    place.settle(&mut docrow).await;
    docrow.stop().await.with_code(0);
    place.collection("more").drop().await.unwrap();
    place.assert_same(&home).await;
}

/// A router is known by its `hello`, and documents by their `_id`, whatever else is in `documentKey`.
/// Documents are only read in the way that leaves out those that a shard no longer owns.
#[tokio::test]
async fn a_router_is_read() {
    is_done_without(Absent::ReplicaSet).await.quiet();
}

#[tokio::test]
async fn a_missing_resume_token_is_missed() {
    is_missed(Absent::PostBatchResumeToken, Code::SourceLacks, "postBatchResumeToken").await;
}

#[tokio::test]
async fn a_missing_hint_is_missed() {
    is_missed(Absent::Hint, Code::SourceRefused, "hint").await;
}

#[tokio::test]
async fn missing_majority_reads_are_missed() {
    is_missed(Absent::MajorityReads, Code::SourceLacks, "majority").await;
}
