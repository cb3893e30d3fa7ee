//! The dashboard in a real browser.

use mongodb::bson::{Bson, Document, doc};

use crate::support::{
    Home, Place,
    browser::{Browser, Look},
};

/// A name that would run as another's program, if names were put into the page unescaped.
const HOSTILE: &str = "<img src=x onerror=\"document.title='gone'\">";

/// Issue: one self-contained page, live by polling, tested in a real headless Chromium. It shows each
/// collection and its phase; it runs under its own content policy; names are only names; and it reports when
/// docrow no longer answers.
#[tokio::test]
async fn the_page_lives() {
    let place = Place::shared("dashboard").await;
    for name in ["orders", HOSTILE] {
        place.collection(name).insert_many((0..30).map(|id| doc! { "_id": id, "n": id })).await.unwrap();
    }
    let mut home = Home::new(&place);
    home.serve();
    home.set("serve.token", "0123456789abcdef");
    let mut docrow = home.run();
    let address = docrow.address().await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/?token=0123456789abcdef")).await;
    browser.until_it_says("live: all 2 collections are up to date").await;
    for part in [
        &format!("{}.orders", place.name),
        HOSTILE,
        "30 documents copied",
        "Partitions",
        "no warnings since it started",
        &format!("/{}, schema public", place.name),
    ] {
        browser.until_it_says(part).await;
    }
    browser.until("document.title === 'docrow: live: all 2 collections are up to date'").await;
    browser
        .until("document.querySelectorAll('#lag-chart .series, #changes-chart .series').length >= 2")
        .await;
    assert_eq!(browser.evaluate("location.pathname + location.search").await, "/");
    browser.evaluate("document.querySelector('details').open = true").await;
    browser.until_it_says("bigint").await;
    assert_eq!(browser.complaints(), [""; 0]);
    let verdict = "document.getElementById('verdict').className";
    assert_eq!(browser.evaluate(verdict).await, "card verdict ok");
    // A requested stop is no error.
    docrow.stop().await.quiet();
    browser.until_it_says("stopped on request").await;
    browser.until("document.getElementById('clock').innerText.startsWith('as of')").await;
    assert_eq!(browser.evaluate(verdict).await, "card verdict mute");
}

/// No answer is an error.
#[tokio::test]
async fn a_process_that_is_killed_is_missed() {
    let place = Place::shared("dashboard_killed").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    browser.until_it_says("live: 1 collection is up to date").await;
    docrow.kill9().await;
    browser.until_it_says("docrow does not answer since").await;
    assert_eq!(browser.evaluate("document.getElementById('verdict').className").await, "card verdict error");
}

/// A sentence that begins with a name keeps it unchanged; charts are neither flattened by one peak, nor made
/// of needles; and the parts of a mapping are shown side by side.
#[tokio::test]
async fn what_is_shown_is_legible() {
    let place = Place::shared("dashboard_legible").await;
    let long = |n: usize| format!("{}_{n}", "a_field_with_a_name_of_many_words".repeat(2));
    let document: Document = (0..6).map(|n| (long(n), Bson::Int32(1))).collect();
    place.collection("Big").insert_one(document).await.unwrap();
    place.collection("other").insert_one(doc! { "_id": 1 }).await.unwrap();
    place.postgres().await.batch_execute("CREATE TABLE other (x int)").await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    let mut browser = Browser::start().await;
    browser.look(Look { width: 1160, dark: false, phone: false }).await;
    browser.open(&format!("http://{address}/")).await;
    browser.until_it_says(&format!("{}.other is stopped", place.name)).await;
    browser
        .evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        .await;
    browser.until_it_says("a_field_with").await;
    let beside = "[...document.querySelectorAll('.mapping div')].every((line) => {
        const [name, type] = [...line.children].map((part) => part.getBoundingClientRect()), all = line.getBoundingClientRect();
        return name.right <= type.left + 1 && type.right <= all.right + 1 && name.left >= all.left - 1;
    }) && document.querySelectorAll('.mapping div').length > 6";
    assert_eq!(browser.evaluate(beside).await, true);
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth <= innerWidth").await, true);
    assert_eq!(browser.evaluate("height([...Array(100).fill(2), 900], 5)").await, 5);
    let cut = "CHARTS.filter((chart) => chart.cuts).map((chart) => chart.id).join()";
    assert_eq!(browser.evaluate(cut).await, "lag-chart");
    assert_eq!(browser.evaluate("height([...Array(50).fill(2), ...Array(50).fill(900)], 5)").await, 1000);
    assert_eq!(browser.complaints(), [""; 0]);
    docrow.stop().await;
}
