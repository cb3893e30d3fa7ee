//! The base of `docrow demo`, the tests and the benchmarks: throwaway servers, and data for them.
//!
//! Reading order: `process` and `servers`, then `users` and `writer` (a generated workload), `samples` (real
//! documents). Replication itself uses nothing from here, and nothing from here outlives the process that
//! requested it.

mod process;
mod programs;
pub mod samples;
pub mod servers;
pub mod users;
pub mod writer;

pub use self::process::free_port;
