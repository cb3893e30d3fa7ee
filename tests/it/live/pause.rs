//! `docrow pause` and `docrow resume`: a collection's changes wait in the spool, whatever happens meanwhile,
//! and the others continue.

use std::time::Duration;

use docrow::demo::servers::Mongod;
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    Before, Code, Docrow, Gate, Home, Place, http::get, oplog_start, roll_over, small_oplog, status::of,
};

const ORDERS: i32 = 100;

/// On its own servers for MongoDB, or the shared ones.
async fn fill(place: &Place) {
    place.add_sentinels().await;
    let order = |id: i32| doc! { "_id": id, "n": 0, "lines": [{ "n": id }] };
    place.collection("orders").insert_many((0..ORDERS).map(order)).await.unwrap();
}

async fn change(place: &Place, round: i32) {
    let orders = place.collection("orders");
    let change = doc! { "$inc": { "n": 1 }, "$push": { "lines": { "n": round } } };
    orders.update_many(doc! {}, change).await.unwrap();
    orders.delete_one(doc! { "_id": round }).await.unwrap();
    orders.insert_one(doc! { "_id": 1000 + round, "n": round }).await.unwrap();
}

/// The state of the rows of `orders`.
async fn rows(place: &Place) -> String {
    let question = "SELECT md5(string_agg(o::text || coalesce(l::text, ''), ';' ORDER BY o._id, l._ord)) \
        FROM orders o LEFT JOIN orders_lines l USING (_id)";
    place.postgres().await.query_one(question, &[]).await.unwrap().get(0)
}

async fn status(home: &Home) -> (Value, Value) {
    let status = home.status().await;
    let orders = of(&status, "orders").clone();
    (status, orders)
}

/// Pauses the collection: from then on nothing is written to it.
async fn pause(place: &Place, home: &Home) {
    let ended = home.finish(&["pause", &format!("{}.ord*", place.name)]).await.with_code(0).quiet();
    assert!(ended.out.contains("nothing more is written"), "{}", ended.out);
}

async fn resume(place: &Place, home: &Home, docrow: &mut Docrow) {
    home.finish(&["resume", &format!("{}.orders", place.name)]).await.with_code(0).quiet();
    docrow.logs("orders continues").await;
}

/// Issue: its changes wait in the spool within its budget; the others are not affected; it survives restarts;
/// status, page and metrics show it. G2, G6: docrow is killed meanwhile, and the oplog rolls over the spooled
/// changes.
#[tokio::test]
async fn a_paused_collection_waits_in_the_spool_and_the_others_go_on() {
    let mongod = Mongod::start(small_oplog()).await.unwrap();
    let postgres = Place::shared("pause").await.postgres_uri;
    let place = Place::on(&mongod.uri(), &postgres, "pause_own").await;
    fill(&place).await;
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    pause(&place, &home).await;
    let before = rows(&place).await;
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    assert_eq!(rows(&place).await, before, "its changes wait");
    docrow.kill9().await.quiet();

    let mut docrow = home.run();
    change(&place, 2).await;
    place.settle(&mut docrow).await;
    let clock = place.client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
    roll_over(&place.client, clock.get_timestamp("operationTime").unwrap()).await;
    assert!(oplog_start(&place.client).await > clock.get_timestamp("operationTime").unwrap());
    place.settle(&mut docrow).await;
    assert_eq!(rows(&place).await, before, "its changes wait, after a restart too");
    // It is shown, and is no problem.
    let address = docrow.address().await;
    docrow
        .until("it is live", async || {
            status(&home).await.0["health"]["words"].as_str().unwrap().starts_with("live: 1 collection is")
        })
        .await;
    let (whole, orders) = status(&home).await;
    assert!(orders["paused"].is_string() && orders["lag_seconds"].is_u64(), "{orders}");
    assert_eq!(whole["health"]["level"], "ok", "{whole}");
    assert!(whole["health"]["words"].as_str().unwrap().ends_with(".orders is paused"), "{whole}");
    assert!(whole["lag_seconds"].as_u64() <= orders["lag_seconds"].as_u64(), "{whole}");
    let metrics = get(&address, "/metrics").await.body;
    let phase = format!("docrow_collection_phase{{collection=\"{}.orders\",phase=\"paused\"}} 1", place.name);
    assert!(metrics.contains(&phase), "{metrics}");
    assert!(home.finish(&["status"]).await.with_code(0).quiet().out.contains("paused since"));
    // Nor are spooled changes a difference; and verify does not wait for them.
    let began = Instant::now();
    let ended = home.finish(&["verify"]).await.with_code(1).quiet();
    assert!(ended.out.contains("not settled") && ended.out.contains("it is paused"), "{}", ended.out);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());

    change(&place, 3).await;
    resume(&place, &home, &mut docrow).await;
    let left = "SELECT count(*) FROM orders WHERE n = 3 AND _id < 1000";
    docrow.until("what had waited is applied", async || place.number(left).await == Some(97)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("changes out of the spool"), "{}", ended.log);
}

