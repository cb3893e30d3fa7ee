//! Fits a status to a terminal: the head stays on top, collections in trouble come first, the others are
//! counted, and the part below gets at most a third of the rest. Pure, except for asking the terminal for its
//! size.

use std::io;

use super::printable::wrapped;
use crate::shown::shortened;

/// The assumed size of a terminal that can't be asked.
const USUAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };
/// The maximum number of lines of a headline.
const HEADLINE: usize = 3;

/// The room for a status, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TerminalSize {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl TerminalSize {
    /// The size of the terminal on standard output.
    pub(super) fn of_terminal() -> Self {
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Self { columns: size.ws_col.into(), rows: size.ws_row.into() }
            }
            _ => USUAL,
        }
    }
}

/// A collection in the table.
pub(super) struct CollectionEntry {
    /// Its phase, in a word.
    pub(super) word: &'static str,
    /// Its lines: the row, and what is below it.
    pub(super) lines: Vec<String>,
}

/// The parts of a status, as lines.
pub(super) struct StatusParts {
    pub(super) head: Vec<String>,
    /// The part above the collections.
    pub(super) heading: Vec<String>,
    /// In display order.
    pub(super) collections: Vec<CollectionEntry>,
    pub(super) below: Vec<String>,
}

/// All lines, but at most `rows` if that is given and the head fits. `dim` paints the line that counts what
/// is left out.
pub(super) fn arranged(parts: StatusParts, rows: Option<usize>, dim: impl Fn(&str) -> String) -> Vec<String> {
    let StatusParts { head: mut lines, heading, collections, mut below } = parts;
    let all: usize = collections.iter().map(|entry| entry.lines.len()).sum();
    let left = rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len() + heading.len()));
    lines.extend(heading);
    if all + below.len() > left {
        below.truncate(left.saturating_sub(all).max(left / 3));
    }
    let mut room = left.saturating_sub(below.len());
    let mut entries = collections.into_iter().peekable();
    let fits_all = all <= room;
    // One line counts the rest.
    while let Some(entry) = entries.next_if(|entry| fits_all || entry.lines.len() < room) {
        room = room.saturating_sub(entry.lines.len());
        lines.extend(entry.lines);
    }
    let words: Vec<_> = entries.map(|entry| entry.word).collect();
    if !words.is_empty() {
        lines.push(dim(&format!("  and {} more: {}", words.len(), counted(&words))));
    }
    lines.extend(below);
    lines
}

/// How many collections are in which phase, in the order in which the phases first appear.
pub(super) fn counted(words: &[&'static str]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for word in words {
        match kinds.iter_mut().find(|(kind, _)| kind == word) {
            Some((_, count)) => *count += 1,
            None => kinds.push((word, 1)),
        }
    }
    let kinds: Vec<_> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    kinds.join(", ")
}

/// At most [`HEADLINE`] lines of at most `columns` characters, all but the first indented by two spaces.
pub(super) fn headline(text: &str, columns: usize) -> Vec<String> {
    let wrapped = wrapped(text, columns, 2);
    let mut lines: Vec<String> = wrapped.lines().map(|line| shortened(line, columns)).collect();
    if lines.len() > HEADLINE {
        lines.truncate(HEADLINE);
        if let Some(last) = lines.last_mut() {
            *last = shortened(&format!("{last} …"), columns);
        }
    }
    lines
}

/// A line with its colours, cut to `columns` visible characters; a mark shows that it was cut.
pub(super) fn clipped(line: &str, columns: usize) -> String {
    let mut is_escaped = false;
    let mut shows = |c: char| {
        let shown = !is_escaped && c != '\u{1b}';
        is_escaped = c == '\u{1b}' || is_escaped && !c.is_ascii_alphabetic();
        shown
    };
    let shown: Vec<(char, bool)> = line.chars().map(|c| (c, shows(c))).collect();
    if shown.iter().filter(|(_, shown)| *shown).count() <= columns {
        return line.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let kept = shown
        .into_iter()
        .take_while(|(_, shown)| !shown || left.checked_sub(1).map(|less| left = less).is_some());
    let kept: String = kept.map(|(c, _)| c).collect();
    let end = if kept.contains('\u{1b}') { "\u{1b}[0m" } else { "" };
    format!("{kept}…{end}")
}

/// A name of at most `columns` characters, cut in the middle, because its beginning and end distinguish it.
pub(super) fn cut_in_the_middle(name: &str, columns: usize) -> String {
    let length = name.chars().count();
    if length <= columns {
        return name.to_owned();
    }
    let (front, back) = (columns / 2, columns.saturating_sub(columns / 2 + 1));
    let (front, back) = (name.chars().take(front), name.chars().skip(length.saturating_sub(back)));
    front.chain(['…']).chain(back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(live: usize, below: usize) -> StatusParts {
        let line = |text: &str| vec![text.to_owned()];
        let stopped =
            |n: usize| CollectionEntry { word: "stopped", lines: vec![format!("s{n}"), "why".to_owned()] };
        let live = (0..live).map(|n| CollectionEntry { word: "live", lines: line(&format!("c{n}")) });
        StatusParts {
            head: vec!["head".to_owned(); 6],
            heading: line("COLLECTION"),
            collections: (0..3).map(stopped).chain(live).collect(),
            below: (0..below).map(|n| format!("b{n}")).collect(),
        }
    }

    fn lines(parts: StatusParts, rows: Option<usize>) -> Vec<String> {
        arranged(parts, rows, str::to_owned)
    }

    #[test]
    fn what_fits_is_shown() {
        assert_eq!(lines(parts(4, 3), None).len(), 6 + 1 + 6 + 4 + 3);
        assert_eq!(lines(parts(4, 3), Some(20)), lines(parts(4, 3), None));
    }

    #[test]
    fn the_head_stays_and_the_rest_is_counted() {
        let shown = lines(parts(60, 12), Some(23));
        assert_eq!(shown.len(), 23);
        assert_eq!(shown[..8], ["head", "head", "head", "head", "head", "head", "COLLECTION", "s0"]);
        assert!(
            shown.contains(&"s2".to_owned()) && shown.contains(&"  and 56 more: 56 live".to_owned()),
            "{shown:?}"
        );
        assert_eq!(shown.iter().filter(|line| line.starts_with('b')).count(), 5, "{shown:?}");
        // The part below gets what the collections leave.
        assert_eq!(lines(parts(0, 20), Some(23)).iter().filter(|line| line.starts_with('b')).count(), 10);
        // A terminal of a few lines.
        assert_eq!(lines(parts(60, 12), Some(9)).last().unwrap(), "  and 63 more: 3 stopped, 60 live");
    }

    #[test]
    fn texts_are_cut_where_it_can_be_seen() {
        assert_eq!(headline("● a bc def", 8), ["● a bc", "  def"]);
        assert_eq!(headline(&"word ".repeat(40), 20).len(), HEADLINE);
        assert!(headline(&"word ".repeat(40), 20).iter().all(|line| line.chars().count() <= 20));
        assert_eq!(clipped("a\u{1b}[31mbcd\u{1b}[0m", 4), "a\u{1b}[31mbcd\u{1b}[0m");
        assert_eq!(clipped("a\u{1b}[31mbcd\u{1b}[0me", 4), "a\u{1b}[31mbc…\u{1b}[0m");
        assert_eq!(cut_in_the_middle("shop.orders_of_last_year", 12), "shop.o…_year");
        assert_eq!(cut_in_the_middle("shop.users", 12), "shop.users");
    }
}
