//! `make fuzz-live SEEDS=n FROM=s JOBS=k`: random operations by seeds, with three checks of each. The work is
//! in `it/fuzz_live`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    dead_code,
    unused_imports,
    reason = "a test may fail loudly, and this one does not need all that others do"
)]

#[path = "it/fuzz_live/mod.rs"]
mod fuzz_live;
#[path = "it/support/mod.rs"]
mod support;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (seeds, from) = (numbers.next().unwrap_or(20), numbers.next().unwrap_or(0));
    let jobs = numbers.next().unwrap_or(3);
    let failures = fuzz_live::run(from..from + seeds, jobs as usize).await;
    ExitCode::from(u8::from(failures > 0))
}
