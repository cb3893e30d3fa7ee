//! Whether all is well, and if not, what is wrong: the first thing that an operator wants to know. Pure.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};

use super::{
    CollectionStatus, Health, HealthLevel, NarrowColumn, OplogStatus, Problem, Status, VerifiedStatus,
};
use crate::{error::Code, model::phase::Phase, process_status::Stage};

/// A lag of at most this is normal: positions are stored, and clocks are read, once a second.
const CLOSE: u64 = 10;
/// A lag of more than this deserves attention: a batch that waits for a lock, a burst that takes a while.
pub const LAG: u64 = 60;
/// A remaining oplog of less than a tenth of its window, or of less than an hour if that is shorter, deserves
/// attention.
const HOUR: u64 = 3600;
/// A running process that has not reported for this long can't write to PostgreSQL, or is stuck.
const SILENCE: Duration = Duration::from_secs(60);

/// For a document that is not complete yet.
pub(super) fn unknown() -> Health {
    Health { level: HealthLevel::Ok, words: String::new(), problems: Vec::new() }
}

/// The verdict.
pub(super) fn verdict(status: &Status) -> Health {
    let mut problems = Vec::new();
    let mut problem = |level, words| problems.push(Problem { level, words });
    disk(status, &mut problem);
    servers(status, &mut problem);
    if let Some(hindrance) = &status.process.hindrance {
        problem(HealthLevel::Error, hindrance.clone());
    }
    history(status, &mut problem);
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

/// This comes first, because nothing else reveals it, and other problems may be waiting for it.
fn disk(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    if let Some(why) = &status.spool.problem {
        let words = "the disk of the state directory is full, so docrow does not read the stream";
        problem(HealthLevel::Error, format!("{words}: {why}"));
    }
}

fn servers(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    if let Some(why) = &status.target.problem {
        let spools = status.process.running == Some(true) && status.spool.problem.is_none();
        let waits = match spools {
            true if is_full(status) => "; the spool is full, and further changes wait in the oplog",
            true => "; changes wait in the spool",
            false => "",
        };
        problem(HealthLevel::Error, format!("PostgreSQL does not answer{waits}: {why}"));
    }
    if let Some(why) = &status.source.problem {
        let since = status.source.silent_since.map_or_else(String::new, |since| format!(" since {since}"));
        let words = match status.source.answers {
            Some(true) => "MongoDB sends no changes".to_owned(),
            _ => format!("MongoDB does not answer{since}"),
        };
        problem(HealthLevel::Error, format!("{words}: {why}"));
    }
}

/// How far behind MongoDB the rows are, in words.
pub(super) fn lag(status: &Status) -> String {
    match status.lag_seconds {
        Some(lag) => span(lag),
        None if status.source.problem.is_some() => match status.source.silent_since {
            Some(since) => format!("unknown since {since}: MongoDB does not answer"),
            None => "unknown: MongoDB does not answer".to_owned(),
        },
        None if !status.collections.iter().any(CollectionStatus::is_live) => {
            "no collection is live".to_owned()
        }
        None => "not known yet".to_owned(),
    }
}

/// Reports lost history until it is dealt with, whether or not a process has run into it.
fn history(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    if let Some(OplogStatus { start, is_history_lost: true, .. }) = status.source.oplog {
        let words = format!(
            "history is lost: the oplog begins at {start}, after the position to resume from: see docrow \
             explain {}",
            Code::HistoryLost
        );
        problem(HealthLevel::Error, words);
    }
}

/// For how long the pipeline may stay stopped, if that is known: by how fast the oplog is written now.
fn time_left(status: &Status) -> String {
    let left = status.source.oplog.filter(|oplog| !oplog.is_history_lost);
    left.and_then(|oplog| oplog.headroom_seconds).map_or_else(String::new, |left| {
        format!("; it can still resume if started within about {}", span(left))
    })
}

/// Whether the spool is full, and accepts no changes.
fn is_full(status: &Status) -> bool {
    status.spool.bytes.zip(status.spool.budget).is_some_and(|(bytes, budget)| budget > 0 && bytes >= budget)
}

fn process(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    let process = &status.process;
    let why = process.problem.as_deref();
    match (process.running, process.stage) {
        (Some(false), None) if status.collections.is_empty() => {
            problem(HealthLevel::Warning, "this pipeline has never been run".to_owned());
        }
        (Some(false), Some(Stage::Ended)) => match why {
            Some(why) => {
                problem(HealthLevel::Error, format!("stopped by an error: {why}{}", time_left(status)))
            }
            None => {
                let words = "stopped on request: no process runs this pipeline";
                problem(HealthLevel::Warning, format!("{words}{}", time_left(status)));
            }
        },
        (Some(false), _) => {
            problem(HealthLevel::Error, format!("no process runs this pipeline{}", time_left(status)));
        }
        (None, stage) if status.target.answers => {
            let who = process.holder.as_deref().unwrap_or("the last process");
            let before = match (stage, why) {
                (Some(Stage::Retrying), Some(why)) => format!("; it was retrying: {why}"),
                _ => String::new(),
            };
            problem(
                HealthLevel::Error,
                format!(
                    "unknown whether a process runs this pipeline: {who} ended without reporting it, or \
                     can't reach PostgreSQL{before}{}",
                    time_left(status)
                ),
            );
        }
        // Unless it has been reported already.
        (Some(true), Some(Stage::Retrying)) if status.target.answers && status.source.problem.is_none() => {
            problem(HealthLevel::Error, format!("retrying: {}", why.unwrap_or("an error")));
        }
        (Some(true), Some(Stage::Ended)) if why.is_some() => {
            problem(HealthLevel::Error, format!("stopped by an error: {}", why.unwrap_or_default()));
        }
        (Some(true), _) if process.reported_at.is_some_and(|at| status.at.since(at) > SILENCE) => {
            problem(
                HealthLevel::Warning,
                format!("the process that runs this pipeline does not report{}", last_heard(status)),
            );
        }
        _ => {}
    }
}

fn last_heard(status: &Status) -> String {
    status.process.reported_at.map_or_else(String::new, |at| format!(", last heard of at {at}"))
}

fn collections(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    let all = present(status).count();
    let stopped: Vec<_> = present(status).filter(|c| c.stopped.is_some()).collect();
    if let Some(first) = stopped.first() {
        let (which, why) = (&first.name, first.stopped.as_deref().unwrap_or_default());
        let words = match stopped.len() {
            1 => format!("{which} is stopped: {why}"),
            n => format!("{n} of {all} collections are stopped, among them {which}: {why}"),
        };
        problem(HealthLevel::Error, words);
    }
    if let Some(lag) = status.lag_seconds.filter(|lag| *lag > LAG) {
        problem(HealthLevel::Warning, format!("{} behind MongoDB", span(lag)));
    }
    let narrow: Vec<_> = present(status).flat_map(|c| &c.misfits).flat_map(|m| &m.columns).collect();
    let spoilt = narrow
        .iter()
        .filter(|column| matches!(&*column.sql_type, "bigint" | "integer") && column.numbers > 0);
    for NarrowColumn { table, column, numbers, sql_type, .. } in spoilt {
        let values = if *numbers == 1 { "number" } else { "numbers" };
        let words = format!(
            "{table}.{column} is {sql_type} and lacks {} {values}: sums over it are wrong until it is wider",
            HumanCount(*numbers)
        );
        problem(HealthLevel::Warning, words);
    }
    if let Some(VerifiedStatus { at, result }) = status.verified.as_ref().filter(|v| v.result.differences > 0)
    {
        let count = HumanCount(result.differences);
        let differences = if result.differences == 1 { "difference" } else { "differences" };
        let words = format!("the verification of {at} found {count} {differences}: docrow verify shows them");
        problem(HealthLevel::Warning, words);
    }
    let dead = status.dead_letters.total;
    if dead > 0 {
        let documents = if dead == 1 { "document" } else { "documents" };
        let words = format!("{} {documents} could not be written: see dead letters", HumanCount(dead));
        problem(HealthLevel::Warning, words);
    }
}

/// The replicated collections, without those that were dropped or excluded.
fn present(status: &Status) -> impl Iterator<Item = &CollectionStatus> {
    status.collections.iter().filter(|c| c.absent.is_none())
}

/// Those that are not paused.
fn active(status: &Status) -> impl Iterator<Item = &CollectionStatus> {
    present(status).filter(|c| c.paused.is_none())
}

/// The paused collections: no problem, but not to be forgotten.
fn paused(status: &Status) -> String {
    let mut paused = present(status).filter(|c| c.paused.is_some());
    match (paused.next(), paused.count()) {
        (None, _) => String::new(),
        (Some(one), 0) => format!("; {} is paused", one.name),
        (Some(_), others) => format!("; {} collections are paused", others + 1),
    }
}

/// How much of the oplog is left, in seconds.
pub(super) struct OplogLeft {
    left: u64,
    window: u64,
}

impl Status {
    /// Whether the oplog is about to lose the position to resume from.
    pub fn is_history_at_risk(&self) -> bool {
        history_at_risk(self).is_some()
    }
}

/// How much of the oplog is left, if it is so little that history is about to be lost.
fn history_at_risk(status: &Status) -> Option<OplogLeft> {
    let oplog = status.source.oplog.filter(|oplog| !oplog.is_history_lost)?;
    let (left, window) = (oplog.headroom_seconds?, oplog.window_seconds);
    (left < (window / 10).min(HOUR)).then_some(OplogLeft { left, window })
}

fn room(status: &Status, problem: &mut impl FnMut(HealthLevel, String)) {
    if let Some(OplogLeft { left, window }) = history_at_risk(status) {
        let words = format!("the oplog reaches back only {} before the position to resume from", span(left));
        problem(HealthLevel::Warning, format!("{words}, of {}: history is about to be lost", span(window)));
    }
    if let (Some(bytes), Some(budget)) = (status.spool.bytes, status.spool.budget)
        && budget > 0
        && bytes / 8 >= budget / 10
    {
        let level = if bytes >= budget { HealthLevel::Error } else { HealthLevel::Warning };
        let how = if bytes >= budget { "full" } else { "almost full" };
        problem(level, format!("the spool is {how}: {} of {}", BinaryBytes(bytes), BinaryBytes(budget)));
    }
}

/// The verdict if nothing is wrong.
fn fine(status: &Status) -> (HealthLevel, String) {
    let (level, words) = of_active(status);
    (level, words + &paused(status))
}

fn of_active(status: &Status) -> (HealthLevel, String) {
    let all = active(status).count();
    let live = active(status).filter(|c| c.phase == Phase::Live).count();
    match (status.process.stage, all) {
        (Some(Stage::Live), 0) if present(status).next().is_some() => {
            (HealthLevel::Ok, "no collection is followed".to_owned())
        }
        (Some(Stage::Live), 0) => (HealthLevel::Ok, "waiting: no collection matches include yet".to_owned()),
        (_, 0) => (HealthLevel::Busy, "starting".to_owned()),
        _ if live < all => (HealthLevel::Busy, completing(status)),
        _ => {
            let collections =
                if all == 1 { "1 collection is".to_owned() } else { format!("all {all} collections are") };
            match status.lag_seconds {
                Some(lag) if lag > CLOSE => {
                    (HealthLevel::Busy, format!("{collections} live, {} behind MongoDB", span(lag)))
                }
                _ if status.process.stage != Some(Stage::Live) => {
                    (HealthLevel::Busy, format!("starting: {collections} copied"))
                }
                // The only place that says so.
                Some(0) => (HealthLevel::Ok, format!("live: {collections} up to date")),
                Some(lag) => (HealthLevel::Ok, format!("live: {collections} {} behind MongoDB", span(lag))),
                None => (HealthLevel::Busy, format!("{collections} live; the lag is not known yet")),
            }
        }
    }
}

fn completing(status: &Status) -> String {
    let all = active(status).count();
    let in_phase = |phase| active(status).filter(|c| c.phase == phase).count();
    let left = in_phase(Phase::New).saturating_add(in_phase(Phase::Copying));
    if left == 0 {
        let keys = in_phase(Phase::Indexing) > 0;
        return if keys {
            "copied, building keys"
        } else {
            "copied, deleting rows of documents that no longer exist"
        }
        .to_owned();
    }
    let snapshots = || active(status).map(|c| &c.snapshot);
    let done: u64 = snapshots().map(|snapshot| snapshot.documents).sum();
    let total: u64 = snapshots().filter_map(|snapshot| snapshot.estimated).sum();
    let percent = match done.saturating_mul(100).checked_div(total) {
        Some(percent) => format!(", {}% of all documents", percent.min(100)),
        None => String::new(),
    };
    let of = if all == 1 { "1 collection".to_owned() } else { format!("{left} of {all} collections") };
    let eta = active(status).filter_map(|c| c.snapshot.eta_seconds).max();
    let eta = eta.map_or_else(String::new, |eta| format!(", about {} left", span(eta)));
    format!("copying {of}{percent}{eta}")
}

/// A time in words, in its two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
