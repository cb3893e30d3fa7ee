//! A status as text for a terminal: first whether all is well, then why.

use std::{cmp::Reverse, fmt::Write};

use clap::ValueEnum;
use indicatif::{BinaryBytes, HumanCount};

use super::{
    paint::TerminalPaint,
    printable::{fitted, printable},
    status_layout::{
        CollectionEntry, StatusParts, TerminalSize, arranged, clipped, counted, cut_in_the_middle, headline,
    },
};
use crate::{
    model::phase::Phase,
    process_status::MessageLevel,
    shown,
    status::{CollectionStatus, HealthLevel, LAG, NarrowColumn, Status, TargetStatus, VerifiedStatus, span},
};

/// How many dead letters and messages are shown.
const SHOWN: usize = 6;
/// How many problems besides the first are shown on a screen.
const SHOWN_OF_PROBLEMS: usize = 3;
/// The column headings, except for the phase.
const NAME: &str = "COLLECTION";
const FIGURES: [&str; 3] = ["DOCUMENTS", "BEHIND", "DEAD LETTERS"];
/// The width of the phase column.
const PHASE: usize = 13;
/// The maximum length of a text from elsewhere.
const LONGEST: usize = 160;
/// The length of a copy's progress bar.
const BAR: u64 = 20;

/// The order in which collections are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortOrder {
    /// Those in trouble first, then those that are not live yet, each by name
    Trouble,
    /// By name
    Name,
    /// Those that are furthest behind first
    Lag,
    /// Those with the most documents first
    Documents,
    /// Those with the most dead letters first
    DeadLetters,
}

/// Sorts collections, which are already sorted by name.
pub(super) fn sort(collections: &mut [CollectionStatus], order: SortOrder) {
    let copying = are_copying(collections);
    match order {
        SortOrder::Name => collections.sort_by(|a, b| a.name.cmp(&b.name)),
        SortOrder::Trouble => collections.sort_by_key(|c| Reverse(trouble(c, copying))),
        SortOrder::Lag => collections.sort_by_key(|c| Reverse(c.lag_seconds)),
        SortOrder::Documents => collections.sort_by_key(|c| Reverse(c.snapshot.documents)),
        SortOrder::DeadLetters => collections.sort_by_key(|c| Reverse(c.dead_letters)),
    }
}

/// How serious a collection's state is.
fn trouble(collection: &CollectionStatus, copying: bool) -> HealthLevel {
    let dead = if collection.dead_letters > 0 { HealthLevel::Warning } else { HealthLevel::Ok };
    phase(collection, copying).0.max(dead)
}

/// The whole status, or what fits.
pub(super) fn table(status: &Status, paint: TerminalPaint, size: Option<TerminalSize>) -> String {
    let mut below = String::new();
    // Writing to a string can't fail.
    let _ = misfits(&mut below, status, paint);
    let _ = letters(&mut below, status, paint);
    let _ = messages(&mut below, status, paint);
    let (heading, collections) = collections(status, paint, size);
    let below = below.lines().map(str::to_owned).collect();
    let parts = StatusParts { head: head(status, paint, size), heading, collections, below };
    let mut lines = arranged(parts, size.map(|size| size.rows), |text| paint.dim(text));
    if let Some(TerminalSize { columns, .. }) = size {
        lines.iter_mut().for_each(|line| *line = clipped(line, columns));
    }
    lines.join("\n")
}

