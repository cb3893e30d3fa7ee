//! `[verify] every`: scheduled verifications.

use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{Home, Place, http::get};

fn metric(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
}

/// Issue: inside `run`; its result in status, on the page, as a metric. The next one finds errors, and
/// repairs, too.
#[tokio::test]
async fn a_verification_on_schedule_is_shown_everywhere() {
    let place = Place::shared("verify_schedule").await;
    place.add_sentinels().await;
    place.collection("orders").insert_many((0..50).map(|id| doc! { "_id": id, "n": 1 })).await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    home.set("verify.every", "2s");
    home.set("verify.max_rate", 5000.0);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let address = docrow.address().await;
    let verified = async |what: &str| {
        let status = get(&address, "/status").await.json();
        (status["verified"]["equal"] == (what == "equal") && status["verified"].is_object()).then_some(status)
    };
    docrow.until("it is verified", async || verified("equal").await.is_some()).await;
    let found = verified("equal").await.unwrap()["verified"].clone();
    assert_eq!(
        (&found["differences"], &found["documents"], &found["sample"]),
        (&0.into(), &114.into(), &Value::Null),
        "{found}"
    );
    let page = get(&address, "/").await.body;
    assert!(page.contains("verified at"), "the page has words for it");

    place.postgres().await.batch_execute("UPDATE orders SET n = 7 WHERE _id = 3").await.unwrap();
    docrow.logs("[DRW-3320] verified").await;
    docrow.until("that is shown", async || home.status().await["verified"]["differences"] == 1).await;
    let shown = home.status().await;
    let name = format!("{}.orders", place.name);
    assert_eq!(shown["verified"]["collections"][0]["name"], name, "{shown}");
    let problems = shown["health"]["problems"].to_string();
    assert!(problems.contains("found 1 difference: docrow verify shows them"), "{problems}");
    assert!(home.finish(&["status"]).await.with_code(0).out.contains("1 different"));
    let metrics = get(&address, "/metrics").await.body;
    assert_eq!(metric(&metrics, "docrow_verify_differences"), 1.0);
    assert!(metric(&metrics, "docrow_verify_last_timestamp_seconds") > 1.7e9);
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    docrow.until("that is repaired", async || verified("equal").await.is_some()).await;
    docrow.stop().await.quiet_but(&["DRW-3320"]);
    // It is also there while no process runs.
    assert_eq!(home.status().await["verified"]["equal"], true);
}

/// A restart continues the schedule: recently verified collections are not verified again.
#[tokio::test]
async fn a_restart_goes_on_with_the_schedule() {
    let place = Place::shared("verify_schedule_restart").await;
    place.add_sentinels().await;
    let mut home = Home::new(&place);
    home.set("verify.every", "1h");
    home.set("verify.sample", "50%");
    let mut docrow = home.run();
    docrow.logs("verified ").await;
    docrow.until("it is stored", async || home.status().await["verified"]["sample"] == "50%").await;
    let first = home.status().await["verified"]["at"].clone();
    docrow.kill9().await.quiet();
    home.serve();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let address = docrow.address().await;
    docrow
        .until("it knows the last one", async || {
            metric(&get(&address, "/metrics").await.body, "docrow_verify_differences") == 0.0
        })
        .await;
    assert_eq!(home.status().await["verified"]["at"], first);
    assert!(!docrow.log().contains("as [verify] every says"), "{}", docrow.log());
    docrow.stop().await.quiet();
}

/// Issue: after `docrow verify --repair`, there is no warning about repaired differences until the next
/// scheduled one.
#[tokio::test]
async fn what_is_mended_is_no_longer_warned_of() {
    let place = Place::shared("verify_schedule_mended").await;
    place.add_sentinels().await;
    for name in ["orders", "others"] {
        place.collection(name).insert_many((0..50).map(|id| doc! { "_id": id, "n": 1 })).await.unwrap();
    }
    let mut home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    let edit = "UPDATE orders SET n = 7 WHERE _id = 3; UPDATE others SET n = 7 WHERE _id < 2";
    place.postgres().await.batch_execute(edit).await.unwrap();
    home.set("verify.every", "1h");
    let mut docrow = home.run();
    docrow.logs("[DRW-3320] verified").await;
    let found = home.status().await;
    assert_eq!(found["verified"]["differences"], 3, "{found}");
    // One collection, and then the rest.
    let others = format!("{}.others", place.name);
    home.finish(&["verify", "--repair", "--collection", &others]).await.with_code(0).quiet();
    let left = home.status().await;
    assert_eq!(left["verified"]["differences"], 1, "{left}");
    assert!(left["health"]["problems"].to_string().contains("found 1 difference: docrow verify"), "{left}");
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    let mended = home.status().await;
    assert_eq!(mended["health"]["problems"], Value::Array(vec![]), "{mended}");
    assert_eq!(
        (&mended["verified"]["equal"], &mended["verified"]["at"]),
        (&true.into(), &found["verified"]["at"])
    );
    docrow.stop().await.quiet_but(&["DRW-3320"]);
}
