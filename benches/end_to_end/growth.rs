//! `growth`: ten times the documents take ten times the time, and the same memory. They are small ones
//! ([`flat::small`]).

use serde_json::json;

use super::{
    ROUNDS, bars, flat,
    report::{Report, rounded},
    stage::{Mapping, Stage},
};

/// So many that all buffers have been filled, each in every thread that uses it.
const FEW: (&str, i32) = ("few", 1_000_000);
const MANY: (&str, i32) = ("many", 10_000_000);

pub(crate) async fn run(report: &mut Report) {
    let stage = Stage::set().await;
    let [few, many] = [FEW, MANY].map(|(collection, count)| (collection, report.scaled(count)));
    for (collection, count) in [few, many] {
        flat::load(&stage.collection(collection), count, flat::small).await;
    }
    stage.until_majority().await;
    // Warms up.
    stage.backfill("warmup", few.0, Mapping::Auto).await;
    stage.drop("warmup").await;
    for round in 1..=ROUNDS {
        let (short, little) = measure(report, &stage, few, round).await;
        let (long, much) = measure(report, &stage, many, round).await;
        report.round(bars::GROWTH, long / short);
        report.round(bars::GROWTH_MEMORY, much / little);
    }
}

/// Seconds, and the peak of docrow's memory.
async fn measure(
    report: &mut Report,
    stage: &Stage,
    (collection, count): (&str, i32),
    round: i32,
) -> (f64, f64) {
    let (cost, servers) = stage.backfill(collection, collection, Mapping::Auto).await;
    stage.drop(collection).await;
    let wall = cost.wall.as_secs_f64();
    let rate = f64::from(count) / wall;
    let line = format!("growth    round {round}  {count} documents   backfill {wall:.2} s, {rate:.0}/s");
    let figures = json!({
        "bench": "growth", "what": "backfill", "round": round, "documents": count, "seconds": rounded(wall),
        "per_second": rate.round(),
    });
    report.docrow(&line, figures, cost, servers);
    (wall, cost.peak_mb)
}
