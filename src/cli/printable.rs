//! Printing to standard output.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

pub(super) use crate::shown::printable;
use crate::{
    error::{Code, Error, Result},
    shown,
};

/// `text` for a line: on a terminal at most `width` characters of it, elsewhere all.
pub(super) fn fitted(text: &str, width: usize) -> String {
    if io::stdout().is_terminal() { shown::shortened(text, width) } else { printable(text) }
}

/// Prints a line.
pub(super) fn say(line: impl fmt::Display) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").map_err(unprintable)
}

/// The error that standard output can't be written.
pub(super) fn unprintable(error: io::Error) -> Error {
    Error::caused(Code::Output, "print", error)
}

/// Whether `error` means that the reader of standard output is gone.
pub(super) fn is_unread(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    error.code() == Code::Output && cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// `text` in lines of at most `width`, all but the first indented by `indent`.
pub(super) fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > width {
            out.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("a bc def", 7, 2), "a bc\n  def");
        assert_eq!(wrapped("abcdefgh i", 7, 2), "abcdefgh\n  i");
    }
}