fn head(status: &Status, paint: TerminalPaint, size: Option<TerminalSize>) -> Vec<String> {
    let (health, columns) = (&status.health, size.map_or(usize::MAX, |size| size.columns));
    let name = printable(&status.pipeline);
    let first = headline(&format!("● {name}  {}", printable(&health.words)), columns);
    // The name stands out from words in the verdict's colour.
    let own = format!("● {name}");
    let painted = |line: &String| match line.strip_prefix(&own) {
        Some(words) => format!(
            "{} {}{}",
            paint.level(health.level, "●"),
            paint.bold(&name),
            paint.level(health.level, words)
        ),
        None => paint.level(health.level, line),
    };
    let mut lines: Vec<String> = first.iter().map(painted).collect();
    let shown = size.map_or(usize::MAX, |_| SHOWN_OF_PROBLEMS);
    let others = health.problems.len().saturating_sub(1);
    for problem in health.problems.iter().skip(1).take(shown) {
        let words = printable(&problem.words);
        lines.push(format!("  {} {words}", paint.level(problem.level, "·")));
    }
    if others > shown {
        lines.push(paint.dim(&format!("  and {} more", others.saturating_sub(shown))));
    }
    lines.push(format!("  {}", paint.dim(&who(status))));
    lines.push(String::new());
    let figures = figures(status);
    match size {
        None => lines.extend(
            figures.iter().map(|(name, value)| format!("  {}  {value}", paint.dim(&format!("{name:10}")))),
        ),
        // On a screen each line counts.
        Some(_) => {
            let figures = figures.iter().filter(|(name, _)| *name != "partitions");
            let figures: Vec<_> = figures.map(|(name, value)| format!("{name} {value}")).collect();
            // All but the first line are indented.
            lines.extend(
                headline(&figures.join(" · "), columns)
                    .into_iter()
                    .enumerate()
                    .map(|(n, line)| if n == 0 { format!("  {line}") } else { line }),
            );
        }
    }
    lines
}

fn who(status: &Status) -> String {
    let process = &status.process;
    let who = match (&process.holder, process.running) {
        (Some(holder), None) => format!("unknown whether {} still runs it", printable(holder)),
        (Some(holder), _) => format!("run by {}", printable(holder)),
        (None, Some(_)) => "run by no process".to_owned(),
        (None, None) => "unknown which process runs it".to_owned(),
    };
    let version = process.version.as_ref().map_or_else(String::new, |v| format!("docrow {}, ", printable(v)));
    let source =
        status.source.name.as_ref().map_or_else(String::new, |name| format!("{} → ", printable(name)));
    let TargetStatus { name, schema, .. } = &status.target;
    format!("{source}{}, schema {}; {version}{who}", printable(name), printable(schema))
}

fn figures(status: &Status) -> Vec<(&'static str, String)> {
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
    let limit =
        status.process.limit.clone().filter(|_| status.collections.iter().any(|c| c.phase == Phase::Copying));
    let mut figures = vec![
        ("behind", printable(&status.lag_words)),
        ("changes", format!("{} per second", HumanCount(rates.changes_per_second))),
        (
            "spool",
            or(spool.map(|(bytes, budget)| format!("{} of {}", BinaryBytes(bytes), BinaryBytes(budget)))),
        ),
        ("oplog", or(oplog)),
    ];
    if !partitions.is_empty() {
        figures.push(("partitions", format!("{} behind", partitions.join("  "))));
    }
    figures.extend(limit.map(|limit| ("snapshot", printable(&limit))));
    figures.extend(status.verified.as_ref().map(|verified| ("verified", self::verified(verified))));
    figures
}

/// The result of the last scheduled verification.
fn verified(VerifiedStatus { at, result }: &VerifiedStatus) -> String {
    let what = match (result.differences, result.unsettled) {
        (0, 0) if result.equal => "equal".to_owned(),
        (0, _) => "not all could be compared".to_owned(),
        (n, _) => format!("{} different", HumanCount(n)),
    };
    let of = result.sample.as_ref().map_or_else(String::new, |sample| format!(", a sample of {sample}"));
    format!("{what}, {at}{of}")
}

/// The contents of a collection's row.
struct CollectionRow {
    name: String,
    level: HealthLevel,
    phase: &'static str,
    /// Documents, how far it is behind, dead letters.
    figures: [String; 3],
}

impl CollectionRow {
    fn new(collection: &CollectionStatus, copying: bool) -> Self {
        let (level, phase) = phase(collection, copying);
        let behind = collection.lag_seconds.map_or_else(|| "-".to_owned(), span);
        let [documents, dead] = [collection.snapshot.documents, collection.dead_letters];
        let figures = [HumanCount(documents).to_string(), behind, HumanCount(dead).to_string()];
        Self { name: printable(&collection.name), level, phase, figures }
    }
}

