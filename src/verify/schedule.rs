//! `[verify] every`: verifies on schedule, inside the process that runs the pipeline, and stores what it finds.
//!
//! It only reads, as ever, by one worker and not faster than it may, and the pipeline waits for none of it. It
//! begins when all collections are live and the last one was long enough ago, whoever made it: the time is in
//! PostgreSQL, so that restarts and a standby that takes over go on with the schedule. What is stored are counts by collection: no keys, no
//! values (G12).

use std::{
    convert::Infallible,
    future::Future,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};

use super::{Compared, Options, Report, Sample};
use crate::{
    config::{Config, SampleSize, VerifyConfig},
    error::{Error, Kind, Result},
    metrics,
    shutdown::Shutdown,
    sink::{Target, verifications},
    telemetry::Reporter,
    vitals::Stage,
};

/// How often it is looked whether one is due.
const LOOKING: Duration = Duration::from_secs(1);
/// After how long one that came to nothing is tried again, or after the schedule's time, if that is shorter.
const AGAIN: Duration = Duration::from_secs(600);

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether every row that was compared is as its document says.
    pub equal: bool,
    /// How many differences there are.
    pub differences: u64,
    /// Documents of which it could not be told.
    pub unsettled: u64,
    /// Documents that were read.
    pub documents: u64,
    /// How long it took, in whole seconds.
    pub seconds: u64,
    /// How large a sample it was, as in the configuration; `null`: all documents.
    pub sample: Option<String>,
    /// The collections that are not equal, by name.
    pub collections: Vec<VerifiedCollection>,
}

/// A collection that is not equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedCollection {
    /// `database.collection`.
    pub name: String,
    /// How many differences it has.
    pub differences: u64,
    /// Documents of it of which it could not be told.
    pub unsettled: u64,
    /// Why, and what else there is to say.
    pub remarks: Vec<String>,
}

/// Does the work, and meanwhile verifies when the configuration says so.
pub async fn beside<T>(
    config: &Config,
    reporter: &Reporter,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(schedule) = config.verify.clone() else { return work.await };
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?.unattended();
    let stop = Shutdown::default();
    let scheduled = Scheduled {
        // Nobody waits for it: replication has the servers' time.
        config: Config { parallelism: 1, ..config.clone() },
        schedule,
        target,
        reporter: reporter.clone(),
        stop: stop.clone(),
    };
    let mut running = JoinSet::new();
    running.spawn(scheduled.run());
    let finished = work.await;
    stop.request();
    finished
}

struct Scheduled {
    config: Config,
    schedule: VerifyConfig,
    target: Target,
    reporter: Reporter,
    stop: Shutdown,
}

impl Scheduled {
    async fn run(self) -> Infallible {
        let mut due = None;
        loop {
            sleep(LOOKING).await;
            if self.reporter.vitals().stage().0 != Stage::Live {
                // Another process may have gone on with it meanwhile.
                due = None;
                continue;
            }
            let wait = match due {
                None => self.left().await,
                Some(_) if due.is_some_and(|due| SystemTime::now() < due) => continue,
                Some(_) => Ok(Duration::ZERO),
            };
            let wait = match wait {
                Ok(wait) if wait.is_zero() => self.verify().await.map(|()| self.schedule.every),
                wait => wait,
            };
            let wait = wait.unwrap_or_else(|error| {
                tracing::warn!(code = %error.code(), "the verification on schedule came to nothing: {error}");
                AGAIN.min(self.schedule.every)
            });
            due = Some(SystemTime::now() + wait);
        }
    }

    /// How long the last one is to be waited after.
    async fn left(&self) -> Result<Duration> {
        let session = self.target.connect().await?;
        let Some(last) = verifications::last(&session, self.target.pipeline()).await? else {
            return Ok(Duration::ZERO);
        };
        if let Ok(verified) = serde_json::from_str(&last.result) {
            show(&verified, last.at);
        }
        Ok(self.schedule.every.saturating_sub(last.at.elapsed().unwrap_or_default()))
    }

    async fn verify(&self) -> Result<()> {
        let sample = self.schedule.sample.map(|size| Sample { size, seed: fastrand::u64(..1_000_000) });
        let options = Options { sample, max_rate: self.schedule.max_rate, limit: 0, ..Options::default() };
        tracing::info!("verifying, as [verify] every says");
        let report = super::run(&self.config, &options, &Reporter::silent(), &self.stop).await?;
        if report.stopped {
            return Ok(());
        }
        let verified = Verified::of(&report);
        let result = serde_json::to_string(&verified);
        let result = result.map_err(|e| Error::caused(Kind::Bug, "write what a verification found", e))?;
        let mut session = self.target.connect().await?;
        verifications::store(&mut session, self.target.pipeline(), &result).await?;
        show(&verified, SystemTime::now());
        say(&verified);
        Ok(())
    }
}

impl Verified {
    fn of(report: &Report) -> Self {
        let sum = |count: fn(&Compared) -> u64| report.collections.iter().map(count).sum();
        let sample = report.sample.map(|sample| match sample.size {
            SampleSize::Documents(documents) => documents.to_string(),
            SampleSize::Percent(percent) => format!("{percent}%"),
        });
        let collections = report.collections.iter().filter(|collection| !collection.is_equal());
        let collections = collections.map(|collection| VerifiedCollection {
            name: collection.namespace.to_string(),
            differences: collection.different,
            unsettled: collection.unsettled,
            remarks: collection.remarks.clone(),
        });
        Self {
            equal: report.is_equal(),
            differences: report.different(),
            unsettled: sum(|collection| collection.unsettled),
            documents: sum(|collection| collection.documents),
            seconds: report.elapsed.as_secs(),
            sample,
            collections: collections.collect(),
        }
    }
}

fn show(verified: &Verified, at: SystemTime) {
    metrics::VERIFY_DIFFERENCES.set(metrics::figure(verified.differences));
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::VERIFY_LAST.set(at.as_secs_f64());
}

fn say(verified: &Verified) {
    let Verified { differences, unsettled, documents, seconds, .. } = verified;
    let names: Vec<_> = verified.collections.iter().map(|collection| &*collection.name).collect();
    let names = names.join(", ");
    match (differences, unsettled) {
        (0, 0) if verified.equal => tracing::info!("verified {documents} documents in {seconds} s: equal"),
        (0, _) => {
            tracing::info!("verified {documents} documents in {seconds} s: not all is settled: {names}")
        }
        (_, _) => tracing::error!(
            code = %crate::error::Code::Differs,
            "verified {documents} documents in {seconds} s: {differences} differences in {names}: docrow verify shows them"
        ),
    }
}
