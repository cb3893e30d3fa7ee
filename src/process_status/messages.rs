//! The last warnings and errors of a process. Repeated messages are merged, even if others come in between,
//! and even if a number differs; otherwise the retries of an outage would displace everything else.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// How many messages are kept.
const KEPT: usize = 20;

/// How serious a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageLevel {
    /// Unexpected, but docrow continues.
    Warning,
    /// Needs operator action.
    Error,
}

/// A log line at warning or error level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// When it was last logged.
    pub at: Moment,
    /// How serious it is.
    pub level: MessageLevel,
    /// Its text, as last logged.
    pub text: String,
    /// How often it was logged, with the same or other numbers.
    pub count: u64,
}

/// The last messages.
#[derive(Debug, Default)]
pub(super) struct MessageLog(VecDeque<Message>);

impl MessageLog {
    /// Adds one.
    pub(super) fn note(&mut self, level: MessageLevel, text: String) {
        let is_same = |before: &Message| before.level == level && pattern(&before.text).eq(pattern(&text));
        let before = self.0.iter().position(is_same).and_then(|number| self.0.remove(number));
        let count = before.map_or(1, |before| before.count.saturating_add(1));
        self.0.push_back(Message { at: Moment::now(), level, text, count });
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// All kept messages, the latest last.
    pub(super) fn all(&self) -> Vec<Message> {
        self.0.iter().cloned().collect()
    }
}

/// A text without the numbers, durations and times that are words of their own. A number that is part of a
/// name or an address stays.
fn pattern(text: &str) -> impl Iterator<Item = &str> {
    let is_mark = |c: char| c.is_ascii_punctuation();
    text.split_whitespace().map(move |word| if is_number(word.trim_matches(is_mark)) { "" } else { word })
}

/// Whether it is `7`, `3,000`, `7.4s` or `18:03:11`, and not `10.0.0.7`.
fn is_number(word: &str) -> bool {
    let word = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_digits = |c: char| c.is_ascii_digit() || ".,:-+TZ".contains(c);
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(is_digits)
        && word.matches('.').count() < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(messages: &MessageLog, most: usize) -> Vec<(String, u64)> {
        messages.0.iter().rev().take(most).map(|message| (message.text.clone(), message.count)).collect()
    }

    #[test]
    fn a_repeated_message_is_counted_and_old_ones_go() {
        let mut messages = MessageLog::default();
        for name in ('a'..='z').chain('A'..='Z') {
            messages.note(MessageLevel::Warning, format!("warning {name}"));
            messages.note(MessageLevel::Error, "error".to_owned());
            messages.note(MessageLevel::Error, "error".to_owned());
        }
        assert_eq!(messages.0.len(), KEPT);
        assert_eq!(last(&messages, 2), [("error".to_owned(), 104), ("warning Z".to_owned(), 1)]);
    }

    /// An outage: two alternating messages, each with a number that always differs.
    #[test]
    fn tries_of_an_outage_do_not_drive_out_what_was_said_before() {
        let mut messages = MessageLog::default();
        messages.note(MessageLevel::Error, "shop.orders1 is stopped".to_owned());
        messages.note(MessageLevel::Error, "shop.orders2 is stopped".to_owned());
        for n in 0..100 {
            messages.note(MessageLevel::Warning, format!("no answer from db:5432: trying again in {n}.4s"));
            messages.note(
                MessageLevel::Warning,
                format!("no answer for {n} s (at 18:03:{n}, PostgreSQL process {n})"),
            );
        }
        let last = last(&messages, KEPT);
        assert_eq!(last.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [100, 100, 1, 1], "{last:?}");
        assert!(last[1].0.ends_with("trying again in 99.4s"), "the latest is shown: {last:?}");
        // Messages of two gravities are not merged.
        messages.note(MessageLevel::Warning, "shop.orders1 is stopped".to_owned());
        assert_eq!(messages.0.len(), 5);
    }

    #[test]
    fn only_numbers_that_stand_alone_may_differ() {
        let same = |a: &str, b: &str| pattern(a).eq(pattern(b));
        for (a, b) in [
            ("in 7.4s", "in 12.1s"),
            ("3,000 of them", "12 of them"),
            ("(18 times)", "(2 times)"),
            ("at 2026-11-21T18:03:11Z: no", "at 2026-11-22T07:00:00Z: no"),
            ("since 2026-11-21 18:03:11+00", "since 2026-11-22 07:00:00+00"),
        ] {
            assert!(same(a, b), "{a} / {b}");
        }
        for (a, b) in [
            ("orders1 is", "orders2 is"),
            ("[DRW-3201] no", "[DRW-3202] no"),
            ("at 10.0.0.7:5432", "at 10.0.0.8:5432"),
            ("db:5432 is away", "db:5433 is away"),
            ("away", "away 7"),
        ] {
            assert!(!same(a, b), "{a} / {b}");
        }
    }
}
