//! Metrics for Prometheus: their definitions ([`table`]), and how they are counted and shown.
//!
//! Code counts with an entry of the table: [`EVENTS_READ`]`.add(n)`. The handle behind it is created once, at
//! its first use; it is an atomic number, so that counting per batch or reply costs nothing. (Values are
//! never counted one by one.) A collection's series comes from [`Metric::of`], and the caller keeps it.
//!
//! No label ever contains a key or a value of a document (G12): its values are from a closed set in the
//! table, or names of collections. Each process counts for itself: a standby has its own figures, and every
//! restart begins at zero, which Prometheus accounts for.

mod table;

use std::{
    fs,
    sync::{LazyLock, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

use ::metrics::{Key, Label as KeyLabel, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

pub use self::table::*;
use crate::error;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from zero at the start of the process; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

/// The unit of a metric, which is also part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// A count.
    Count,
    /// Seconds.
    Seconds,
    /// Seconds since 1970, UTC.
    UnixSeconds,
    /// Bytes.
    Bytes,
}

/// A label, which divides a metric into series.
#[derive(Clone, Copy, Debug)]
pub struct MetricLabel {
    /// Its name.
    pub name: &'static str,
    /// All its values. None: they are names from the configuration, or of collections.
    pub values: &'static [&'static str],
}

/// An entry of the table.
#[derive(Debug)]
pub struct MetricAbout {
    /// Its name, with prefix, unit and suffix.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit.
    pub unit: MetricUnit,
    /// Its labels.
    pub labels: &'static [MetricLabel],
    /// Its help text.
    pub help: &'static str,
}

/// A metric: an entry of the table, and the handles that are needed again and again.
pub struct Metric<H: 'static> {
    about: MetricAbout,
    /// For its only series, or for each known value of its only label.
    kept: OnceLock<Vec<H>>,
}

/// A metric that only grows.
pub type Counter = Metric<::metrics::Counter>;
/// A metric that goes up and down.
pub type Gauge = Metric<::metrics::Gauge>;
/// A metric that has many observations.
pub type Histogram = Metric<::metrics::Histogram>;

/// The common interface of all metrics.
pub trait RegisteredMetric: Sync {
    /// The entry of the table.
    fn about(&self) -> &MetricAbout;
    /// Creates the series that are known in advance, so that they are zero rather than missing.
    fn begin(&self);
}

impl<H: SeriesHandle> RegisteredMetric for Metric<H> {
    fn about(&self) -> &MetricAbout {
        &self.about
    }

    fn begin(&self) {
        self.kept();
    }
}

/// The type of [`metrics`](::metrics) for a kind of metric.
pub trait SeriesHandle: Clone + Send + Sync {
    /// The kind.
    const KIND: MetricKind;
    /// The handle of the series `key`.
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

const METADATA: Metadata<'static> = Metadata::new("docrow", Level::INFO, None);

impl SeriesHandle for ::metrics::Counter {
    const KIND: MetricKind = MetricKind::Counter;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_counter(key, &METADATA)
    }
}

impl SeriesHandle for ::metrics::Gauge {
    const KIND: MetricKind = MetricKind::Gauge;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_gauge(key, &METADATA)
    }
}

impl SeriesHandle for ::metrics::Histogram {
    const KIND: MetricKind = MetricKind::Histogram;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_histogram(key, &METADATA)
    }
}

impl<H: SeriesHandle> Metric<H> {
    const fn new(
        name: &'static str,
        unit: MetricUnit,
        labels: &'static [MetricLabel],
        help: &'static str,
    ) -> Self {
        Self { about: MetricAbout { name, kind: H::KIND, unit, labels, help }, kept: OnceLock::new() }
    }

    /// The series with these values of its labels, in their order. This is a lookup: keep the result if it is
    /// needed often.
    pub fn of(&self, values: &[&str]) -> H {
        debug_assert_eq!(values.len(), self.about.labels.len(), "{}", self.about.name);
        let labels = self.about.labels.iter().zip(values);
        let labels: Vec<_> =
            labels.map(|(label, value)| KeyLabel::new(label.name, (*value).to_owned())).collect();
        H::register(&RECORDER, &Key::from_parts(self.about.name, labels))
    }

