//! A status as a person reads it in a terminal: first whether all is well, then why.

use std::{env, fmt::Write, io, io::IsTerminal};

use indicatif::{BinaryBytes, HumanCount};

use super::printable::{printable, shortened};
use crate::{
    pipeline::phase::Phase,
    shown,
    status::{CollectionStatus, Level, NarrowColumn, Status, span},
    vitals::Gravity,
};

/// How many dead letters and messages are shown.
const SHOWN: usize = 6;
/// How long a text may be that comes from elsewhere.
const LONGEST: usize = 160;
/// How long the bar of a copy is.
const BAR: u64 = 20;

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    /// If standard output is a terminal, and nobody minds (<https://no-color.org>).
    pub(super) fn of_terminal() -> Self {
        Self(io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn level(self, level: Level, text: &str) -> String {
        let code = match level {
            Level::Ok => "32",
            Level::Busy => "36",
            Level::Warning => "33",
            Level::Error => "31",
        };
        self.paint(code, text)
    }
}

/// The whole of it.
pub(super) fn table(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = head(&mut out, status, paint);
    let _ = collections(&mut out, status, paint);
    let _ = misfits(&mut out, status, paint);
    let _ = letters(&mut out, status, paint);
    let _ = messages(&mut out, status, paint);
    out.truncate(out.trim_end().len());
    out
}

fn head(out: &mut String, status: &Status, paint: Paint) -> std::fmt::Result {
    let health = &status.health;
    let words = printable(&health.words);
    let mark = paint.level(health.level, "●");
    writeln!(
        out,
        "{mark} {}  {}",
        paint.bold(&printable(&status.pipeline)),
        paint.level(health.level, &words)
    )?;
    for problem in health.problems.iter().skip(1) {
        writeln!(out, "  {} {}", paint.level(problem.level, "·"), printable(&problem.words))?;
    }
    let process = &status.process;
    let who = match (&process.holder, process.running) {
        (Some(holder), _) => format!("run by {}", printable(holder)),
        (None, Some(_)) => "run by nobody".to_owned(),
        (None, None) => "not known who runs it".to_owned(),
    };
    let version = process.version.as_ref().map_or_else(String::new, |v| format!("docrow {}, ", printable(v)));
    writeln!(out, "  {}\n", paint.dim(&format!("{version}{who}")))?;
    let or = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    let spool = status.spool.bytes.zip(status.spool.budget);
    let oplog = status.source.oplog.map(|oplog| {
        let left =
            oplog.headroom_seconds.map_or_else(String::new, |left| format!(", {} of it left", span(left)));
        format!("{}{left}", span(oplog.window_seconds))
    });
    let rates = status.rates;
    let partitions: Vec<_> = status
        .partitions
        .iter()
        .map(|p| format!("{}: {}", p.partition, p.lag_seconds.map_or_else(|| "-".to_owned(), span)))
        .collect();
    let mut lines = vec![
        ("behind", or(status.lag_seconds.map(span))),
        ("changes", format!("{} a second", HumanCount(rates.changes_per_second))),
        (
            "spool",
            or(spool.map(|(bytes, budget)| format!("{} of {}", BinaryBytes(bytes), BinaryBytes(budget)))),
        ),
        ("oplog", or(oplog)),
    ];
    if !partitions.is_empty() {
        lines.push(("partitions", format!("{} behind", partitions.join("  "))));
    }
    for (name, value) in lines {
        writeln!(out, "  {}  {value}", paint.dim(&format!("{name:10}")))?;
    }
    Ok(())
}

fn collections(out: &mut String, status: &Status, paint: Paint) -> std::fmt::Result {
    if status.collections.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = status.collections.iter().map(|c| printable(&c.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(10);
    let heads = format!(
        "{:width$}  {:13}  {:>13}  {:>12}  {:>12}",
        "COLLECTION", "PHASE", "DOCUMENTS", "BEHIND", "DEAD LETTERS"
    );
    writeln!(out, "\n  {}", paint.dim(&heads))?;
    let copying = status
        .collections
        .iter()
        .any(|c| c.phase == Phase::Copying && c.stopped.is_none() && c.absent.is_none());
    for (collection, name) in status.collections.iter().zip(names) {
        let (level, phase) = phase(collection, copying);
        let behind = collection.lag_seconds.map_or_else(|| "-".to_owned(), span);
        writeln!(
            out,
            "  {name:width$}  {}  {:>13}  {behind:>12}  {:>12}",
            paint.level(level, &format!("{phase:13}")),
            HumanCount(collection.snapshot.documents).to_string(),
            HumanCount(collection.dead_letters).to_string(),
        )?;
        if let Some(copy) = copy(collection) {
            writeln!(out, "  {:width$}  {}", "", paint.level(Level::Busy, &copy))?;
        }
        if let Some(why) = collection.stopped.as_ref().filter(|_| collection.absent.is_none()) {
            writeln!(out, "  {:width$}  {}", "", shortened(why, LONGEST))?;
        }
    }
    Ok(())
}

/// Keys are built when all is copied.
fn phase(collection: &CollectionStatus, copying: bool) -> (Level, &'static str) {
    match collection.absent.as_deref() {
        None => {}
        Some("dropped") => return (Level::Ok, "dropped"),
        Some(_) => return (Level::Ok, "not included"),
    }
    if collection.stopped.is_some() {
        return (Level::Error, "stopped");
    }
    match collection.phase {
        Phase::New => (Level::Busy, "new"),
        Phase::Copying if collection.snapshot.replaces => (Level::Busy, "copying anew"),
        Phase::Copying => (Level::Busy, "copying"),
        Phase::Indexing if copying => (Level::Busy, "copied"),
        Phase::Indexing => (Level::Busy, "building keys"),
        Phase::Sweeping => (Level::Busy, "sweeping"),
        Phase::Live => (Level::Ok, "live"),
    }
}

/// How far a copy is, while it is being made.
fn copy(collection: &CollectionStatus) -> Option<String> {
    let snapshot = &collection.snapshot;
    if collection.phase != Phase::Copying || collection.stopped.is_some() || collection.absent.is_some() {
        return None;
    }
    let estimated = snapshot.estimated?.max(1);
    let percent = (snapshot.documents.saturating_mul(100) / estimated).min(100);
    let full = usize::try_from(percent * BAR / 100).unwrap_or(0);
    let bar = "━".repeat(full) + &"╌".repeat(usize::try_from(BAR).unwrap_or(0).saturating_sub(full));
    let rate = snapshot.documents_per_second.unwrap_or(0);
    let eta = snapshot.eta_seconds.map_or_else(String::new, |eta| format!(", about {} left", span(eta)));
    Some(format!("{bar} {percent}% of {}, {} a second{eta}", HumanCount(estimated), HumanCount(rate)))
}

fn misfits(out: &mut String, status: &Status, paint: Paint) -> std::fmt::Result {
    let of = |collection: &CollectionStatus| {
        collection.misfits.iter().flat_map(|m| m.columns.clone()).collect::<Vec<_>>()
    };
    let narrow: Vec<_> = status.collections.iter().flat_map(of).collect();
    if narrow.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n  {}",
        paint.dim("COLUMNS THAT LACK VALUES (which do not fit, and are in _extra alone)")
    )?;
    for NarrowColumn { table, column, sql_type, values, since, remedy, .. } in narrow.iter().take(SHOWN) {
        let name = shown::name(&format!("{table}.{column}"));
        let values = HumanCount(*values).to_string();
        writeln!(out, "  {values:>7}  {name} {sql_type}, since {since}")?;
        writeln!(out, "  {:7}  {}", "", paint.dim(&format!("→ {remedy}")))?;
    }
    more(out, narrow.len(), paint)
}

fn letters(out: &mut String, status: &Status, paint: Paint) -> std::fmt::Result {
    let letters = &status.dead_letters;
    if letters.total == 0 {
        return Ok(());
    }
    writeln!(out, "\n  {}", paint.dim("DEAD LETTERS (docrow dead-letters list)"))?;
    for group in letters.groups.iter().take(SHOWN) {
        let path = group.path.as_deref().map_or_else(String::new, |path| format!(" {}", shown::name(path)));
        let reason = shortened(&group.reason, LONGEST);
        writeln!(
            out,
            "  {:>7}  {}{path}: {reason}",
            HumanCount(group.count).to_string(),
            printable(&group.collection)
        )?;
    }
    more(out, letters.groups.len(), paint)
}

fn messages(out: &mut String, status: &Status, paint: Paint) -> std::fmt::Result {
    if status.messages.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  {}", paint.dim("LAST WARNINGS AND ERRORS"))?;
    for message in status.messages.iter().rev().take(SHOWN) {
        let (level, name) = match message.level {
            Gravity::Warning => (Level::Warning, "warning"),
            Gravity::Error => (Level::Error, "error"),
        };
        let times = if message.count > 1 { format!(" ({} times)", message.count) } else { String::new() };
        let (at, name) = (paint.dim(&message.at.to_string()), paint.level(level, &format!("{name:7}")));
        writeln!(out, "  {at}  {name}  {}{times}", shortened(&message.text, LONGEST))?;
    }
    more(out, status.messages.len(), paint)
}

fn more(out: &mut String, all: usize, paint: Paint) -> std::fmt::Result {
    match all.saturating_sub(SHOWN) {
        0 => Ok(()),
        left => writeln!(out, "  {}", paint.dim(&format!("and {left} more"))),
    }
}
