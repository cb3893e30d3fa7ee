//! `users`, `flat`, `document`: `docrow backfill` alternating with the floor, and `docrow verify` of the
//! copy.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mongodb::bson::doc;
use serde_json::json;

use super::{
    ROUNDS, bars, flat,
    floor::Dump,
    report::{Report, rounded, seconds},
    stage::{Mapping, Stage},
};

/// What is copied, and how.
struct Workload {
    name: &'static str,
    collection: &'static str,
    mapping: Mapping,
    documents: i32,
    bar: &'static str,
    /// Of its verification.
    proof: &'static str,
}

/// Users into 15 tables.
pub(crate) async fn users(report: &mut Report) {
    let documents = report.scaled(100_000);
    let (collection, mapping) = ("users", Mapping::Files);
    let workload = Workload {
        name: "users",
        collection,
        mapping,
        documents,
        bar: bars::USERS,
        proof: bars::USERS_PROOF,
    };
    let stage = Stage::set().await;
    stage.load_users(0..documents).await;
    workload.run(report, &stage).await;
}

/// Flat documents, into the table that docrow makes of a sample.
pub(crate) async fn flat(report: &mut Report) {
    let documents = report.scaled(1_000_000);
    let (collection, mapping) = ("flat", Mapping::Auto);
    let workload =
        Workload { name: "flat", collection, mapping, documents, bar: bars::FLAT, proof: bars::FLAT_PROOF };
    let stage = Stage::set().await;
    flat::load(&stage.collection(collection), documents, flat::document).await;
    stage.until_majority().await;
    workload.run(report, &stage).await;
}

/// Users into one table with the whole document as `jsonb`.
pub(crate) async fn document(report: &mut Report) {
    let documents = report.scaled(100_000);
    let (collection, mapping) = ("users", Mapping::Document);
    let workload = Workload {
        name: "document",
        collection,
        mapping,
        documents,
        bar: bars::DOCUMENT,
        proof: bars::DOCUMENT_PROOF,
    };
    let stage = Stage::set().await;
    stage.load_users(0..documents).await;
    workload.run(report, &stage).await;
}

impl Workload {
    async fn run(&self, report: &mut Report, stage: &Stage) {
        let Self { name, documents, .. } = *self;
        // The first one warms everything up, and gives the rows.
        stage.backfill("warmup", self.collection, self.mapping).await;
        let dump = Dump::of(stage, "warmup").await;
        report.measured(
            &format!("{name:9} {documents} documents, {} rows", dump.rows),
            &json!({ "bench": name, "documents": documents, "rows": dump.rows }),
        );
        for round in 1..=ROUNDS {
            self.round(report, stage, (round, &dump)).await;
        }
    }

    async fn round(&self, report: &mut Report, stage: &Stage, (round, dump): (i32, &Dump)) {
        let Self { name, documents, .. } = *self;
        let (read, bytes) = read_raw(stage, self.collection).await;
        let before = stage.servers();
        let floor = dump.reload(stage).await;
        let floor_cpu = (stage.servers() - before).postgres;
        let target = format!("round{round}");
        let (cost, servers) = stage.backfill(&target, self.collection, self.mapping).await;
        let (proof, proof_servers) = stage.verify(&target).await;
        stage.drop(&target).await;

        let [read, reload, wall] = [read, floor, cost.wall].map(|wall| wall.as_secs_f64());
        let (ratio, cpu_ratio) = (wall / reload, cost.cpu.as_secs_f64() / servers.postgres.as_secs_f64());
        let rate = f64::from(documents) / wall;
        report.round(self.bar, ratio);
        if self.bar == bars::USERS {
            report.round(bars::USERS_CPU, cpu_ratio);
        }
        if self.bar == bars::FLAT {
            report.round(bars::FLAT_RATE, rate);
            report.round(bars::FLAT_FLOOR, f64::from(documents) / reload);
        }
        let line = format!(
            "{name:9} round {round}  read {read:.2} s   reload {reload:.2} s   backfill {wall:.2} s, {rate:.0}/s   \
             ratio {ratio:.2}"
        );
        let figures = json!({
            "bench": name, "what": "backfill", "round": round, "documents": documents, "rows": dump.rows,
            "bytes": bytes, "read_seconds": rounded(read), "reload_seconds": rounded(reload),
            "reload_cpu_postgres": seconds(floor_cpu), "seconds": rounded(wall), "per_second": rate.round(),
            "ratio": rounded(ratio), "cpu_ratio": rounded(cpu_ratio),
        });
        report.docrow(&line, figures, cost, servers);

        let proved = proof.wall.as_secs_f64();
        let rate = f64::from(documents) / proved;
        report.round(self.proof, wall / proved);
        let line = format!("{name:9} round {round}  verify {proved:.2} s, {rate:.0}/s");
        let figures = json!({
            "bench": name, "what": "verify", "round": round, "documents": documents, "seconds": rounded(proved),
            "per_second": rate.round(),
        });
        report.docrow(&line, figures, proof, proof_servers);
    }
}

/// The time to read a collection over one cursor, and its size.
async fn read_raw(stage: &Stage, collection: &str) -> (Duration, usize) {
    let started = Instant::now();
    let collection = stage.collection(collection);
    let mut batches = collection.find(doc! {}).batch_size(100_000).batch().await.unwrap();
    let mut bytes = 0;
    while let Some(batch) = batches.next().await {
        bytes += batch.unwrap().as_raw_document().as_bytes().len();
    }
    (started.elapsed(), bytes)
}
