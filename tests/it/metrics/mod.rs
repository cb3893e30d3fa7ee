//! Metrics: that there is what documentation, alerts and dashboard speak of, and that figures are what was
//! done.

mod exposition;
mod figures;
mod files;
