//! Generates both files. Pure, except for the bytes that [`flame_graph`] writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Write as _},
    io,
    rc::Rc,
    time::{Duration, SystemTime},
};

use indicatif::HumanCount;
use inferno::flamegraph::{self, Options, Palette, color::MultiPalette};

use super::stages::{ProfileStage, stage, stage_of};
use crate::pipeline::Summary;

/// Samples with the same stack.
#[derive(Debug)]
pub(super) struct SampledStack {
    /// Innermost first; what has no name is in brackets.
    pub(super) functions: Vec<Rc<str>>,
    /// Its size.
    pub(super) samples: u64,
}

/// The resources that a process has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResourceUsage {
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// Resident now, in bytes.
    pub(super) memory: Option<u64>,
    /// The peak.
    pub(super) peak_memory: Option<u64>,
}

/// The facts besides the samples.
#[derive(Debug)]
pub(super) struct RunFacts {
    pub(super) command: &'static str,
    pub(super) exit_code: u8,
    pub(super) summary: Option<Summary>,
    pub(super) began: SystemTime,
    pub(super) wall: Duration,
    pub(super) user: Duration,
    pub(super) system: Duration,
    pub(super) peak_memory: Option<u64>,
    pub(super) own_memory: Option<u64>,
    pub(super) cores: usize,
    pub(super) hertz: u32,
}

/// Functions in a table.
const TOP: usize = 20;

impl SampledStack {
    fn stage(&self) -> ProfileStage {
        stage(self.functions.iter().map(AsRef::as_ref))
    }

    /// Functions that used CPU themselves. A function that serves any caller says little without its caller.
    fn innermost(&self) -> String {
        let Some(first) = self.functions.first() else { return "nothing".to_owned() };
        let served = self.functions.iter().find(|name| stage_of(name).is_some());
        match served {
            Some(served) if stage_of(first).is_none() => format!("`{first}` for `{served}`"),
            _ => format!("`{first}`"),
        }
    }

    /// Without the outer functions that are the same in every stack: threads, tokio's tasks.
    fn telling(&self) -> &[Rc<str>] {
        let end = self.functions.iter().rposition(|name| is_telling(name));
        let end = end.map_or(self.functions.len(), |last| last.saturating_add(1));
        self.functions.get(..end).unwrap_or_default()
    }
}

/// Whether `function` belongs to docrow, a driver or RocksDB.
fn is_telling(function: &str) -> bool {
    !matches!(stage_of(function), None | Some(ProfileStage::Runtime | ProfileStage::Allocation))
}

/// Whether functions have names: a stripped executable has none of docrow's.
fn are_named(stacks: &[SampledStack]) -> bool {
    stacks.iter().flat_map(|stack| &stack.functions).any(|name| is_telling(name))
}

/// `report.md`.
pub(super) fn markdown(facts: &RunFacts, stacks: &[SampledStack]) -> String {
    let mut out = String::new();
    // Writing to a `String` can't fail.
    let _ = write(&mut out, facts, stacks);
    out
}

fn write(out: &mut String, facts: &RunFacts, stacks: &[SampledStack]) -> fmt::Result {
    let samples: u64 = stacks.iter().map(|stack| stack.samples).sum();
    writeln!(out, "# docrow {}: where its CPU time went\n", facts.command)?;
    write_facts(out, facts, samples)?;
    if samples == 0 {
        return writeln!(out, "\nThere are no samples: it used too little CPU.");
    }
    if !are_named(stacks) {
        return writeln!(
            out,
            "\n**The functions are unknown: this executable was stripped of their names.** \
             `make release` and `cargo build --release` build one with names."
        );
    }
    write_stages(out, facts, stacks, samples)?;
    write_functions(out, stacks, samples)?;
    write_legend(out, facts, samples)
}

