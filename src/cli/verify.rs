//! `docrow verify`: compares every collection with its tables and shows the differences.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use indicatif::HumanCount;
use serde_json::{Map, Value, json};

use super::{
    outcome::CommandOutcome,
    printable::{printable, say, unprintable},
};
use crate::{
    config::{Config, SampleSize},
    error::Result,
    shutdown::Shutdown,
    telemetry::Reporter,
    verify::{self, ComparedCollection, ComparisonState, Difference, RandomSample, VerifyReport},
};

/// How many differences of a collection are shown.
const SHOWN: usize = 20;
const SHOWN_TO_SCRIPTS: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODE)]
pub(super) struct VerifyArguments {
    /// Only these of the included collections, as database.collection, globs allowed; repeatable
    #[arg(long, value_name = "NS")]
    collection: Vec<String>,
    /// Only a random sample: a number of documents of each collection, or a percentage, 2.5%
    #[arg(long, value_name = "N|P%")]
    sample: Option<SampleSize>,
    /// Seed of the sample: the same seed selects the same documents
    #[arg(long, value_name = "N", requires = "sample")]
    seed: Option<u64>,
    /// Maximum documents per second
    #[arg(long, value_name = "DOCS/S", value_parser = rate)]
    max_rate: Option<f64>,
    /// How long to wait for docrow run if documents have just changed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Repair the differences, through docrow run, or here if none runs, then compare these documents again
    #[arg(long)]
    repair: bool,
    /// Accept dead letters: exit 0 although PostgreSQL does not have these documents
    #[arg(long)]
    allow_dead_letters: bool,
    /// How many differences to show per collection [default: 20; as JSON 1000]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Also show the differing values
    #[arg(long)]
    show_values: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const EXIT_CODE: &str = "Exit code: 0 if PostgreSQL has every document, and every row matches its document, \
    with --repair: after the repair; 1 if there is a difference (after a repair: a remaining one) or a dead \
    letter, if a document was not settled, because it changed and docrow run did not apply the change in \
    time, or if stopped before it was done.";

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "write a number of documents per second, more than 0".to_owned())
}

pub(super) async fn execute(
    config: &Config,
    options: VerifyArguments,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let limit = options.limit.unwrap_or(if options.json { SHOWN_TO_SCRIPTS } else { SHOWN });
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let wanted = verify::VerifyOptions {
        collections: options.collection,
        sample: options.sample.map(|size| RandomSample { size, seed }),
        max_rate: options.max_rate,
        limit,
        values: options.show_values,
        patience: Duration::from_secs(options.patience),
        repair: options.repair,
        allow_dead_letters: options.allow_dead_letters,
    };
    let report = verify::run(config, &wanted, &reporter, &shutdown).await?;
    if let Err(error) = verify::take_out_mended(config, &report).await {
        tracing::warn!(code = %error.code(), "docrow status may still warn of repaired differences: {error}");
    }
    if options.json {
        say(format!("{:#}", document(&report)))?;
    } else {
        print(&report, limit).map_err(unprintable)?;
    }
    if report.stopped {
        tracing::warn!("stopped before it was done");
    } else {
        tracing::info!("compared in {:.1}s", report.elapsed.as_secs_f64());
    }
    Ok(if report.is_accepted() { CommandOutcome::Done } else { CommandOutcome::Finding })
}

/// A table with a line for each collection; below it the differences and the remarks.
pub(super) fn print(report: &VerifyReport, limit: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if let Some(RandomSample { size, seed }) = report.sample {
        let size = match size {
            SampleSize::Documents(documents) => {
                format!("about {} documents of each collection", HumanCount(documents))
            }
            SampleSize::Percent(percent) => format!("about {percent}% of the documents"),
        };
        writeln!(out, "a sample: {size}, seed {seed}")?;
    }
    let head =
        ["collection", "documents", "rows", "dead letters", "rechecked", "time", "documents/s", "result"];
    let mut rows = vec![head.map(str::to_owned)];
    for collection in &report.collections {
        let ComparedCollection {
            namespace, documents, rows: found, dead_letters, rechecked, elapsed, ..
        } = collection;
        let count = |n: &u64| HumanCount(*n).to_string();
        // For display: saturating is intended.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rate = collection.rate() as u64;
        rows.push([
            printable(&namespace.to_string()),
            count(documents),
            count(found),
            count(dead_letters),
            count(rechecked),
            format!("{:.1}s", elapsed.as_secs_f64()),
            count(&rate),
            result(collection),
        ]);
    }
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: [usize; 8] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for (row, of) in rows.iter().zip(std::iter::once(None).chain(report.collections.iter().map(Some))) {
        for (number, (cell, width)) in row.iter().zip(widths).enumerate() {
            match number {
                0 => write!(out, "{cell:width$}")?,
                7 => writeln!(out, "  {cell}")?,
                _ => write!(out, "  {cell:>width$}")?,
            }
        }
        let Some(of) = of else { continue };
        for difference in of.differences.iter().take(limit) {
            writeln!(out, "    {}", printable(&difference.to_string()))?;
        }
        let left = of.different.saturating_sub(u64::try_from(limit.min(of.differences.len())).unwrap_or(0));
        if left > 0 {
            writeln!(out, "    and {} more", HumanCount(left))?;
        }
        for remark in &of.remarks {
            writeln!(out, "  {}", printable(remark))?;
        }
    }
    match report.dead_letters() {
        0 => Ok(()),
        n => writeln!(
            out,
            "{} missing in PostgreSQL: docrow dead-letters list shows them, with the reasons",
            dead_letters(n)
        ),
    }
}

