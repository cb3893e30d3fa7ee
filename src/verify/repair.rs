//! Has differences repaired by the process that may write, and checks whether they are.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    recheck::Rechecker,
    suspect::{ConfirmedDifference, SettledSuspects, Suspect},
};
use crate::{
    config::Config,
    error::{Kind, Result},
    pipeline,
    sink::{
        Target,
        metadata::{repair_requests::Repairs, requests::Requests, runner::PipelineRunner},
    },
    source::{CollectionInfo, Source},
};

/// How often a repair is requested, and how long to wait before the first check; each wait is twice as long.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(50);
/// How long a request may stay unanswered: the running process checks every second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has rows of a collection repaired.
pub(super) struct RepairSession<'a> {
    config: &'a Config,
    source: &'a Source,
    target: &'a Target,
    info: &'a CollectionInfo,
    /// Whether requests were not even accepted.
    unheard: bool,
}

impl<'a> RepairSession<'a> {
    pub(super) fn new(
        config: &'a Config,
        source: &'a Source,
        target: &'a Target,
        info: &'a CollectionInfo,
    ) -> Self {
        Self { config, source, target, info, unheard: false }
    }

    /// Has everything found repaired, and marks what certainly is.
    pub(super) async fn mend(
        &mut self,
        found: &mut [ConfirmedDifference],
        rechecker: &mut Rechecker<'_>,
    ) -> Result<()> {
        let mut left: Vec<Suspect> = found.iter().map(|found| found.suspect.clone()).collect();
        let mut pause = PAUSE;
        for _ in 0..TRIES {
            if left.is_empty() || rechecker.shutdown.is_requested() || self.unheard {
                break;
            }
            self.request(&left, pause).await?;
            pause *= 2;
            let SettledSuspects { found, open, .. } = rechecker.settle(left).await?;
            left = found.into_iter().map(|found| found.suspect).chain(open).collect();
        }
        let left: HashSet<_> = left.iter().map(identity).collect();
        found.iter_mut().for_each(|found| found.is_mended = !left.contains(&identity(&found.suspect)));
        Ok(())
    }

    /// The remark.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        let unheard =
            "the docrow that runs the pipeline accepts no repairs: is it an earlier version? Restart it";
        self.unheard.then(|| unheard.to_owned()).into_iter()
    }

    /// Has these repaired once.
    async fn request(&mut self, suspects: &[Suspect], pause: Duration) -> Result<()> {
        let mut repairs = Repairs::default();
        for Suspect { key, document_key, .. } in suspects {
            match (document_key, key) {
                (Some(document_key), _) => repairs.documents.push(document_key.clone()),
                (None, Some(key)) => repairs.keys.push(key),
                (None, None) => {}
            }
        }
        let Some(requests) = Requests::open(self.target).await? else { return Ok(()) };
        if !matches!(requests.runner().await?, PipelineRunner::Process(_)) {
            match pipeline::repair(self.config, self.source, self.info, &repairs).await {
                // A process has just started to run the pipeline.
                Err(error) if error.kind() == Kind::Fenced => {}
                repaired => return repaired,
            }
        }
        let name = self.info.namespace.to_string();
        requests.repair(&name, &repairs).await?;
        let deadline = Instant::now() + PATIENCE;
        while requests.repairs_left(&name).await? > 0 {
            if Instant::now() > deadline {
                self.unheard = true;
                return requests.take_back_repairs(&name).await;
            }
            sleep(POLL).await;
        }
        sleep(pause).await;
        Ok(())
    }
}

fn identity(suspect: &Suspect) -> Vec<u8> {
    match (&suspect.document_key, &suspect.key) {
        (Some(document_key), _) => document_key.as_bytes().to_vec(),
        (None, Some(key)) => key.to_vec(),
        (None, None) => Vec::new(),
    }
}
