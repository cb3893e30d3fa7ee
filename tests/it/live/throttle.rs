//! `[snapshot] max_rate` and `docrow throttle`: a snapshot respects its limit, and pauses while secondaries
//! are behind.

use std::time::Duration;

use mongodb::bson::doc;
use tokio::time::Instant;

use crate::support::{Home, Pair, Place};

async fn fill(place: &Place, documents: i32) {
    let orders = (0..documents).map(|id| doc! { "_id": id, "text": "x".repeat(200) });
    place.collection("orders").insert_many(orders).await.unwrap();
}

/// Issue: in documents or in bytes per second. If both were limited together, it would take half the time.
#[tokio::test]
async fn a_snapshot_is_no_faster_than_it_may_be() {
    for (name, rate) in [("documents", "400"), ("bytes", "96KiB")] {
        let place = Place::shared(&format!("throttle_{name}")).await;
        fill(&place, 2000).await;
        let mut home = Home::new(&place);
        home.set("snapshot.max_rate", rate);
        let began = Instant::now();
        home.backfill().await;
        let took = began.elapsed();
        assert!((Duration::from_millis(3900)..Duration::from_secs(60)).contains(&took), "{rate}: {took:?}");
        place.assert_same(&home).await;
    }
}

/// Issue: `docrow throttle` for a running process.
#[tokio::test]
async fn a_running_snapshot_is_throttled_and_let_go() {
    let place = Place::shared("throttle_running").await;
    place.add_sentinels().await;
    fill(&place, 2000).await;
    let mut home = Home::new(&place);
    home.set("snapshot.max_rate", 1);
    let mut docrow = home.run();
    let status = async || home.status().await["process"]["limit"].clone();
    docrow.until("the limit is shown", async || status().await == "at most 1 documents per second").await;
    let ended = home.finish(&["throttle", "off"]).await.with_code(0).quiet();
    assert!(ended.out.contains("as fast as possible"), "{}", ended.out);
    docrow.logs("snapshots read as fast as they can").await;
    place.settle(&mut docrow).await;
    docrow.until("no limit is shown", async || status().await.is_null()).await;
    docrow.stop().await.quiet();
    // It survives the process, until it is changed.
    home.finish(&["resync", "*"]).await.with_code(0);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    home.finish(&["throttle", "config"]).await.with_code(0).quiet();
    let wrong = home.finish(&["throttle", "fast"]).await.with_code(2);
    assert!(wrong.log.contains("use a number of documents"), "{}", wrong.log);
    place.assert_same(&home).await;
}

/// Issue: automatic back-off while the source's secondaries lag.
#[tokio::test]
async fn a_snapshot_spares_secondaries_that_are_behind() {
    let pair = Pair::start(false).await;
    let postgres = Place::shared("throttle_secondaries").await.postgres_uri;
    let place = Place::on(&pair.first.uri(), &postgres, "throttle_secondaries_own").await;
    fill(&place, 3000).await;
    let mut home = Home::new(&place);
    home.set("snapshot.max_rate", 50);
    let mut docrow = home.run();
    pair.hold_back().await;
    let write = async {
        for id in 0.. {
            pair.insert("docrow_padding", "padding", vec![doc! { "_id": id }]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = write => unreachable!("it never ends"),
        () = docrow.logs("secondaries are") => {}
    }
    let limit = async || {
        home.status().await["process"]["limit"]
            .as_str()
            .is_some_and(|limit| limit.contains("secondaries are"))
    };
    docrow.until("that is shown", async || limit().await).await;
    pair.let_go().await;
    home.finish(&["throttle", "off"]).await.with_code(0);
    docrow.logs("secondaries have caught up").await;
    place.copied(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["secondaries are"]);
}
