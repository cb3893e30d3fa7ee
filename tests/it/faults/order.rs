//! `order = "commit"`: a reader of PostgreSQL never sees a part of a transaction of MongoDB (G3 for many
//! documents).

use std::sync::atomic::{AtomicBool, Ordering};

use mongodb::bson::doc;

use crate::support::{Capability, Home, Place, lacks};

/// Accounts in two collections.
const ACCOUNTS: i32 = 40;
/// Their constant total.
const TOTAL: i64 = 2 * ACCOUNTS as i64 * 1000;

/// Fills the accounts.
async fn open(place: &Place) -> Home {
    place.add_sentinels().await;
    for name in ["one", "two"] {
        let account = |id: i32| doc! { "_id": id, "amount": 1000_i64 };
        place.collection(name).insert_many((0..ACCOUNTS).map(account)).await.unwrap();
    }
    let mut home = Home::new(place);
    home.set("stream.order", "commit");
    home
}

/// Moves money between the collections, a transaction at a time, some of many documents.
async fn transfer(place: &Place, seed: u64, done: &AtomicBool) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (one, two) = (place.collection("one"), place.collection("two"));
    let mut session = place.client.start_session().await.unwrap();
    let mut transactions = 0;
    while !done.load(Ordering::Relaxed) {
        session.start_transaction().await.unwrap();
        let (first, many) = (random.i32(0..ACCOUNTS), random.bool());
        let ids: Vec<i32> = if many { (0..ACCOUNTS).collect() } else { vec![first] };
        let amount = random.i64(1..100);
        let mut failed = false;
        for id in ids {
            let other = if many { id } else { random.i32(0..ACCOUNTS) };
            let moved = async {
                let less = doc! { "$inc": { "amount": -amount }, "$push": { "log": { "$each": [amount], "$slice": -5 } } };
                one.update_one(doc! { "_id": id }, less).session(&mut session).await?;
                let more = doc! { "$inc": { "amount": amount } };
                two.update_one(doc! { "_id": other }, more).session(&mut session).await
            };
            // Two writers may want one account: then the server takes the transaction back.
            failed |= moved.await.is_err();
            if failed {
                break;
            }
        }
        if failed {
            let _ = session.abort_transaction().await;
        } else if session.commit_transaction().await.is_ok() {
            transactions += 1;
        }
    }
    transactions
}

/// A reader under load that always sees the total.
#[tokio::test]
async fn no_part_of_a_transaction_is_seen_during_the_stream() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let place = Place::shared("order_commit").await;
    let mut home = open(&place).await;
    home.set("stream.batch_rows", 7);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let done = AtomicBool::new(false);
    let look = async {
        let reader = place.postgres().await;
        let question = "SELECT sum(amount)::bigint FROM \
            (SELECT amount FROM one UNION ALL SELECT amount FROM two) a";
        let mut states = std::collections::BTreeSet::new();
        while states.len() < 200 {
            let total: i64 = reader.query_one(question, &[]).await.unwrap().get(0);
            assert_eq!(total, TOTAL, "a part of a transaction is seen");
            let state = "SELECT string_agg(amount::text, ',' ORDER BY _id) FROM one";
            let state: String = reader.query_one(state, &[]).await.unwrap().get(0);
            states.insert(state);
        }
        done.store(true, Ordering::Relaxed);
    };
    let (first, second, ()) = tokio::join!(transfer(&place, 1, &done), transfer(&place, 2, &done), look);
    assert!(first + second >= 100, "{first} and {second} transactions");
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Killed under load: a reader sees only whole transactions afterwards, too.
#[tokio::test]
async fn docrow_killed_during_the_stream_in_the_order_of_commits() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let place = Place::shared("order_killed").await;
    let home = open(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let done = AtomicBool::new(false);
    let kill = async {
        let reader = place.postgres().await;
        let total =
            "SELECT sum(amount)::bigint FROM (SELECT amount FROM one UNION ALL SELECT amount FROM two) a";
        for _ in 0..4 {
            let at = place.number("SELECT sum(_id * amount)::bigint FROM two").await;
            docrow
                .until("something is applied", async || {
                    place.number("SELECT sum(_id * amount)::bigint FROM two").await != at
                })
                .await;
            docrow.kill9().await.quiet();
            for _ in 0..20 {
                let total: i64 = reader.query_one(total, &[]).await.unwrap().get(0);
                assert_eq!(total, TOTAL, "a part of a transaction is seen");
            }
            docrow = home.run();
        }
        done.store(true, Ordering::Relaxed);
        docrow
    };
    let (transactions, mut docrow) = tokio::join!(transfer(&place, 3, &done), kill);
    // Each time something newer was applied.
    assert!(transactions >= 4, "{transactions} transactions");
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}
