//! `docrow status`: how a pipeline is doing, from wherever PostgreSQL can be asked, whether or not it is being run.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use clap::Args;

use super::{
    Outcome,
    printable::{say, unprintable},
    status_table::{Paint, table},
};
use crate::{
    config::{Overrides, SourceConfig, TargetConfig},
    error::{Error, Kind, Result},
    shutdown::Shutdown,
    sink::Target,
    status::{Gatherer, Status},
};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show it again every so many seconds, until ^C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// As one JSON document, the same as /status serves; with --watch one a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(overrides: Overrides, options: Options, shutdown: Shutdown) -> Result<Outcome> {
    let config = TargetConfig::load(overrides.clone())?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    // Where MongoDB is need not be known here: whoever runs the pipeline knows.
    let source = SourceConfig::load(overrides).ok().map(|config| config.source);
    let mut gatherer = Gatherer::from_outside(target, source);
    let Some(seconds) = options.watch else {
        show(&gatherer.gather().await?, options.json)?;
        return Ok(Outcome::Done);
    };
    watch(&mut gatherer, &options, Duration::from_secs(seconds), shutdown).await?;
    Ok(Outcome::Done)
}

/// Shows it until told to stop. What can't be asked at the beginning is an error; later on it is waited for.
async fn watch(gatherer: &mut Gatherer, options: &Options, each: Duration, shutdown: Shutdown) -> Result<()> {
    let mut status = gatherer.gather().await?;
    let screen = (!options.json && io::stdout().is_terminal()).then(Screen::open).transpose()?;
    loop {
        match &screen {
            Some(screen) => screen.draw(&table(&status, Paint::of_terminal()), each)?,
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
    }
}

fn show(status: &Status, json: bool) -> Result<()> {
    if json {
        let json = serde_json::to_string(status);
        return say(json.map_err(|e| Error::caused(Kind::Bug, "write a JSON document", e))?);
    }
    say(table(status, Paint::of_terminal()))
}

/// A terminal's other screen, left when this is dropped. Lines are cut at its edge.
struct Screen;

impl Screen {
    fn open() -> Result<Self> {
        print("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l").map(|()| Self)
    }

    /// Without a blank moment in between.
    fn draw(&self, text: &str, each: Duration) -> Result<()> {
        let lines: String = text.lines().map(|line| format!("{line}\u{1b}[K\r\n")).collect();
        let end = format!("\u{1b}[2mevery {} s, ^C ends\u{1b}[0m\u{1b}[K\u{1b}[J", each.as_secs());
        print(&format!("\u{1b}[H{lines}{end}"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l");
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(unprintable)
}
