//! How much is compared, how fast, and how it is reported.

use std::{collections::BTreeSet, fs, path::Path};

use mongodb::bson::doc;
use serde_json::Value;

use super::report;
use crate::support::{Home, Place};

/// Orders, and a backfill of them.
async fn copied(test: &str, count: i32) -> (Place, Home) {
    let place = Place::shared(test).await;
    let order = |id: i32| doc! { "_id": id, "note": format!("secret {id}"), "lines": [{ "item": "pen" }] };
    place.collection("orders").insert_many((0..count).map(order)).await.unwrap();
    place.collection("others").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    (place, home)
}

/// A sample of everything finds errors with certainty; a smaller one has the right size, and is repeatable.
#[tokio::test]
async fn a_sample_is_random_and_repeatable() {
    let (place, home) = copied("verify_sample", 3000).await;
    let orders = format!("{}.orders", place.name);
    let sample = async |size: &str, seed: &str, code: i32| {
        let arguments = ["verify", "--json", "--collection", &orders, "--sample", size, "--seed", seed];
        report(&home.finish(&arguments).await.with_code(code).quiet())
    };
    let documents = |report: &Value| report["collections"][0]["documents"].as_u64().unwrap();
    let tenth = sample("10%", "1", 0).await;
    assert!((200..400).contains(&documents(&tenth)), "{tenth}");
    assert_eq!(tenth["sample"]["percent"], 10.0);
    assert_eq!(documents(&tenth), documents(&sample("10%", "1", 0).await));
    let some = documents(&sample("300", "2", 0).await);
    assert!((200..400).contains(&some), "{some}");
    let plant = "UPDATE orders SET note = 'x' WHERE _id < 1000; INSERT INTO orders (_id) SELECT generate_series(5000, 5999); \
        INSERT INTO orders_lines SELECT generate_series(6000, 6999), 0, 'x'";
    place.postgres().await.batch_execute(plant).await.unwrap();
    let all = sample("100%", "3", 1).await;
    assert_eq!((documents(&all), &all["collections"][0]["differences"]), (3000, &3000.into()));
    // Both directions.
    let third = sample("30%", "4", 1).await;
    let kinds: BTreeSet<_> = third["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| format!("{} {}", d["table"], d["kind"]))
        .collect();
    let of = |table: &str, kind: &str| format!("\"{table}\" \"{kind}\"");
    let expected = [of("orders", "column"), of("orders", "no_document"), of("orders_lines", "no_document")];
    assert_eq!(kinds, expected.into());
    let found = third["collections"][0]["differences"].as_u64().unwrap();
    assert!((600..1200).contains(&found), "{found}");
}

/// With a rate limit it is slower; when it is stopped, it reports what it compared so far.
#[tokio::test]
async fn it_is_throttled_and_stopped() {
    let (place, home) = copied("verify_rate", 600).await;
    let ended = home.finish(&["verify", "--json", "--max-rate", "200"]).await.with_code(0).quiet();
    let report = report(&ended);
    let seconds = report["seconds"].as_f64().unwrap();
    assert!(seconds >= 2.5, "{seconds}");
    assert_eq!(report["collections"][0]["documents"], 600);

    let mut docrow = home.start(&["verify", "--max-rate", "20"]);
    docrow.logs("verifying").await;
    docrow.signal("INT").await;
    let ended = docrow.ended().await.with_code(1).quiet_but(&["stopped before it was done"]);
    let line = ended.out.lines().find(|line| line.starts_with(&place.name)).unwrap();
    let documents: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((1..600).contains(&documents), "{}", ended.out);
}

/// Only the selected collections are compared; an unknown one is an error that lists the known ones. Values
/// are shown only on request.
#[tokio::test]
async fn collections_are_chosen_and_values_withheld() {
    let (place, home) = copied("verify_choice", 10).await;
    place.postgres().await.batch_execute("UPDATE orders SET note = 'wrong' WHERE _id = 3").await.unwrap();
    let ended = home.finish(&["verify", "--collection", "*.oth*"]).await.with_code(0).quiet();
    assert!(ended.out.contains("others") && !ended.out.contains("orders"), "{}", ended.out);
    let ended = home.finish(&["verify", "--collection", "*.order"]).await.with_code(2);
    let known = format!("there are {0}.orders, {0}.others", place.name);
    assert!(ended.error().contains(&known), "{}", ended.log);
    let ended = home.finish(&["verify"]).await.with_code(1).quiet();
    assert!(!ended.out.contains("wrong") && !ended.log.contains("wrong"), "{}{}", ended.out, ended.log);
    let ended = home.finish(&["verify", "--show-values"]).await.with_code(1).quiet();
    assert!(ended.out.contains("column note differs: \"wrong\", not \"secret 3\""), "{}", ended.out);
    for wrong in [&["--sample", "0"][..], &["--sample", "101%"], &["--seed", "1"], &["--max-rate", "0"]] {
        home.finish(&[&["verify"], wrong].concat()).await.with_code(2);
    }
}

/// All paths of keys in a document.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if !path.ends_with(".row") => {
            for (name, value) in object {
                keys(value, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => drop(found.insert(path.to_owned())),
    }
}

/// docs/verify.md shows exactly the fields that exist.
#[tokio::test]
async fn the_report_is_as_documented() {
    let (place, home) = copied("verify_json", 10).await;
    place.postgres().await.batch_execute("UPDATE orders SET note = 'wrong' WHERE _id = 3").await.unwrap();
    let ended =
        home.finish(&["verify", "--json", "--show-values", "--sample", "100%"]).await.with_code(1).quiet();
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify.md")).unwrap();
    let example = docs.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let [mut documented, mut found] = [BTreeSet::new(), BTreeSet::new()];
    keys(&serde_json::from_str(example).unwrap(), "", &mut documented);
    keys(&report(&ended), "", &mut found);
    found.retain(|key| !key.ends_with("remarks"));
    documented.retain(|key| !key.contains("remarks"));
    assert_eq!(documented, found);
}
