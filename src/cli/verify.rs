//! `docrow verify`: compares every collection with its tables and says what differs.

use std::{
    io::{self, Write},
    time::Instant,
};

use clap::Args;
use indicatif::HumanCount;

use super::{Outcome, printable::unprintable};
use crate::{
    config::Config,
    error::Result,
    shutdown::Shutdown,
    telemetry::Reporter,
    verify::{self, Compared},
};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// How many differences of a collection are printed
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn execute(
    config: &Config,
    options: Options,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<Outcome> {
    let started = Instant::now();
    let compared = verify::run(config, &reporter, &shutdown).await?;
    print(&compared, options.limit).map_err(unprintable)?;
    if shutdown.is_requested() {
        tracing::warn!("stopped before the end");
        return Ok(Outcome::Finding);
    }
    tracing::info!("compared in {:.1}s", started.elapsed().as_secs_f64());
    let equal = compared.iter().all(|collection| collection.different == 0);
    Ok(if equal { Outcome::Done } else { Outcome::Finding })
}

/// One line per collection, and under it its differences.
pub(super) fn print(compared: &[Compared], limit: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let width = compared.iter().map(|c| c.namespace.to_string().len()).max().unwrap_or(0).max(10);
    writeln!(
        out,
        "{:width$}  {:>12}  {:>12}  {:>12}  result",
        "collection", "documents", "rows", "dead letters"
    )?;
    for collection in compared {
        let Compared { namespace, documents, rows, dead_letters, different, differences } = collection;
        let result = match different {
            0 => "equal".to_owned(),
            1 => "1 difference".to_owned(),
            n => format!("{} differences", HumanCount(*n)),
        };
        let counts = [documents, rows, dead_letters].map(|n| HumanCount(*n).to_string());
        let [documents, rows, dead_letters] = &counts;
        let name = namespace.to_string();
        writeln!(out, "{name:width$}  {documents:>12}  {rows:>12}  {dead_letters:>12}  {result}")?;
        for difference in differences.iter().take(limit) {
            writeln!(out, "    {difference}")?;
        }
        let left = different.saturating_sub(u64::try_from(limit.min(differences.len())).unwrap_or(0));
        if left > 0 {
            writeln!(out, "    and {} more", HumanCount(left))?;
        }
    }
    Ok(())
}
