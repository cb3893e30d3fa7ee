//! Whether all is well, and if not, what is wrong: the first thing that somebody on call wants to know. Pure.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};

use super::{CollectionStatus, Health, Level, NarrowColumn, Problem, Status};
use crate::{pipeline::phase::Phase, vitals::Stage};

/// Who is behind by no more is up to date: positions are stored once a second, and clocks are read once a second.
const CLOSE: u64 = 10;
/// Behind by more than this is worth a look: a batch that waits for a lock, a burst that takes a while.
const LAG: u64 = 60;
/// An oplog that leaves less than a tenth of itself, or than an hour where it is longer than that, is worth a look.
const HOUR: u64 = 3600;
/// A running process that has not reported for so long can't write to PostgreSQL, or is stuck.
const SILENCE: Duration = Duration::from_secs(60);

/// Of a document that is not complete yet.
pub(super) fn unknown() -> Health {
    Health { level: Level::Ok, words: String::new(), problems: Vec::new() }
}

/// The verdict.
pub(super) fn of(status: &Status) -> Health {
    let mut problems = Vec::new();
    let mut problem = |level, words| problems.push(Problem { level, words });
    disk(status, &mut problem);
    servers(status, &mut problem);
    if let Some(hindrance) = &status.process.hindrance {
        problem(Level::Error, hindrance.clone());
    }
    process(status, &mut problem);
    collections(status, &mut problem);
    room(status, &mut problem);
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let (level, words) = match problems.first() {
        Some(worst) => (worst.level, worst.words.clone()),
        None => fine(status),
    };
    Health { level, words, problems }
}

/// Of all that may be wrong it is what nobody sees elsewhere, and what the rest may wait for.
fn disk(status: &Status, problem: &mut impl FnMut(Level, String)) {
    if let Some(why) = &status.spool.problem {
        let words = "the disk of the state directory is full, and the stream is not read on";
        problem(Level::Error, format!("{words}: {why}"));
    }
}

fn servers(status: &Status, problem: &mut impl FnMut(Level, String)) {
    if let Some(why) = &status.target.problem {
        let spools = status.process.running == Some(true) && status.spool.problem.is_none();
        let waits = if spools { "; changes wait in the spool" } else { "" };
        problem(Level::Error, format!("PostgreSQL does not answer{waits}: {why}"));
    }
    if let Some(why) = &status.source.problem {
        problem(Level::Error, format!("MongoDB does not answer: {why}"));
    }
}

fn process(status: &Status, problem: &mut impl FnMut(Level, String)) {
    let process = &status.process;
    let why = process.problem.as_deref();
    match (process.running, process.stage) {
        (Some(false), None) if status.collections.is_empty() => {
            problem(Level::Warning, "this pipeline has never been run".to_owned());
        }
        (Some(false), Some(Stage::Ended)) => match why {
            Some(why) => problem(Level::Error, format!("stopped by an error: {why}")),
            None => {
                problem(Level::Warning, "stopped, as it was told to: nobody runs this pipeline".to_owned())
            }
        },
        (Some(false), Some(Stage::Retrying)) => problem(
            Level::Error,
            format!(
                "nothing is heard of the process that ran this pipeline{}; it was trying again: {}",
                last_heard(status),
                why.unwrap_or("after an error"),
            ),
        ),
        (Some(false), _) => problem(
            Level::Error,
            format!("nobody runs this pipeline: the last process ended without a word{}", last_heard(status)),
        ),
        // Unless that is told already.
        (Some(true), Some(Stage::Retrying)) if status.target.answers && status.source.problem.is_none() => {
            problem(Level::Error, format!("trying again: {}", why.unwrap_or("an error")));
        }
        (Some(true), Some(Stage::Ended)) if why.is_some() => {
            problem(Level::Error, format!("stopped by an error: {}", why.unwrap_or_default()));
        }
        (Some(true), _) if process.reported_at.is_some_and(|at| status.at.since(at) > SILENCE) => {
            problem(
                Level::Warning,
                format!("the process that runs this pipeline does not report{}", last_heard(status)),
            );
        }
        _ => {}
    }
}

fn last_heard(status: &Status) -> String {
    status.process.reported_at.map_or_else(String::new, |at| format!(", last heard of at {at}"))
}

