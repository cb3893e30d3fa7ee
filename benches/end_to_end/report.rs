//! The output of a run: a line per measurement as it is made, JSON lines into a file, and the table of bars
//! at the end.

use std::{collections::BTreeMap, env, fs::File, io::Write, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{
    bars::{BARS, Bar, Figure, Limit, PEAK, Verdict},
    cost::Servers,
    process::Cost,
};

pub(crate) struct Report {
    path: PathBuf,
    file: File,
    scale: f64,
    rounds: BTreeMap<&'static str, Vec<f64>>,
    peak_mb: f64,
}

impl Report {
    /// `scale`: the factor for all amounts; below 1 the bars are not judged.
    pub(crate) fn new(scale: f64) -> Self {
        let folder = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
        let path = env::var_os("DOCROW_BENCH_JSON").map_or_else(|| folder.join("bench.jsonl"), PathBuf::from);
        let file = File::create(&path).unwrap();
        let mut report = Self { path, file, scale, rounds: BTreeMap::new(), peak_mb: 0.0 };
        let cores = std::thread::available_parallelism().unwrap();
        println!("{cores} cores, scale {scale}");
        report.write(&json!({ "run": env!("CARGO_PKG_VERSION"), "cores": cores.get(), "scale": scale }));
        report
    }

    /// `count`, scaled.
    pub(crate) fn scaled(&self, count: i32) -> i32 {
        (f64::from(count) * self.scale).round() as i32
    }

    /// One measurement: a readable line, and its figures.
    pub(crate) fn measured(&mut self, line: &str, figures: &Value) {
        println!("{line}");
        self.write(figures);
    }

    /// One measurement of docrow: as [`Self::measured`], with its cost.
    pub(crate) fn docrow(&mut self, line: &str, mut figures: Value, cost: Cost, servers: Servers) {
        let [docrow, mongod, postgres] =
            [cost.cpu, servers.mongod, servers.postgres].map(|cpu| cpu.as_secs_f64());
        figures["cpu"] = json!({ "docrow": docrow, "mongod": mongod, "postgres": postgres });
        figures["peak_mb"] = json!(rounded(cost.peak_mb));
        self.peak_mb = self.peak_mb.max(cost.peak_mb);
        let costs = format!("CPU docrow {docrow:.2} mongod {mongod:.2} postgres {postgres:.2} s");
        self.measured(&format!("{line}   {costs}   peak {:.0} MB", cost.peak_mb), &figures);
    }

    /// One round's value of a bar.
    pub(crate) fn round(&mut self, bar: &'static str, value: f64) {
        self.rounds.entry(bar).or_default().push(value);
    }

    /// Prints the table. Returns whether no bar is certainly missed.
    pub(crate) fn finish(mut self) -> bool {
        if self.peak_mb > 0.0 {
            self.round(PEAK, self.peak_mb);
        }
        println!("\n{:40} {:>12} {:>6} {:>9} {:>19}", "", "bar", "aim", "median", "low to high");
        let mut is_well = true;
        for bar in BARS {
            let Some(figure) = self.rounds.get(bar.name).map(|rounds| Figure::of(rounds)) else { continue };
            let judged = self.scale >= 1.0;
            let verdict = if judged { bar.verdict(figure) } else { Verdict::Shown };
            is_well &= verdict != Verdict::Missed;
            print(bar, figure, verdict);
            self.write(&line_of(bar, figure, verdict));
        }
        if self.scale < 1.0 {
            println!("not judged: bars are for the whole amounts, scale 1");
        }
        println!("{}", self.path.display());
        is_well
    }

    fn write(&mut self, figures: &Value) {
        writeln!(self.file, "{figures}").unwrap();
    }
}

fn print(bar: &Bar, figure: Figure, verdict: Verdict) {
    let limit = match bar.limit {
        Limit::AtMost(most) => format!("<= {most}"),
        Limit::AtLeast(least) => format!(">= {least}"),
        Limit::Anything => String::new(),
    };
    let aim = bar.aim.map(|aim| aim.to_string()).unwrap_or_default();
    let verdict = match verdict {
        Verdict::Met => "met",
        Verdict::MissedWithinNoise => "missed, by less than the noise",
        Verdict::Missed => "MISSED",
        Verdict::Shown => "",
    };
    let [median, low, high] = [figure.median, figure.low, figure.high].map(shown);
    let spread = format!("{low} to {high}");
    println!("{:40} {limit:>12} {aim:>6} {median:>9} {spread:>19}  {verdict}", bar.name);
}

fn line_of(bar: &Bar, figure: Figure, verdict: Verdict) -> Value {
    let limit = match bar.limit {
        Limit::AtMost(most) => json!({ "at_most": most }),
        Limit::AtLeast(least) => json!({ "at_least": least }),
        Limit::Anything => Value::Null,
    };
    let met = match verdict {
        Verdict::Met => json!(true),
        Verdict::MissedWithinNoise | Verdict::Missed => json!(false),
        Verdict::Shown => Value::Null,
    };
    let Figure { median, low, high } = figure;
    json!({
        "bar": bar.name, "median": rounded(median), "low": rounded(low), "high": rounded(high),
        "limit": limit, "aim": bar.aim, "met": met,
        "beyond_noise": verdict == Verdict::Missed,
    })
}

/// Three digits after the point: none of these figures is more precise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

pub(crate) fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64())
}

fn shown(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
