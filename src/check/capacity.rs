//! Compares what a full copy needs with what is available: time with the oplog's window, changes with the
//! spool, the spool with the disk. Arithmetic, and the findings show it.
//!
//! # What the oplog's window must cover
//!
//! It need not cover the copy: while that runs, docrow reads the change stream into the spool (G6), so the
//! oplog may roll over. It must hold what docrow has not read yet: everything that happens while docrow is
//! stopped, and everything that arrives while the spool is full, because the stream then waits in the oplog.
//! If the state directory is lost in the middle of a copy, docrow reads the stream again from where the copy
//! began; only then must the window cover a copy.

use std::{path::Path, time::Duration};

use indicatif::HumanCount;

use super::{
    format::{decimal, float, size, span, whole},
    report::{FindingPart, PartFindings},
    source::CheckedSource,
    state,
};
use crate::{
    config::Config,
    source::{Oplog, OplogSize},
};

/// How many times longer a copy takes than one reader and encoder alone, as a safe estimate: PostgreSQL needs
/// about five times docrow's CPU (`make bench`) for rows and keys, in several sessions at once.
const FACTOR: u32 = 3;
/// The assumed rate in bytes per second, if nothing can be measured.
const ASSUMED: u64 = 50_000_000;
/// Less than this gives no meaningful rate.
const TELLING: u64 = 1_000_000;
/// The size of a change in the spool, with an `_id` of usual length.
const CHANGE: u64 = 50;
/// A shorter oplog window leaves little time to fix anything.
const SHORT: Duration = Duration::from_secs(3600);
/// The size of an empty spool.
const LEAST: u64 = 64 << 20;

/// How fast one reader and one encoder are here.
#[derive(Clone, Debug)]
pub(super) struct CopyRate {
    bytes: u64,
    took: Duration,
    of: String,
}

impl CopyRate {
    pub(super) fn measured(bytes: u64, took: Duration, of: String) -> Option<Self> {
        (bytes >= TELLING && !took.is_zero()).then_some(Self { bytes, took, of })
    }

    fn per_second(&self) -> u64 {
        let micros = self.took.as_micros().max(1);
        u64::try_from(u128::from(self.bytes) * 1_000_000 / micros).unwrap_or(u64::MAX).max(1)
    }
}

/// The result.
struct CapacityFacts<'a> {
    documents: u64,
    bytes: u64,
    rate: Option<CopyRate>,
    oplog: Option<Oplog>,
    max_spool: u64,
    /// Bytes free on the state directory's disk.
    free: Option<u64>,
    state: &'a Path,
}

pub(super) fn check(config: &Config, found: &CheckedSource, rate: Option<CopyRate>) -> PartFindings {
    let facts = CapacityFacts {
        documents: found.collections.iter().map(|info| info.documents).sum(),
        bytes: found.collections.iter().map(|info| info.bytes).sum(),
        rate,
        oplog: found.oplog,
        max_spool: config.max_spool,
        free: state::free(&config.state_dir),
        state: &config.state_dir,
    };
    judge(&facts)
}

fn judge(facts: &CapacityFacts<'_>) -> PartFindings {
    let mut findings = PartFindings::new(FindingPart::Snapshot);
    let copy = copy(&mut findings, facts);
    let window = facts.oplog.map(|oplog| OplogWindow::new(&oplog));
    let waiting = spool(&mut findings, facts, window.as_ref().and_then(|window| window.rate), copy);
    if let Some(window) = window {
        window.judge(&mut findings, copy, waiting);
    }
    findings
}

/// How long a copy takes.
fn copy(findings: &mut PartFindings, facts: &CapacityFacts<'_>) -> Duration {
    let (documents, bytes) = (HumanCount(facts.documents), size(facts.bytes));
    let (rate, source) = match &facts.rate {
        Some(rate) => {
            let (read, took) = (size(rate.bytes), rate.took.as_secs_f64());
            (
                rate.per_second(),
                format!("measured here: {read} of {} read and encoded in {took:.1} s", rate.of),
            )
        }
        None => (ASSUMED, "assumed: there is too little data to measure it".to_owned()),
    };
    let reading = Duration::from_millis(facts.bytes.saturating_mul(1000) / rate);
    let copy = reading * FACTOR;
    let what = format!(
        "{documents} documents, {bytes} ÷ {}/s ({source}) × {FACTOR} (PostgreSQL's part) = {}",
        size(rate),
        span(copy)
    );
    findings.ok("time", what);
    copy
}

