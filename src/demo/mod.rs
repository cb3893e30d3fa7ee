//! What `docrow demo`, the tests and the benchmarks run on: throwaway servers and data to put into them.
//!
//! Reading order: `process` and `servers`, then `users` and `writer` (a generated workload), `samples` (real documents).
//! Nothing here is used by replication itself, and nothing here outlives the process that asked for it.

mod process;
mod programs;
pub mod samples;
pub mod servers;
pub mod users;
pub mod writer;

pub use self::process::free_port;