/// The column widths: as wide as their contents; names get what the others leave.
struct ColumnWidths {
    name: usize,
    figures: [usize; 3],
}

impl ColumnWidths {
    fn new(rows: &[CollectionRow], columns: usize) -> Self {
        let width = |text: &str| text.chars().count();
        let mut figures = FIGURES.map(width);
        for row in rows {
            for (widest, figure) in figures.iter_mut().zip(&row.figures) {
                *widest = width(figure).max(*widest);
            }
        }
        let names = rows.iter().map(|row| width(&row.name)).chain([width(NAME)]);
        let others = figures.iter().map(|width| width + 2).sum::<usize>() + PHASE + 4;
        let room = columns.saturating_sub(others).max(width(NAME));
        Self { name: names.max().unwrap_or(0).min(room), figures }
    }

    fn line<T: AsRef<str>>(&self, name: &str, phase: &str, figures: &[T; 3]) -> String {
        let (width, name) = (self.name, cut_in_the_middle(name, self.name));
        let figures =
            figures.iter().zip(self.figures).map(|(figure, width)| format!("  {:>width$}", figure.as_ref()));
        format!("{name:width$}  {phase}{}", figures.collect::<String>())
    }
}

/// The column headings, and an entry for each collection.
fn collections(
    status: &Status,
    paint: TerminalPaint,
    size: Option<TerminalSize>,
) -> (Vec<String>, Vec<CollectionEntry>) {
    let copying = are_copying(&status.collections);
    let rows: Vec<_> =
        status.collections.iter().map(|collection| CollectionRow::new(collection, copying)).collect();
    let columns = size.map_or(usize::MAX, |size| size.columns);
    let widths = ColumnWidths::new(&rows, columns);
    let entry = |(collection, row): (&CollectionStatus, &CollectionRow)| {
        let phase = paint.level(row.level, &format!("{:PHASE$}", row.phase));
        let copy = copy(collection).map(|copy| paint.level(HealthLevel::Busy, &copy));
        let why = collection.stopped.as_ref().filter(|_| collection.absent.is_none());
        let why = why.map(|why| fitted(why, LONGEST));
        let waits = collection.paused.filter(|_| collection.stopped.is_none() && collection.absent.is_none());
        let waits = waits.map(|since| format!("paused since {since}: its changes wait until docrow resume"));
        let mut lines = vec![format!("  {}", widths.line(&row.name, &phase, &row.figures))];
        lines.extend(copy.into_iter().chain(waits).chain(why).map(|line| format!("      {line}")));
        CollectionEntry { word: row.phase, lines }
    };
    let words: Vec<_> = rows.iter().map(|row| row.phase).collect();
    let count = match rows.len() {
        0 => return (Vec::new(), Vec::new()),
        1 => "1 collection".to_owned(),
        all => format!("{all} collections: {}", counted(&words)),
    };
    let heads = widths.line(NAME, &format!("{:PHASE$}", "PHASE"), &FIGURES);
    let heading = vec![String::new(), format!("  {count}"), format!("  {}", paint.dim(&heads))];
    (heading, status.collections.iter().zip(&rows).map(entry).collect())
}

/// Whether any collection is being copied.
fn are_copying(collections: &[CollectionStatus]) -> bool {
    collections.iter().any(|c| c.phase == Phase::Copying && c.is_followed())
}

