//! Members of a replica set that lag.

use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{Code, Home, Pair, Place, directly};

const PATIENCE: &str = "socketTimeoutMS=6000";

async fn on(pair: &Pair, test: &str) -> Place {
    let shared = Place::shared(test).await;
    let place = Place::on(&pair.first.uri(), &shared.postgres_uri, &format!("{test}_own")).await;
    place.add_sentinels().await;
    place
}

/// Nothing can be read without a majority: a user at a terminal learns that.
#[tokio::test]
async fn check_and_verify_end_without_a_majority() {
    let pair = Pair::start(true).await;
    let place = on(&pair, "no_majority").await;
    let mut home = Home::new(&place);
    home.backfill().await;
    home.set("source.uri", format!("{}&{PATIENCE}", directly(&pair.first)));
    pair.hold_back().await;
    pair.insert_unconfirmed(&place.name, "things").await;
    let ended = home.finish(&["check", "--json"]).await.with_code(1);
    assert!(ended.out.contains("has had no majority of its replica set"), "{}{}", ended.out, ended.log);
    let ended = home.finish(&["verify", "--patience", "5"]).await.with_code(3);
    assert!(ended.error().contains("has had no majority of its replica set"), "{}", ended.log);
    ended.coded(Code::SourceWithoutMajority);
}

/// Lag is measured against the set's newest operation, not that of the member that is asked.
#[tokio::test]
async fn lag_grows_while_the_member_that_is_read_does_not_apply() {
    let pair = Pair::start(false).await;
    let place = on(&pair, "lag_of_member").await;
    let mut home = Home::new(&place);
    home.set("source.uri", directly(&pair.second));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    pair.hold_back().await;
    let lag = async || {
        let status = home.finish(&["status", "--json"]).await.with_code(0);
        serde_json::from_str::<Value>(&status.out).unwrap()["lag_seconds"].as_u64()
    };
    let mut id = 0;
    let lagging = async || {
        id += 1;
        pair.insert(&place.name, "things", vec![doc! { "_id": id }]).await;
        lag().await.is_some_and(|lag| lag >= 5)
    };
    docrow.until("it says that it is behind", lagging).await;
    docrow.stop().await;
}