    fn kept(&self) -> &[H] {
        self.kept.get_or_init(|| match self.about.labels {
            [] => vec![self.of(&[])],
            [label] => label.values.iter().map(|value| self.of(&[value])).collect(),
            _ => Vec::new(),
        })
    }

    /// The series for a known value of its only label.
    fn at(&self, value: &str) -> Option<&H> {
        let known = self.about.labels.first().map_or(&[][..], |label| label.values);
        let place = known.iter().position(|known| *known == value);
        debug_assert!(place.is_some(), "{}: {value}", self.about.name);
        self.kept().get(place?)
    }
}

impl Counter {
    /// Adds to the count.
    pub fn add(&self, count: u64) {
        self.kept().first().into_iter().for_each(|counter| counter.increment(count));
    }

    /// Adds to the count for `value`, one of the label's values.
    pub fn add_to(&self, value: &str, count: u64) {
        self.at(value).into_iter().for_each(|counter| counter.increment(count));
    }
}

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.kept().first().into_iter().for_each(|gauge| gauge.set(value));
    }
}

impl Histogram {
    /// Adds an observation.
    pub fn record(&self, value: f64) {
        self.kept().first().into_iter().for_each(|histogram| histogram.record(value));
    }
}

/// The registry of all series. Only this module uses it, so that counts do not depend on which code was
/// first.
static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    let builder = ALL.iter().filter(|metric| metric.about().kind == MetricKind::Histogram).fold(
        PrometheusBuilder::new(),
        |builder, metric| {
            let MetricAbout { name, unit, .. } = metric.about();
            let buckets = if *unit == MetricUnit::Seconds { SECONDS } else { COUNTS };
            let whole = Matcher::Full((*name).to_owned());
            // Only an empty list is refused.
            builder.set_buckets_for_metric(whole, buckets).unwrap_or_default()
        },
    );
    let recorder = builder.build_recorder();
    for MetricAbout { name, kind, help, .. } in ALL.iter().map(|metric| metric.about()) {
        let (name, help) = ((*name).into(), (*help).into());
        match kind {
            MetricKind::Counter => recorder.describe_counter(name, None, help),
            MetricKind::Gauge => recorder.describe_gauge(name, None, help),
            MetricKind::Histogram => recorder.describe_histogram(name, None, help),
        }
    }
    recorder
});

/// Sets known series to zero, and records when the process began. Call it once; a second call changes
/// nothing.
pub fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        ALL.iter().for_each(|metric| metric.begin());
        OPLOG_WINDOW.set(f64::NAN);
        POSITION_AGE.set(f64::NAN);
        LAST_REPLY.set(f64::NAN);
        LAST_COMMIT.set(f64::NAN);
        VERIFY_DIFFERENCES.set(f64::NAN);
        VERIFY_LAST.set(f64::NAN);
        BUILD_INFO.of(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        PROCESS_START.set(unix_seconds());
    });
}

/// All metrics, in Prometheus's text format, ordered by name.
pub fn render() -> String {
    PROCESS_MEMORY.set(resident_bytes().unwrap_or(f64::NAN));
    let text = RECORDER.handle().render();
    let mut families: Vec<&str> =
        text.split("\n\n").map(str::trim).filter(|family| !family.is_empty()).collect();
    families.sort_unstable();
    families.into_iter().flat_map(in_order).map(|line| format!("{line}\n")).collect()
}

/// A metric's lines: its series ordered by their labels, except buckets, which are ordered by their bounds.
fn in_order(family: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = family.lines().collect();
    if !family.contains("_bucket{") {
        // HELP and TYPE begin with `#`, which sorts before every name.
        lines.sort_unstable();
    }
    lines
}

/// Frees the memory that observations take until they are rendered. Call it every few seconds.
pub fn keep_up() {
    RECORDER.handle().run_upkeep();
}

/// The current time, in the form of gauges.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A number for a gauge or a histogram: beyond 2^53 it may be slightly off.
#[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
pub fn figure(count: u64) -> f64 {
    count as f64
}

/// The memory that the process uses (Linux; elsewhere it is unknown).
fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(figure(kilobytes.trim().parse::<u64>().ok()?) * 1024.0)
}

/// Counts a retry after an error of this kind.
pub fn retried(kind: error::Kind) {
    RETRIES.add_to(
        match kind {
            error::Kind::SourceAway => "source_away",
            error::Kind::TargetAway => "target_away",
            error::Kind::TargetRefusedRows => "rows_refused",
            error::Kind::StateFull => "state_full",
            error::Kind::StateRebuilt => "state_rebuilt",
            error::Kind::Fenced => "fenced",
            _ => "other",
        },
        1,
    );
}

