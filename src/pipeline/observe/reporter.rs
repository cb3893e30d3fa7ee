//! Tells how the run goes: once a second to this process's [vital signs](crate::process_status), and every other second, and when
//! a stage begins, to PostgreSQL, for whoever asks from elsewhere.
//!
//! It runs beside everything else, on a connection of its own, and nothing waits for it: what it can't write now it leaves
//! out, and tries again. A report is written as everything is, by the pipeline's epoch: a process that lost the
//! pipeline can't speak for it.

use std::{
    convert::Infallible,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::{
    error::{Error, Kind, Result},
    pipeline::{
        context::{Counts, Pipeline},
        ports::{RowTarget, TargetSession},
    },
    process_status::{Details, Reading, Spool, Stage, Totals},
};

const EACH: Duration = Duration::from_secs(1);
const REPORTING: Duration = Duration::from_secs(2);
/// How long a report may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end is held up by the last one.
const LAST: Duration = Duration::from_secs(2);

impl Pipeline {
    /// Keeps the target that was taken hold of.
    pub(crate) fn take_hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.target.clone());
    }

    fn held(&self) -> Option<Arc<dyn RowTarget>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells for as long as it is polled.
    pub(crate) async fn chronicle(&self) -> Infallible {
        tokio::join!(self.read(), self.write()).0
    }

    /// As long as this goes on, so does the task that everything runs in.
    async fn read(&self) -> Infallible {
        let vitals = self.reporter.vitals();
        let mut ticks = interval(EACH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            vitals.beat();
            vitals.hear(self.gauges.clock(&*self.source));
            let (live, stopped) = {
                let demand = self.demand.borrow();
                (demand.live(), demand.collections.iter().filter(|c| c.stopped().is_some()).count())
            };
            let (resumes_from, spool) = self.gauges.stream();
            let spool = Spool { budget: self.config.max_spool, ..spool };
            let lag = self.gauges.lag(&live);
            vitals.take(Reading { totals: self.totals(), spool, lag, resumes_from, stopped });
        }
    }

    async fn write(&self) -> Infallible {
        let (mut session, mut told) = (None, None);
        loop {
            tokio::select! {
                biased;
                () = self.reporter.vitals().news() => {}
                () = sleep(REPORTING) => {}
            }
            let Some(target) = self.held() else { continue };
            let done = timeout(PATIENCE, async {
                let session = match &mut session {
                    Some(session) => session,
                    none => none.insert(target.connect().await?),
                };
                self.report(&mut **session, &mut told).await
            });
            if !matches!(done.await, Ok(Ok(()))) {
                (session, told) = (None, None);
            }
            self.told.send_modify(|told| *told = told.wrapping_add(1));
        }
    }

    /// Enters a stage, and has that reported before anything else is connected: where a role may have few connections, the
    /// reports have one, and can say that there is none for the rest.
    pub(crate) async fn report_first(&self, stage: Stage) {
        let mut told = self.told.subscribe();
        self.reporter.vitals().enter(stage, None);
        // What can't be reported holds up nothing.
        let _ = timeout(LAST, told.changed()).await;
    }

    /// Writes a report, and those details that have changed since.
    async fn report(&self, session: &mut dyn TargetSession, told: &mut Option<Details>) -> Result<()> {
        let (report, details) = self.reporter.vitals().report();
        let changed = (told.as_ref() != Some(&details)).then(|| json(&details)).transpose()?;
        session.store_report(&json(&report)?, changed.as_deref()).await?;
        *told = Some(details);
        Ok(())
    }

    /// Writes the last report, unless another process holds the pipeline.
    pub(crate) async fn say_last(&self) {
        let Some(target) = self.held() else { return };
        let said = timeout(LAST, async {
            let mut session = target.connect().await?;
            self.report(&mut *session, &mut None).await
        });
        if let Ok(Err(error)) = said.await {
            tracing::debug!("{error}: the end is not reported");
        }
    }

    fn totals(&self) -> Totals {
        let Counts { documents, rows, replaced, rewritten, changes, dead_letters, .. } = &*self.counts;
        let sum = |counters: &[&AtomicU64]| counters.iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>();
        Totals {
            documents: sum(&[documents, replaced]),
            rows: sum(&[rows, rewritten]),
            changes: sum(&[changes]),
            dead_letters: sum(&[dead_letters]),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::caused(Kind::Bug, "write a report", e))
}
