//! Printing to standard output.

use std::{
    fmt,
    io::{self, Write},
};

use crate::error::{Code, Error, Result};
pub(super) use crate::shown::{printable, shortened};

/// Prints a line.
pub(super) fn say(line: impl fmt::Display) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").map_err(unprintable)
}

/// That standard output does not take it.
pub(super) fn unprintable(error: io::Error) -> Error {
    Error::caused(Code::Output, "print", error)
}

/// Whether `error` is that whoever read standard output is gone.
pub(super) fn is_unread(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    error.code() == Code::Output && cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
