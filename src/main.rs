//! Parses the arguments, runs the command, returns its exit code. All logic is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    docrow::cli::main()
}
