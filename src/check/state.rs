//! Findings about the state directory, without touching it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access, statvfs};

use super::report::{FindingPart, PartFindings};
use crate::config::Config;

pub(super) fn check(config: &Config) -> PartFindings {
    let mut findings = PartFindings::new(FindingPart::Snapshot);
    let dir = &config.state_dir;
    let subject = "state directory";
    let label = fs::read_to_string(dir.join("pipeline")).unwrap_or_default();
    let owner = label.trim_end();
    if !owner.is_empty() && owner != config.name {
        findings
            .problem(
                subject,
                format!("{} belongs to pipeline {owner:?}, not {:?}", dir.display(), config.name),
            )
            .advise("name another one with --state");
        return findings;
    }
    let place = existing(dir);
    let is_usable = place.is_dir() && access(&place, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if is_usable {
        let there = if dir.exists() { "exists" } else { "a run creates it" };
        findings.ok(subject, format!("{}: {there}", dir.display()));
    } else {
        findings
            .problem(subject, format!("{} can't be written", dir.display()))
            .advise("make it writable or name another one with --state");
    }
    findings
}

/// How many bytes are free on the disk where the state directory is, or will be.
pub(super) fn free(dir: &Path) -> Option<u64> {
    let disk = statvfs(existing(dir)).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// The directory itself, or its nearest existing parent.
fn existing(dir: &Path) -> PathBuf {
    let above = dir.ancestors().find(|above| above.exists()).unwrap_or(Path::new(""));
    if above.as_os_str().is_empty() { PathBuf::from(".") } else { above.to_owned() }
}
