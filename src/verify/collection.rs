//! The verification of one collection: the first pass and the rechecker run side by side, then the search for
//! rows without documents; and the remarks about it.

use std::sync::{Arc, Mutex as PlainMutex, OnceLock, atomic::Ordering};

use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};

use super::{
    ComparedCollection, ComparisonState, VerifyOptions,
    diff::DiffOptions,
    pipeline_state::PipelineState,
    recheck::Rechecker,
    repair::RepairSession,
    scan::{self, CollectionScan, ScanTotals},
    suspect::{ConfirmedDifference, OpenReason, SettledSuspects, Suspect},
    window::EventWindow,
};
use crate::{
    config::Config,
    error::{Kind, Result},
    rate_limit::Pace,
    shutdown::Shutdown,
    sink::{
        Target,
        metadata::{dead_letters::DeadKeys, mapping_versions, requests::Requests},
        rows::read::Reader,
    },
    source::{CollectionInfo, Source},
    telemetry::Reporter,
};

/// How many suspects are rechecked together.
const TOGETHER: usize = 4_000;
/// If this many documents differ, or a tenth of all, a resync is better.
const MANY: u64 = 10_000;

/// The verification of a collection.
pub(super) struct Verification<'a> {
    pub(super) config: &'a Config,
    pub(super) options: &'a VerifyOptions,
    pub(super) source: &'a Source,
    pub(super) target: &'a Target,
    pub(super) info: &'a CollectionInfo,
    pub(super) pace: &'a Arc<Pace<f64>>,
    pub(super) reporter: &'a Reporter,
    pub(super) shutdown: &'a Shutdown,
}

impl Verification<'_> {
    /// Compares everything; once more, if columns that it was reading were replaced meanwhile.
    pub(super) async fn run(self) -> Result<ComparedCollection> {
        let config = Arc::new(self.config.clone());
        loop {
            let name = self.info.namespace.to_string();
            let ledger = PipelineState::open(config.clone(), self.target, name).await?;
            let before = ledger.in_force().version();
            match self.attempt(ledger).await {
                Err(error)
                    if error.kind() == Kind::TargetRefused && self.version().await? != Some(before) =>
                {
                    let name = &self.info.namespace;
                    tracing::info!("{name}: compared again: its columns have changed meanwhile");
                }
                ended => return ended,
            }
        }
    }

    /// The version of the mapping in force.
    async fn version(&self) -> Result<Option<u16>> {
        let (session, name) = (self.target.connect().await?, self.info.namespace.to_string());
        let stored = mapping_versions::load_one(&session, self.target.pipeline(), &name).await?;
        Ok(stored.map(|mapping| mapping.version))
    }

    async fn attempt(&self, mut ledger: PipelineState) -> Result<ComparedCollection> {
        let began = Instant::now();
        let mut compared = ComparedCollection::new(self.info.namespace.clone());
        let standing = ledger.look().await?;
        if let Some(reason) = &standing.stopped {
            compared.remark(format!("it is stopped: {reason}"));
        }
        let extent = standing.extent;
        if !extent.is_complete() {
            let copied = format!("{} of {} chunks are copied", extent.copied, extent.chunks);
            if ledger.runner().await?.is_some() {
                compared.standing = ComparisonState::Copying;
                compared.remark(format!("it is being copied ({copied}): verify it when it is live"));
                return Ok(compared);
            }
            compared.remark(format!("its copy is not complete ({copied}): docrow run continues it"));
        }
        let missing = ledger.missing().await?;
        if missing.is_empty() {
            self.compare(ledger, &mut compared).await?;
        } else {
            compared.standing = ComparisonState::Incomplete;
            compared.different = u64::try_from(missing.len()).unwrap_or(0);
            compared.differences = missing;
            compared.differences.truncate(self.options.limit);
            self.restore(&mut compared).await?;
        }
        compared.elapsed = began.elapsed();
        Ok(compared)
    }

    /// Repairs what was dropped, or says how to: a resync creates it again.
    async fn restore(&self, compared: &mut ComparedCollection) -> Result<()> {
        compared.remark(
            "a resync must create again what was dropped: nothing else of the collection is compared",
        );
        let name = self.info.namespace.to_string();
        if !self.options.repair {
            compared.remark(format!("docrow verify --repair, or docrow resync '{name}', does that"));
            return Ok(());
        }
        let Some(mut requests) = Requests::open(self.target).await? else { return Ok(()) };
        requests.resync(&[name]).await?;
        compared.remark("docrow run now starts a resync: verify it again after that");
        Ok(())
    }

    async fn compare(&self, ledger: PipelineState, compared: &mut ComparedCollection) -> Result<()> {
        let name = self.info.namespace.to_string();
        let choice = self.options.sample.and_then(|sample| sample.choice(self.info.documents));
        let (in_force, watch, dead) = (ledger.in_force(), ledger.watch(), ledger.dead().await?);
        let ledger = Arc::new(Mutex::new(ledger));
        let mut seen = Reader::new(self.target.connect().await?, self.target);
        if let Some(root) = in_force.mapping.tables().first() {
            seen.forget_seen(root).await?;
        }
        let total = choice.map_or(self.info.documents, |choice| choice.expected(self.info.documents));
        let bar = self.reporter.bar(format!("verifying {name}"), total, 0, "documents");
        let scan = Arc::new(CollectionScan {
            source: self.source.clone(),
            target: self.target.clone(),
            info: self.info.clone(),
            name: name.clone(),
            workers: self.config.parallelism.max(1),
            choice,
            in_force: watch,
            ledger: ledger.clone(),
            dead,
            met: PlainMutex::new(DeadKeys::default()),
            seen: Mutex::new(seen),
            pace: self.pace.clone(),
            bar: bar.clone(),
            shutdown: self.shutdown.clone(),
            totals: ScanTotals::default(),
        });
        let line = Arc::new(OnceLock::new());
        let mut second_pass = SecondPass {
            rechecker: Rechecker {
                source: self.source,
                target: self.target,
                info: self.info,
                reader: None,
                window: EventWindow::new(self.source, &self.info.namespace),
                telling: DiffOptions { most: self.options.limit, values: self.options.values },
                patience: self.options.patience,
                shutdown: self.shutdown,
                given_up: None,
                line: line.clone(),
                ledger,
            },
            mender: self
                .options
                .repair
                .then(|| RepairSession::new(self.config, self.source, self.target, self.info)),
            limit: self.options.limit,
            compared,
        };
        let (sender, suspects) = mpsc::channel(scan::WAITING);
        let scanning = async {
            scan.clone().run(sender).await?;
            bar.finish_and_clear();
            let words = format!("{name}: looking for rows without a document");
            line.get_or_init(|| self.reporter.line(words));
            Result::<()>::Ok(())
        };
        tokio::try_join!(scanning, second_pass.receive_suspects(suspects))?;
        second_pass.sweep(&scan).await?;
        if let Some(line) = line.get() {
            line.finish_and_clear();
        }
        let ScanTotals { documents, rows, dead_letters } = &scan.totals;
        compared.documents = documents.load(Ordering::Relaxed);
        compared.rows = rows.load(Ordering::Relaxed);
        compared.dead_letters = match choice {
            Some(_) => dead_letters.load(Ordering::Relaxed),
            // The number of those that exist now: some documents became dead letters, or stopped being one,
            // meanwhile.
            None => {
                let dead = scan.ledger.lock().await.dead().await?.count(&name);
                u64::try_from(dead).unwrap_or(u64::MAX)
            }
        };
        advise_resync(&name, compared);
        compared.differences.sort_by(|a, b| (&a.table, &a.key, &a.row).cmp(&(&b.table, &b.key, &b.row)));
        Ok(())
    }
}