fn collections(status: &Status, problem: &mut impl FnMut(Level, String)) {
    let all = present(status).count();
    let stopped: Vec<_> = present(status).filter(|c| c.stopped.is_some()).collect();
    if let Some(first) = stopped.first() {
        let (which, why) = (&first.name, first.stopped.as_deref().unwrap_or_default());
        let words = match stopped.len() {
            1 => format!("{which} is stopped: {why}"),
            n => format!("{n} of {all} collections are stopped, {which} because: {why}"),
        };
        problem(Level::Error, words);
    }
    if let Some(lag) = status.lag_seconds.filter(|lag| *lag > LAG) {
        problem(Level::Warning, format!("{} behind MongoDB", span(lag)));
    }
    let narrow: Vec<_> =
        status.collections.iter().flat_map(|c| &c.misfits).flat_map(|m| &m.columns).collect();
    let spoilt = narrow
        .iter()
        .filter(|column| matches!(&*column.sql_type, "bigint" | "integer") && column.numbers > 0);
    for NarrowColumn { table, column, numbers, sql_type, .. } in spoilt {
        let values = if *numbers == 1 { "number" } else { "numbers" };
        let words = format!(
            "{table}.{column} is {sql_type} and lacks {} {values}: sums over it are wrong until it is wider",
            HumanCount(*numbers)
        );
        problem(Level::Warning, words);
    }
    let dead = status.dead_letters.total;
    if dead > 0 {
        let documents = if dead == 1 { "document" } else { "documents" };
        let words = format!("{} {documents} could not be written: see dead letters", HumanCount(dead));
        problem(Level::Warning, words);
    }
}

/// The collections that are replicated: what was dropped or left out counts for nothing.
fn present(status: &Status) -> impl Iterator<Item = &CollectionStatus> {
    status.collections.iter().filter(|c| c.absent.is_none())
}

fn room(status: &Status, problem: &mut impl FnMut(Level, String)) {
    if let Some(oplog) = status.source.oplog
        && let Some(left) = oplog.headroom_seconds
        && left < (oplog.window_seconds / 10).min(HOUR)
    {
        let words = format!("the oplog reaches back only {} before what is read next", span(left));
        problem(
            Level::Warning,
            format!("{words}, of {}: history is about to be lost", span(oplog.window_seconds)),
        );
    }
    if let (Some(bytes), Some(budget)) = (status.spool.bytes, status.spool.budget)
        && budget > 0
        && bytes / 8 >= budget / 10
    {
        let level = if bytes >= budget { Level::Error } else { Level::Warning };
        let how = if bytes >= budget { "full" } else { "almost full" };
        problem(level, format!("the spool is {how}: {} of {}", BinaryBytes(bytes), BinaryBytes(budget)));
    }
}

/// Whether rows are as MongoDB is: the only place that says so. Where it is not known, they are not.
fn is_up_to_date(status: &Status) -> bool {
    status.process.running == Some(true)
        && status.process.stage == Some(Stage::Live)
        && status.lag_seconds.is_some_and(|lag| lag <= CLOSE)
}

/// Nothing is wrong.
fn fine(status: &Status) -> (Level, String) {
    let all = present(status).count();
    let live = present(status).filter(|c| c.phase == Phase::Live).count();
    match (status.process.stage, all) {
        (Some(Stage::Live), 0) => (Level::Ok, "waiting: no collection matches include yet".to_owned()),
        (_, 0) => (Level::Busy, "starting".to_owned()),
        _ if live < all => (Level::Busy, completing(status)),
        _ => {
            let collections =
                if all == 1 { "1 collection is".to_owned() } else { format!("all {all} collections are") };
            match status.lag_seconds {
                _ if is_up_to_date(status) => (Level::Ok, format!("live: {collections} up to date")),
                Some(lag) if lag > CLOSE => {
                    (Level::Busy, format!("{collections} live, {} behind MongoDB", span(lag)))
                }
                _ if status.process.stage == Some(Stage::Live) => {
                    (Level::Busy, format!("{collections} live; how far behind MongoDB is not known yet"))
                }
                _ => (Level::Busy, format!("starting: {collections} copied")),
            }
        }
    }
}

fn completing(status: &Status) -> String {
    let all = present(status).count();
    let in_phase = |phase| present(status).filter(|c| c.phase == phase).count();
    let left = in_phase(Phase::New).saturating_add(in_phase(Phase::Copying));
    if left == 0 {
        let keys = in_phase(Phase::Indexing) > 0;
        return if keys {
            "copied, building keys"
        } else {
            "copied, deleting rows of documents that are gone"
        }
        .to_owned();
    }
    let snapshots = || present(status).map(|c| &c.snapshot);
    let done: u64 = snapshots().map(|snapshot| snapshot.documents).sum();
    let total: u64 = snapshots().filter_map(|snapshot| snapshot.estimated).sum();
    let percent = match done.saturating_mul(100).checked_div(total) {
        Some(percent) => format!(", {}% of all documents", percent.min(100)),
        None => String::new(),
    };
    let of = if all == 1 { "1 collection".to_owned() } else { format!("{left} of {all} collections") };
    let eta = present(status).filter_map(|c| c.snapshot.eta_seconds).max();
    let eta = eta.map_or_else(String::new, |eta| format!(", about {} left", span(eta)));
    format!("copying {of}{percent}{eta}")
}

/// A time in words, by its two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