/// Keys are built once everything is copied.
fn phase(collection: &CollectionStatus, copying: bool) -> (HealthLevel, &'static str) {
    match collection.absent.as_deref() {
        None => {}
        Some("dropped") => return (HealthLevel::Ok, "dropped"),
        Some(_) => return (HealthLevel::Ok, "no longer followed"),
    }
    if collection.stopped.is_some() {
        return (HealthLevel::Error, "stopped");
    }
    if collection.paused.is_some() {
        return (HealthLevel::Busy, "paused");
    }
    if collection.lag_seconds.is_some_and(|lag| lag > LAG) {
        return (HealthLevel::Warning, "behind");
    }
    match collection.phase {
        Phase::New => (HealthLevel::Busy, "new"),
        Phase::Copying if collection.snapshot.replaces => (HealthLevel::Busy, "resyncing"),
        Phase::Copying => (HealthLevel::Busy, "copying"),
        Phase::Indexing if copying => (HealthLevel::Busy, "copied"),
        Phase::Indexing => (HealthLevel::Busy, "building keys"),
        Phase::Sweeping => (HealthLevel::Busy, "sweeping"),
        Phase::Live => (HealthLevel::Ok, "live"),
    }
}

/// The progress of a copy that is running.
fn copy(collection: &CollectionStatus) -> Option<String> {
    let snapshot = &collection.snapshot;
    if collection.phase != Phase::Copying || !collection.is_followed() {
        return None;
    }
    let estimated = snapshot.estimated?.max(1);
    let percent = (snapshot.documents.saturating_mul(100) / estimated).min(100);
    let full = usize::try_from(percent * BAR / 100).unwrap_or(0);
    let bar = "━".repeat(full) + &"╌".repeat(usize::try_from(BAR).unwrap_or(0).saturating_sub(full));
    let rate = snapshot.documents_per_second.unwrap_or(0);
    let eta = snapshot.eta_seconds.map_or_else(String::new, |eta| format!(", about {} left", span(eta)));
    Some(format!("{bar} {percent}% of {}, {} per second{eta}", HumanCount(estimated), HumanCount(rate)))
}

fn misfits(out: &mut String, status: &Status, paint: TerminalPaint) -> std::fmt::Result {
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
        paint.dim("COLUMNS THAT LACK VALUES (which did not fit, and are in _extra alone)")
    )?;
    for NarrowColumn { table, column, sql_type, values, since, remedy, .. } in narrow.iter().take(SHOWN) {
        let name = shown::name(&format!("{table}.{column}"));
        let values = HumanCount(*values).to_string();
        writeln!(out, "  {values:>7}  {name} {sql_type}, since {since}")?;
        writeln!(out, "  {:7}  {}", "", paint.dim(&format!("→ {remedy}")))?;
    }
    more(out, narrow.len(), paint)
}

fn letters(out: &mut String, status: &Status, paint: TerminalPaint) -> std::fmt::Result {
    let letters = &status.dead_letters;
    if letters.total == 0 {
        return Ok(());
    }
    writeln!(out, "\n  {}", paint.dim("DEAD LETTERS (docrow dead-letters list)"))?;
    for group in letters.groups.iter().take(SHOWN) {
        let path = group.path.as_deref().map_or_else(String::new, |path| format!(" {}", shown::name(path)));
        let reason = fitted(&group.reason, LONGEST);
        writeln!(
            out,
            "  {:>7}  {}{path}: {reason}",
            HumanCount(group.count).to_string(),
            printable(&group.collection)
        )?;
    }
    more(out, letters.groups.len(), paint)
}

fn messages(out: &mut String, status: &Status, paint: TerminalPaint) -> std::fmt::Result {
    if status.messages.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  {}", paint.dim("LAST WARNINGS AND ERRORS"))?;
    for message in status.messages.iter().rev().take(SHOWN) {
        let (level, name) = match message.level {
            MessageLevel::Warning => (HealthLevel::Warning, "warning"),
            MessageLevel::Error => (HealthLevel::Error, "error"),
        };
        let times = if message.count > 1 { format!(" ({} times)", message.count) } else { String::new() };
        let (at, name) = (paint.dim(&message.at.to_string()), paint.level(level, &format!("{name:7}")));
        writeln!(out, "  {at}  {name}  {}{times}", fitted(&message.text, LONGEST))?;
    }
    more(out, status.messages.len(), paint)
}

fn more(out: &mut String, all: usize, paint: TerminalPaint) -> std::fmt::Result {
    match all.saturating_sub(SHOWN) {
        0 => Ok(()),
        left => writeln!(out, "  {}", paint.dim(&format!("and {left} more"))),
    }
}
