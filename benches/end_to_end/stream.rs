//! `stream`: how fast changes of users that waited in the oplog are applied, compared with how fast they can
//! be read.
//!
//! A round writes the events of a kind, then reads them by the bare drain (the ceiling, the faster of two),
//! then starts `docrow run` and measures the time from its start until every stored position has reached the
//! last event. All rounds use the same replica, which must equal its source at the end.

use std::time::{Duration, Instant};

use mongodb::bson::doc;
use serde_json::json;
use tokio_postgres::NoTls;

use super::{
    ROUNDS, bars,
    events::{self, Kind},
    process::Docrow,
    report::{Report, rounded, seconds},
    stage::{DATABASE, Mapping, Stage},
};

const TARGET: &str = "stream";
const EVENTS: i32 = 100_000;
/// Above the keys of all users.
const NEW_IDS: i32 = 10_000_000;
/// The fastest of these counts.
const DRAINS: usize = 2;
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);

/// In the order in which a round writes them.
const KINDS: [(Kind, &str); 5] = [
    (Kind::Scalar, bars::SCALAR),
    (Kind::Push, bars::PUSH),
    (Kind::Replace, bars::REPLACE),
    (Kind::Insert, bars::INSERT),
    (Kind::Delete, bars::DELETE),
];

pub(crate) async fn run(report: &mut Report) {
    let count = report.scaled(EVENTS);
    let stage = Stage::set().await;
    // Everything that a round writes stays in the oplog, on a small disk too.
    let resize = doc! { "replSetResizeOplog": 1, "size": 8000.0 };
    stage.client.database("admin").run_command(resize).await.unwrap();
    stage.load_users(0..count).await;
    let (cost, servers) = stage.backfill(TARGET, "users", Mapping::Files).await;
    let wall = cost.wall.as_secs_f64();
    let figures =
        json!({ "bench": "stream", "what": "backfill", "documents": count, "seconds": seconds(cost.wall) });
    report.docrow(&format!("stream    {count} users, backfill {wall:.2} s"), figures, cost, servers);
    for round in 1..=ROUNDS {
        for (kind, bar) in KINDS {
            measure(report, &stage, (kind, bar), (round, count)).await;
        }
    }
    let started = Instant::now();
    Docrow::start(&stage.config(TARGET, "users", Mapping::Files), "verify").ended().await;
    let verified = seconds(started.elapsed());
    report.measured(
        &format!("stream    verified in {verified:.1} s: source and target are equal"),
        &json!({ "bench": "stream", "what": "verify", "seconds": verified }),
    );
}

async fn measure(
    report: &mut Report,
    stage: &Stage,
    (kind, bar): (Kind, &'static str),
    (round, count): (i32, i32),
) {
    let ids = if matches!(kind, Kind::Insert | Kind::Delete) { NEW_IDS..NEW_IDS + count } else { 0..count };
    let before = events::end_of_stream(stage).await;
    // A value that the field never had before: ages begin at 18, and each kind has its own values.
    let value = 1000 * round + kind as i32;
    let written = events::write(stage, kind, ids, value).await;
    stage.settle().await;
    // A disturbed drain would not be a ceiling.
    let mut drains = Vec::new();
    for _ in 0..DRAINS {
        drains.push(events::drain(stage, before.clone(), count).await);
    }
    let drained = drains.into_iter().min_by_key(|drained| drained.wall).unwrap();

    let config = stage.config(TARGET, "users", Mapping::Files);
    stage.settle().await;
    let servers = stage.servers();
    let docrow = Docrow::start(&config, "run");
    let applied = until_applied(stage, TARGET, &docrow, &drained.last).await;
    let cost = docrow.stop().await;
    let servers = stage.servers() - servers;

    let rate = |wall: Duration| f64::from(count) / wall.as_secs_f64();
    let ratio = rate(applied) / rate(drained.wall);
    report.round(bar, ratio);
    let line = format!(
        "stream    round {round}  {:8} drain {:>6.0}/s   applied {:>6.0}/s   ratio {ratio:.3}",
        kind.name(),
        rate(drained.wall),
        rate(applied)
    );
    let figures = json!({
        "bench": "stream", "what": kind.name(), "round": round, "events": count,
        "written_seconds": seconds(written), "drain_seconds": seconds(drained.wall), "seconds": seconds(applied),
        "drain_per_second": rate(drained.wall).round(), "per_second": rate(applied).round(), "ratio": rounded(ratio),
    });
    report.docrow(&line, figures, cost, servers);
}

/// Waits until everything up to the event `last` is in PostgreSQL, and returns the time since docrow was
/// started.
pub(crate) async fn until_applied(stage: &Stage, target: &str, docrow: &Docrow, last: &str) -> Duration {
    let (client, connection) = tokio_postgres::connect(&stage.uri(target), NoTls).await.unwrap();
    let mut session = tokio::task::JoinSet::new();
    session.spawn(connection);
    let question = "SELECT bool_and(position >= $1) FROM docrow.progress WHERE collection = $2";
    let question = client.prepare(question).await.unwrap();
    let namespace = format!("{DATABASE}.users");
    loop {
        let is_past: bool = client.query_one(&question, &[&last, &namespace]).await.unwrap().get(0);
        let elapsed = docrow.started.elapsed();
        if is_past {
            return elapsed;
        }
        assert!(!docrow.is_over(), "docrow has ended: {}", docrow.log());
        assert!(elapsed < PATIENCE, "not applied after {PATIENCE:?}: {}", docrow.log());
        tokio::time::sleep(POLL).await;
    }
}
