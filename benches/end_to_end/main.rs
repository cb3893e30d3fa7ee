//! `make bench`: how fast docrow is, compared with the lowest possible cost of its work on the same machine
//! in the same run.
//!
//! Workloads, each on its own throwaway servers; those named on the command line, or all: `users`, `flat`,
//! `document` (a backfill compared with `psql`'s reload of the same rows, the floor), `stream` (changes
//! applied, compared with the bare drain of the change stream, the ceiling), `latency`, `growth`, `network`
//! (the same work with a network between docrow and its servers), `collections` (a thousand of them).
//!
//! The compared programs alternate for three rounds. Only the ratios count: their median and spread. The bars
//! are those of [`bars`]. With `--check`, the run fails if a bar is missed by more than the measured noise,
//! which is half of the spread between its rounds. `DOCROW_BENCH_SCALE=0.1` runs it with a tenth of the
//! documents as a trial; the bars are not judged then. JSON lines go to `DOCROW_BENCH_JSON`, or to
//! `bench.jsonl` in the target folder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark may fail loudly"
)]

mod backfill;
mod bars;
mod collections;
mod cost;
mod events;
mod flat;
mod floor;
mod growth;
mod latency;
#[path = "../../tests/it/support/link.rs"]
mod link;
mod network;
mod process;
mod report;
mod stage;
mod stream;

use std::{env, process::ExitCode};

use report::Report;

/// Rounds of every comparison.
const ROUNDS: i32 = 3;

const WORKLOADS: [&str; 8] =
    ["users", "flat", "document", "stream", "latency", "growth", "network", "collections"];

#[tokio::main]
async fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let (flags, named): (Vec<_>, Vec<_>) =
        env::args().skip(1).filter(|argument| argument != "--bench").partition(|a| a.starts_with("--"));
    let unknown = named.iter().find(|name| !WORKLOADS.contains(&name.as_str()));
    if let Some(unknown) = unknown.or(flags.iter().find(|flag| *flag != "--check")) {
        eprintln!("{unknown} is none of --check, {}", WORKLOADS.join(", "));
        return ExitCode::from(2);
    }
    let scale = env::var("DOCROW_BENCH_SCALE").map_or(1.0, |scale| scale.parse().unwrap());
    let mut report = Report::new(scale);
    let all = async {
        for workload in WORKLOADS.into_iter().filter(|w| named.is_empty() || named.iter().any(|n| n == w)) {
            match workload {
                "users" => backfill::users(&mut report).await,
                "flat" => backfill::flat(&mut report).await,
                "document" => backfill::document(&mut report).await,
                "stream" => stream::run(&mut report).await,
                "latency" => latency::run(&mut report).await,
                "network" => network::run(&mut report).await,
                "collections" => collections::run(&mut report).await,
                _ => growth::run(&mut report).await,
            }
        }
    };
    // So that ^C leaves nothing behind either.
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
        () = all => {}
    }
    let is_well = report.finish();
    if flags.is_empty() || is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