fn write_facts(out: &mut String, facts: &RunFacts, samples: u64) -> fmt::Result {
    let (wall, cpu) = (facts.wall.as_secs_f64(), facts.user.saturating_add(facts.system));
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(
        out,
        "| ran | `docrow {}`, version {}, started {}, ended with exit code {} |",
        facts.command,
        env!("CARGO_PKG_VERSION"),
        humantime::format_rfc3339_seconds(facts.began),
        facts.exit_code
    )?;
    writeln!(out, "| wall time | {wall:.2} s, on {} cores |", facts.cores)?;
    writeln!(
        out,
        "| docrow's CPU time | {:.2} s: {:.2} s its own code, {:.2} s the kernel on its behalf; {:.0} % of \
         one core |",
        cpu.as_secs_f64(),
        facts.user.as_secs_f64(),
        facts.system.as_secs_f64(),
        100.0 * cpu.as_secs_f64() / wall.max(0.001)
    )?;
    let expected = cpu.as_secs_f64() * f64::from(facts.hertz);
    writeln!(
        out,
        "| samples | {} of about {expected:.0} expected, {} per second of CPU |",
        HumanCount(samples),
        facts.hertz
    )?;
    match facts.summary {
        Some(Summary { documents, rows, changes, .. }) => {
            let rate = |count: u64| {
                let rate = u128::from(count) * 1000 / facts.wall.as_millis().max(1);
                HumanCount(u64::try_from(rate).unwrap_or(u64::MAX))
            };
            writeln!(
                out,
                "| copied | {} documents as {} rows: {} documents/s, {} rows/s over the whole time |",
                HumanCount(documents),
                HumanCount(rows),
                rate(documents),
                rate(rows)
            )?;
            writeln!(
                out,
                "| applied | {} events of the change stream: {} events/s over the whole time |",
                HumanCount(changes),
                rate(changes)
            )?;
            let taken = documents.saturating_add(changes);
            if taken > 0 {
                let each = cpu.as_secs_f64() * 1e6 / taken as f64;
                writeln!(out, "| cost | {each:.1} µs of docrow's CPU per document or event |")?;
            }
        }
        None => writeln!(out, "| done | unknown: it did not finish |")?,
    }
    if let Some(peak) = facts.peak_memory {
        let own = facts.own_memory.map(|own| format!(", about {} of it for the profiler", mebibytes(own)));
        writeln!(out, "| peak memory | {}{} |", mebibytes(peak), own.unwrap_or_default())?;
    }
    Ok(())
}

fn write_stages(out: &mut String, facts: &RunFacts, stacks: &[SampledStack], samples: u64) -> fmt::Result {
    let mut of_stage: BTreeMap<ProfileStage, u64> = BTreeMap::new();
    for stack in stacks {
        let count = of_stage.entry(stack.stage()).or_default();
        *count = count.saturating_add(stack.samples);
    }
    let cpu = facts.user.saturating_add(facts.system).as_secs_f64();
    writeln!(out, "\n## By stage\n\n| stage | share | CPU | what it includes |\n|---|---:|---:|---|")?;
    for stage in ProfileStage::ALL {
        let part = of_stage.get(&stage).copied().unwrap_or(0) as f64 / samples as f64;
        writeln!(out, "| {stage} | {:.1} % | {:.2} s | {} |", 100.0 * part, part * cpu, stage.counts())?;
    }
    Ok(())
}

fn write_functions(out: &mut String, stacks: &[SampledStack], samples: u64) -> fmt::Result {
    let (mut own, mut total) = (HashMap::new(), HashMap::new());
    for stack in stacks {
        let add = |of: &mut HashMap<String, u64>, row| {
            let count = of.entry(row).or_default();
            *count = count.saturating_add(stack.samples);
        };
        add(&mut own, format!("{} | {}", stack.stage(), stack.innermost()));
        // Counted once, even if it calls itself.
        for name in stack.functions.iter().filter(|name| is_telling(name)).collect::<BTreeSet<_>>() {
            add(&mut total, format!("`{name}`"));
        }
    }
    writeln!(out, "\n## Functions by their own CPU time\n\n| share | stage | function |\n|---:|---|---|")?;
    write_top(out, own, samples)?;
    writeln!(
        out,
        "\n## Functions with all functions that they called\n\nThose of docrow, the drivers and RocksDB; \
         without tokio, the allocator and the standard library.\n\n| share | function |\n|---:|---|"
    )?;
    write_top(out, total, samples)
}