/// The result for a collection.
fn result(collection: &ComparedCollection) -> String {
    let ComparedCollection { standing, different, mended, unsettled, dead_letters: dead, .. } = collection;
    let mut words = Vec::new();
    match (different, mended) {
        (0, _) => {}
        (n, m) if n == m => words.push(format!("{} repaired", differences(*n))),
        (n, 0) => words.push(differences(*n)),
        (n, m) => words.push(format!("{}, {} of them repaired", differences(*n), HumanCount(*m))),
    }
    match unsettled {
        0 => {}
        n => words.push(format!("{} not settled", HumanCount(*n))),
    }
    match dead {
        0 => {}
        n => words.push(dead_letters(*n)),
    }
    match standing {
        ComparisonState::Compared if words.is_empty() => "equal".to_owned(),
        ComparisonState::Compared => words.join(", "),
        ComparisonState::Copying => "is being copied".to_owned(),
        ComparisonState::Incomplete => format!("not compared: {}", words.join(", ")),
    }
}

fn dead_letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{} dead letters", HumanCount(count)) }
}

fn differences(count: u64) -> String {
    if count == 1 { "1 difference".to_owned() } else { format!("{} differences", HumanCount(count)) }
}

/// The report, as documented in docs/verify.md.
fn document(report: &VerifyReport) -> Value {
    let sample = report.sample.map(|RandomSample { size, seed }| match size {
        SampleSize::Documents(documents) => json!({ "documents": documents, "seed": seed }),
        SampleSize::Percent(percent) => json!({ "percent": percent, "seed": seed }),
    });
    let differences = report.collections.iter().flat_map(|of| {
        of.differences.iter().map(|difference| {
            let mut told = Map::new();
            told.insert("collection".to_owned(), of.namespace.to_string().into());
            tell(difference, &mut told);
            Value::Object(told)
        })
    });
    let differences: Vec<Value> = differences.collect();
    let told = u64::try_from(differences.len()).unwrap_or(0);
    json!({
        "pipeline": report.pipeline,
        "equal": report.is_equal(),
        "dead_letters_allowed": report.allows_dead_letters,
        "stopped": report.stopped,
        "repair": report.repaired,
        "sample": sample,
        "seconds": rounded(report.elapsed.as_secs_f64()),
        "collections": report.collections.iter().map(collection).collect::<Vec<_>>(),
        "differences": differences,
        "differences_left_out": report.different().saturating_sub(told),
    })
}

fn collection(of: &ComparedCollection) -> Value {
    json!({
        "collection": of.namespace.to_string(),
        "state": match of.standing {
            ComparisonState::Compared => "compared",
            ComparisonState::Copying => "copying",
            ComparisonState::Incomplete => "incomplete",
        },
        "equal": of.is_equal(),
        "result": of.verdict().name(),
        "documents": of.documents,
        "rows": of.rows,
        "dead_letters": of.dead_letters,
        "rechecked": of.rechecked,
        "differences": of.different,
        "mended": of.mended,
        "unsettled": of.unsettled,
        "seconds": rounded(of.elapsed.as_secs_f64()),
        "documents_per_second": rounded(of.rate()),
        "remarks": of.remarks,
    })
}

fn tell(difference: &Difference, told: &mut Map<String, Value>) {
    let Difference { table, key, row, what, expected, actual, mended } = difference;
    told.insert("table".to_owned(), table.as_str().into());
    told.insert("key".to_owned(), key.clone().into());
    let row: Map<String, Value> =
        row.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    told.insert("row".to_owned(), row.into());
    told.insert("kind".to_owned(), what.kind().into());
    told.insert("column".to_owned(), what.column().into());
    if expected.is_some() || actual.is_some() {
        told.insert("expected".to_owned(), expected.clone().into());
        told.insert("actual".to_owned(), actual.clone().into());
    }
    told.insert("mended".to_owned(), (*mended).into());
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
