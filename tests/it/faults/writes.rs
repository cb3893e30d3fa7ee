//! Everything that applications may write to MongoDB, at any moment: large transactions, large documents; and
//! changes to its collections that change no document.

use std::time::Duration;

use mongodb::{
    ClientSession, Collection,
    bson::{Document, doc},
    error::TRANSIENT_TRANSACTION_ERROR,
};
use tokio::{sync::Mutex, time::sleep};

use super::{Phase, Scene};
use crate::support::{Capability, Home, Place, lacks};

/// The largest possible document.
const MAX: usize = 16 << 20;

async fn held(place: Place, phase: Phase) -> Scene {
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    Scene::held(place, home, phase).await
}

/// Inserts, updates and deletes, all in the transaction of `session`.
async fn change_in(
    session: &mut ClientSession,
    collections: &[Collection<Document>],
    round: i32,
) -> mongodb::error::Result<()> {
    let padding = "x".repeat(5_000);
    for collection in collections {
        let from = 20_000 + 10_000 * round;
        let new = (from..from + 2_500)
            .map(|id| doc! { "_id": id, "n": 0, "name": &padding, "list": [{ "n": id }] });
        collection.insert_many(new).session(&mut *session).await?;
        let mine = doc! { "_id": { "$gte": 100 + round * 20, "$lt": 110 + round * 20 } };
        let change = doc! { "$set": { "n": 7, "list": [] } };
        collection.update_many(mine, change).session(&mut *session).await?;
        let one = doc! { "_id": 110 + round * 20 };
        collection.delete_one(one).session(&mut *session).await?;
    }
    Ok(())
}

/// Begins a transaction, and makes its changes. The server aborts those that it has no room for, and says
/// that they may be retried.
async fn begin(session: &mut ClientSession, collections: &[Collection<Document>], round: i32) {
    loop {
        session.start_transaction().await.unwrap();
        match change_in(session, collections, round).await {
            Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                let _ = session.abort_transaction().await;
                sleep(Duration::from_millis(500)).await;
            }
            done => return done.unwrap(),
        }
    }
}

async fn commit(session: &mut ClientSession, collections: &[Collection<Document>], round: i32) {
    while let Err(error) = session.commit_transaction().await {
        assert!(error.contains_label(TRANSIENT_TRANSACTION_ERROR), "{error}");
        begin(session, collections, round).await;
    }
}

/// 5,000 documents of two collections in one transaction of more than 16 MB, so that it spans several oplog
/// entries; one that is aborted and leaves nothing; and one that begins before docrow continues, and commits
/// after that.
async fn transactions(test: &str, phase: Phase) {
    // What is not committed yet stays in the shared server's small cache, which has no room for more of it.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let mut scene = held(Place::shared(test).await, phase).await;
    let place = &scene.place;
    let collections = ["things", "z_last"].map(|name| place.collection(name));
    let mut session = place.client.start_session().await.unwrap();
    let mut late = place.client.start_session().await.unwrap();
    for round in 0..3 {
        let session = if round == 2 { &mut late } else { &mut session };
        begin(session, &collections, round).await;
        match round {
            0 => commit(session, &collections, round).await,
            1 => session.abort_transaction().await.unwrap(),
            _ => {}
        }
    }
    scene.open().await;
    scene.change().await;
    commit(&mut late, &collections, 2).await;
    let of_aborted = doc! { "_id": { "$gte": 30_000, "$lt": 40_000 } };
    let things = scene.place.collection("things");
    assert_eq!(things.count_documents(of_aborted).await.unwrap(), 0);
    scene.converges(&[]).await;
}

#[tokio::test]
async fn large_transactions_during_snapshot() {
    transactions("transactions_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn large_transactions_during_hand_over() {
    transactions("transactions_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn large_transactions_during_stream() {
    transactions("transactions_stream", Phase::Stream).await;
}

/// A document of 16 MB.
fn huge(id: i32, letter: &str) -> Document {
    let mut document = doc! { "_id": id, "n": 0, "padding": "" };
    let rest = MAX - document.to_vec().unwrap().len();
    document.insert("padding", letter.repeat(rest));
    document
}

/// Documents of the largest possible size, inserted, updated, replaced, deleted.
async fn documents_of_16_mb(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    place.collection("y_huge").insert_many((0..4).map(|id| huge(id, "a"))).await.unwrap();
    let mut scene = held(place, phase).await;
    for (id, letter) in [(10, "b"), (20, "c")] {
        let collection = scene.place.collection("y_huge");
        collection.insert_one(huge(id, letter)).await.unwrap();
        collection.replace_one(doc! { "_id": 0 }, huge(0, letter)).await.unwrap();
        let padding = huge(1, letter).get_str("padding").unwrap().to_owned();
        collection.update_one(doc! { "_id": 1 }, doc! { "$set": { "padding": padding } }).await.unwrap();
        collection.update_one(doc! { "_id": 2 }, doc! { "$inc": { "n": 1 } }).await.unwrap();
        collection.delete_one(doc! { "_id": id - 7 }).await.unwrap();
        scene.open().await;
    }
    scene.converges(&[]).await;
}

#[tokio::test]
async fn documents_of_16_mb_during_snapshot() {
    documents_of_16_mb("huge_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn documents_of_16_mb_during_stream() {
    documents_of_16_mb("huge_stream", Phase::Stream).await;
}

/// What does not concern docrow: it does not even notice.
async fn changes_of_no_document(test: &str, phase: Phase, commands: fn(round: i32) -> Vec<Document>) {
    let mut scene = held(Place::shared(test).await, phase).await;
    for round in 0..2 {
        for command in commands(round) {
            scene.place.database().run_command(command).await.unwrap();
        }
        scene.change().await;
        scene.open().await;
    }
    scene.converges(&[]).await;
}

fn indexes_validators_and_views(round: i32) -> Vec<Document> {
    let name = format!("by_name_{round}");
    let index = doc! { "key": { "name": 1, "n": 1 }, "name": &name };
    vec![
        doc! { "createIndexes": "things", "indexes": [index] },
        doc! { "collMod": "things", "index": { "name": &name, "hidden": true } },
        doc! { "collMod": "things", "validator": { "n": { "$exists": true } }, "validationAction": "warn" },
        doc! { "dropIndexes": "things", "index": &name },
        doc! { "create": format!("view_{round}"), "viewOn": "things", "pipeline": [] },
        doc! { "compact": "things", "force": true },
    ]
}

#[tokio::test]
async fn indexes_validators_and_views_during_snapshot() {
    changes_of_no_document("no_document_snapshot", Phase::Snapshot, indexes_validators_and_views).await;
}

#[tokio::test]
async fn indexes_validators_and_views_during_stream() {
    changes_of_no_document("no_document_stream", Phase::Stream, indexes_validators_and_views).await;
}

fn post_images(round: i32) -> Vec<Document> {
    vec![doc! { "collMod": "z_last", "changeStreamPreAndPostImages": { "enabled": round == 0 } }]
}

#[tokio::test]
async fn post_images_enabled_during_snapshot() {
    if lacks(Capability::PostImages).await {
        return;
    }
    changes_of_no_document("post_images_snapshot", Phase::Snapshot, post_images).await;
}

#[tokio::test]
async fn post_images_enabled_during_stream() {
    if lacks(Capability::PostImages).await {
        return;
    }
    changes_of_no_document("post_images_stream", Phase::Stream, post_images).await;
}
