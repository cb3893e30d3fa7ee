//! `network`: a backfill, its verification, and updates that waited, with a network between docrow and both
//! servers, compared with the same line without delay; how long a write takes to show there; and what a start
//! takes for very little.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{
    ROUNDS, bars,
    events::{self, Kind},
    latency,
    link::Pace,
    process::Docrow,
    report::{Report, rounded, seconds},
    stage::{Mapping, SEED, Stage},
    stream,
};

const USERS: i32 = 100_000;
const TARGET: &str = "network";
/// In milliseconds.
const ROUND_TRIPS: [u64; 5] = [0, 1, 5, 20, 80];
const GIGABIT: f64 = 1000.0;
/// The one whose latency, and the one whose starts have bars.
const NEAR: u64 = 5;
const FAR: u64 = 20;
const COLLECTIONS: usize = 60;

pub(crate) async fn run(report: &mut Report) {
    let users = report.scaled(USERS);
    let mut stage = Stage::set().await;
    let resize = doc! { "replSetResizeOplog": 1, "size": 8000.0 };
    stage.client.database("admin").run_command(resize).await.unwrap();
    stage.load_users(0..users).await;
    stage.backfill("warmup", "users", Mapping::Files).await;
    stage.drop("warmup").await;
    for round in 1..=ROUNDS {
        let mut without = None;
        for milliseconds in ROUND_TRIPS {
            stage.put_apart(pace(milliseconds, GIGABIT));
            let took = work(report, &stage, (round, milliseconds), users).await;
            let without = *without.get_or_insert(took);
            for (bar, ratio) in bars_of(milliseconds, without, took) {
                report.round(bar, ratio);
            }
        }
    }
    start(report, &mut stage).await;
}

fn pace(milliseconds: u64, megabits_per_second: f64) -> Pace {
    Pace { round_trip: Duration::from_millis(milliseconds), megabits_per_second }
}

/// What each kind of work took.
#[derive(Clone, Copy)]
struct Took {
    backfill: Duration,
    updates: Duration,
}

fn bars_of(milliseconds: u64, without: Took, took: Took) -> Vec<(&'static str, f64)> {
    let [backfill, updates] = [(without.backfill, took.backfill), (without.updates, took.updates)]
        .map(|(without, took)| without.as_secs_f64() / took.as_secs_f64());
    match milliseconds {
        NEAR => vec![(bars::NEAR_BACKFILL, backfill), (bars::NEAR_UPDATES, updates)],
        FAR => vec![(bars::FAR_BACKFILL, backfill), (bars::FAR_UPDATES, updates)],
        _ => Vec::new(),
    }
}

async fn work(report: &mut Report, stage: &Stage, (round, milliseconds): (i32, u64), users: i32) -> Took {
    let (backfill, servers) = stage.backfill(TARGET, "users", Mapping::Files).await;
    let (proof, _) = stage.verify(TARGET).await;

    let before = events::end_of_stream(stage).await;
    let value = 1000 * round + i32::try_from(milliseconds).unwrap();
    events::write(stage, Kind::Scalar, 0..users, value).await;
    let last = events::drain(stage, before, users).await.last;
    stage.settle().await;
    let config = stage.config(TARGET, "users", Mapping::Files);
    let docrow = Docrow::start(&config, "run");
    let updates = stream::until_applied(stage, TARGET, &docrow, &last).await;
    docrow.stop().await;
    let p50 = if milliseconds == NEAR { Some(p50(stage, &config, round, users).await) } else { None };
    stage.drop(TARGET).await;

    if let Some(p50) = p50 {
        report.round(bars::NEAR_P50, p50);
    }
    let shown = p50.map_or_else(String::new, |p50| format!("   p50 {p50:.1} ms"));
    let [copied, proved, applied] = [backfill.wall, proof.wall, updates].map(|took| took.as_secs_f64());
    let line = format!(
        "network   round {round}  {milliseconds:2} ms   backfill {copied:.2} s   verify {proved:.2} s   \
         {users} updates {applied:.2} s{shown}"
    );
    let figures = json!({
        "bench": "network", "round": round, "round_trip_ms": milliseconds, "documents": users,
        "backfill_seconds": rounded(copied), "verify_seconds": rounded(proved),
        "updates_seconds": rounded(applied), "p50_ms": p50.map(rounded),
    });
    report.docrow(&line, figures, backfill, servers);
    Took { backfill: backfill.wall, updates }
}

/// Of the latencies of a thousand writes a second, in milliseconds.
async fn p50(stage: &Stage, config: &std::path::Path, round: i32, users: i32) -> f64 {
    let mut ids: Vec<i32> = (0..users).collect();
    fastrand::Rng::with_seed(SEED + u64::from(round.cast_unsigned())).shuffle(&mut ids);
    let (warm_up, ids) = ids.split_at(ids.len() / 20);
    let docrow = Docrow::start(config, "run");
    latency::measure(stage, TARGET, &docrow, warm_up, 1000 + 2 * round).await;
    let measured = latency::measure(stage, TARGET, &docrow, &ids[..ids.len() / 10], 1001 + 2 * round).await;
    docrow.stop().await;
    measured.quantile(0.5)
}

/// One document, and many small collections: a first run, and again with nothing to do.
async fn start(report: &mut Report, stage: &mut Stage) {
    stage.put_apart(pace(FAR, GIGABIT));
    stage.database().collection::<Document>("one").insert_one(doc! { "_id": 1 }).await.unwrap();
    for number in 0..COLLECTIONS {
        let documents = (0..10).map(|id| doc! { "_id": id, "name": format!("thing {id}"), "list": [id] });
        let collection = stage.database().collection::<Document>(&format!("many_{number}"));
        collection.insert_many(documents).await.unwrap();
    }
    stage.until_majority().await;
    for round in 1..=ROUNDS {
        let mut took = [Duration::ZERO; 3];
        took[0] = stage.backfill(TARGET, "one", Mapping::Auto).await.0.wall;
        stage.drop(TARGET).await;
        took[1] = stage.backfill(TARGET, "many_*", Mapping::Auto).await.0.wall;
        took[2] = stage.again(TARGET).await.0.wall;
        stage.drop(TARGET).await;
        let [one, many, again] = took.map(seconds);
        for (bar, value) in [(bars::FAR_ONE, one), (bars::FAR_MANY, many), (bars::FAR_AGAIN, again)] {
            report.round(bar, value);
        }
        let line = format!(
            "network   round {round}  {FAR} ms   one document {one:.2} s   {COLLECTIONS} collections {many:.2} s, \
             again {again:.2} s"
        );
        let figures = json!({
            "bench": "network", "what": "start", "round": round, "round_trip_ms": FAR, "one_seconds": one,
            "collections": COLLECTIONS, "seconds": many, "again_seconds": again,
        });
        report.measured(&line, &figures);
    }
}
