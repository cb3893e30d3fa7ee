//! What a user sees while docrow works: log lines on standard error, and on a terminal a progress bar per
//! collection.
//!
//! Both go through one [`Reporter`], so that a log line never tears a bar. Without a terminal, the bars are
//! hidden, and [`Reporter::narrate`] logs the same in plain lines. Nothing waits for a reader ([`outlet`]).
//! docrow's warnings and errors are also kept in its [`Vitals`]. Nothing here sees a document's values (G12).

mod outlet;

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::RecordFields,
    filter::filter_fn,
    fmt::{FormatFields, MakeWriter, format::Writer},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

pub use self::outlet::FlushGuard;
use crate::process_status::{MessageLevel, Vitals};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether output to `stream` has colours: it is a terminal, and `NO_COLOR` is not set
/// (<https://no-color.org>). Only this function decides that.
pub fn has_colors(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How often [`Reporter::narrate`] logs.
const NARRATION: Duration = Duration::from_secs(5);

/// Shows progress. Cheap to clone; all clones share one screen.
#[derive(Clone, Debug)]
pub struct Reporter {
    screen: MultiProgress,
    bars: Arc<std::sync::Mutex<Vec<ProgressBar>>>,
    vitals: Arc<Vitals>,
}

impl Reporter {
    /// Bars on standard error if it is a terminal; otherwise nothing.
    pub fn new() -> Self {
        let screen = MultiProgress::with_draw_target(outlet::screen());
        Self { screen, bars: Arc::default(), vitals: Arc::default() }
    }

    /// Nothing is shown.
    pub fn silent() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { screen, bars: Arc::default(), vitals: Arc::default() }
    }

    /// The process's vital signs.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// A bar for `total` items, of which `done` are already done.
    pub fn bar(&self, label: String, total: u64, done: u64, unit: &str) -> ProgressBar {
        let template = format!(
            "{{msg:24}} {{bar:30.cyan/blue}} {{human_pos}} of {{human_len}} {unit}, {{rate}}{{left}}"
        );
        let bar = ProgressBar::new(total.max(done)).with_message(label).with_position(done);
        bar.reset_eta();
        self.show(bar, &template)
    }

    /// A line that counts without a known end.
    pub fn counter(&self, label: String) -> ProgressBar {
        let template = "{spinner:.cyan} {msg}: {human_pos}, {rate}, for {elapsed}";
        let bar = self.show(ProgressBar::new_spinner().with_message(label), template);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A line that shows what is being waited for, and for how long.
    pub fn line(&self, label: String) -> ProgressBar {
        let template = "{spinner:.cyan} {msg}, for {elapsed}";
        let line = self.show(ProgressBar::new_spinner().with_message(label), template);
        line.enable_steady_tick(Duration::from_millis(200));
        line
    }

    fn show(&self, bar: ProgressBar, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}/s", HumanCount(rounded(state.per_sec())));
        });
        let style = style.with_key("left", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = out.write_str(&left(state.per_sec(), state.eta()));
        });
        let bar = self.screen.add(bar.with_style(style));
        bar.tick();
        if let Ok(mut bars) = self.bars.lock() {
            bars.retain(|bar| !bar.is_finished());
            bars.push(bar.clone());
        }
        bar
    }

    /// Removes all bars from the screen: what they counted is over, or starts again.
    pub fn clear(&self) {
        let bars = self.bars.lock().map(|mut bars| std::mem::take(&mut *bars)).unwrap_or_default();
        bars.iter().for_each(ProgressBar::finish_and_clear);
    }

    /// Logs the progress of every bar in plain lines if there is no terminal to draw on. Never ends.
    pub async fn narrate(&self) {
        let mut said = 0;
        loop {
            tokio::time::sleep(NARRATION).await;
            if !self.screen.is_hidden() {
                continue;
            }
            let bars = self.bars.lock().map(|bars| bars.clone()).unwrap_or_default();
            let sum: u64 = bars.iter().map(ProgressBar::position).sum();
            if sum != said {
                said = sum;
                let begun = |bar: &&ProgressBar| bar.length().is_some() || bar.position() > 0;
                bars.iter().filter(|bar| !bar.is_finished()).filter(begun).for_each(tell);
            }
        }
    }

    /// Starts logging. Errors are ignored: a second call in one process changes nothing. What is left to be
    /// written when the process ends, [`FlushGuard`] writes.
    pub fn start_logging(&self, format: LogFormat) -> FlushGuard {
        let flush = FlushGuard::at_the_end();
        let lines = tracing_subscriber::fmt::layer().with_writer(self.clone()).with_target(false);
        match format {
            LogFormat::Text => self.install(lines.fmt_fields(CodeFirst).with_ansi(has_colors(&io::stderr()))),
            LogFormat::Json => self.install(lines.json().flatten_event(true)),
        }
        flush
    }

    fn install(&self, layer: impl Layer<Registry> + Send + Sync) {
        // tokio-postgres logs parameter values at debug level; that must not be enabled by accident.
        let quiet =
            filter_fn(|meta| !meta.target().starts_with("tokio_postgres") || *meta.level() <= Level::INFO);
        let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,docrow=info"));
        let notes = WarningNotes(self.vitals.clone());
        let _ =
            tracing_subscriber::registry().with(layer.with_filter(quiet)).with(notes).with(wanted).try_init();
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

fn tell(bar: &ProgressBar) {
    let (name, done, rate) = (bar.message(), HumanCount(bar.position()), rounded(bar.per_sec()));
    let rate = if rate == 0 { String::new() } else { format!(", {}/s", HumanCount(rate)) };
    match bar.length() {
        Some(total) if total > 0 => {
            tracing::info!("{name}: {done} of {}{rate}{}", HumanCount(total), left(bar.per_sec(), bar.eta()));
        }
        _ => tracing::info!("{name}: {done}{rate}"),
    }
}

/// The estimated time left; empty if nothing moves, because then there is no estimate.
fn left(per_second: f64, eta: Duration) -> String {
    if rounded(per_second) == 0 { String::new() } else { format!(", {} left", HumanDuration(eta)) }
}

/// A rate for display: the saturating conversion is intended.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

/// Keeps docrow's own warnings and errors.
struct WarningNotes(Arc<Vitals>);

impl<S: Subscriber> Layer<S> for WarningNotes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let gravity = match *meta.level() {
            Level::ERROR => MessageLevel::Error,
            Level::WARN => MessageLevel::Warning,
            _ => return,
        };
        if meta.target().starts_with("docrow") {
            let mut said = LineFields::default();
            event.record(&mut said);
            let code = said.code.map(|code| format!("[{code}] ")).unwrap_or_default();
            self.0.note(gravity, code + &said.message);
        }
    }
}

