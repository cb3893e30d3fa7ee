//! `docrow resync`: asks the process that runs the pipeline, or the next one, to copy collections again in
//! place.

use clap::Args;
use serde_json::json;

use super::{
    outcome::CommandOutcome,
    printable::{printable, say},
};
use crate::{
    config::TargetConfig,
    error::{Code, Error, Result},
    sink::{
        Target,
        metadata::{requests::Requests, runner::PipelineRunner},
    },
    source::chosen,
};

#[derive(Debug, Args)]
pub(super) struct ResyncOptions {
    /// Which collections, as database.collection, globs allowed
    #[arg(required = true, value_name = "NS")]
    collections: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(
    config: &TargetConfig,
    ResyncOptions { collections, json }: ResyncOptions,
) -> Result<CommandOutcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let pipeline = target.pipeline();
    let Some(mut requests) = Requests::open(&target).await? else {
        return Err(nothing(pipeline, "copy again"));
    };
    let known = requests.collections().await?;
    if known.is_empty() {
        return Err(nothing(pipeline, "copy again"));
    }
    let chosen = chosen("resync", &collections, &known, "no collection of the pipeline")?;
    requests.resync(&chosen).await?;
    let runner = requests.runner().await?;
    if json {
        let runner = if let PipelineRunner::Process(runner) = &runner { Some(runner) } else { None };
        say(json!({ "pipeline": pipeline, "collections": chosen, "runner": runner }))?;
        return Ok(CommandOutcome::Done);
    }
    for collection in &chosen {
        say(format!("requested a resync of {}", printable(collection)))?;
    }
    let who = match runner {
        PipelineRunner::Process(runner) => {
            format!("the docrow that runs pipeline {pipeline} ({runner}) starts within seconds")
        }
        PipelineRunner::Nobody => {
            format!("no process runs pipeline {pipeline}: the next `docrow run` starts with it")
        }
        PipelineRunner::Unheard(runner) => format!(
            "the process that ran pipeline {pipeline} ({runner}) is not heard of: it starts once it reaches \
             PostgreSQL, or else the next `docrow run` does"
        ),
    };
    say(format!(
        "{who}: rows are replaced in place while readers continue, then those without a document are deleted"
    ))?;
    Ok(CommandOutcome::Done)
}

/// The error for a pipeline that has copied nothing.
pub(super) fn nothing(pipeline: &str, what: &str) -> Error {
    let advice = "check name and target in the configuration";
    Error::new(
        Code::NotCopied,
        format!("pipeline {pipeline} has copied nothing yet: there is nothing to {what}: {advice}"),
    )
}
