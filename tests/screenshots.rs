//! `make screenshots`: pictures of the dashboard in its five states, and of many collections, three of them
//! in trouble: of a docrow and servers that really are in these states.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    dead_code,
    unused_imports,
    reason = "a test may fail loudly, and this one does not need all that others do"
)]

#[path = "it/support/mod.rs"]
mod support;

use std::{path::PathBuf, sync::atomic::AtomicU64, time::Duration};

use docrow::demo::{
    samples,
    servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    users,
    writer::Writer,
};
use mongodb::bson::doc;

use support::{
    Before, Docrow, Gate, Home, Place,
    browser::{Browser, Look},
    http::get,
};

const DESKTOP: Look = Look { width: 1160, dark: false, phone: false };
const DARK: Look = Look { dark: true, ..DESKTOP };
const PHONE: Look = Look { width: 390, dark: false, phone: true };

const USERS: i32 = 40_000;
const CHANGES_PER_SECOND: u32 = 150;

#[tokio::main]
async fn main() {
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let mut place = Place::on(&mongod.uri(), &postgres.uri("postgres"), "shop").await;
    place.name = "shop".to_owned();
    let mut home = Home::new(&place);
    home.serve();
    home.set("name", "shop");
    home.set("snapshot.parallelism", 1);
    let mapping = include_str!("../schemas/users.toml").replace("sample_db", &place.name);
    home.map("users.toml", &mapping);
    let users = place.database().collection("users");
    users::load(&users, 1, 0..USERS, &AtomicU64::new(0)).await.unwrap();
    samples::load(&place.database()).await.unwrap();
    place.collection("invoices").insert_many((0..900).map(|id| doc! { "_id": id })).await.unwrap();
    let mapping = "collection = 'shop.invoices'\ntable = 'invoices'\nextra = '_extra'\n\n\
        [key]\ncolumn = 'number'\ntype = 'bigint'\n";
    home.map("invoices.toml", mapping);
    let mut browser = Browser::start().await;
    browser.look(DESKTOP).await;

    // Everything is held before the first table is created.
    let gate = Gate::close(&place, Before::Statement("CREATE TABLE")).await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    gate.reached(&mut docrow, 1).await;
    browser.open(&format!("http://{address}/")).await;
    browser.until_it_says("starting").await;
    picture(&mut browser, "empty").await;
    gate.open().await;

    until(&mut docrow, &address, "half is copied", |status| {
        let copied: u64 = numbers(status, "documents").sum();
        copied > 5_000 && numbers(status, "documents_per_second").any(|rate| rate > 0)
    })
    .await;
    browser.until_it_says("per second").await;
    picture(&mut browser, "snapshotting").await;

    until(&mut docrow, &address, "it is live", |status| status["process"]["stage"] == "live").await;
    let mut writer = Writer::new(&place.client, &users, 1, 0..USERS);
    writer.write_for(Duration::from_secs(40), CHANGES_PER_SECOND).await.unwrap();
    browser.until_it_says("live: all").await;
    picture(&mut browser, "live").await;
    browser.look(DARK).await;
    picture(&mut browser, "live-dark").await;
    browser.look(PHONE).await;
    picture(&mut browser, "live-phone").await;
    browser.look(DESKTOP).await;

    // A writer inserts keys of another type, and another session holds a lock on a table.
    place.collection("invoices").insert_many(["A-1", "A-2"].map(|id| doc! { "_id": id })).await.unwrap();
    until(&mut docrow, &address, "there are dead letters", |status| status["dead_letters"]["total"] == 2)
        .await;
    browser.evaluate("document.querySelectorAll('details')[2].open = true").await;
    let mut locker = place.postgres().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users").await.unwrap();
    writer.write_for(Duration::from_secs(75), CHANGES_PER_SECOND / 3).await.unwrap();
    browser.until_it_says("behind MongoDB").await;
    picture(&mut browser, "lagging").await;
    lock.rollback().await.unwrap();
    browser.until_it_says("could not be written").await;
    until(&mut docrow, &address, "it has caught up", |status| status["lag_seconds"] == 0).await;

    // A column is dropped.
    let statement = "ALTER TABLE countries DROP COLUMN area";
    place.postgres().await.batch_execute(statement).await.unwrap();
    place.collection("countries").update_many(doc! {}, doc! { "$inc": { "area": 1 } }).await.unwrap();
    browser.until_it_says("stopped by an error").await;
    browser.until_it_says("no answer since").await;
    picture(&mut browser, "stopped").await;
    docrow.ended().await;
    many(&place, &mut browser).await;
    assert_eq!(
        browser.complaints().iter().find(|complaint| !complaint.contains("ERR_CONNECTION_REFUSED")),
        None
    );
}