fn write_top(out: &mut String, rows: HashMap<String, u64>, samples: u64) -> fmt::Result {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    for (row, count) in rows.into_iter().take(TOP) {
        writeln!(out, "| {:.1} % | {row} |", 100.0 * count as f64 / samples as f64)?;
    }
    Ok(())
}

fn write_legend(out: &mut String, facts: &RunFacts, samples: u64) -> fmt::Result {
    let error = |share: f64| 200.0 * (share * (1.0 - share) / samples as f64).sqrt();
    writeln!(
        out,
        "\n## How to read it\n\n\
         - A sample shows what one thread was doing when the process had used another {:.0} ms of CPU. \
         Waiting uses none, and is not included: {:.2} s of CPU in {:.2} s of wall time.\n\
         - With this number of samples, chance alone moves a share of 10 % by ± {:.1} points one of 50 % by \
         ± {:.1}.\n\
         - A stack counts for the stage of its innermost function that has one; functions that serve any \
         caller (libc, sockets, TLS, compression) count for their caller. So does the kernel: its time is \
         attributed to the function that made the system call, or that first touched a page of memory.\n\
         - A function includes what the compiler inlined into it.\n\
         - `a` for `b`: a was called by b, directly or through other functions. `[libc.so.6]` is a function \
         of that file without a name: mostly `memmove`, `memcpy`, `memcmp`.\n\
         - `flamegraph.svg` (open it in a browser; click to enlarge, ^F to search) has the same samples: the \
         stage at the bottom, its stacks above, outer functions below inner ones. Functions that are the \
         same in every stack (threads, tokio's tasks) are left out.",
        1000.0 / f64::from(facts.hertz),
        facts.user.saturating_add(facts.system).as_secs_f64(),
        facts.wall.as_secs_f64(),
        error(0.1),
        error(0.5)
    )
}

/// `flamegraph.svg`: the stages, on each of them its stacks.
pub(super) fn flame_graph(
    facts: &RunFacts,
    stacks: &[SampledStack],
    out: &mut impl io::Write,
) -> io::Result<()> {
    let samples: u64 = stacks.iter().map(|stack| stack.samples).sum();
    let mut lines = match are_named(stacks) {
        true => stacks.iter().map(line).collect(),
        false => vec!["no names of functions, or no samples; see report.md 1".to_owned()],
    };
    lines.sort();
    let mut options = Options::default();
    options.title =
        format!("docrow {}: CPU by stage and function, {} samples", facts.command, HumanCount(samples));
    options.colors = Palette::Multi(MultiPalette::Rust);
    options.hash = true;
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)
}

