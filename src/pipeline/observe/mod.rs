//! What a run shows of itself, and whether it makes progress. Nothing that is written depends on it.
//!
//! The `reporter` shows elsewhere what the stages have reached ([`gauges`](super::gauges)), and `standstill`
//! ends an attempt that stands still.

pub(super) mod reporter;
pub(super) mod standstill;
