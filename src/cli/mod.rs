//! The command line: one small file per command.

mod backfill;
mod dead_letters;
mod demo;
mod infer;
mod plan;
mod printable;
mod profiling;
mod resync;
mod run;
mod verify;

use std::{future::Future, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use self::profiling::Profiling;
use crate::{
    config::{Config, Overrides, SourceConfig, TargetConfig},
    error::{Error, Kind, Result},
    shutdown::{self, Shutdown},
    telemetry::{LogFormat, Reporter},
};

/// Replicates MongoDB into PostgreSQL: typed tables, child tables, deletes, crash resume.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 a difference or a finding, or stopped before the end; 2 usage or configuration; 3 source unreachable or \
refused; 4 target unreachable or refused; 5 history lost; 6 held by another process; 7 state corrupt; 70 a bug.";

#[derive(Debug, Args)]
struct Global {
    /// Configuration file [default: docrow.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// MongoDB's connection string, e.g. mongodb://host/shop?replicaSet=rs0
    #[arg(long, global = true, value_name = "URI", env = "DOCROW_SOURCE", hide_env_values = true)]
    source: Option<String>,
    /// PostgreSQL's connection string, e.g. postgres://user@host/warehouse
    #[arg(long, global = true, value_name = "URI", env = "DOCROW_TARGET", hide_env_values = true)]
    target: Option<String>,
    /// Collections to replicate, as database.collection, globs allowed; repeatable [default: all of the URI's database]
    #[arg(long, global = true, value_name = "NS")]
    include: Vec<String>,
    /// State directory [default: docrow-state]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How log lines are written to standard error
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy what has no copy yet, then follow changes until SIGTERM or SIGINT
    Run(run::Options),
    /// Copy, catch up with the changes made meanwhile, and exit
    Backfill(backfill::Options),
    /// Look at documents and write a mapping file for each collection, with comments, to be edited; needs no target
    Infer(infer::Options),
    /// Show what a run would do to the target's tables, as a diff with its SQL; exit 1 if something is in the way
    Plan(plan::Options),
    /// Compare every collection with its tables, row by row; exit 1 if they differ
    Verify(verify::Options),
    /// Have collections copied anew in place, by whoever runs the pipeline; readers never see an empty table; needs no source
    Resync(resync::Options),
    /// List, show, try again or discard the documents that could not be written; needs no source
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Show it all on throwaway servers: copy, kill -9, go on, follow changes, verify, clean up
    Demo(demo::Options),
}

impl Global {
    fn config(self) -> Result<Config> {
        Config::load(self.overrides())
    }

    fn source(self) -> Result<SourceConfig> {
        SourceConfig::load(self.overrides())
    }

    fn target(self) -> Result<TargetConfig> {
        TargetConfig::load(self.overrides())
    }

    fn overrides(self) -> Overrides {
        let Self { config, source, target, include, state, log_format: _ } = self;
        Overrides { file: config, source, target, include, state }
    }
}

/// What a command has to say by its exit code.
enum Outcome {
    /// All of it is done: exit code 0.
    Done,
    /// Not all is as it should be, and the command has said what: exit code 1.
    Finding,
}

impl Outcome {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Finding => 1,
        }
    }
}

impl Command {
    /// Its name, and how it is to be profiled.
    fn profiling(&self) -> (&'static str, Profiling) {
        match self {
            Self::Run(options) => ("run", options.profiling.clone()),
            Self::Backfill(options) => ("backfill", options.profiling.clone()),
            _ => ("", Profiling::default()),
        }
    }
}

/// Parses the arguments, runs the command, and returns the process's exit code.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let reporter = Reporter::new();
    reporter.start_logging(global.log_format);
    let (name, profiling) = command.profiling();
    let finished = profiling.around(name, || {
        block_on(&reporter, |shutdown| dispatch(global, command, reporter.clone(), shutdown))
    });
    match finished {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        // `docrow plan | head`: nobody reads on.
        Err(error) if printable::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

async fn dispatch(
    global: Global,
    command: Command,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<Outcome> {
    match command {
        Command::Run(options) => run::execute(&global.config()?, options, reporter, shutdown).await,
        Command::Backfill(options) => backfill::execute(&global.config()?, options, reporter, shutdown).await,
        Command::Infer(options) => infer::execute(global.source()?, options, shutdown).await,
        Command::Plan(options) => plan::execute(&global.config()?, options).await,
        Command::Verify(options) => verify::execute(&global.config()?, options, reporter, shutdown).await,
        Command::Resync(options) => resync::execute(&global.target()?, options).await,
        Command::DeadLetters(action) => dead_letters::execute(&global.target()?, action, shutdown).await,
        Command::Demo(options) => demo::execute(options, reporter, shutdown).await,
    }
}

/// Lets the drivers' own tasks end. MongoDB's takes leave of the server when its last user is gone, and panics if the
/// runtime ends under it. A task may also wait for a server that does not answer, so not for long.
async fn idle() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    while tasks.num_alive_tasks() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a command on a fresh runtime, with the signals listened to and progress told.
fn block_on<F: Future<Output = Result<Outcome>>>(
    reporter: &Reporter,
    command: impl FnOnce(Shutdown) -> F,
) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::caused(Kind::Bug, "start the runtime", e))?;
    let finished = runtime.block_on(async {
        let shutdown = Shutdown::default();
        tokio::select! {
            finished = command(shutdown.clone()) => finished,
            insisted = shutdown::on_signals(shutdown) => {
                tracing::warn!("stopped at once: start it again to go on from what is committed");
                insisted.map(|()| Outcome::Finding)
            }
            () = reporter.narrate() => Ok(Outcome::Done),
        }
    });
    runtime.block_on(idle());
    runtime.shutdown_background();
    finished
}
