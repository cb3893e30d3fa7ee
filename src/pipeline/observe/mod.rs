//! What a run shows of itself, and whether it goes on. Nothing of what is written depends on it.
//!
//! The `reporter` shows elsewhere what the stages have reached ([`gauges`](super::gauges)), and `standstill` ends what
//! stands still.

pub(super) mod reporter;
pub(super) mod standstill;