/// A snapshot is paused too, and the others are completed and live meanwhile.
#[tokio::test]
async fn a_paused_snapshot_waits_and_the_others_are_completed() {
    let place = Place::shared("pause_snapshot").await;
    fill(&place).await;
    let home = Home::new(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "NEW.collection LIKE '%.orders'")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    pause(&place, &home).await;
    gate.open().await;
    change(&place, 1).await;
    let sentinels = place.database().collection::<Document>("sentinels");
    sentinels.update_many(doc! {}, doc! { "$set": { "round": -7 } }).await.unwrap();
    let live = "SELECT count(*) FROM sentinels WHERE round = -7";
    docrow.until("the others are live", async || place.number(live).await == Some(64)).await;
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(0));
    docrow.stop().await.quiet();

    // A backfill could not end.
    let ended = home.finish(&["backfill"]).await.with_code(2).coded(Code::CollectionPaused);
    assert!(ended.error().contains("docrow resume"), "{}", ended.log);
    let mut docrow = home.run();
    docrow.logs("orders is paused").await;
    change(&place, 2).await;
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(0));
    resume(&place, &home, &mut docrow).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
    home.backfill().await;
}

/// When the spool's budget is used up, the spooled changes are discarded and the collection is stopped, so
/// that the others continue. When it is resumed, it continues from the oplog.
#[tokio::test]
async fn a_full_spool_gives_up_what_is_paused() {
    let place = Place::shared("pause_full").await;
    fill(&place).await;
    // Keys are text then.
    place.collection("orders").insert_one(doc! { "_id": "a", "n": 0 }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("state.max_spool", "64MiB");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    pause(&place, &home).await;
    // A position holds the `_id`, and here that is most of it.
    let mut random = fastrand::Rng::with_seed(7);
    let mut id = || (0..1200).map(|_| random.alphanumeric()).collect::<String>();
    for _ in 0..40 {
        let documents: Vec<_> = (0..1000).map(|_| doc! { "_id": id(), "n": 1 }).collect();
        place.collection("orders").insert_many(documents).await.unwrap();
        if docrow.log().contains("[DRW-6020]") {
            break;
        }
    }
    docrow.logs("[DRW-6020]").await;
    // The others continue.
    place.settle(&mut docrow).await;
    docrow
        .until("that is shown", async || {
            let (whole, orders) = status(&home).await;
            let is_stopped = orders["stopped"].as_str().is_some_and(|why| why.contains("the spool is full"));
            is_stopped && whole["health"]["level"] == "error"
        })
        .await;
    resume(&place, &home, &mut docrow).await;
    place.settle(&mut docrow).await;
    let all = i64::try_from(place.collection("orders").count_documents(doc! {}).await.unwrap()).unwrap();
    docrow
        .until("all is applied", async || place.number("SELECT count(*) FROM orders").await == Some(all))
        .await;
    place.assert_same(&home).await;
    let (_, orders) = status(&home).await;
    assert!(orders["stopped"].is_null() && orders["paused"].is_null(), "{orders}");
    docrow.stop().await.quiet_but(&["DRW-6020", "the spool is full", "the spool is almost full"]);
}

/// Pausing or resuming something impossible is an error.
#[tokio::test]
async fn what_cannot_be_paused_is_said() {
    let place = Place::shared("pause_words").await;
    fill(&place).await;
    let home = Home::new(&place);
    let orders = format!("{}.orders", place.name);
    let ended = home.finish(&["pause", &orders]).await.with_code(2).coded(Code::NotCopied);
    assert!(ended.error().contains("nothing to pause"), "{}", ended.log);
    home.backfill().await;
    home.finish(&["pause", "no.such"]).await.with_code(2).coded(Code::NothingMatched);
    home.finish(&["resume", &orders]).await.with_code(2).coded(Code::NothingMatched);
    let ended = home.finish(&["pause", &orders]).await.with_code(0).quiet();
    assert!(ended.out.contains("no process runs the pipeline"), "{}", ended.out);
    home.finish(&["resume", "*"]).await.with_code(0).quiet();
}
