//! Where the servers' programs are, and how one is run to its end.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::process::{ServerProgram, spawn};
use crate::error::{Code, Error, Kind, Result};

/// Runs a program to its end; its output is part of the error.
pub(super) fn run(program: ServerProgram, folder: &Path) -> Result<()> {
    let running = format!("run {}", program.path.display());
    let mut command = program.command(folder);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = spawn(command).and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|e| Error::caused(Kind::TargetAway, running.clone(), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::new(Kind::TargetAway, format!("{running}: {said}")))
}

/// `$DOCROW_MONGOD`, or the one that `make setup` unpacks, or the one on the `PATH`.
pub(super) fn find_mongod() -> Result<PathBuf> {
    let given = env::var_os("DOCROW_MONGOD").map(PathBuf::from);
    let cache = env::var_os("DOCROW_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache/docrow")));
    let unpacked = cache.map(|folder| folder.join("mongod-6.0.5/mongod"));
    let found = given.or(unpacked.filter(|path| path.exists())).or_else(|| on_path("mongod"));
    let remedy = "find mongod: run `make setup`, or set DOCROW_MONGOD to the program's path";
    found.filter(|path| path.exists()).ok_or_else(|| Error::new(Code::DemoMongod, remedy))
}

/// `$DOCROW_POSTGRES_BIN`, or the folder of the `postgres` on the `PATH`, or Debian's newest.
pub(super) fn find_postgres() -> Result<PathBuf> {
    let given = env::var_os("DOCROW_POSTGRES_BIN").map(PathBuf::from);
    let on_path = || on_path("postgres").and_then(|path| Some(path.parent()?.to_owned()));
    let found = given.or_else(on_path).or_else(newest_of_debian);
    let remedy =
        "find PostgreSQL: run `make setup`, or set DOCROW_POSTGRES_BIN to the folder that holds `initdb`";
    found.filter(|path| path.join("initdb").exists()).ok_or_else(|| Error::new(Code::DemoPostgres, remedy))
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter(|path| path.join("bin/initdb").exists()).max_by_key(|path| number(path))?;
    Some(newest.join("bin"))
}
