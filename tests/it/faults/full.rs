//! The spool takes all the disk space (G6): work that frees space continues, whatever waits for space.

use docrow::demo::servers::{Postgres, PostgresOptions};
use fastrand::Rng;
use mongodb::bson::doc;
use serde_json::Value;

use super::state::SmallDisk;
use crate::support::{Capability, Code, Docrow, Home, Place, RETRIES, http::get, lacks};

/// The log line while there is no space.
const WAITS: &str = "waiting until there is space";

/// Inserts until docrow has no space left to spool it, and some more. Returns the number of documents. Their
/// keys have `width` characters, which are most of a change in the spool.
async fn insert_until_full(place: &Place, docrow: &mut Docrow, width: usize) -> usize {
    let mut rng = Rng::with_seed(11);
    let mut count = 0;
    while !docrow.log().contains(WAITS) {
        let mut id = || (0..width).map(|_| rng.alphanumeric()).collect::<String>();
        let documents: Vec<_> = (0..2000).map(|_| doc! { "_id": id(), "n": 1 }).collect();
        count += documents.len();
        place.collection("things").insert_many(documents).await.unwrap();
        assert!(count < 1_000_000, "the disk does not get full\n{}", docrow.log());
    }
    docrow.logs(" [DRW-6001] ").await;
    count
}

/// Asserts that the status names the disk first.
async fn says_so(docrow: &mut Docrow, address: &str) {
    let mut status = Value::Null;
    docrow
        .until("the status names the disk", async || {
            status = get(address, "/status").await.json();
            let words = status["health"]["words"].as_str().unwrap_or_default();
            words.contains("no space left") && words.contains("state directory")
        })
        .await;
    assert_eq!(status["health"]["level"], "error", "{status}");
    assert!(status["spool"]["problem"].as_str().unwrap().contains("no space left"), "{status}");
}

async fn full_during_an_outage(test: &str, width: usize, order: &str) {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let shared = Place::shared(test).await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), &format!("{test}_own")).await;
    place.add_sentinels().await;
    place.collection("things").insert_one(doc! { "_id": "first", "n": 0 }).await.unwrap();
    let disk = SmallDisk::new(64);
    let mut home = Home::new(&place);
    home.set("state.dir", disk.state().to_str().unwrap());
    home.set("stream.order", order);
    if order == "commit" {
        home.set("stream.partitions", 1);
    }
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    place.settle(&mut docrow).await;
    postgres.kill9().await.unwrap();
    insert_until_full(&place, &mut docrow, width).await;
    says_so(&mut docrow, &address).await;
    postgres.restart().await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let status = get(&address, "/status").await.json();
    assert_eq!(status["spool"]["problem"], Value::Null, "{status}");
    let ended = docrow.stop().await.quiet_but(&[WAITS, RETRIES]).coded(Code::StateFull);
    assert!(ended.log.contains("the state directory has space again"), "{}", ended.log);
}

/// G6: small changes, so that the spool gives its space back while it is drained.
#[tokio::test]
async fn state_disk_full_during_an_outage_of_postgres() {
    full_during_an_outage("full_outage", 500, "document").await;
}

/// G6: few and large ones, so that it does so at the end.
#[tokio::test]
async fn state_disk_full_of_large_changes_during_an_outage_of_postgres() {
    full_during_an_outage("full_large", 2000, "document").await;
}

/// G6: the same, where changes of all collections are applied together.
#[tokio::test]
async fn state_disk_full_during_an_outage_of_postgres_in_the_order_of_commits() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    full_during_an_outage("full_commit", 1000, "commit").await;
}
