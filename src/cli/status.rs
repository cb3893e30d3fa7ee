//! `docrow status`: the state of a pipeline, from any machine that reaches PostgreSQL, whether or not it is
//! running.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::Args;

use super::{
    outcome::CommandOutcome,
    paint::TerminalPaint,
    printable::{say, unprintable},
    status_layout::TerminalSize,
    status_table::{SortOrder, sort, table},
};
use crate::{
    config::{Overrides, SourceConfig, TargetConfig},
    error::{Error, Kind, Result},
    shutdown::Shutdown,
    sink::Target,
    source::chosen,
    status::{HealthLevel, Status, StatusGatherer},
};

#[derive(Debug, Args)]
pub(super) struct StatusOptions {
    /// Refresh every so many seconds, until ^C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Print one JSON document, the same as /status serves; with --watch one per line
    #[arg(long)]
    json: bool,
    /// Report the health by the exit code, too: 0 healthy, or on the way there; 1 something is wrong; 8 no
    /// process is known to run it
    #[arg(long, conflicts_with = "watch")]
    exit_code: bool,
    /// Only these collections, as database.collection, globs allowed; repeatable
    #[arg(long, value_name = "NS")]
    collection: Vec<String>,
    /// Order of the collections [default: trouble, and with --json name]
    #[arg(long, value_enum)]
    sort: Option<SortOrder>,
}

impl StatusOptions {
    /// Keeps the requested collections, in the requested order. It can't fail.
    fn select(&self, status: &mut Status) -> Result<()> {
        if !self.collection.is_empty() {
            let known: Vec<_> = status.collections.iter().map(|collection| collection.name.clone()).collect();
            let chosen = chosen("status", &self.collection, &known, "no collection");
            let wanted: &[String] = chosen.as_deref().unwrap_or_default();
            status.collections.retain(|collection| wanted.contains(&collection.name));
            status.dead_letters.groups.retain(|group| wanted.contains(&group.collection));
            chosen?;
        }
        let order = self.sort.or((!self.json).then_some(SortOrder::Trouble));
        if let Some(order) = order {
            sort(&mut status.collections, order);
        }
        Ok(())
    }
}

pub(super) async fn execute(
    overrides: Overrides,
    options: StatusOptions,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let config = TargetConfig::load(overrides.clone())?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    // MongoDB's address need not be known here: the process that runs the pipeline knows it.
    let source = SourceConfig::load(overrides).ok().map(|config| config.source);
    let mut gatherer = StatusGatherer::from_outside(target, source);
    let Some(seconds) = options.watch else {
        let mut status = gatherer.gather().await?;
        let outcome = if options.exit_code { outcome(&status) } else { CommandOutcome::Done };
        options.select(&mut status)?;
        show(&status, options.json)?;
        return Ok(outcome);
    };
    watch(&mut gatherer, &options, Duration::from_secs(seconds), shutdown).await?;
    Ok(CommandOutcome::Done)
}

/// Shows it until stopped. A failure to ask at the beginning is an error; later failures are waited out.
async fn watch(
    gatherer: &mut StatusGatherer,
    options: &StatusOptions,
    each: Duration,
    shutdown: Shutdown,
) -> Result<()> {
    let mut status = gatherer.gather().await?;
    options.select(&mut status)?;
    let screen = (!options.json && io::stdout().is_terminal()).then(StatusScreen::open).transpose()?;
    loop {
        match &screen {
            Some(screen) => screen.draw(&status, each)?,
            None => show(&status, options.json)?,
        }
        tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(each) => {}
        }
        status = tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            status = gatherer.gather_anyway() => status,
        };
        // A collection that has disappeared meanwhile is no error: it is no longer shown.
        let _ = options.select(&mut status);
    }
}

/// The health for a monitor.
fn outcome(status: &Status) -> CommandOutcome {
    match (status.health.level, status.process.running) {
        (HealthLevel::Ok | HealthLevel::Busy, _) => CommandOutcome::Done,
        (HealthLevel::Warning | HealthLevel::Error, Some(true)) => CommandOutcome::Finding,
        (HealthLevel::Warning | HealthLevel::Error, Some(false) | None) => CommandOutcome::NotRunning,
    }
}

fn show(status: &Status, json: bool) -> Result<()> {
    if json {
        let json = serde_json::to_string(status);
        return say(json.map_err(|e| Error::caused(Kind::Bug, "write a JSON document", e))?);
    }
    say(table(status, TerminalPaint::of_terminal(), None))
}

/// A terminal's alternate screen, left when this is dropped. Lines are cut at its edge.
struct StatusScreen;

impl StatusScreen {
    fn open() -> Result<Self> {
        print("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l").map(|()| Self)
    }

    /// Draws without a blank moment in between, and never more than fits.
    fn draw(&self, status: &Status, each: Duration) -> Result<()> {
        let (size, paint) = (TerminalSize::of_terminal(), TerminalPaint::of_terminal());
        // The screen's last line stays free.
        let room = TerminalSize { rows: size.rows.saturating_sub(1), ..size };
        let text = table(status, paint, Some(room));
        let lines: String = text.lines().map(|line| format!("{line}\u{1b}[K\r\n")).collect();
        let end = paint.dim(&format!("every {} s, ^C ends", each.as_secs()));
        print(&format!("\u{1b}[H{lines}{end}\u{1b}[K\u{1b}[J"))
    }
}

impl Drop for StatusScreen {
    fn drop(&mut self) {
        let _ = print("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l");
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(unprintable)
}