/// How the fields of a line are written for people: `[DRW-3201] the message`, and the others.
struct CodeFirst;

impl<'w> FormatFields<'w> for CodeFirst {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut said = LineFields::default();
        fields.record(&mut said);
        let LineFields { code, message, rest } = said;
        match code {
            Some(code) if writer.has_ansi_escapes() => write!(writer, "\u{1b}[1m[{code}]\u{1b}[0m ")?,
            Some(code) => write!(writer, "[{code}] ")?,
            None => {}
        }
        write!(writer, "{message}{rest}")
    }
}

/// The fields of a line.
#[derive(Default)]
struct LineFields {
    code: Option<String>,
    message: String,
    rest: String,
}

impl Visit for LineFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "code" => self.code = Some(format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            // The fields with which the `log` crate describes a line's origin.
            name if name.starts_with("log.") => {}
            name => self.rest.push_str(&format!(" {name}={value:?}")),
        }
    }
}

/// Log lines are written while the bars are off the screen.
impl<'a> MakeWriter<'a> for Reporter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Reporter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.screen.suspend(|| outlet::line(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_move_has_no_time_left() {
        assert_eq!(left(0.0, Duration::ZERO), "");
        assert_eq!(left(20.0, Duration::from_secs(60)), ", 60 seconds left");
    }
}
