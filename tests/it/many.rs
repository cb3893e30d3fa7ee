//! A deployment of many collections, three of them in trouble: how a terminal of 80 × 24 and the page show
//! it; and what is written to terminals at all.

use std::process::Stdio;

use mongodb::bson::doc;
use tokio::process::Command;

use crate::support::{
    Code, Docrow, Home, Place,
    browser::{Browser, Look},
    http::get,
};

const COLLECTIONS: usize = 63;
const STOPPED: [&str; 3] = ["c07", "c31", "c62"];

/// Live except for three, whose names belong to tables that are not docrow's.
async fn many(test: &str) -> (Place, Home, Docrow, String) {
    let place = Place::shared(test).await;
    for n in 0..COLLECTIONS {
        place.collection(&format!("c{n:02}")).insert_one(doc! { "_id": 1, "n": 1 }).await.unwrap();
    }
    for name in STOPPED {
        place.postgres().await.batch_execute(&format!("CREATE TABLE {name} (x int)")).await.unwrap();
    }
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    place.copied(&mut docrow).await;
    for (least, what) in
        [(COLLECTIONS / 2, "half of them are live"), (COLLECTIONS - STOPPED.len(), "they are live")]
    {
        docrow
            .until(what, async || {
                let status = get(&address, "/status").await.json();
                let live = status["collections"].as_array().map_or(0, |all| {
                    all.iter().filter(|one| one["phase"] == "live" && one["stopped"].is_null()).count()
                });
                live >= least && status["health"]["level"] == "error"
            })
            .await;
    }
    (place, home, docrow, address)
}

/// docrow's output to a terminal of 80 × 24 within twelve seconds, on both streams.
async fn on_a_terminal(home: &Home, arguments: &str, environment: &[(&str, &str)]) -> String {
    let docrow = env!("CARGO_BIN_EXE_docrow");
    let command = format!("stty cols 80 rows 24; timeout --foreground -s INT 12 {docrow} {arguments}");
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).current_dir(home.path()).kill_on_drop(true);
    script.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied()).stdin(Stdio::null());
    String::from_utf8(script.output().await.unwrap().stdout).unwrap()
}

/// Without control sequences for the cursor, colours and clearing.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap().to_owned();
    let rest =
        parts.map(|part| part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest));
    first + &rest.collect::<String>()
}

/// The headline stays on top, no column is cut, collections in trouble come first, the others are counted;
/// the same on the page.
#[tokio::test]
async fn what_is_wrong_comes_first() {
    let (place, home, docrow, address) = many("many").await;
    a_terminal_shows_it(&place, &home).await;
    collections_are_chosen_and_put_in_order(&place, &home).await;
    the_page_shows_it(&home, &address).await;
    docrow.stop().await;
}

async fn a_terminal_shows_it(place: &Place, home: &Home) {
    let written = on_a_terminal(home, "status --watch=1", &[]).await;
    let frame = written.split("\u{1b}[H").filter(|frame| frame.contains("every 1 s")).last().unwrap();
    // The log's last line follows it, when the terminal is closed.
    let (frame, _) = frame.split_once("^C ends").unwrap();
    // The terminal may add a return to each.
    let lines: Vec<_> =
        frame.split("\r\n").map(|line| plain(line).trim_end_matches('\r').to_owned()).collect();
    let shown = lines.join("\n");
    assert!(lines.len() <= 24, "{} lines:\n{shown}", lines.len());
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{shown}");
    assert!(lines[0].starts_with("● docrow  3 of 63 collections are stopped"), "{shown}");
    let heads = lines.iter().position(|line| line.contains("COLLECTION")).unwrap();
    for head in ["COLLECTION", "PHASE", "DOCUMENTS", "BEHIND", "DEAD LETTERS"] {
        assert!(lines[heads].contains(head), "{head} is cut:\n{shown}");
    }
    assert!(lines[heads - 1].contains("63 collections: 3 stopped, 60 live"), "{shown}");
    let rows = lines[heads + 1..].iter().filter(|line| line.contains(&format!("{}.", place.name)));
    let rows: Vec<_> =
        rows.filter(|line| line.contains("  stopped  ") || line.contains("  live  ")).collect();
    for (row, name) in rows.iter().zip(STOPPED) {
        assert!(row.contains(&format!(".{name} ")) && row.contains("stopped"), "{shown}");
    }
    let more = lines.iter().find_map(|line| line.trim().strip_prefix("and ")?.strip_suffix(" live")).unwrap();
    let (more, live) = more.split_once(" more: ").unwrap();
    assert_eq!(more, live, "{shown}");
    assert_eq!(rows.len() + more.parse::<usize>().unwrap(), COLLECTIONS, "{shown}");
}