/// 63 collections: for one, the table's name is already in use, and in two, some documents have a key of
/// another type, in one of them too many.
async fn many(on: &Place, browser: &mut Browser) {
    let mut place = Place::on(&on.mongodb_uri, &on.postgres_uri, "stores").await;
    place.name = "stores".to_owned();
    let names = [
        "orders",
        "customers",
        "invoices",
        "payments",
        "refunds",
        "shipments",
        "returns",
        "reviews",
        "carts",
    ];
    let regions = ["at", "be", "ch", "de", "es", "fr", "it"];
    let all = names.iter().flat_map(|name| regions.iter().map(move |region| format!("{name}_{region}")));
    for (n, name) in all.enumerate() {
        let documents = (0..40 + 17 * n as i32).map(|id| doc! { "_id": id, "total": 12.5, "city": "Turin" });
        place.collection(&name).insert_many(documents).await.unwrap();
    }
    place.postgres().await.batch_execute("CREATE TABLE refunds_fr (x int)").await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    home.set("name", "stores");
    home.set("mapping.max_dead_letters", 20);
    let mut docrow = home.run();
    let address = docrow.address().await;
    let is_live = |one: &serde_json::Value| one["phase"] == "live" && one["stopped"].is_null();
    let live = |status: &serde_json::Value| {
        status["collections"].as_array().map_or(0, |all| all.iter().filter(|one| is_live(one)).count())
    };
    until(&mut docrow, &address, "they are live", |status| live(status) == 62).await;
    for (name, count) in [("invoices_it", 30), ("orders_de", 3)] {
        let strange = (0..count).map(|n| doc! { "_id": format!("A-{n}") });
        place.collection(name).insert_many(strange).await.unwrap();
    }
    until(&mut docrow, &address, "three are in trouble", |status| {
        live(status) == 61
            && status["dead_letters"]["groups"].as_array().is_some_and(|groups| groups.len() == 2)
    })
    .await;
    browser.look(DESKTOP).await;
    browser.open(&format!("http://{address}/")).await;
    browser.until_it_says("63: 2 stopped, 61 live").await;
    picture(browser, "many").await;
    browser.look(PHONE).await;
    picture(browser, "many-phone").await;
    docrow.stop().await;
}

async fn picture(browser: &mut Browser, name: &str) {
    // The page asks again, and draws.
    browser.evaluate("document.fonts.ready").await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}.png"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    browser.picture(&file).await;
    println!("{}: {} KiB", file.display(), std::fs::metadata(&file).unwrap().len() >> 10);
}

async fn until(
    docrow: &mut Docrow,
    address: &str,
    what: &str,
    condition: impl Fn(&serde_json::Value) -> bool,
) {
    docrow.until(what, async || condition(&get(address, "/status").await.json())).await;
}

fn numbers<'a>(status: &'a serde_json::Value, name: &'a str) -> impl Iterator<Item = u64> + 'a {
    let collections = status["collections"].as_array().into_iter().flatten();
    collections.filter_map(move |collection| collection["snapshot"][name].as_u64())
}
