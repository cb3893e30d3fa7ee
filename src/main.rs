//! Parses the arguments, runs the command, returns its exit code. All logic is in the library.

use std::process::ExitCode;

/// Blocks of many megabytes are allocated and freed in all threads; glibc's allocator keeps half as much
/// again as is in use (G11).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    docrow::cli::main()
}
