//! Printing to standard output, and text from data made fit for a terminal: nothing in it moves the cursor, hides, or
//! reverses what follows.

use std::{
    fmt::{self, Write},
    io::{self, Write as _},
};

use crate::error::{Code, Error, Result};

/// Prints a line.
pub(super) fn say(line: impl fmt::Display) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").map_err(unprintable)
}

/// That standard output does not take it.
pub(super) fn unprintable(error: io::Error) -> Error {
    Error::caused(Code::Output, "print", error)
}

/// `text` with every character that a terminal would act on written as JSON escapes it, `\u001b`.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The same, cut after `width` characters.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        None => text,
    }
}

/// Controls; marks and overrides of direction; separators; what is invisible. Not the joiners that emoji are made with.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether `error` is that whoever read standard output is gone.
pub(super) fn is_unread(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>());
    error.code() == Code::Output && cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}c\u{7f}\n"), "a\\u001b[2Jb\\u009bc\\u007f\\u000a");
        assert_eq!(printable("\u{202e}txt\u{e0041}"), "\\u202etxt\\udb40\\udc41");
        assert_eq!(printable("naïve 👩‍🔬 \"quoted\""), "naïve 👩‍🔬 \"quoted\"");
    }

    #[test]
    fn a_cut_is_shown() {
        assert_eq!(shortened("abcdef", 6), "abcdef");
        assert_eq!(shortened("abcdefg", 6), "abcde…");
        assert_eq!(shortened("ééé", 2), "é…");
    }
}
