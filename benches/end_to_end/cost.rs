//! What processes cost: CPU time and peak memory, out of `/proc`.
//!
//! The CPU time of a process that has ended can be read until its parent waits for it, so it is complete when
//! it is read before that. PostgreSQL is its first process, with what it has waited for, and that one's
//! children.

use std::{fs, ops::Sub, time::Duration};

/// Hundredths of a second: what `/proc` counts in (`USER_HZ`), on every machine that docrow is built for.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time of both servers since they were started, or between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Servers {
    pub(crate) mongod: Duration,
    pub(crate) postgres: Duration,
}

impl Servers {
    pub(crate) fn now(mongod: u32, postgres: u32) -> Self {
        Self { mongod: cpu(mongod), postgres: family(postgres) }
    }
}

impl Sub for Servers {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { mongod: self.mongod - earlier.mongod, postgres: self.postgres - earlier.postgres }
    }
}

/// User and system time of a process that has not been waited for yet.
pub(crate) fn cpu(pid: u32) -> Duration {
    times(pid).map_or(Duration::ZERO, |[user, system, ..]| TICK * (user + system))
}

/// Whether the process has ended, and waits to be waited for.
pub(crate) fn is_over(pid: u32) -> bool {
    stat(pid).is_none_or(|fields| fields.starts_with('Z'))
}

/// The most memory that a process has had, in kB, while it runs.
pub(crate) fn peak_kb(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))?;
    peak.trim().parse().ok()
}

/// A process, the children that it has waited for, and those that run.
fn family(pid: u32) -> Duration {
    loop {
        let before = times(pid).unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let running: Duration = children.split_whitespace().map(|child| cpu(child.parse().unwrap())).sum();
        let after = times(pid).unwrap();
        // Else a child has ended meanwhile, and would count twice or not at all.
        if before[2..] == after[2..] {
            return running + TICK * after.iter().sum();
        }
    }
}

/// User and system time, and those of the children that were waited for.
fn times(pid: u32) -> Option<[u32; 4]> {
    let stat = stat(pid)?;
    let mut fields = stat.split_whitespace().skip(11).map(|field| field.parse().unwrap());
    Some([fields.next()?, fields.next()?, fields.next()?, fields.next()?])
}

/// The fields of `/proc/PID/stat` from the third on, which is the state.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second one is the program's name in parentheses, and may contain anything.
    Some(stat.rsplit_once(") ")?.1.to_owned())
}
