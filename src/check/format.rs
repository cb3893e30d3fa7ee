//! Formats amounts for findings.

use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{HumanCount, HumanDuration};

/// Bytes, for people: in the units of `max_spool`, `docrow status` and the dashboard.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

pub(super) fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        "less than 1 second".to_owned()
    } else {
        HumanDuration(time).to_string()
    }
}

pub(super) fn decimal(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { HumanCount(whole(rate)).to_string() }
}

/// For display, and for sums that are estimates anyway.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[allow(clippy::cast_precision_loss)]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}
