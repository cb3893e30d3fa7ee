//! Reports the run's status: once a second to this process's [vital signs](crate::process_status); and every
//! other second, and when a stage begins, to PostgreSQL, for readers elsewhere.
//!
//! It runs beside everything else, on a connection of its own, and nothing waits for it: what it can't write
//! now it leaves out, and tries again. A report is written like everything else, under the pipeline's epoch:
//! a process that lost the pipeline can't speak for it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    error::{Error, Kind, Result},
    pipeline::{
        counts::Counts,
        gauges::Gauges,
        ports::{DocumentSource, RowTarget, TargetSession},
        stream::channel::ApplyState,
    },
    process_status::{Details, Reading, Spool, Stage, Totals, Vitals},
};

const EACH: Duration = Duration::from_secs(1);
const REPORTING: Duration = Duration::from_secs(2);
/// How long a report may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last report may hold up the end.
const LAST: Duration = Duration::from_secs(2);

/// Where reports go, and how many were tried.
#[derive(Default)]
pub(crate) struct ProcessReports {
    /// The target as it was last held, to be written to as long as no other process holds it.
    held: Mutex<Option<Arc<dyn RowTarget>>>,
    /// Counts reports that were written, or could not be.
    attempts: watch::Sender<u64>,
}

impl ProcessReports {
    /// Writes reports to this target from now on.
    pub(crate) fn write_to(&self, target: Arc<dyn RowTarget>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
    }

    fn held(&self) -> Option<Arc<dyn RowTarget>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enters a stage, and waits for its report before anything else connects: if a role may have only few
    /// connections, the reports have one, and can say that there is none for the rest.
    pub(crate) async fn report_first(&self, stage: Stage, vitals: &Vitals) {
        let mut attempts = self.attempts.subscribe();
        vitals.enter(stage, None);
        // A stage that can't be reported holds up nothing.
        let _ = timeout(LAST, attempts.changed()).await;
    }
}

/// Reports a run's state.
pub(crate) struct StateReporter {
    pub(crate) reports: Arc<ProcessReports>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) source: Arc<dyn DocumentSource>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) apply_state: watch::Receiver<ApplyState>,
    pub(crate) max_spool: u64,
    /// The reports' own.
    pub(crate) connection: tokio::sync::Mutex<Option<ReportConnection>>,
}

pub(crate) struct ReportConnection {
    session: Box<dyn TargetSession>,
    /// The details that were written last over it.
    told: Option<Details>,
}

impl StateReporter {
    /// Reports for as long as it is polled.
    pub(crate) async fn run(&self) -> Infallible {
        tokio::join!(self.read(), self.write()).0
    }

    /// As long as this continues, so does the task that runs everything.
    async fn read(&self) -> Infallible {
        let vitals = &self.vitals;
        let mut ticks = interval(EACH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            vitals.beat();
            vitals.hear(self.gauges.clock(&*self.source));
            let (live, stopped) = {
                let apply_state = self.apply_state.borrow();
                (apply_state.live(), apply_state.collections.iter().filter(|c| c.stopped().is_some()).count())
            };
            let (resumes_from, spool) = self.gauges.stream();
            let spool = Spool { budget: self.max_spool, ..spool };
            let lag = self.gauges.lag(&live);
            vitals.take(Reading { totals: self.totals(), spool, lag, resumes_from, stopped });
        }
    }

    async fn write(&self) -> Infallible {
        loop {
            tokio::select! {
                biased;
                () = self.vitals.news() => {}
                () = sleep(REPORTING) => {}
            }
            if self.report().await.is_some() {
                self.reports.attempts.send_modify(|attempts| *attempts = attempts.wrapping_add(1));
            }
        }
    }

    /// Writes a report, and its details, if these have changed. `None`: no pipeline is held.
    async fn report(&self) -> Option<Result<()>> {
        let target = self.reports.held()?;
        let mut connection = self.connection.lock().await;
        let written = timeout(PATIENCE, async {
            let ReportConnection { session, told } = match &mut *connection {
                Some(connection) => connection,
                none => none.insert(ReportConnection { session: target.connect().await?, told: None }),
            };
            let (report, details) = self.vitals.report();
            let changed = (told.as_ref() != Some(&details)).then(|| json(&details)).transpose()?;
            session.store_report(&json(&report)?, changed.as_deref()).await?;
            *told = Some(details);
            Ok(())
        });
        let written =
            written.await.unwrap_or_else(|_| Err(Error::new(Kind::TargetAway, "report: no answer")));
        if written.is_err() {
            *connection = None;
        }
        Some(written)
    }

    /// Writes the last report, unless another process holds the pipeline.
    pub(crate) async fn report_last(&self) {
        let reported = timeout(LAST, async {
            match self.report().await {
                // The connection may have ended since the report before.
                Some(Err(_)) => self.report().await,
                reported => reported,
            }
        });
        if let Ok(Some(Err(error))) = reported.await {
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
