//! Server processes and folders that end with docrow, however docrow ends.
//!
//! Two mechanisms, because a process killed by SIGKILL runs no destructor:
//! - A server is started through `setpriv --pdeathsig`, so the kernel signals it when its parent ends. The
//!   kernel means the parent *thread*, so one thread that lives as long as the process starts them all
//!   ([`spawn`]).
//! - A [`ScratchFolder`] is removed by a small shell that waits for the other end of its pipe to close.
//!
//! [`super::servers`] defines what the servers are, and when they are ready.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Code, Error, Kind, Result};

/// How long a server may take to start or to stop before that counts as an error.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(10);

/// A user of the system.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemAccount {
    uid: u32,
    gid: u32,
}

impl SystemAccount {
    /// The account for a server that refuses to run as root: needed only if this process runs as root.
    pub(super) fn instead_of_root() -> Result<Option<Self>> {
        let doing = "find a user to run PostgreSQL as, since it refuses to run as root";
        let caused = |e| Error::caused(Kind::TargetAway, doing, e);
        if fs::metadata("/proc/self").map_err(caused)?.uid() != 0 {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").map_err(caused)?;
        let account = ["postgres", "nobody"].iter().find_map(|name| Self::parse(&users, name));
        account
            .map(Some)
            .ok_or_else(|| Error::new(Code::DemoPostgres, format!("{doing}: create user `postgres`")))
    }

    fn parse(users: &str, name: &str) -> Option<Self> {
        let mut fields =
            users.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?.skip(2);
        Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    }
}

/// A server's folder, removed when this value is dropped or the process ends, after the server was asked
/// to end.
#[derive(Debug)]
pub(super) struct ScratchFolder {
    path: PathBuf,
    remover: Child,
}

impl ScratchFolder {
    /// A new folder in the system's temporary folder, owned by `owner`.
    pub(super) fn new(name: &str, owner: Option<SystemAccount>) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("docrow-{name}-")).tempdir()?;
        // The server may still be ending, and writing, when its folder is removed: hence the retries. A
        // killed PostgreSQL server leaves a System V shared memory segment behind, named on line 7 of its
        // lock file.
        let script = "trap '' HUP INT TERM; read _; segment=$(sed -n '7s/.* //p' \"$1/data/postmaster.pid\" 2>/dev/null); \
                      for try in $(seq 600); do rm -rf -- \"$1\" && break; sleep 0.1; done; \
                      [ -z \"$segment\" ] || ipcrm -m \"$segment\"";
        let remover = Command::new("sh")
            .args(["-c", script, "docrow-scratch"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let scratch = Self { path: folder.keep(), remover };
        if let Some(SystemAccount { uid, gid }) = owner {
            chown(&scratch.path, Some(uid), Some(gid))?;
        }
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        // Without an exit status there is nothing left to do about the folder.
        let _ = self.remover.wait();
    }
}

/// A program to run as a server.
#[derive(Debug)]
pub(super) struct ServerProgram {
    /// Its name in messages.
    pub(super) name: &'static str,
    /// The kind of errors about it.
    pub(super) kind: Kind,
    /// The executable.
    pub(super) path: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// The user that runs it, if it is not the user of this process.
    pub(super) account: Option<SystemAccount>,
    /// The signal that ends it at once, without leaving anything behind in the system.
    pub(super) end_signal: &'static str,
}

impl ServerProgram {
    /// The program as a command that gets [`Self::end_signal`] when the thread that starts it ends.
    pub(super) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(SystemAccount { uid, gid }) = self.account {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.args(["--pdeathsig", self.end_signal]).arg(&self.path).args(&self.arguments);
        // Not in docrow's process group: ^C is for docrow, which then stops its servers in the right order.
        command.current_dir(folder).stdin(Stdio::null()).process_group(0);
        command
    }
}

/// A server process with its folder and its log.
#[derive(Debug)]
pub(super) struct ServerProcess {
    program: ServerProgram,
    child: Option<Child>,
    folder: ScratchFolder,
}

impl ServerProcess {
    /// A server that does not run yet.
    pub(super) fn new(program: ServerProgram, folder: ScratchFolder) -> Self {
        Self { program, child: None, folder }
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From the next start on.
    pub(super) fn replace_program(&mut self, path: PathBuf) {
        self.program.path = path;
    }

    /// From the next start on. Does nothing if it has no such argument.
    pub(super) fn replace_argument(&mut self, old: &str, new: &str) {
        let old = self.program.arguments.iter_mut().find(|argument| *argument == old);
        old.into_iter().for_each(|old| new.clone_into(old));
    }

    /// The process's id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the process and waits until `port` takes connections. On an error it does not run.
    pub(super) async fn start(&mut self, port: u16) -> Result<()> {
        let starting = format!("start {}", self.program.name);
        let log = File::create(self.log_path()).and_then(|out| Ok((out.try_clone()?, out)));
        let (out, err) = log.map_err(|e| Error::caused(self.program.kind, starting.clone(), e))?;
        let mut command = self.program.command(self.folder.path());
        command.stdout(out).stderr(err);
        self.child = Some(spawn(command).map_err(|e| Error::caused(self.program.kind, starting.clone(), e))?);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if self.has_exited() {
                return Err(self.error(format!("{starting}: it ended at once; the end of its log")));
            }
            if Instant::now() > deadline {
                self.end(self.program.end_signal).await?;
                return Err(
                    self.error(format!("{starting}: no connection within {PATIENCE:?}; the end of its log"))
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Sends `signal` (`TERM`, `STOP`, …) to the process, if it runs.
    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        match self.pid() {
            Some(pid) => send_signal(signal, &[pid]).map_err(|e| {
                Error::caused(self.program.kind, format!("send SIG{signal} to {}", self.program.name), e)
            }),
            None => Ok(()),
        }
    }

    /// Sends `signal` to the process, if it runs, and waits for its end.
    pub(super) async fn end(&mut self, signal: &str) -> Result<()> {
        self.signal(signal)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_exited() {
            if Instant::now() > deadline {
                let still = format!(
                    "{} still runs {PATIENCE:?} after SIG{signal}; the end of its log",
                    self.program.name
                );
                return Err(self.error(still));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// An error about this server, `context` followed by the end of its log.
    pub(super) fn error(&self, context: String) -> Error {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.trim_end().lines().collect();
        let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n");
        Error::new(self.program.kind, format!("{context}: {tail}"))
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn has_exited(&mut self) -> bool {
        let exited = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if exited {
            self.child = None;
        }
        exited
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A stopped process accepts no signal but these two. If it can't be signalled, `kill` below still
        // ends it.
        let _ = self.signal(self.program.end_signal);
        let _ = self.signal("CONT");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.has_exited() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to processes; std only knows SIGKILL.
pub(super) fn send_signal(signal: &str, pids: &[u32]) -> io::Result<()> {
    let script = "signal=$1; shift; kill -s \"$signal\" \"$@\" 2>/dev/null";
    let pids = pids.iter().map(u32::to_string);
    Command::new("sh").args(["-c", script, "kill", signal]).args(pids).status().map(drop)
}

/// Starts `command` from a thread that lives as long as this process, see the top of this file.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::SyncSender<io::Result<Child>>);
    static STARTER: LazyLock<mpsc::SyncSender<Request>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::sync_channel::<Request>(1);
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // The requester waits for the reply; if it is gone, the child is not needed.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (reply, child) = mpsc::sync_channel(1);
    STARTER.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// A port of the loopback interface that nothing listens on.
///
/// Below the ephemeral range (32768 and up), because a client that retries a port of that range while its
/// server is down may be given that very port as its own and connect to itself.
pub fn free_port() -> io::Result<u16> {
    let mut tries = 100;
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000))) {
            Ok(listener) => return Ok(listener.local_addr()?.port()),
            Err(e) if tries == 0 => return Err(e),
            Err(_) => tries -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_account_by_its_whole_name() {
        let users =
            "postgresql:x:7:8::/:/bin/sh\npostgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash\n";
        let SystemAccount { uid, gid } = SystemAccount::parse(users, "postgres").unwrap();
        assert_eq!((uid, gid), (101, 104));
        assert!(SystemAccount::parse(users, "nobody").is_none());
    }

    #[test]
    fn removes_its_folder_when_dropped() {
        let scratch = ScratchFolder::new("test", None).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