/// Whether changes fit in the spool while a copy runs.
fn spool(
    findings: &mut PartFindings,
    facts: &CapacityFacts<'_>,
    changes: Option<f64>,
    copy: Duration,
) -> ChangesAhead {
    let (most, free, dir) = (size(facts.max_spool), facts.free.map(size), facts.state.display());
    let room = facts.free.map_or(facts.max_spool, |free| free.min(facts.max_spool));
    let there = match &free {
        Some(free) => format!("{free} free at {dir}, max_spool {most}"),
        None => format!("max_spool {most}"),
    };
    if room < LEAST {
        findings.problem("spool", there).advise("free disk space, or name another directory with --state");
        return ChangesAhead::TooMuch;
    }
    let Some(changes) = changes else {
        let finding = findings.ok("spool", there);
        finding
            .what
            .push_str(&format!("; a change takes about {CHANGE} bytes there, and their number is unknown"));
        return ChangesAhead::Unknown;
    };
    let need = whole(changes * copy.as_secs_f64()).saturating_mul(CHANGE);
    let sum = format!(
        "during the copy {}/s × {} × {CHANGE} B = {}; {there}",
        decimal(changes),
        span(copy),
        size(need)
    );
    if need > room {
        findings
            .note("spool", format!("{sum}: it would be full, and the stream would wait in the oplog"))
            .advise("raise state.max_spool, or put the state directory on a larger disk");
        return ChangesAhead::TooMuch;
    }
    if room < facts.max_spool {
        findings
            .note("spool", format!("{sum}: less space is free than state.max_spool"))
            .advise("lower state.max_spool, or free disk space: a full disk makes docrow wait");
    } else {
        findings.ok("spool", sum);
    }
    ChangesAhead::Fits
}

/// What happens to changes during a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangesAhead {
    Fits,
    TooMuch,
    Unknown,
}

/// How far the oplog reaches back.
struct OplogWindow {
    now: Duration,
    /// How far it will reach back once it is full, if it is not full yet.
    later: Duration,
    /// How full it is, in percent.
    filled: Option<u64>,
    /// Whether it reaches back to the beginning, so that its eventual window is unknown.
    is_whole: bool,
    /// Entries per second.
    rate: Option<f64>,
}

impl OplogWindow {
    fn new(oplog: &Oplog) -> Self {
        let seconds = oplog.now.time.saturating_sub(oplog.first.time).max(1);
        let now = Duration::from_secs(seconds.into());
        let Some(OplogSize { entries, bytes, most }) = oplog.size else {
            return Self { now, later: now, filled: None, is_whole: oplog.is_whole, rate: None };
        };
        let filled = bytes.saturating_mul(100) / most.max(1);
        let later = u128::from(seconds) * u128::from(most) / u128::from(bytes.max(1));
        let later = Duration::from_secs(u64::try_from(later).unwrap_or(u64::MAX)).max(now);
        Self {
            now,
            later: if filled < 90 { later } else { now },
            filled: Some(filled),
            is_whole: false,
            rate: Some(float(entries) / f64::from(seconds)),
        }
    }

