//! `--profile DIR`: samples this process's CPU while a command runs; at its end, however it ends, `DIR` has
//! `flamegraph.svg` and `report.md`. Without the flag, none of this is ever called. With it, a run takes
//! about 5 % more CPU, plus a tenth of a second to start and end, and 60 to 90 MB of memory.
//!
//! After every 5 ms of CPU time, whichever thread uses it, the kernel interrupts that thread, and the signal
//! handler of `pprof` records its stack. `stages` determines which stage a stack belongs to, `symbols` finds
//! the names of functions, and `report` generates both files. They contain names of functions and counts:
//! nothing of a document, no URI (G12).
//!
//! # Why docrow may be interrupted anywhere
//!
//! This includes the allocator, RocksDB, and any held lock. So the handler takes no lock (if what it needs is
//! not available at once, the sample is lost), allocates nothing, and reads a word of the stack only after
//! the kernel has confirmed that it exists. It unwinds by the tables of the executable and its libraries,
//! which [`Profile::begin`] has read before the first signal. (Libgcc finds where a function begins: without
//! a lock since glibc 2.35, under the loader's recursive lock before.) Libgcc's unwinder, `pprof`'s default,
//! does not follow these rules: it has deadlocked and crashed programs. Frame pointers would, but jemalloc,
//! RocksDB and libc are compiled without them, and they cost CPU even without profiling. Interrupted system
//! calls restart by themselves, or tokio restarts them.

mod report;
mod stages;
mod symbols;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use pprof::{ProfilerGuard, ProfilerGuardBuilder};

use self::{
    report::{ResourceUsage, RunFacts, SampledStack},
    symbols::SymbolNames,
};
use crate::{
    error::{Code, Error, Kind, Result},
    pipeline::Summary,
};

/// Samples per second of CPU time. The kernel checks its clock 250 times a second on most machines, so more
/// is not possible; a prime number does not fall into step with periodic work.
const HERTZ: u32 = 199;

/// The profile of a running command.
pub struct Profile {
    folder: PathBuf,
    command: &'static str,
    began: (SystemTime, Instant, ResourceUsage),
    /// The memory that the profiler itself uses, in bytes.
    own_memory: Option<u64>,
    sampler: ProfilerGuard<'static>,
}

impl Profile {
    /// Starts to sample `command`, a name. Errors: `folder` can't be created or written to.
    pub fn begin(folder: &Path, command: &'static str) -> Result<Self> {
        let refused = |e| {
            Error::caused(
                Code::ProfileFolder,
                format!("--profile: write to the folder {}", folder.display()),
                e,
            )
        };
        fs::create_dir_all(folder).map_err(refused)?;
        tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(b"docrow")).map_err(refused)?;
        let memory = ResourceUsage::now().memory;
        let hertz = i32::try_from(HERTZ).map_err(|e| Error::caused(Kind::Bug, "begin to sample", e))?;
        let sampler = ProfilerGuardBuilder::default().frequency(hertz).build();
        let sampler = sampler.map_err(|e| Error::caused(Kind::Bug, "begin to sample", e))?;
        let now = ResourceUsage::now();
        let own_memory = now.memory.zip(memory).map(|(after, before)| after.saturating_sub(before));
        let began = (SystemTime::now(), Instant::now(), now);
        Ok(Self { folder: folder.to_owned(), command, began, own_memory, sampler })
    }

    /// Writes both files. `summary` is the command's result, if it got that far.
    pub fn end(self, exit_code: u8, summary: Option<Summary>) -> Result<()> {
        let Self { folder, command, began: (began, started, before), own_memory, sampler } = self;
        let (wall, usage) = (started.elapsed(), ResourceUsage::now());
        let facts = RunFacts {
            command,
            exit_code,
            summary,
            began,
            wall,
            user: usage.user.saturating_sub(before.user),
            system: usage.system.saturating_sub(before.system),
            peak_memory: usage.peak_memory,
            own_memory,
            cores: thread::available_parallelism().map_or(1, usize::from),
            hertz: HERTZ,
        };
        let stacks = stacks(sampler)?;
        let written = (|| {
            fs::write(folder.join("report.md"), report::markdown(&facts, &stacks))?;
            let mut svg = io::BufWriter::new(fs::File::create(folder.join("flamegraph.svg"))?);
            report::flame_graph(&facts, &stacks, &mut svg)?;
            svg.flush()
        })();
        let place = folder.display();
        written.map_err(|e| {
            Error::caused(Code::ProfileFolder, format!("--profile: write to the folder {place}"), e)
        })?;
        tracing::info!("profile: {place}/report.md and {place}/flamegraph.svg");
        Ok(())
    }
}

/// Ends sampling, and finds the names.
fn stacks(sampler: ProfilerGuard<'static>) -> Result<Vec<SampledStack>> {
    let sampled = sampler.report().build_unresolved();
    drop(sampler);
    let sampled = sampled.map_err(|e| Error::caused(Kind::Bug, "read the samples", e))?;
    let mut symbols = SymbolNames::new();
    let stacks = sampled.data.into_iter().map(|(stack, count)| {
        // For callers, the addresses are return addresses; for the innermost function, the interrupted
        // instruction.
        let instruction = |(i, address)| u64::try_from(address).unwrap_or(0).saturating_sub(u64::from(i > 0));
        let addresses = stack.frames.iter().map(|frame| frame.ip).enumerate().map(instruction);
        SampledStack {
            functions: addresses.map(|at| symbols.name(at)).collect(),
            samples: u64::try_from(count).unwrap_or(0),
        }
    });
    Ok(stacks.collect())
}

impl ResourceUsage {
    /// The resources that this process has used so far; nothing without `/proc`.
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The fields after the program's name; the 12th and 13th are user and system time in hundredths of a
        // second.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut time = || {
            Duration::from_millis(10)
                .saturating_mul(fields.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0))
        };
        let (user, system) = (time(), time());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = |name: &str| {
            let kilobytes =
                status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            kilobytes.and_then(|kilobytes| kilobytes.parse::<u64>().ok()?.checked_mul(1024))
        };
        Self { user, system, memory: memory("VmRSS:"), peak_memory: memory("VmHWM:") }
    }
}
