//! Colours of a terminal.

use std::io;

use crate::{status::HealthLevel, telemetry::has_colors};

/// Whether output has colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct TerminalPaint(bool);

impl TerminalPaint {
    /// Colours if standard output should have them.
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

    pub(super) fn level(self, level: HealthLevel, text: &str) -> String {
        let code = match level {
            HealthLevel::Ok => "32",
            HealthLevel::Busy => "36",
            HealthLevel::Warning => "33",
            HealthLevel::Error => "31",
        };
        self.paint(code, text)
    }
}
