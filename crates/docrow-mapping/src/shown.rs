//! Makes text from data fit for a line that people read: nothing in it moves a cursor, hides, reverses what
//! follows, or goes on for pages. MongoDB accepts a field name of 16 MB.

use std::fmt::Write;

/// The maximum number of characters shown of a name or a path.
const NAME: usize = 100;

/// The maximum number of characters of a path that programs read, too.
const PATH: usize = 1000;

/// The name or path of a field, for a log line, an error or a report.
pub fn name(name: &str) -> String {
    shortened(name, NAME)
}

/// The path of a field to store or print as data: unchanged, unless it is absurdly long.
pub fn path(path: &str) -> String {
    cut(path, PATH)
}

/// `text` with every character that a terminal would act on escaped as in JSON, `\u001b`.
pub fn printable(text: &str) -> String {
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
pub fn shortened(text: &str, width: usize) -> String {
    // One more than shown, so that the cut is noticed. Escaping makes none shorter.
    let end = text.char_indices().nth(width.saturating_add(1)).map_or(text.len(), |(at, _)| at);
    cut(&printable(text.get(..end).unwrap_or(text)), width)
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// Controls; marks and overrides of direction; separators; what is invisible. Not the joiners that emoji are
/// made with.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
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
        assert_eq!(shortened("\n\n", 7), "\\u000a…");
    }

    #[test]
    fn names_of_any_length_fit_on_a_line() {
        assert_eq!(name(&"é".repeat(44_000)).chars().count(), NAME);
        assert_eq!(path(&"é".repeat(44_000)).chars().count(), PATH);
    }
}
