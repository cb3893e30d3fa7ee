//! What a run shows of itself, and whether it goes on. Nothing of what is written depends on it.
//!
//! `gauges` are what the stages have reached, `lag` how far behind MongoDB the rows are, `reporter` tells both to people
//! elsewhere; `census` counts what does not fit its column, `spans` say what took how long, and `standstill` ends what
//! stands still.

pub(super) mod census;
pub(super) mod gauges;
mod lag;
pub(super) mod reporter;
pub(super) mod spans;
pub(super) mod standstill;
