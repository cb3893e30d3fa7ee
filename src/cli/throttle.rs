//! `docrow throttle`: sets how fast the pipeline's snapshots may read.

use clap::Args;

use super::{
    outcome::CommandOutcome,
    printable::{printable, say},
    resync,
};
use crate::{
    config::{Rate, TargetConfig},
    error::Result,
    sink::{
        Target,
        metadata::{requests::Requests, runner::PipelineRunner, throttles::Throttle},
    },
};

#[derive(Debug, Args)]
pub(super) struct ThrottleOptions {
    /// Documents (5000) or bytes (20MiB) per second; off: no limit; config: as [snapshot] max_rate says
    #[arg(value_name = "RATE", value_parser = rate)]
    rate: Throttle,
}

fn rate(text: &str) -> Result<Throttle, String> {
    match text {
        "off" => Ok(Throttle::Off),
        "config" => Ok(Throttle::AsConfigured),
        text => match text.parse::<Rate>() {
            Ok(_) => Ok(Throttle::AtMost(text.to_owned())),
            Err(wrong) => Err(format!("{wrong}; or off, or config")),
        },
    }
}

pub(super) async fn execute(
    config: &TargetConfig,
    ThrottleOptions { rate }: ThrottleOptions,
) -> Result<CommandOutcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let Some(requests) = Requests::open(&target).await? else {
        return Err(resync::nothing(target.pipeline(), "throttle"));
    };
    requests.throttle(&rate).await?;
    let limit = match &rate {
        Throttle::AsConfigured => "as fast as the configuration says".to_owned(),
        Throttle::Off => "as fast as possible".to_owned(),
        Throttle::AtMost(text) => match text.parse::<Rate>() {
            Ok(rate) => format!("at most {rate}"),
            Err(_) => text.clone(),
        },
    };
    say(match requests.runner().await? {
        PipelineRunner::Process(runner) | PipelineRunner::Unheard(runner) => {
            format!(
                "snapshots read {limit}: the docrow that runs the pipeline ({}) applies it within seconds",
                printable(&runner)
            )
        }
        PipelineRunner::Nobody => format!("snapshots read {limit}, once a process runs the pipeline"),
    })?;
    Ok(CommandOutcome::Done)
}