/// Where so many documents differ that repairing each of them makes no sense.
fn advise_resync(name: &str, compared: &mut ComparedCollection) {
    let left = compared.different_documents > 0 && compared.different > compared.mended;
    if left
        && (compared.different_documents >= MANY
            || compared.different_documents > compared.documents / 10 + 100)
    {
        compared.remark(format!("docrow resync {name} copies all of it again, in place"));
    }
}

/// Rechecks, has differences repaired, and records what is found.
pub(super) struct SecondPass<'a> {
    pub(super) rechecker: Rechecker<'a>,
    mender: Option<RepairSession<'a>>,
    limit: usize,
    compared: &'a mut ComparedCollection,
}

impl SecondPass<'_> {
    /// Rechecks suspects as they arrive.
    async fn receive_suspects(&mut self, mut suspects: mpsc::Receiver<Vec<Suspect>>) -> Result<()> {
        while let Some(mut together) = suspects.recv().await {
            while together.len() < TOGETHER
                && let Ok(more) = suspects.try_recv()
            {
                together.extend(more);
            }
            self.recheck_all(together).await?;
        }
        Ok(())
    }

    pub(super) async fn recheck_all(&mut self, suspects: Vec<Suspect>) -> Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.compared.rechecked += u64::try_from(suspects.len()).unwrap_or(0);
        let SettledSuspects { mut found, open, why } = self.rechecker.settle(suspects).await?;
        self.leave_open(open.len(), why);
        let is_paused = self.mender.is_some() && self.rechecker.ledger.lock().await.look().await?.is_paused;
        if is_paused && !found.is_empty() {
            self.compared.remark("it is paused: nothing is repaired until docrow resume");
        } else if let Some(mender) = self.mender.as_mut().filter(|_| !found.is_empty()) {
            mender.mend(&mut found, &mut self.rechecker).await?;
            mender.remarks().for_each(|remark| self.compared.remark(remark));
        }
        found.into_iter().for_each(|found| self.write_down(found));
        Ok(())
    }

    fn write_down(&mut self, ConfirmedDifference { differences, is_mended, .. }: ConfirmedDifference) {
        self.compared.different_documents += 1;
        self.compared.different += differences.count;
        self.compared.mended += if is_mended { differences.count } else { 0 };
        for mut difference in differences.kept {
            if self.compared.differences.len() < self.limit {
                difference.mended = is_mended;
                self.compared.differences.push(difference);
            }
        }
    }

    fn leave_open(&mut self, open: usize, why: Option<OpenReason>) {
        self.compared.unsettled += u64::try_from(open).unwrap_or(0);
        let Some(why) = why else { return };
        let patience = self.rechecker.patience.as_secs();
        self.compared.remark(match why {
            OpenReason::NotApplied => {
                "documents changed since docrow stopped, so they could not be compared: \
                verify again when docrow run has caught up"
                    .to_owned()
            }
            OpenReason::Behind => format!(
                "documents changed, and docrow did not apply the changes in {patience} seconds, or they \
                 changed faster than they could be rechecked: verify again, or with more --patience"
            ),
            OpenReason::HistoryLost => {
                "the oplog no longer holds the changes since docrow stopped: run it again, \
                which says what to do"
                    .to_owned()
            }
            OpenReason::Copying => "it is being resynced: verify it when it is live".to_owned(),
            OpenReason::Paused => {
                "it is paused, and documents changed since: verify it again once it is resumed".to_owned()
            }
            OpenReason::Stopped => "stopped: documents that differed at first were not rechecked".to_owned(),
        });
    }
}
