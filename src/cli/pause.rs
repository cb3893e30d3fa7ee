//! `docrow pause` and `docrow resume`: make the changes of collections wait in the spool, and resume them.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    outcome::CommandOutcome,
    printable::{printable, say},
    resync,
};
use crate::{
    config::TargetConfig,
    error::{Code, Error, Result},
    shutdown::Shutdown,
    sink::{
        Target,
        metadata::{pauses::PauseRequest, requests::Requests, runner::PipelineRunner},
    },
    source::chosen,
};

/// How long to wait for the process that runs the pipeline: it checks every second, and then finishes its
/// current work.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct PauseOptions {
    /// Which collections, as database.collection, globs allowed
    #[arg(required = true, value_name = "NS")]
    collections: Vec<String>,
}

pub(super) async fn pause(
    config: &TargetConfig,
    options: PauseOptions,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let pipeline = target.pipeline();
    let Some(requests) = Requests::open(&target).await? else {
        return Err(resync::nothing(pipeline, "pause"));
    };
    let known = requests.collections().await?;
    if known.is_empty() {
        return Err(resync::nothing(pipeline, "pause"));
    }
    let chosen = chosen("pause", &options.collections, &known, "no collection of the pipeline")?;
    requests.pause(&chosen).await?;
    let is_held = held(&requests, &chosen, &shutdown).await?;
    for collection in &chosen {
        say(format!("paused {}", printable(collection)))?;
    }
    let names: Vec<_> = options.collections.iter().map(|name| format!("'{}'", printable(name))).collect();
    let runner = requests.runner().await?;
    let so = match (&runner, is_held) {
        (PipelineRunner::Nobody, _) => {
            "no process runs the pipeline; the next one leaves them as they are".to_owned()
        }
        (_, true) => "nothing more is written to them, and their changes wait in the spool".to_owned(),
        (PipelineRunner::Process(runner) | PipelineRunner::Unheard(runner), false) => {
            format!("the docrow that runs the pipeline ({runner}) has not confirmed it yet")
        }
    };
    say(format!("{so}, until docrow resume {}", names.join(" ")))?;
    Ok(if is_held || runner == PipelineRunner::Nobody {
        CommandOutcome::Done
    } else {
        CommandOutcome::Finding
    })
}

pub(super) async fn resume(config: &TargetConfig, options: &PauseOptions) -> Result<CommandOutcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let Some(requests) = Requests::open(&target).await? else {
        return Err(resync::nothing(target.pipeline(), "resume"));
    };
    let paused: Vec<_> = requests.pauses().await?.into_iter().map(|pause| pause.collection).collect();
    if paused.is_empty() {
        let none = format!("no collection of pipeline {} is paused", target.pipeline());
        return Err(Error::new(Code::NothingMatched, none));
    }
    let chosen = chosen("resume", &options.collections, &paused, "no paused collection")?;
    requests.resume(&chosen).await?;
    for collection in &chosen {
        say(format!("{} resumes", printable(collection)))?;
    }
    Ok(CommandOutcome::Done)
}

/// Waits until the process that runs the pipeline writes nothing more to these collections. Returns whether
/// it does not.
async fn held(requests: &Requests, collections: &[String], shutdown: &Shutdown) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = requests.pauses().await?;
        let is_held = |pause: &PauseRequest| pause.is_held || !collections.contains(&pause.collection);
        if all.iter().all(is_held) {
            return Ok(true);
        }
        if Instant::now() > deadline
            || requests.runner().await? == PipelineRunner::Nobody
            || shutdown.is_requested()
        {
            return Ok(false);
        }
        sleep(POLL).await;
    }
}
