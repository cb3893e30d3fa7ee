//! `--profile DIR`: a report of a run's CPU time, however the run ends, that reveals nothing.

use std::{fs, path::Path, sync::atomic::AtomicU64};

use docrow::demo::{
    servers::{Postgres, PostgresOptions},
    users,
};
use mongodb::bson::{RawDocumentBuf, doc};
use quick_xml::{Reader, events::Event};

use crate::support::{Code, Home, Place};

/// In every document and password, and nowhere else.
const SECRET: &str = "geheim";

const USERS: i32 = 1_000;

async fn fill(place: &Place) {
    place.add_sentinels().await;
    let users = place.database().collection::<RawDocumentBuf>("users");
    users::load(&users, 1, 0..USERS, &AtomicU64::new(0)).await.unwrap();
    let secrets =
        (0..2_000).map(|id| doc! { "_id": id, "word": SECRET, "more": [{ "x": format!("{SECRET}-{id}") }] });
    place.collection("secrets").insert_many(secrets).await.unwrap();
}

/// Asserts that both files exist, are well-formed, agree with each other, and reveal no secret. Returns their
/// texts.
fn look(folder: &Path) -> (String, String) {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let (report, graph) = (read("report.md"), read("flamegraph.svg"));
    for text in [&report, &graph] {
        assert!(!text.contains(SECRET), "a secret is revealed");
        assert!(
            !text.contains("mongodb://") && !text.contains("postgresql://"),
            "the connection is revealed"
        );
    }
    let by_stage = report.split("## By stage").nth(1).unwrap_or_else(|| panic!("{report}"));
    let by_stage = by_stage.split("\n## ").next().unwrap();
    let share = |line: &str| line.split(" | ").nth(1)?.strip_suffix(" %")?.parse::<f64>().ok();
    let shares: Vec<f64> = by_stage.lines().filter_map(share).collect();
    assert_eq!(shares.len(), 10, "{report}");
    assert!((99.0..=101.0).contains(&shares.iter().sum()), "{report}");

    let mut reader = Reader::from_str(&graph);
    let (mut depth, mut frames) = (0, 0);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Text(text) => {
                let text = text.decode().unwrap();
                frames += usize::from(text.contains("docrow::") && text.contains("samples,"));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "{graph}");
    assert!(frames > 0, "no function of docrow is in the graph");
    (report, graph)
}

/// G12: no log line, metric, error or panic contains a document's values or a password; nor does a profile.
#[tokio::test]
async fn a_backfill_and_a_run_tell_where_their_time_went() {
    let postgres = Postgres::start(PostgresOptions {
        password: Some(format!("{SECRET}-postgres")),
        ..Default::default()
    });
    let postgres = postgres.await.unwrap();
    let shared = Place::shared("profile").await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), "profile").await;
    fill(&place).await;
    let home = Home::new(&place);

    // A folder that does not exist yet.
    let ended = home.finish(&["backfill", "--profile", "deep/backfill"]).await.with_code(0).quiet();
    let (report, _) = look(&home.path().join("deep/backfill"));
    assert!(
        ended.log.contains("profile: deep/backfill/report.md and deep/backfill/flamegraph.svg"),
        "{}",
        ended.log
    );
    assert!(report.contains("`docrow backfill`") && report.contains("exit code 0"), "{report}");
    assert!(report.contains(" documents as ") && report.contains(" documents/s"), "{report}");

    let mut docrow = home.start(&["run", "--profile", "run"]);
    let secrets = place.collection("secrets");
    for round in 0..5 {
        secrets.update_many(doc! {}, doc! { "$set": { "word": format!("{SECRET}-{round}") } }).await.unwrap();
    }
    place.settle(&mut docrow).await;
    let ended = docrow.stop().await.quiet();
    let (report, _) = look(&home.path().join("run"));
    assert!(!ended.log.contains(SECRET), "{}", ended.log);
    assert!(report.contains("`docrow run`") && report.contains(" events of the change stream: "), "{report}");
    place.assert_same(&home).await;
}

/// An unwritable folder is reported before anything is done; and an error is profiled, too.
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused_at_once() {
    let place = Place::shared("profile_refused").await;
    place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    fs::write(home.path().join("file"), "").unwrap();
    for folder in ["file", "file/below", "/proc/profile"] {
        let ended =
            home.finish(&["backfill", "--profile", folder]).await.with_code(2).coded(Code::ProfileFolder);
        let error = ended.error();
        assert!(error.contains(&format!("--profile: write to the folder {folder}")), "{error}");
        let more = format!("  more: docrow explain {}", Code::ProfileFolder);
        assert_eq!(ended.log.lines().skip(1).collect::<Vec<_>>(), [more], "{}", ended.log);
    }
    assert_eq!(place.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'").await, Some(0));

    home.set("target.uri", "postgresql://nobody@127.0.0.1:1/nowhere");
    let ended = home.finish(&["run", "--profile", "failed"]).await.with_code(4);
    assert!(ended.error().contains("127.0.0.1:1"), "{}", ended.log);
    let report = fs::read_to_string(home.path().join("failed/report.md")).unwrap();
    assert!(report.contains("exit code 4") && report.contains("unknown: it did not finish"), "{report}");
    assert!(home.path().join("failed/flamegraph.svg").exists());
}
