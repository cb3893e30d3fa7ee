//! Colours of a terminal.

use std::io;

use crate::{status::Level, telemetry::has_colors};

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    /// If standard output is to have them.
    pub(super) fn of_terminal() -> Self {
        Self(has_colors(&io::stdout()))
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn level(self, level: Level, text: &str) -> String {
        let code = match level {
            Level::Ok => "32",
            Level::Busy => "36",
            Level::Warning => "33",
            Level::Error => "31",
        };
        self.paint(code, text)
    }
}
