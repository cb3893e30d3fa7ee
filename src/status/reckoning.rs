//! How far behind MongoDB the rows are, and who says so.

use crate::{
    moment::Moment,
    process_status::{Applied, Lag},
};

/// Where the lag comes from.
pub(super) enum LagReckoning<'a> {
    /// The process that runs the pipeline computes it.
    Process(&'a Lag),
    /// No process that could compute it runs: then it is the distance from the stored position to MongoDB's
    /// current time.
    Stored(Moment),
    /// MongoDB does not answer, or was not asked.
    Unknown,
}

impl LagReckoning<'_> {
    /// For a live collection whose changes are applied up to this time.
    pub(super) fn of_collection(&self, name: &str, applied: Option<Moment>) -> Option<u64> {
        match self {
            Self::Process(lag) => lag.seconds.map(|_| lag.behind.get(name).copied().unwrap_or(0)),
            Self::Stored(now) => applied.map(|applied| now.since(applied).as_secs()),
            Self::Unknown => None,
        }
    }

    pub(super) fn of_partition(&self, number: u16, applied: Option<Moment>) -> Option<u64> {
        match self {
            Self::Process(lag) => lag.partitions.get(&number).copied(),
            Self::Stored(now) => applied.map(|applied| now.since(applied).as_secs()),
            Self::Unknown => None,
        }
    }

    /// Up to when the changes of a collection are applied, as this process knows it; PostgreSQL may not
    /// answer now.
    pub(super) fn applied(&self) -> Option<&Applied> {
        match self {
            Self::Process(lag) => Some(&lag.applied),
            Self::Stored(_) | Self::Unknown => None,
        }
    }
}
