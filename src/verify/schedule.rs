//! `[verify] every`: verifies on schedule, inside the process that runs the pipeline, and stores what it finds.
//!
//! It only reads, as ever, by one worker and not faster than it may, and the pipeline waits for none of it. It
//! begins when all collections are live and the last one was long enough ago, whoever made it: the time is in
//! PostgreSQL, so that restarts and a standby that takes over go on with the schedule.

use std::{
    convert::Infallible,
    future::Future,
    time::{Duration, SystemTime},
};

use tokio::{task::JoinSet, time::sleep};

use super::{RandomSample, Verified, VerifyOptions};
use crate::{
    config::{Config, VerifyConfig},
    error::Result,
    metrics,
    process_status::Stage,
    shutdown::Shutdown,
    sink::{Target, metadata::verifications},
    telemetry::Reporter,
};

/// How often it is looked whether one is due.
const LOOKING: Duration = Duration::from_secs(1);
/// After how long one that came to nothing is tried again, and it is looked whether differences are mended; or after the
/// schedule's time, if that is shorter.
const AGAIN: Duration = Duration::from_secs(600);

/// Does the work, and meanwhile verifies when the configuration says so.
pub async fn beside<T>(
    config: &Config,
    reporter: &Reporter,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(schedule) = config.verify.clone() else { return work.await };
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?.unattended();
    let stop = Shutdown::default();
    let scheduled = ScheduledVerification {
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

struct ScheduledVerification {
    config: Config,
    schedule: VerifyConfig,
    target: Target,
    reporter: Reporter,
    stop: Shutdown,
}

impl ScheduledVerification {
    async fn run(self) -> Infallible {
        let mut due = None;
        loop {
            sleep(LOOKING).await;
            if self.reporter.vitals().stage().0 != Stage::Live {
                // Another process may have gone on with it meanwhile.
                due = None;
                continue;
            }
            if due.is_some_and(|due| SystemTime::now() < due) {
                continue;
            }
            let wait = match self.left().await {
                Ok(wait) if wait.is_zero() => self.verify().await,
                wait => wait,
            };
            let wait = wait.unwrap_or_else(|error| {
                tracing::warn!(code = %error.code(), "the verification on schedule came to nothing: {error}");
                AGAIN.min(self.schedule.every)
            });
            due = Some(SystemTime::now() + wait);
        }
    }

    /// How long to wait before it is looked again whether one is due.
    async fn left(&self) -> Result<Duration> {
        let session = self.target.connect().await?;
        let Some(last) = verifications::last(&session, self.target.pipeline()).await? else {
            return Ok(Duration::ZERO);
        };
        let left = self.schedule.every.saturating_sub(last.at.elapsed().unwrap_or_default());
        let Ok(verified) = serde_json::from_str(&last.result) else { return Ok(left) };
        show(&verified, last.at);
        Ok(left.min(self.patience(&verified)))
    }

    /// After how long to look again: differences may be mended before the next verification.
    fn patience(&self, verified: &Verified) -> Duration {
        if verified.differences > 0 { AGAIN.min(self.schedule.every) } else { self.schedule.every }
    }

    /// Verifies. How long to wait then.
    async fn verify(&self) -> Result<Duration> {
        let sample = self.schedule.sample.map(|size| RandomSample { size, seed: fastrand::u64(..1_000_000) });
        let options =
            VerifyOptions { sample, max_rate: self.schedule.max_rate, limit: 0, ..VerifyOptions::default() };
        tracing::info!("verifying, as [verify] every says");
        let report = super::run(&self.config, &options, &Reporter::silent(), &self.stop).await?;
        if report.stopped {
            return Ok(self.schedule.every);
        }
        let verified = Verified::from_report(&report);
        let mut session = self.target.connect().await?;
        verifications::store(&mut session, self.target.pipeline(), &verified.to_json()?).await?;
        show(&verified, SystemTime::now());
        say(&verified);
        Ok(self.patience(&verified))
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
