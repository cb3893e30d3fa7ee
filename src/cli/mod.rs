//! The command line: one small file per command.

mod assets;
mod backfill;
mod check;
mod dead_letters;
mod demo;
mod explain;
mod forget;
mod infer;
mod outcome;
mod paint;
mod pause;
mod plan;
mod printable;
mod profiling;
mod resync;
mod run;
mod startup;
mod status;
mod status_layout;
mod status_table;
mod throttle;
mod verify;

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};

use self::{
    outcome::{CommandOutcome, EXIT_CODES},
    profiling::Profiling,
};
use crate::{
    config::{
        Config, Overrides, SourceConfig, TargetConfig,
        environment::{
            DOCROW_CONFIG, DOCROW_INCLUDE, DOCROW_LOG_FORMAT, DOCROW_SOURCE, DOCROW_STATE, DOCROW_TARGET,
        },
    },
    error::{Code, Error, Kind, Result},
    secret::Secret,
    shutdown::{self, Shutdown},
    telemetry::{LogFormat, Reporter, has_colors},
};

/// Replicates MongoDB into PostgreSQL: typed tables, child tables, deletes, crash resume.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
struct GlobalOptions {
    /// Configuration file [default: docrow.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = DOCROW_CONFIG)]
    config: Option<PathBuf>,
    /// MongoDB's connection string, e.g. mongodb://host/shop?replicaSet=rs0
    #[arg(long, global = true, value_name = "URI", env = DOCROW_SOURCE, hide_env_values = true)]
    source: Option<Secret>,
    /// PostgreSQL's connection string, e.g. postgres://user@host/warehouse
    #[arg(long, global = true, value_name = "URI", env = DOCROW_TARGET, hide_env_values = true)]
    target: Option<Secret>,
    /// Collections to replicate, as database.collection, globs allowed; repeatable [default: all of the URI's
    /// database]
    #[arg(long, global = true, value_name = "NS", env = DOCROW_INCLUDE)]
    include: Vec<String>,
    /// State directory [default: docrow-state]
    #[arg(long, global = true, value_name = "DIR", env = DOCROW_STATE)]
    state: Option<PathBuf>,
    /// Format of log lines on standard error
    #[arg(long, global = true, value_enum, default_value_t, env = DOCROW_LOG_FORMAT)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy what has no copy yet, then follow changes until SIGTERM or SIGINT
    Run(run::RunOptions),
    /// Copy, catch up with the changes made meanwhile, and exit
    Backfill(backfill::BackfillOptions),
    /// Check both sides for everything that a run would encounter, and say what to do about it; exit 1 if
    /// there is a problem
    Check(check::CheckOptions),
    /// Sample documents and write a commented mapping file for each collection, for editing; needs no target
    Infer(infer::InferOptions),
    /// Show what a run would do to the target's tables, as a diff with its SQL; exit 1 if there is an
    /// obstacle
    Plan(plan::PlanOptions),
    /// Compare every collection with its tables, in full, while both are written to; exit 1 if they differ
    Verify(verify::VerifyArguments),
    /// Show the pipeline's state: phase, lag, rates, spool, dead letters; from any machine, running or not;
    /// needs no source
    Status(status::StatusOptions),
    /// Have the process that runs the pipeline copy collections again in place; readers never see an empty
    /// table; needs no source
    Resync(resync::ResyncOptions),
    /// Remove what docrow has stored about collections that are no longer followed, optionally with their
    /// tables; needs no source
    Forget(forget::ForgetOptions),
    /// Pause collections: nothing more is written to them, and their changes wait in the spool until `docrow
    /// resume`; needs no source
    Pause(pause::PauseOptions),
    /// Resume paused collections; needs no source
    Resume(pause::PauseOptions),
    /// Set how fast snapshots may read; needs no source
    Throttle(throttle::ThrottleOptions),
    /// List, show, retry or discard the documents that could not be written; needs no source
    #[command(subcommand)]
    DeadLetters(dead_letters::LetterAction),
    /// Show what an error code means and what to do about it; without a code, list all codes
    Explain(explain::ExplainOptions),
    /// Demonstrate docrow on throwaway servers: copy, kill -9, resume, follow changes, verify, clean up
    Demo(demo::DemoOptions),
    /// Write manual pages and shell completions
    #[command(hide = true)]
    Assets(assets::AssetsOptions),
}

impl GlobalOptions {
    fn config(self) -> Result<Config> {
        Config::load(self.overrides())
    }

    fn source(self) -> Result<SourceConfig> {
        SourceConfig::load(self.overrides())
    }

    fn target(self) -> Result<TargetConfig> {
        TargetConfig::load(self.overrides())
    }

