//! The dashboard in a real browser.

use mongodb::bson::doc;

use crate::support::{Home, Place, browser::Browser};

/// A name that would be somebody else's program, if names were put into the page as they are.
const HOSTILE: &str = "<img src=x onerror=\"document.title='gone'\">";

/// Issue: one self-contained page, live by polling, tested in a real headless Chromium. It shows each collection and where
/// it stands; it runs under its own policy; names are only names; and it says when nobody answers any more.
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
    browser.until_it_says("Live: all 2 collections are up to date").await;
    for part in [
        &format!("{}.orders", place.name),
        HOSTILE,
        "30 documents copied",
        "Partitions",
        "none since it was started",
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
    docrow.stop().await.quiet();
    browser.until_it_says("Docrow does not answer since").await;
}
