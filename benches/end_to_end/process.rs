//! docrow as people run it: a process of its own, watched for what it costs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::cost;

/// How often a running docrow is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A running docrow. It is killed when this process ends.
pub(crate) struct Docrow {
    pid: u32,
    pub(crate) started: Instant,
    over: oneshot::Receiver<Cost>,
    log: PathBuf,
}

/// What a docrow that has ended well has cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) peak_mb: f64,
    ended_well: bool,
}

impl Docrow {
    pub(crate) fn start(config: &Path, command: &str) -> Self {
        let log = config.with_extension("log");
        // The kernel kills it when the thread ends that has started it, which is the one that watches it.
        let mut docrow = Command::new("setpriv");
        docrow.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_docrow"), command, "--config"]).arg(config);
        docrow.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        docrow.stderr(File::create(&log).unwrap());
        for name in ["DOCROW_SOURCE", "DOCROW_TARGET", "DOCROW_MASK_KEY"] {
            docrow.env_remove(name);
        }
        let (say, said) = mpsc::channel();
        let (report, over) = oneshot::channel();
        let started = Instant::now();
        thread::spawn(move || {
            let child = docrow.spawn().unwrap();
            say.send(child.id()).unwrap();
            // The process may not be waited for any more.
            let _ = report.send(watch(child, started));
        });
        Self { pid: said.recv().unwrap(), started, over, log }
    }

    pub(crate) fn is_over(&self) -> bool {
        cost::is_over(self.pid)
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(self) -> Cost {
        let sent = tokio::process::Command::new("kill").arg(self.pid.to_string()).status().await;
        assert!(sent.unwrap().success(), "docrow is gone: {}", self.log());
        self.ended().await
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn ended(self) -> Cost {
        let cost = self.over.await.unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(cost.ended_well, "docrow failed: {log}");
        eprint!("{log}");
        cost
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn watch(mut child: Child, started: Instant) -> Cost {
    let pid = child.id();
    let mut peak_kb = 0;
    while !cost::is_over(pid) {
        // Not known of a process that is just ending.
        peak_kb = cost::peak_kb(pid).unwrap_or(peak_kb);
        thread::sleep(POLL);
    }
    let (wall, cpu) = (started.elapsed(), cost::cpu(pid));
    let ended_well = child.wait().unwrap().success();
    Cost { wall, cpu, peak_mb: f64::from(peak_kb) / 1024.0, ended_well }
}
