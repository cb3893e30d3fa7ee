//! The figures that count, and the bars that docrow is to meet. Pure.
//!
//! A bar is missed if the median of the rounds is beyond its limit, and missed for sure if it is beyond by
//! more than the run's own noise: half of the spread between its rounds, (high - low) / 2.

/// The bar for a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// Only to be looked at.
    Anything,
}

/// A figure, and its limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) limit: Limit,
    pub(crate) aim: Option<f64>,
}

/// How a bar turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// By less than the noise.
    MissedWithinNoise,
    Missed,
    /// There is no limit.
    Shown,
}

/// What the rounds gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

pub(crate) const USERS: &str = "users: backfill / reload";
pub(crate) const USERS_CPU: &str = "users: docrow's CPU / Postgres's CPU";
pub(crate) const USERS_PROOF: &str = "users: verified / copied, documents/s";
pub(crate) const FLAT: &str = "flat: backfill / reload";
pub(crate) const FLAT_PROOF: &str = "flat: verified / copied, documents/s";
pub(crate) const FLAT_RATE: &str = "flat: backfill, documents/s";
pub(crate) const FLAT_FLOOR: &str = "flat: reload, documents/s";
pub(crate) const DOCUMENT: &str = "document: backfill / reload";
pub(crate) const DOCUMENT_PROOF: &str = "document: verified / copied, documents/s";
pub(crate) const SCALAR: &str = "stream: scalar updates / bare drain";
pub(crate) const PUSH: &str = "stream: array pushes / bare drain";
pub(crate) const REPLACE: &str = "stream: replaces / bare drain";
pub(crate) const INSERT: &str = "stream: inserts / bare drain";
pub(crate) const DELETE: &str = "stream: deletes / bare drain";
pub(crate) const P50: &str = "latency: p50, ms";
pub(crate) const P99: &str = "latency: p99, ms";
pub(crate) const WORST: &str = "latency: worst, ms";
pub(crate) const WRITES: &str = "latency: writes/s acknowledged";
pub(crate) const GROWTH: &str = "growth: time for 10 x the documents";
pub(crate) const GROWTH_MEMORY: &str = "growth: memory for 10 x the documents";
pub(crate) const NEAR_BACKFILL: &str = "5 ms: backfill / without delay";
pub(crate) const NEAR_UPDATES: &str = "5 ms: scalar updates / without delay";
pub(crate) const NEAR_P50: &str = "5 ms: latency, p50, ms";
pub(crate) const FAR_BACKFILL: &str = "20 ms: backfill / without delay";
pub(crate) const FAR_UPDATES: &str = "20 ms: scalar updates / without delay";
pub(crate) const FAR_ONE: &str = "20 ms: one document, s";
pub(crate) const FAR_MANY: &str = "20 ms: 60 collections, s";
pub(crate) const FAR_AGAIN: &str = "20 ms: 60 collections, nothing to do, s";
pub(crate) const COLLECTIONS_LIVE: &str = "1,000 collections: live, s";
pub(crate) const COLLECTIONS_AGAIN: &str = "1,000 collections: restart, s";
pub(crate) const ONE_MORE: &str = "1,000 collections: one more, s";
pub(crate) const OTHERS_WAIT: &str = "1,000 collections: others wait, ms";
pub(crate) const COLLECTIONS_PROOF: &str = "1,000 collections: verify, s";
pub(crate) const PEAK: &str = "peak memory of any docrow, MB";

/// In the order in which they are printed.
pub(crate) const BARS: &[Bar] = &[
    bar(USERS, Limit::AtMost(1.5), Some(1.2)),
    bar(USERS_CPU, Limit::AtMost(0.4), None),
    bar(USERS_PROOF, Limit::AtLeast(0.5), None),
    bar(FLAT, Limit::AtMost(1.6), None),
    bar(FLAT_PROOF, Limit::AtLeast(0.5), None),
    bar(FLAT_RATE, Limit::Anything, None),
    bar(FLAT_FLOOR, Limit::Anything, None),
    bar(DOCUMENT, Limit::Anything, None),
    bar(DOCUMENT_PROOF, Limit::AtLeast(0.5), None),
    bar(SCALAR, Limit::AtLeast(0.25), Some(0.4)),
    bar(PUSH, Limit::AtLeast(0.10), None),
    bar(REPLACE, Limit::AtLeast(0.10), None),
    bar(INSERT, Limit::Anything, None),
    bar(DELETE, Limit::Anything, None),
    bar(P50, Limit::AtMost(10.0), None),
    bar(P99, Limit::AtMost(50.0), None),
    bar(WORST, Limit::Anything, None),
    bar(WRITES, Limit::Anything, None),
    // What starting costs is not ten times as much: less than ten times the time is no fault.
    bar(GROWTH, Limit::AtMost(11.0), None),
    bar(GROWTH_MEMORY, Limit::AtMost(1.1), None),
    bar(NEAR_BACKFILL, Limit::AtLeast(0.9), None),
    bar(NEAR_UPDATES, Limit::AtLeast(0.8), None),
    // Four round trips, and 5 ms.
    bar(NEAR_P50, Limit::AtMost(25.0), None),
    bar(FAR_BACKFILL, Limit::AtLeast(0.75), None),
    bar(FAR_UPDATES, Limit::AtLeast(0.6), None),
    bar(FAR_ONE, Limit::AtMost(1.0), None),
    bar(FAR_MANY, Limit::AtMost(6.0), None),
    bar(FAR_AGAIN, Limit::AtMost(1.5), None),
    bar(COLLECTIONS_LIVE, Limit::AtMost(20.0), None),
    bar(COLLECTIONS_AGAIN, Limit::AtMost(3.0), None),
    bar(ONE_MORE, Limit::AtMost(1.0), None),
    bar(OTHERS_WAIT, Limit::AtMost(200.0), None),
    bar(COLLECTIONS_PROOF, Limit::AtMost(30.0), None),
    bar(PEAK, Limit::AtMost(250.0), None),
];

const fn bar(name: &'static str, limit: Limit, aim: Option<f64>) -> Bar {
    Bar { name, limit, aim }
}

impl Figure {
    pub(crate) fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], low: sorted[0], high: sorted[sorted.len() - 1] }
    }
}

impl Bar {
    pub(crate) fn verdict(&self, figure: Figure) -> Verdict {
        let beyond = match self.limit {
            Limit::AtMost(most) => figure.median - most,
            Limit::AtLeast(least) => least - figure.median,
            Limit::Anything => return Verdict::Shown,
        };
        if beyond <= 0.0 {
            Verdict::Met
        } else if beyond <= (figure.high - figure.low) / 2.0 {
            Verdict::MissedWithinNoise
        } else {
            Verdict::Missed
        }
    }
}
