//! `docrow check`: what a run would encounter, and what to do about it.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use indicatif::HumanCount;
use serde_json::{Value, json};

use super::{
    outcome::CommandOutcome,
    printable::{printable, say, unprintable},
};
use crate::{
    check::{self, CheckReport, Finding, FindingPart, PathMisfits, Severity},
    config::Config,
    error::Result,
    shown,
    shutdown::Shutdown,
    source::SAMPLE_SIZE,
};

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct CheckOptions {
    /// Maximum number of documents per collection to test
    #[arg(long, value_name = "N", default_value_t = SAMPLE_SIZE, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "Nothing is written on either side. Exit codes: 0 a run would work, perhaps with \
    notes; 1 there is a problem, or a server can't be reached; 2 the command line or the configuration file \
    is wrong, and nothing was checked.";

/// The width of the text, and the column where it begins.
const WIDTH: usize = 110;
const SUBJECT: usize = 18;
/// How many paths of misfits are printed per collection; `--json` has all.
const MISFITS: usize = 8;

pub(super) async fn execute(
    config: &Config,
    options: CheckOptions,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let report = tokio::select! {
        biased;
        () = shutdown.requested() => {
            tracing::warn!("stopped before it was done");
            return Ok(CommandOutcome::Finding);
        }
        report = check::run(config, options.size) => report,
    };
    if options.json {
        say(document(&report))?;
    } else {
        print(&report).map_err(unprintable)?;
    }
    Ok(if report.count(Severity::Problem) > 0 { CommandOutcome::Finding } else { CommandOutcome::Done })
}

fn document(report: &CheckReport) -> Value {
    let misfit = |PathMisfits { path, ty, count, fate }: &PathMisfits| json!({ "path": path, "type": ty, "count": count, "fate": fate });
    let finding = |finding: &Finding| {
        let Finding { severity, part, subject, what, advice, statement, misfits } = finding;
        let mut entry = json!({
            "severity": severity.name(), "part": part.name(), "subject": subject, "what": what,
            "advice": advice, "statement": statement,
        });
        if let (Some(entry), false) = (entry.as_object_mut(), misfits.is_empty()) {
            entry.insert("misfits".to_owned(), misfits.iter().map(misfit).collect());
        }
        entry
    };
    json!({
        "problems": report.count(Severity::Problem),
        "notes": report.count(Severity::Note),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// How a severity is marked.
#[derive(Clone, Copy)]
enum FindingStyle {
    /// On a terminal: a coloured sign.
    Signs,
    /// A word.
    Words,
}

impl FindingStyle {
    fn mark(self, severity: Severity) -> &'static str {
        match (self, severity) {
            (Self::Signs, Severity::Ok) => "\u{1b}[32m✓\u{1b}[0m",
            (Self::Signs, Severity::Note) => "\u{1b}[33m!\u{1b}[0m",
            (Self::Signs, Severity::Problem) => "\u{1b}[1;31m✗\u{1b}[0m",
            (Self::Words, Severity::Ok) => "ok     ",
            (Self::Words, Severity::Note) => "note   ",
            (Self::Words, Severity::Problem) => "PROBLEM",
        }
    }

    /// The column where the text begins.
    fn indent(self) -> usize {
        let mark = match self {
            Self::Signs => 1,
            Self::Words => 7,
        };
        2 + mark + 1 + SUBJECT + 1
    }
}

fn print(report: &CheckReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = if is_coloured { FindingStyle::Signs } else { FindingStyle::Words };
    for part in FindingPart::ALL {
        let findings = report.findings.iter().filter(|finding| finding.part == part);
        for (number, finding) in findings.enumerate() {
            if number == 0 {
                writeln!(out, "{}", part.name())?;
            }
            print_finding(&mut out, finding, style)?;
        }
    }
    let count = |severity, noun| match report.count(severity) {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        count => format!("{} {noun}s", HumanCount(u64::try_from(count).unwrap_or(u64::MAX))),
    };
    writeln!(out, "\n{}, {}", count(Severity::Problem, "problem"), count(Severity::Note, "note"))
}

fn print_finding(out: &mut impl Write, finding: &Finding, style: FindingStyle) -> io::Result<()> {
    let Finding { severity, subject, what, advice, statement, misfits, .. } = finding;
    let (mark, subject, indent) = (style.mark(*severity), printable(subject), style.indent());
    let what = printable(what);
    let mut lines = wrapped(&what);
    // A long name has its own line.
    if subject.chars().count() > SUBJECT {
        writeln!(out, "  {mark} {subject}")?;
    } else {
        writeln!(out, "  {mark} {subject:SUBJECT$} {}", lines.remove(0))?;
    }
    for PathMisfits { path, ty, count, fate } in misfits.iter().take(MISFITS) {
        let (path, count) = (shown::name(path), HumanCount(*count));
        let of = ty.map(|ty| format!(" {ty}")).unwrap_or_default();
        lines.push(format!("{path}: {count} ×{of}, {fate}"));
    }
    if let Some(more) = misfits.len().checked_sub(MISFITS).filter(|more| *more > 0) {
        lines.push(format!("and {more} more paths, which --json has"));
    }
    lines.extend(advice.iter().flat_map(|advice| wrapped(&format!("→ {}", printable(advice)))));
    // On one line, so that it can be copied.
    lines.extend(statement.iter().map(|statement| format!("→ run: {}", printable(statement))));
    lines.iter().try_for_each(|line| writeln!(out, "{:indent$}{line}", ""))
}

/// `text` in lines of at most the allowed width, unless a single word is longer.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
            } else if line.chars().count() + 1 + word.chars().count() <= WIDTH - SUBJECT {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines
}
