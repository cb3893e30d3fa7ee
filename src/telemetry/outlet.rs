//! Standard error. Its reader may be slow, or have stopped reading: a full pipe, a log shipper that hangs, a
//! terminal held by ^S. Only one thread of docrow waits for it: output is put into a queue. While that is
//! full, log lines are dropped and counted, and the number is logged once they flow again.

use std::{
    fs::File,
    io::{self, ErrorKind, IsTerminal, Write},
    mem,
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressDrawTarget, TermLike};

use crate::metrics;

/// How much may wait: a few thousand lines.
const LIMIT: usize = 1 << 20;
/// The most that may wait when a frame of the progress bars is drawn.
const FRAMES: usize = 16 << 10;
/// How long a reader that does not read delays the end of the process.
const LAST: Duration = Duration::from_secs(1);
/// How long to wait if standard error was opened as non-blocking.
const POLL: Duration = Duration::from_millis(10);
/// How often bars are drawn per second.
const HZ: u8 = 20;

static OUTLET: LazyLock<Outlet> = LazyLock::new(|| {
    let file = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
    let named = thread::Builder::new().name("log".to_owned());
    let is_started = file.is_some() && named.spawn(|| OUTLET.work(tell_dropped)).is_ok();
    Outlet::to(file.filter(|_| is_started))
});

fn tell_dropped(lines: u64) {
    tracing::warn!("{lines} log lines were dropped: standard error was not read");
}

/// The queue, and its output.
struct Outlet {
    queue: Mutex<OutputQueue>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
    /// Not the standard library's handle, whose lock the thread would hold while it is blocked. `None`: not
    /// available.
    file: Option<File>,
}

#[derive(Default)]
struct OutputQueue {
    waiting: Vec<u8>,
    is_writing: bool,
    /// Lines dropped since the last report.
    dropped: u64,
}

impl Outlet {
    fn to(file: Option<File>) -> Self {
        Self { queue: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), file }
    }

    /// Puts all of `bytes` into the queue, or nothing, and returns which.
    fn push(&self, bytes: &[u8], limit: usize) -> bool {
        if self.file.is_none() {
            return io::stderr().write_all(bytes).is_ok();
        }
        let mut queue = self.queue();
        // A line that is longer than the queue is accepted if nothing else waits.
        let fits = queue.waiting.is_empty() || queue.waiting.len().saturating_add(bytes.len()) <= limit;
        if fits {
            queue.waiting.extend_from_slice(bytes);
            self.filled.notify_one();
        }
        fits
    }

    fn line(&self, line: &[u8]) {
        if !self.push(line, LIMIT) {
            metrics::LOG_LINES_DROPPED.add(1);
            let mut queue = self.queue();
            queue.dropped = queue.dropped.saturating_add(1);
        }
    }

    /// Writes forever. `tell` is called with the number of dropped lines once the queue is written.
    fn work(&self, tell: impl Fn(u64)) {
        let Some(file) = &self.file else { return };
        loop {
            let mut queue = self.queue();
            while queue.waiting.is_empty() {
                queue.is_writing = false;
                self.emptied.notify_all();
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.is_writing = true;
            let bytes = mem::take(&mut queue.waiting);
            drop(queue);
            write(file, &bytes);
            let mut queue = self.queue();
            let dropped = if queue.waiting.is_empty() { mem::take(&mut queue.dropped) } else { 0 };
            drop(queue);
            if dropped > 0 {
                tell(dropped);
            }
        }
    }

    /// Waits until everything is written, if that does not take too long.
    fn flush(&self) {
        let deadline = Instant::now() + LAST;
        let mut queue = self.queue();
        while self.file.is_some() && (queue.is_writing || !queue.waiting.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.emptied.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn queue(&self) -> MutexGuard<'_, OutputQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of it, unless the reader is gone.
fn write(mut file: &File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(_) => return,
        }
    }
}

/// Writes a line, or drops it.
pub(super) fn line(line: &[u8]) {
    OUTLET.line(line);
}

/// Writes what remains before the process ends, however it ends: keep it until the end of `main`.
#[must_use]
pub struct FlushGuard(());

impl FlushGuard {
    pub(super) fn at_the_end() -> Self {
        panic::set_hook(Box::new(tell));
        Self(())
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        OUTLET.flush();
    }
}

/// The standard library's panic message, but without waiting for standard error.
fn tell(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (name, trace) = (thread.name().unwrap_or("<unnamed>"), std::backtrace::Backtrace::capture());
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("{trace}\n"),
        _ => String::new(),
    };
    line(format!("thread '{name}' {panic}\n{trace}").as_bytes());
}

/// Where progress bars are drawn: standard error, if it is a terminal.
pub(super) fn screen() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::term_like_with_hz(Box::<TerminalScreen>::default(), HZ)
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// The terminal. A frame is put into the queue as a whole, or not at all.
#[derive(Debug, Default)]
struct TerminalScreen(Mutex<String>);

impl TerminalScreen {
    fn add(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// Moves the cursor by `n` in a direction of ECMA-48, or nowhere: 0 would mean 1.
    fn go(&self, n: usize, direction: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.add(&format!("\u{1b}[{n}{direction}")) }
    }
}

impl TermLike for TerminalScreen {
    fn width(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col.max(1))
    }

    fn height(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr()).map_or(24, |size| size.ws_row.max(1))
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        self.add(s)?;
        self.add("\n")
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        self.add(s)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\u{1b}[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let frame = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        OUTLET.push(frame.as_bytes(), FRAMES);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::OwnedFd};

    use super::*;

    /// As many lines as fit are kept, whole and in order; the others are counted, and nothing waits.
    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let outlet: &'static Outlet = Box::leak(Box::new(Outlet::to(Some(OwnedFd::from(writer).into()))));
        thread::spawn(|| outlet.work(|lines| outlet.line(format!("dropped {lines:0991}\n").as_bytes())));
        let line = |n: u64| format!("{n:0999}\n").into_bytes();
        let total = 5 * 1024;
        (0..total).for_each(|n| outlet.line(&line(n)));
        assert!(!outlet.push(&line(total), FRAMES), "bars are not drawn either");
        outlet.flush();
        let (mut next, mut kept, mut dropped) = (0, 0, 0);
        while kept + dropped < total {
            let mut read = [0; 1000];
            reader.read_exact(&mut read).unwrap();
            let read = str::from_utf8(&read).unwrap().trim_end();
            if let Some(lines) = read.strip_prefix("dropped ") {
                dropped += lines.parse::<u64>().unwrap();
            } else {
                let n: u64 = read.parse().unwrap();
                assert!(n >= next, "{n} comes before {next}");
                next = n + 1;
                kept += 1;
            }
        }
        assert_eq!(kept + dropped, total);
        assert!(dropped > 0 && kept > 1000, "{dropped} dropped, {kept} kept");
    }
}