async fn collections_are_chosen_and_put_in_order(place: &Place, home: &Home) {
    let names = async |arguments: &[&str]| {
        let ended = home.finish(&[&["status", "--json"], arguments].concat()).await.with_code(0).quiet();
        let status: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
        let names =
            status["collections"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned());
        names.map(|name| name.rsplit('.').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]).await[..2], ["c00", "c01"]);
    assert_eq!(names(&["--sort", "trouble"]).await[..4], ["c07", "c31", "c62", "c00"]);
    let pattern = format!("{}.c0[12]", place.name);
    assert_eq!(names(&["--collection", &pattern]).await, ["c01", "c02"]);
    let ended =
        home.finish(&["status", "--collection", "no.such"]).await.with_code(2).coded(Code::NothingMatched);
    assert!(ended.error().contains("status \"no.such\""), "{}", ended.log);
    // A program gets everything in full.
    let ended = home.finish(&["status"]).await.with_code(0).quiet();
    assert_eq!(ended.out.matches(&format!("  {}.c", place.name)).count(), COLLECTIONS, "{}", ended.out);
}

async fn the_page_shows_it(home: &Home, address: &str) {
    let mut browser = Browser::start().await;
    browser.look(Look { width: 1160, dark: false, phone: false }).await;
    browser.open(&format!("http://{address}/")).await;
    browser.until_it_says("3 of 63 collections are stopped").await;
    browser.until_it_says("63: 3 stopped, 60 live").await;
    let names =
        "[...document.querySelectorAll('.collection .name')].map((name) => name.innerText.split('.').pop())";
    let first = browser.evaluate(names).await;
    let first: Vec<_> =
        first.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(first[..4], ["c07", "c31", "c62", "c00"]);
    assert!(first.len() < COLLECTIONS, "{first:?}");
    // Warnings are above all parts that can be long.
    let above = "document.getElementById('messages-card').getBoundingClientRect().bottom <= \
        document.getElementById('collections').getBoundingClientRect().top && !document.getElementById('messages-card').hidden";
    assert_eq!(browser.evaluate(above).await, true);
    let search = "(() => { const box = document.getElementById('search'); box.value = 'C5'; box.dispatchEvent(new Event('input')); })()";
    browser.evaluate(search).await;
    browser.until(&format!("{names}.length === 10 && {names}.every((name) => name.startsWith('c5'))")).await;
    browser.evaluate(&search.replace("'C5'", "''")).await;
    browser.evaluate("document.getElementById('all').click()").await;
    browser.until(&format!("{names}.length === {COLLECTIONS}")).await;
    // The page and the command show the same for each.
    let badges = "[...document.querySelectorAll('.collection')].map((one) => \
        one.querySelector('.name').innerText + ' ' + one.querySelector('.badge').innerText).join('\\n')";
    let badges = browser.evaluate(badges).await.as_str().unwrap().to_owned();
    let table = home.finish(&["status"]).await.with_code(0).quiet().out;
    for line in badges.lines() {
        let (name, word) = line.split_once(' ').unwrap();
        let row = table.lines().find(|row| row.trim_start().starts_with(&format!("{name} "))).unwrap();
        assert!(row.contains(&format!("  {word} ")), "the page says {line}, the command {row}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

/// <https://no-color.org>: for all output.
#[tokio::test]
async fn no_color_is_heeded_everywhere() {
    let place = Place::shared("no_color").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    for (arguments, expected) in [
        ("status", "this pipeline"),
        ("statos", "DRW-1001"),
        ("check --config absent.toml", "DRW-1102"),
        ("explain nothing", "DRW-1004"),
    ] {
        let painted = on_a_terminal(&home, arguments, &[]).await;
        assert!(painted.contains("\u{1b}[") && painted.contains(expected), "{arguments}: {painted:?}");
        let bare = on_a_terminal(&home, arguments, &[("NO_COLOR", "1")]).await;
        assert!(!bare.contains('\u{1b}') && bare.contains(expected), "{arguments}: {bare:?}");
    }
}