    /// Warns of passwords on the command line, where they are visible in the process list and in the shell's
    /// history.
    fn warn_of_shown_passwords(&self, matches: &ArgMatches) {
        let sides = [("source", DOCROW_SOURCE, &self.source), ("target", DOCROW_TARGET, &self.target)];
        for (name, variable, uri) in sides {
            let written = matches.value_source(name) == Some(ValueSource::CommandLine);
            if written && uri.as_ref().is_some_and(Secret::has_password) {
                tracing::warn!(
                    "--{name} has a password, which every user of this machine can see in the list of processes: set \
                     {variable}, {variable}_FILE or {variable}_PASSWORD_FILE instead"
                );
            }
        }
    }

    fn overrides(self) -> Overrides {
        let Self { config, source, target, include, state, log_format: _ } = self;
        Overrides { file: config, source, target, include, state, serves_nothing: false }
    }
}

impl Command {
    /// Its name, and how to profile it.
    fn profiling(&self) -> (&'static str, Profiling) {
        match self {
            Self::Run(options) => ("run", options.profiling.clone()),
            Self::Backfill(options) => ("backfill", options.profiling.clone()),
            _ => ("", Profiling::default()),
        }
    }
}

fn parse() -> Result<(ArgMatches, Cli), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let parsed = Cli::from_arg_matches(&matches)?;
    Ok((matches, parsed))
}

/// Parses the arguments, runs the command, and returns the process's exit code.
pub fn main() -> ExitCode {
    let (matches, Cli { global, command }) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return misunderstood(&error),
    };
    let log_format = global.log_format;
    let reporter = Reporter::new();
    let _flush = reporter.start_logging(global.log_format);
    global.warn_of_shown_passwords(&matches);
    let (name, profiling) = command.profiling();
    let finished = profiling.around(name, || {
        block_on(&reporter, |shutdown| dispatch(global, command, reporter.clone(), shutdown))
    });
    match finished {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        // `docrow plan | head`: the reader has closed the pipe.
        Err(error) if printable::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(code = %error.code(), "{error}");
            if log_format == LogFormat::Text {
                let more = format!("  more: docrow explain {}\n", error.code());
                // This can't fail.
                let _ = reporter.clone().write_all(more.as_bytes());
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Prints what the parser returned: help, a version, or an error with its code.
fn misunderstood(said: &clap::Error) -> ExitCode {
    if !said.use_stderr() {
        let _ = said.print();
        return ExitCode::SUCCESS;
    }
    let text = said.render();
    let text = if has_colors(&io::stderr()) { text.ansi().to_string() } else { text.to_string() };
    let text = text.replacen("error:", &format!("error [{}]:", Code::CommandLine), 1);
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(Code::CommandLine.kind().exit_code())
}

async fn dispatch(
    global: GlobalOptions,
    command: Command,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    match command {
        Command::Run(options) => run::execute(global.overrides(), options, reporter, shutdown).await,
        Command::Backfill(options) => backfill::execute(&global.config()?, options, reporter, shutdown).await,
        Command::Check(options) => check::execute(&global.config()?, options, shutdown).await,
        Command::Infer(options) => infer::execute(global.source()?, options, shutdown).await,
        Command::Plan(options) => plan::execute(&global.config()?, options).await,
        Command::Verify(options) => verify::execute(&global.config()?, options, reporter, shutdown).await,
        Command::Status(options) => status::execute(global.overrides(), options, shutdown).await,
        Command::Resync(options) => resync::execute(&global.target()?, options).await,
        Command::Forget(options) => forget::execute(&global.target()?, options).await,
        Command::Pause(options) => pause::pause(&global.target()?, options, shutdown).await,
        Command::Resume(options) => pause::resume(&global.target()?, &options).await,
        Command::Throttle(options) => throttle::execute(&global.target()?, options).await,
        Command::DeadLetters(action) => dead_letters::execute(&global.target()?, action, shutdown).await,
        Command::Explain(options) => explain::execute(&options),
        Command::Demo(options) => demo::execute(options, reporter, shutdown).await,
        Command::Assets(options) => assets::execute(&options, &Cli::command()),
    }
}

/// Lets the drivers' own tasks end. MongoDB's driver closes its sessions when the last handle is dropped, and
/// panics if the runtime ends meanwhile. A task may also wait for a server that does not answer, so the wait
/// is short.
async fn idle() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    while tasks.num_alive_tasks() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a command on a new runtime, which also handles signals and logs progress.
fn block_on<F: Future<Output = Result<CommandOutcome>>>(
    reporter: &Reporter,
    command: impl FnOnce(Shutdown) -> F,
) -> Result<CommandOutcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::caused(Kind::Bug, "start the runtime", e))?;
    let (shutdown, vitals) = (Shutdown::default(), reporter.vitals().clone());
    let insisted = shutdown::listen(shutdown.clone(), move || vitals.places().words())?;
    let finished = runtime.block_on(async {
        tokio::select! {
            finished = command(shutdown) => finished,
            () = insisted.requested() => {
                tracing::warn!("stopped at once: start it again to resume from what is committed");
                Ok(CommandOutcome::Finding)
            }
            () = reporter.narrate() => Ok(CommandOutcome::Done),
        }
    });
    runtime.block_on(idle());
    runtime.shutdown_background();
    finished
}
