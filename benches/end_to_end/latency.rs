//! `latency`: from the acknowledgement of a write by a majority until its row shows it, while 1,000 are
//! written per second.
//!
//! The writer follows a schedule, whatever the answers take; each document is written once, so that every
//! value must be seen. The reader asks PostgreSQL, about once a millisecond, for those documents alone that
//! were acknowledged and not yet seen. A write is seen when the answer is there, so a latency includes the
//! reader's own share.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use mongodb::{bson::doc, options::WriteConcern};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_postgres::NoTls;

use super::{
    ROUNDS, bars,
    process::Docrow,
    report::{Report, rounded},
    stage::{Mapping, SEED, Stage},
};

const TARGET: &str = "latency";
const USERS: i32 = 100_000;
const WRITES: i32 = 20_000;
const PERIOD: Duration = Duration::from_millis(1);
/// Writes before those that count.
const WARM_UP: i32 = 1000;
/// Writes under way at most: each waits for the journal.
const WRITERS: i32 = 64;
const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// What one round gave, in milliseconds.
pub(crate) struct Measured {
    sorted: Vec<f64>,
    per_second: f64,
}

/// Acknowledged, and not seen yet: the value, and since when, by `_id`.
type Pending = Mutex<HashMap<i32, (i32, Instant)>>;

pub(crate) async fn run(report: &mut Report) {
    let (users, writes) = (report.scaled(USERS), report.scaled(WRITES));
    let stage = Stage::set().await;
    stage.load_users(0..users).await;
    let (cost, servers) = stage.backfill(TARGET, "users", Mapping::Files).await;
    let wall = cost.wall.as_secs_f64();
    let figures =
        json!({ "bench": "latency", "what": "backfill", "documents": users, "seconds": rounded(wall) });
    report.docrow(&format!("latency   {users} users, backfill {wall:.2} s"), figures, cost, servers);
    for round in 1..=ROUNDS {
        let mut ids: Vec<i32> = (0..users).collect();
        fastrand::Rng::with_seed(SEED + u64::from(round.cast_unsigned())).shuffle(&mut ids);
        stage.settle().await;
        let (warm_up, ids) = ids.split_at(WARM_UP.min(users / 10) as usize);
        let before = stage.servers();
        let docrow = Docrow::start(&stage.config(TARGET, "users", Mapping::Files), "run");
        // Docrow is live when it has ended.
        measure(&stage, TARGET, &docrow, warm_up, 2 * round).await;
        let measured = measure(&stage, TARGET, &docrow, &ids[..writes as usize], 2 * round + 1).await;
        let cost = docrow.stop().await;
        let servers = stage.servers() - before;

        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| measured.quantile(share));
        let rate = measured.per_second;
        for (bar, value) in [(bars::P50, p50), (bars::P99, p99), (bars::WORST, max), (bars::WRITES, rate)] {
            report.round(bar, value);
        }
        let line = format!(
            "latency   round {round}  {rate:.0} writes/s   p50 {p50:.1} ms   p99 {p99:.1} ms   max {max:.1} ms"
        );
        let figures = json!({
            "bench": "latency", "what": "writes", "round": round, "writes": writes, "per_second": rate.round(),
            "p50_ms": rounded(p50), "p99_ms": rounded(p99), "max_ms": rounded(max),
        });
        report.docrow(&line, figures, cost, servers);
    }
}

impl Measured {
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.sorted.len() - 1;
        self.sorted[(last as f64 * share).round() as usize]
    }
}

/// Writes once to each of the users `ids`, and waits until all of it is seen.
pub(crate) async fn measure(
    stage: &Stage,
    target: &str,
    docrow: &Docrow,
    ids: &[i32],
    series: i32,
) -> Measured {
    let (pending, written) = (Pending::default(), AtomicBool::new(false));
    let start = Instant::now();
    let writers =
        (0..WRITERS).map(|writer| write(stage, &pending, (ids, series * 1_000_000), (start, writer)));
    let write = async {
        join_all(writers).await;
        written.store(true, Ordering::Release);
        start.elapsed()
    };
    let uri = stage.uri(target);
    let (took, mut sorted) = tokio::join!(write, read(&uri, docrow, &pending, &written));
    assert_eq!(sorted.len(), ids.len());
    sorted.sort_by(f64::total_cmp);
    Measured { sorted, per_second: ids.len() as f64 / took.as_secs_f64() }
}

/// One of the writers: those of all writes that are its, each when it is due, or as soon as possible.
async fn write(
    stage: &Stage,
    pending: &Pending,
    (ids, base): (&[i32], i32),
    (start, writer): (Instant, i32),
) {
    let users = stage.collection("users");
    let mine = (0..).zip(ids).skip(writer as usize).step_by(WRITERS as usize);
    for (number, id) in mine {
        sleep_until(start + PERIOD * number).await;
        let value = base + number.cast_signed();
        let update = users.update_one(doc! { "_id": id }, doc! { "$set": { "age": value } });
        let updated = update.write_concern(WriteConcern::majority()).await.unwrap();
        let acknowledged = Instant::now();
        assert_eq!(updated.modified_count, 1);
        pending.lock().unwrap().insert(*id, (value, acknowledged));
    }
}

/// The latencies, in milliseconds, of all that is written.
async fn read(uri: &str, docrow: &Docrow, pending: &Pending, written: &AtomicBool) -> Vec<f64> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await.unwrap();
    let mut session = JoinSet::new();
    session.spawn(connection);
    let question = client.prepare("SELECT id, age FROM users WHERE id = ANY ($1)").await.unwrap();
    let mut latencies = Vec::new();
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progressed = Instant::now();
    loop {
        ticks.tick().await;
        // Before it is looked at what is pending: nothing comes after it.
        let is_all = written.load(Ordering::Acquire);
        let ids: Vec<i64> = pending.lock().unwrap().keys().map(|id| i64::from(*id)).collect();
        if ids.is_empty() && is_all {
            return latencies;
        }
        if ids.is_empty() {
            continue;
        }
        let rows = client.query(&question, &[&ids]).await.unwrap();
        let seen = Instant::now();
        let mut pending = pending.lock().unwrap();
        for row in rows {
            let (id, age) = (row.get::<_, i64>(0) as i32, row.get::<_, i32>(1));
            let Some((_, acknowledged)) = pending.get(&id).filter(|(value, _)| *value == age) else {
                continue;
            };
            latencies.push((seen - *acknowledged).as_secs_f64() * 1000.0);
            pending.remove(&id);
            progressed = seen;
        }
        assert!(!docrow.is_over() && progressed.elapsed() < PATIENCE, "it does not show: {}", docrow.log());
    }
}
