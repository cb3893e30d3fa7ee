//! The wait for servers at a start.

use std::time::Duration;

use clap::Args;

use crate::config::environment::DOCROW_WAIT;

#[derive(Debug, Args)]
pub(super) struct Startup {
    /// How long to wait, at the start, for a state of the servers that passes by itself: PostgreSQL starts
    /// up, MongoDB elects a primary. What must be corrected (a host, a password) is an error at once
    #[arg(long, value_name = "DURATION", default_value = "1m", env = DOCROW_WAIT, value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
}
