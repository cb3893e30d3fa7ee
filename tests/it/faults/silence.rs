//! PostgreSQL exists, closes no connection, and does not answer: stopped processes, a frozen machine, a
//! network that swallows everything.

use std::{fs, process::Command, time::Duration};

use docrow::demo::servers::{Postgres, PostgresOptions};
use serde_json::Value;
use tokio::time::Instant;

use super::{Phase, Scene, change};
use crate::support::{Code, Docrow, Home, Place, Proxy, RETRIES, http::get};

const SILENT: &str = "no answer from PostgreSQL at";

/// A separate server, and a docrow with a patience of a second and a half.
async fn place(test: &str) -> (Postgres, Place, Home) {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let shared = Place::shared(test).await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), &format!("{test}_own")).await;
    let mut home = Home::new(&place);
    home.set("target.uri", impatient(&place.postgres_uri));
    home.serve();
    (postgres, place, home)
}

fn impatient(uri: &str) -> String {
    format!("{uri}?tcp_user_timeout=1500&connect_timeout=3")
}

/// The server's processes, without its first one, whose title has this text.
fn processes(postgres: &Postgres, text: &str) -> Vec<String> {
    let pid = postgres.pid().unwrap();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let title = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    children.split_whitespace().filter(|pid| title(pid).contains(text)).map(str::to_owned).collect()
}

fn signal(signal: &str, processes: &[String]) {
    assert!(!processes.is_empty());
    // One of them may have ended meanwhile.
    Command::new("kill").arg("-s").arg(signal).args(processes).status().unwrap();
}

/// Waits until docrow asks whether the server answers: a session of its own does that, soon after the others.
async fn is_listened_to(place: &Place, docrow: &mut Docrow) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'docrow pulse'";
    docrow.until("the server is listened to", async || place.number(sessions).await > Some(0)).await;
}

async fn is_said(docrow: &mut Docrow) {
    docrow.logs(SILENT).await;
    docrow.logs(RETRIES).await;
}

/// "PostgreSQL's backends SIGSTOPped for 262 s": it is detected, reported, and over when they continue.
async fn stopped(test: &str, phase: Phase) {
    let (postgres, place, home) = place(test).await;
    let mut scene = Scene::held(place, home, phase).await;
    let address = scene.docrow.address().await;
    let Scene { place, docrow, .. } = &mut scene;
    is_listened_to(place, docrow).await;
    let mut all = processes(&postgres, "");
    all.push(postgres.pid().unwrap().to_string());
    signal("STOP", &all);
    is_said(&mut scene.docrow).await;
    let status: Value = get(&address, "/status").await.json();
    let words = status["health"]["words"].as_str().unwrap().to_owned();
    assert!(words.contains("PostgreSQL does not answer"), "{words}");
    assert_eq!(get(&address, "/readyz").await.code, 503);
    signal("CONT", &all);
    scene.converges(&[RETRIES, SILENT]).await.coded(Code::TargetSilent);
}

#[tokio::test]
async fn server_stopped_during_snapshot() {
    stopped("silence_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn server_stopped_during_stream() {
    stopped("silence_stream", Phase::Stream).await;
}

/// New sessions are served, existing ones are not: they are not even ended, so that the pipeline stays taken.
#[tokio::test]
async fn sessions_stopped_during_stream() {
    let (postgres, place, home) = place("silence_sessions").await;
    super::fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    // Otherwise it would be asked over a new session, which answers.
    is_listened_to(&place, &mut docrow).await;
    let sessions = processes(&postgres, &place.name);
    signal("STOP", &sessions);
    is_said(&mut docrow).await;
    docrow.logs("does not end").await;
    change(&place, 1).await;
    signal("CONT", &sessions);
    // A session that has gone on may end later than the next one asks for what it holds.
    super::converges(&place, &home, docrow).await.quiet_but(&[RETRIES, SILENT, "waits for a lock on"]);
}

/// Any other command ends, too, with an explanation; but not because an answer takes long while the server is
/// alive.
#[tokio::test]
async fn silence_during_verify() {
    let place = Place::shared("silence_verify").await;
    place.add_sentinels().await;
    let proxy = Proxy::of(&place.postgres_uri).await;
    let mut home = Home::new(&place);
    home.backfill().await;
    home.set("target.uri", impatient(&proxy.uri(&place.postgres_uri)));
    let migration = place.postgres().await;
    migration.batch_execute("BEGIN; LOCK TABLE sentinels IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut docrow = home.start(&["verify"]);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'sentinels'::regclass";
    docrow.until("it waits for the lock", async || place.number(waits).await > Some(0)).await;
    // Longer than it would wait for a dead server, which it checks meanwhile.
    is_listened_to(&place, &mut docrow).await;
    let began = Instant::now();
    docrow.until("it has waited for long", async || began.elapsed() > Duration::from_secs(4)).await;
    proxy.stall(true);
    let ended = docrow.ended().await.with_code(4);
    assert!(ended.log.contains(SILENT), "{}", ended.log);
}