/// Sets a collection's counters to zero, so that they are not missing.
pub fn begin(collection: &str) {
    for counter in [&DOCUMENTS_WRITTEN, &DOCUMENTS_COPIED, &DEAD_LETTERS, &MISFITS, &MAPPING_CHANGES] {
        counter.of(&[collection]).increment(0);
    }
}

/// Clears the gauges of a collection that is no longer replicated. (Counters stay.)
pub fn forget(collection: &str) {
    set_phase(collection, "");
    LAG.of(&[collection]).set(f64::NAN);
    for gauge in [&DEAD_LETTERS_STORED, &SNAPSHOT_DONE, &SNAPSHOT_ESTIMATED] {
        gauge.of(&[collection]).set(0.0);
    }
}

/// Sets the phase of a collection; an unknown one means none.
pub fn set_phase(collection: &str, phase: &str) {
    for known in PHASE.values {
        COLLECTION_PHASE.of(&[collection, known]).set(if *known == phase { 1.0 } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus's conventions: <https://prometheus.io/docs/practices/naming/>.
    #[test]
    fn names_say_what_they_are() {
        for MetricAbout { name, kind, unit, labels, help } in ALL.iter().map(|metric| metric.about()) {
            // Metrics that every process has use the names of Prometheus's own libraries.
            assert!(name.starts_with("docrow_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            let bare = name.strip_suffix("_total");
            assert_eq!(bare.is_some(), *kind == MetricKind::Counter, "{name}");
            let bare = bare.unwrap_or(name);
            let ends = |suffix: &str| bare.ends_with(suffix);
            assert_eq!(
                ends("_seconds"),
                matches!(unit, MetricUnit::Seconds | MetricUnit::UnixSeconds),
                "{name}"
            );
            assert_eq!(ends("_bytes"), *unit == MetricUnit::Bytes, "{name}");
            assert_eq!(
                ends("_timestamp_seconds") || ends("_time_seconds"),
                *unit == MetricUnit::UnixSeconds,
                "{name}"
            );
            for reserved in ["_count", "_sum", "_bucket", "_info"] {
                assert!(!ends(reserved) || (reserved == "_info" && labels.len() == 1), "{name}");
            }
            assert!(help.ends_with('.') && help.len() > 30, "{name}: {help}");
            for label in *labels {
                assert!(label.name.bytes().all(|b| b.is_ascii_lowercase()), "{name}: {}", label.name);
            }
        }
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.about().name).collect();
        // In OpenMetrics, names of a counter and a gauge must not differ by `_total` alone.
        names.iter_mut().for_each(|name| *name = name.strip_suffix("_total").unwrap_or(name));
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }

    #[test]
    fn what_is_counted_is_shown() {
        install();
        let line = |line: &str| render().lines().any(|found| found == line);
        let count = || {
            let rendered = render();
            let found = rendered
                .lines()
                .find_map(|line| line.strip_prefix("docrow_mapping_changes_total{collection=\"a.\\\"b\"} "));
            found.map_or(0, |count| count.parse().unwrap())
        };
        let before: u64 = count();
        MAPPING_CHANGES.of(&["a.\"b"]).increment(2);
        assert_eq!(count(), before + 2, "{}", render());
        assert!(line("# TYPE docrow_retries_total counter"));
        assert!(line("docrow_retries_total{cause=\"state_full\"} 0"), "what may come is zero, not missing");
        assert!(line("docrow_oplog_window_seconds NaN"), "what is not known is not zero");
        set_phase("a.b", "copying");
        set_phase("a.b", "live");
        assert!(line("docrow_collection_phase{collection=\"a.b\",phase=\"live\"} 1"));
        assert!(line("docrow_collection_phase{collection=\"a.b\",phase=\"copying\"} 0"));
    }

    #[test]
    fn observations_fall_into_buckets() {
        LOOKUP_DURATION.record(0.004);
        keep_up();
        let text = render();
        for line in ["bucket{le=\"0.005\"} 1\n", "count 1\n"] {
            assert!(text.contains(&format!("docrow_lookup_duration_seconds_{line}")), "{text}");
        }
    }
}
