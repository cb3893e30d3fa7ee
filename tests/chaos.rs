//! `make chaos ROUNDS=n SEED=s`: kills every process in turn under live writes. The work is in `it/chaos`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    dead_code,
    unused_imports,
    reason = "a test may fail loudly, and this one does not need all that others do"
)]

#[path = "it/chaos/mod.rs"]
mod chaos;
#[path = "it/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (rounds, seed) = (numbers.next().unwrap_or(30), numbers.next().unwrap_or(1));
    chaos::run(u32::try_from(rounds).unwrap(), seed).await;
}