/// `stage;outer;inner samples`
fn line(stack: &SampledStack) -> String {
    let outer_first = stack.telling().iter().rev().map(|name| name.replace(';', ","));
    let path: Vec<_> = std::iter::once(stack.stage().to_string()).chain(outer_first).collect();
    format!("{} {}", path.join(";"), stack.samples)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RunFacts {
        RunFacts {
            command: "backfill",
            exit_code: 0,
            summary: Some(Summary {
                documents: 20_000,
                rows: 780_000,
                changes: 5_000,
                elapsed: Duration::from_secs(2),
                ..Summary::default()
            }),
            began: SystemTime::UNIX_EPOCH,
            wall: Duration::from_secs(2),
            user: Duration::from_millis(400),
            system: Duration::from_millis(100),
            peak_memory: Some(100 << 20),
            own_memory: Some(40 << 20),
            cores: 2,
            hertz: 199,
        }
    }

    fn stack(samples: u64, functions: &[&str]) -> SampledStack {
        SampledStack { functions: functions.iter().map(|name| Rc::from(*name)).collect(), samples }
    }

    fn stacks() -> Vec<SampledStack> {
        let task = ["tokio::runtime::task::harness::Harness<T,S>::poll", "std::sys::thread::start"];
        let with = |inner: &[&'static str]| [inner, &task].concat();
        vec![
            stack(
                50,
                &with(&[
                    "[libc.so.6]",
                    "docrow_mapping::mapping::walk::DocumentWalk::close",
                    "docrow_mapping::mapping::walk::DocumentWalk::close",
                ]),
            ),
            stack(
                25,
                &with(&["__libc_recv", "mongodb::cursor::next<[u8; 4]>", "docrow::source::snapshot::read"]),
            ),
            stack(20, &task),
            stack(5, &["_rjem_malloc"]),
        ]
    }

    fn svg(stacks: &[SampledStack]) -> String {
        let mut svg = Vec::new();
        flame_graph(&facts(), stacks, &mut svg).unwrap();
        String::from_utf8(svg).unwrap()
    }

    #[test]
    fn the_report_says_what_ran_and_where_its_time_went() {
        let text = markdown(&facts(), &stacks());
        for line in [
            "# docrow backfill: where its CPU time went",
            "| wall time | 2.00 s, on 2 cores |",
            "| docrow's CPU time | 0.50 s: 0.40 s its own code, 0.10 s the kernel on its behalf; 25 % of one \
             core |",
            "| samples | 100 of about 100 expected, 199 per second of CPU |",
            "| copied | 20,000 documents as 780,000 rows: 10,000 documents/s, 390,000 rows/s over the whole time |",
            "| applied | 5,000 events of the change stream: 2,500 events/s over the whole time |",
            "| cost | 20.0 µs of docrow's CPU per document or event |",
            "| peak memory | 100 MB, about 40 MB of it for the profiler |",
            "| 50.0 % | encode | `[libc.so.6]` for `docrow_mapping::mapping::walk::DocumentWalk::close` |",
            "| 25.0 % | read | `__libc_recv` for `mongodb::cursor::next<[u8; 4]>` |",
            // Once per stack, even if it calls itself.
            "| 50.0 % | `docrow_mapping::mapping::walk::DocumentWalk::close` |",
            "| 25.0 % | `docrow::source::snapshot::read` |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let shares =
            ["read | 25.0 %", "encode | 50.0 %", "runtime | 20.0 %", "allocation | 5.0 %", "map | 0.0 %"];
        assert!(shares.iter().all(|share| text.contains(&format!("\n| {share} | "))), "{text}");
        assert!(!text.contains("| `tokio::runtime::task::harness::Harness<T,S>::poll` |\n| 20.0"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let unfinished = RunFacts { summary: None, peak_memory: None, exit_code: 4, ..facts() };
        let text = markdown(&unfinished, &[]);
        assert!(text.contains("unknown: it did not finish"), "{text}");
        assert!(text.contains("exit code 4") && text.contains("There are no samples"), "{text}");
        assert!(!text.contains("peak memory") && !text.contains("By stage"), "{text}");
        // Stripped: libraries still have names.
        let stripped = [stack(10, &["[docrow]", "[docrow]"]), stack(5, &["malloc", "[docrow]"])];
        let text = markdown(&facts(), &stripped);
        assert!(
            text.contains("stripped") && !text.contains("By stage") && !text.contains("malloc"),
            "{text}"
        );
        for graph in [svg(&stripped), svg(&[])] {
            assert!(graph.contains("see report.md") && !graph.contains("malloc"), "{graph}");
        }
    }

    #[test]
    fn the_flame_graph_stands_on_the_stages() {
        let lines: Vec<_> = stacks().iter().map(line).collect();
        let expected = [
            "encode;docrow_mapping::mapping::walk::DocumentWalk::close;docrow_mapping::mapping::walk::DocumentWalk::close;[libc.so.6] 50",
            "read;docrow::source::snapshot::read;mongodb::cursor::next<[u8, 4]>;__libc_recv 25",
            "runtime;std::sys::thread::start;tokio::runtime::task::harness::Harness<T,S>::poll 20",
            "allocation;_rjem_malloc 5",
        ];
        assert_eq!(lines, expected);
        assert!(svg(&stacks()).contains("docrow_mapping::mapping::walk::DocumentWalk::close (50 samples"));
    }
}
