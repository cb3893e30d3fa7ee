//! `[verify] every`: verifies on schedule, inside the process that runs the pipeline, and stores the result.
//!
//! It only reads, with one worker and at a limited rate, and the pipeline never waits for it. It starts when
//! all collections are live and the last verification was long enough ago, whichever process made it: the
//! time is in PostgreSQL, so that restarts and a standby that takes over continue the schedule.

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

/// How often to check whether one is due.
const LOOKING: Duration = Duration::from_secs(1);
/// After how long a failed one is retried, and differences are checked for repairs; or the schedule's
/// interval, if that is shorter.
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
        // Nothing waits for it, so one worker is enough: replication needs the servers' time.
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
                // Another process may have continued the schedule meanwhile.
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
                tracing::warn!(code = %error.code(), "the scheduled verification failed: {error}");
                AGAIN.min(self.schedule.every)
            });
            due = Some(SystemTime::now() + wait);
        }
    }

    /// How long to wait before checking again whether one is due.
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

    /// After how long to check again: differences may be repaired before the next verification.
    fn patience(&self, verified: &Verified) -> Duration {
        if verified.differences > 0 { AGAIN.min(self.schedule.every) } else { self.schedule.every }
    }

    /// Verifies. Returns how long to wait then.
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
            tracing::info!(
                "verified {documents} documents in {seconds} s: not all documents were settled: {names}"
            )
        }
        (_, _) => tracing::error!(
            code = %crate::error::Code::Differs,
            "verified {documents} documents in {seconds} s: {differences} differences in {names}: docrow verify shows them"
        ),
    }
}