    fn judge(&self, findings: &mut PartFindings, copy: Duration, waiting: ChangesAhead) {
        let reach = match self.filled {
            Some(filled) if filled < 90 => format!(
                "reaches back {} and is {filled} % full: at this pace {} once it is full",
                span(self.now),
                span(self.later)
            ),
            _ => format!("reaches back {}", span(self.now)),
        };
        if self.is_whole {
            findings.ok("oplog", format!("{reach}, to its beginning: nothing has been removed from it yet"));
            return;
        }
        let longer = "db.adminCommand({ replSetResizeOplog: 1, minRetentionHours: 24 })";
        let window = span(self.later);
        if self.later < copy && waiting == ChangesAhead::TooMuch {
            findings
                .problem(
                    "oplog",
                    format!(
                        "{reach}: less than the copy takes, and the spool can't hold the changes made \
                         meanwhile: history would be lost"
                    ),
                )
                .advise("enlarge the oplog, or make room for the spool")
                .run(longer);
        } else if self.later < copy {
            findings
                .note(
                    "oplog",
                    format!(
                        "{reach}: less than the copy takes ({}). While docrow runs, that does not matter, \
                         because it reads ahead into the spool",
                        span(copy)
                    ),
                )
                .advise(format!(
                    "don't stop docrow for longer than {window}, and don't lose its state directory \
                     meanwhile; or enlarge the oplog"
                ))
                .run(longer);
        } else if self.later < SHORT {
            findings
                .note("oplog", format!("{reach}: docrow may not be stopped for longer"))
                .advise("enlarge the oplog")
                .run(longer);
        } else {
            let copy = span(copy);
            findings.ok(
                "oplog",
                format!("{reach}; the copy takes {copy}, and docrow may be stopped for about {window}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::Timestamp;

    use super::*;
    use crate::check::Severity;

    const GB: u64 = 1_000_000_000;

    fn facts<'a>() -> CapacityFacts<'a> {
        let at = |time| Timestamp { time, increment: 1 };
        let size = OplogSize { entries: 93_600_000, bytes: 50 * GB, most: 50 * GB };
        CapacityFacts {
            documents: 2_000_000,
            bytes: 12_400_000_000,
            rate: CopyRate::measured(310_000_000, Duration::from_secs(1), "shop.orders".to_owned()),
            oplog: Some(Oplog {
                first: at(1_000),
                now: at(1_000 + 26 * 3600),
                is_whole: false,
                size: Some(size),
            }),
            max_spool: 10 * GB,
            free: Some(100 * GB),
            state: Path::new("docrow-state"),
        }
    }

    fn window(seconds: u32, size: Option<OplogSize>) -> Option<Oplog> {
        let at = |time| Timestamp { time, increment: 1 };
        Some(Oplog { first: at(1_000), now: at(1_000 + seconds), is_whole: false, size })
    }

    fn found(facts: &CapacityFacts<'_>, subject: &str) -> (Severity, String) {
        let findings = judge(facts).0;
        let finding = findings.iter().find(|finding| finding.subject == subject).unwrap();
        (finding.severity, finding.what.clone())
    }

    #[test]
    fn the_arithmetic_is_shown() {
        let facts = facts();
        let (severity, time) = found(&facts, "time");
        assert_eq!(severity, Severity::Ok);
        assert!(
            time.contains("11.5 GiB ÷ 295.6 MiB/s") && time.ends_with("× 3 (PostgreSQL's part) = 2 minutes"),
            "{time}"
        );
        let (severity, oplog) = found(&facts, "oplog");
        assert_eq!(severity, Severity::Ok);
        assert!(oplog.contains("reaches back 26 hours; the copy takes 2 minutes, and docrow may be stopped for about 26 hours"), "{oplog}");
        let (severity, spool) = found(&facts, "spool");
        assert_eq!(severity, Severity::Ok);
        assert!(spool.contains("1,000/s × 2 minutes × 50 B = 5.7 MiB; 93.1 GiB free"), "{spool}");
    }

    #[test]
    fn what_cannot_be_measured_is_assumed() {
        let facts = CapacityFacts { rate: None, oplog: None, ..facts() };
        assert!(found(&facts, "time").1.contains("÷ 47.7 MiB/s (assumed"));
        assert!(found(&facts, "spool").1.contains("number is unknown"));
        assert!(judge(&facts).0.iter().all(|finding| finding.severity == Severity::Ok));
        assert!(CopyRate::measured(10, Duration::from_secs(1), String::new()).is_none());
    }

    /// G6: a snapshot longer than the oplog window loses nothing, up to the spool's budget.
    #[test]
    fn a_short_window_is_a_problem_only_if_the_spool_overflows() {
        let short = |max_spool| CapacityFacts {
            oplog: window(60, Some(OplogSize { entries: 600_000, bytes: GB, most: GB })),
            max_spool,
            ..facts()
        };
        // 10,000/s × 120 s × 50 B = 60 MB.
        let (severity, what) = found(&short(GB), "oplog");
        assert_eq!(
            (severity, what.contains("While docrow runs, that does not matter")),
            (Severity::Note, true),
            "{what}"
        );
        let tight = CapacityFacts {
            oplog: window(60, Some(OplogSize { entries: 60_000_000, bytes: GB, most: GB })),
            ..short(GB)
        };
        assert_eq!(found(&tight, "spool").0, Severity::Note);
        let (severity, what) = found(&tight, "oplog");
        assert_eq!((severity, what.contains("history would be lost")), (Severity::Problem, true), "{what}");
        // Once full, the stream waits in the oplog.
        let long = CapacityFacts {
            oplog: window(60 * 3600, Some(OplogSize { entries: u64::MAX >> 20, bytes: GB, most: GB })),
            ..facts()
        };
        assert_eq!((found(&long, "spool").0, found(&long, "oplog").0), (Severity::Note, Severity::Ok));
    }

    #[test]
    fn a_young_oplog_is_not_a_short_one() {
        let young = CapacityFacts {
            oplog: window(60, Some(OplogSize { entries: 60, bytes: GB / 1000, most: GB })),
            ..facts()
        };
        let (severity, what) = found(&young, "oplog");
        assert_eq!(severity, Severity::Ok);
        assert!(
            what.contains("reaches back 60 seconds and is 0 % full: at this pace 17 hours once it is full"),
            "{what}"
        );
        let short = window(600, None);
        assert_eq!(found(&CapacityFacts { oplog: short, ..facts() }, "oplog").0, Severity::Note);
        let whole = short.map(|oplog| Oplog { is_whole: true, ..oplog });
        assert_eq!(found(&CapacityFacts { oplog: whole, ..facts() }, "oplog").0, Severity::Ok);
    }

    #[test]
    fn the_disk_bounds_the_spool() {
        let (severity, what) = found(&CapacityFacts { free: Some(10 << 20), ..facts() }, "spool");
        assert_eq!(
            (severity, what.contains("10.0 MiB free at docrow-state")),
            (Severity::Problem, true),
            "{what}"
        );
        let (severity, what) = found(&CapacityFacts { free: Some(GB), ..facts() }, "spool");
        assert_eq!(
            (severity, what.contains("less space is free than state.max_spool")),
            (Severity::Note, true),
            "{what}"
        );
    }
}
