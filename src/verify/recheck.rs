//! Rechecks suspects until it is certain whether their rows are wrong: [`super`] has the argument.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use indicatif::{HumanCount, ProgressBar};
use mongodb::bson::Timestamp;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    diff::{DiffOptions, DocumentDifferences},
    pipeline_state::{CollectionState, PipelineState},
    recheck_batch::RecheckBatch,
    suspect::{ConfirmedDifference, OpenReason, SettledSuspects, Suspect},
    window::{EventWindow, WindowReach},
};
use crate::{
    error::{Kind, Result},
    shutdown::Shutdown,
    sink::{Target, rows::read::Reader},
    source::{CollectionInfo, Source},
};

/// How many suspects are rechecked together, and about how many bytes of rows they may have.
const TOGETHER: usize = 500;
const BYTES: usize = 8 << 20;
/// The limit for reading the rows of several documents: beyond it, they are rechecked in halves.
const MOST_BYTES: usize = 32 << 20;
/// How often a suspect is rechecked, and the waits in between, besides waiting for the pipeline: the first,
/// and the maximum.
const ROUNDS: u32 = 12;
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
const POLL: Duration = Duration::from_millis(50);
/// How long to wait again for a pipeline that was waited for in vain.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// After how long the log says what it is waiting for.
const LONG: Duration = Duration::from_secs(1);
/// How long the change stream may take to reach the present.
const READING: Duration = Duration::from_secs(60);
/// For how many documents their earlier states are requested, and at how many times each.
const PAST_DOCUMENTS: usize = 50;
const PAST_TIMES: usize = 30;

enum SuspectVerdict {
    Same,
    Differs(DocumentDifferences),
    Open(OpenReason),
}

/// A suspect, and whether it was found different the last time.
struct SuspectEntry {
    suspect: Suspect,
    differed: bool,
}

/// The rechecker of one collection.
pub(super) struct Rechecker<'a> {
    pub(super) source: &'a Source,
    pub(super) target: &'a Target,
    pub(super) info: &'a CollectionInfo,
    pub(super) ledger: Arc<Mutex<PipelineState>>,
    /// Connects when there is a suspect.
    pub(super) reader: Option<Reader>,
    pub(super) window: EventWindow,
    pub(super) telling: DiffOptions,
    pub(super) patience: Duration,
    pub(super) shutdown: &'a Shutdown,
    /// Why nothing more is waited for.
    pub(super) given_up: Option<OpenReason>,
    /// Reports what is being done, once the first pass is over.
    pub(super) line: Arc<OnceLock<ProgressBar>>,
}

impl Rechecker<'_> {
    /// Rechecks suspects until all that can be settled are.
    pub(super) async fn settle(&mut self, suspects: Vec<Suspect>) -> Result<SettledSuspects> {
        let mut settled = SettledSuspects::default();
        let entry = |suspect| SuspectEntry { suspect, differed: false };
        let mut left: Vec<_> = suspects.into_iter().map(entry).collect();
        let (mut pause, deadline) = (PAUSES.0, Instant::now() + self.patience);
        let since = self.source.operation_time().await?;
        for round in 0..ROUNDS {
            self.say(&format!("rechecking what differed ({})", documents(left.len())));
            let RecheckRound { next, until, why } =
                self.round(left, (round > 0).then_some(since), &mut settled).await?;
            left = next;
            if left.is_empty() {
                return Ok(settled);
            }
            if let Some(why) = why
                && let Some(why) = self.wait(until, left.len(), why, pause, deadline).await?
            {
                let (certain, open): (Vec<_>, Vec<_>) = left.into_iter().partition(|entry| entry.differed);
                settled.leave(open.into_iter().map(|entry| entry.suspect), why);
                left = certain;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        settled.leave(left.into_iter().map(|entry| entry.suspect), OpenReason::Behind);
        Ok(settled)
    }

    /// Rechecks all of them once. `past`: since when earlier states of documents count.
    async fn round(
        &mut self,
        entries: Vec<SuspectEntry>,
        past: Option<Timestamp>,
        settled: &mut SettledSuspects,
    ) -> Result<RecheckRound> {
        let mut round =
            RecheckRound { next: Vec::new(), until: Timestamp { time: 0, increment: 0 }, why: None };
        let mut parts = parts(entries);
        while let Some(mut part) = parts.pop() {
            if self.shutdown.is_requested() {
                round.why = Some(OpenReason::Stopped);
                round.next.extend(part.into_iter().map(|entry| SuspectEntry { differed: false, ..entry }));
                continue;
            }
            let Some((verdicts, time)) = self.look(&part, past).await? else {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
                continue;
            };
            round.until = round.until.max(time);
            for (SuspectEntry { suspect, differed }, verdict) in part.into_iter().zip(verdicts) {
                match verdict {
                    SuspectVerdict::Same => {}
                    SuspectVerdict::Differs(differences) if differed => {
                        settled.found.push(ConfirmedDifference { suspect, differences, is_mended: false });
                    }
                    SuspectVerdict::Differs(_) => round.next.push(SuspectEntry { suspect, differed: true }),
                    SuspectVerdict::Open(why) => {
                        round.why = Some(why);
                        round.next.push(SuspectEntry { suspect, differed: false });
                    }
                }
            }
        }
        Ok(round)
    }

    /// Waits until the pipeline is past `until`, and a while longer. Returns the reason if another recheck
    /// makes no sense.
    async fn wait(
        &mut self,
        until: Timestamp,
        open: usize,
        why: OpenReason,
        pause: Duration,
        deadline: Instant,
    ) -> Result<Option<OpenReason>> {
        if self.given_up.is_some() || why != OpenReason::Behind {
            return Ok(self.given_up.or(Some(why)));
        }
        let (began, mut is_said) = (Instant::now(), false);
        let words = format!("waiting until docrow run has applied the changes ({})", documents(open));
        self.say(&words);
        loop {
            if self.shutdown.is_requested() {
                return Ok(Some(OpenReason::Stopped));
            }
            if began.elapsed() >= LONG && !std::mem::replace(&mut is_said, true) {
                tracing::info!("{}: {words}", self.info.namespace);
            }
            let CollectionState { position, is_paused, .. } = self.ledger.lock().await.look().await?;
            if is_paused {
                return Ok(Some(OpenReason::Paused));
            }
            // One last recheck: where nothing is written, the position gets no further.
            if position.is_some_and(|position| position.cluster_time() >= until) && began.elapsed() >= pause {
                return Ok(None);
            }
            if self.ledger.lock().await.runner().await?.is_none() {
                // One more recheck: it may have ended just now, after writing.
                self.given_up = Some(OpenReason::NotApplied);
                return Ok(None);
            }
            if Instant::now() > deadline {
                self.patience = self.patience.min(IMPATIENCE);
                return Ok(Some(OpenReason::Behind));
            }
            sleep(POLL).await;
        }
    }

    fn say(&self, words: &str) {
        if let Some(line) = self.line.get() {
            line.set_message(format!("{}: {words}", self.info.namespace));
        }
    }

    /// Rechecks some suspects once. Returns a verdict on each, and its time. `None`: they have too many rows.
    async fn look(
        &mut self,
        part: &[SuspectEntry],
        past: Option<Timestamp>,
    ) -> Result<Option<(Vec<SuspectVerdict>, Timestamp)>> {
        let standing = self.ledger.lock().await.look().await?;
        let mapping = standing.in_force.mapping.clone();
        let suspects = part.iter().map(|entry| &entry.suspect);
        let telling = (self.info.namespace.to_string(), self.telling);
        let mut case = RecheckBatch::new(&standing.in_force, telling, suspects)?;
        let most = if part.len() > 1 { MOST_BYTES } else { usize::MAX };
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(Reader::new(self.target.connect().await?, self.target)),
        };
        case.rows = match reader.live_documents(mapping.tables(), &case.keys, most).await {
            Ok(Some(rows)) => rows,
            Ok(None) => return Ok(None),
            // The tables may belong to another mapping by now.
            Err(error) if error.kind() == Kind::TargetRefused => {
                if !self.ledger.lock().await.has_changed(&standing.in_force).await? {
                    return Err(error);
                }
                self.reader = None;
                let open = part.iter().map(|_| SuspectVerdict::Open(OpenReason::Behind)).collect();
                return Ok(Some((open, self.source.operation_time().await?)));
            }
            Err(error) => return Err(error),
        };
        case.dead = self.ledger.lock().await.dead_among(&case.texts()).await?;
        let until = self.read_documents(&mut case).await?;
        let differences = case.differences();
        let verdicts = if differences.iter().all(|differences| differences.count == 0) {
            differences.iter().map(|_| SuspectVerdict::Same).collect()
        } else if let Some(why) = self.uncertain(&standing, until).await? {
            let verdict = |differences: &DocumentDifferences| match differences.count {
                0 => SuspectVerdict::Same,
                _ => SuspectVerdict::Open(why),
            };
            differences.iter().map(verdict).collect()
        } else {
            self.verdicts(&mut case, differences, past).await?
        };
        Ok(Some((verdicts, until)))
    }

    /// Compares the suspects' documents with their rows. Nothing that was seen is later than the returned
    /// time.
    async fn read_documents(&mut self, case: &mut RecheckBatch) -> Result<Timestamp> {
        let after = self.source.operation_time().await?;
        let mut lookup = self.source.lookup(&self.info.namespace, case.document_keys(), after).await?;
        while let Some(documents) = lookup.next().await? {
            for document in documents.iter()? {
                case.meet(document?)?;
            }
        }
        case.rest_is_missing();
        Ok(lookup.operation_time().max(after))
    }

    /// Why the changes up to `until` can't be determined, if they can't.
    async fn uncertain(
        &mut self,
        standing: &CollectionState,
        until: Timestamp,
    ) -> Result<Option<OpenReason>> {
        if matches!(self.given_up, Some(OpenReason::HistoryLost | OpenReason::Paused)) {
            return Ok(self.given_up);
        }
        let now = self.ledger.lock().await.look().await?;
        if !Arc::ptr_eq(&now.in_force, &standing.in_force) {
            return Ok(Some(OpenReason::Behind));
        }
        let is_run = self.ledger.lock().await.runner().await?.is_some();
        if is_run && !now.extent.is_complete() {
            return Ok(Some(OpenReason::Copying));
        }
        let Some(from) = &standing.position else { return Ok(None) };
        match self.window.read(from, until, READING, self.shutdown).await? {
            WindowReach::There => return Ok(None),
            WindowReach::TooFar if is_run => return Ok(Some(OpenReason::Behind)),
            WindowReach::TooFar => self.given_up = Some(OpenReason::NotApplied),
            WindowReach::Lost if now.is_paused => self.given_up = Some(OpenReason::Paused),
            WindowReach::Lost => self.given_up = Some(OpenReason::HistoryLost),
        }
        Ok(self.given_up)
    }

    /// The verdicts, from the changes. For documents that changed, earlier states since `past` are requested.
    async fn verdicts(
        &mut self,
        case: &mut RecheckBatch,
        differences: Vec<DocumentDifferences>,
        past: Option<Timestamp>,
    ) -> Result<Vec<SuspectVerdict>> {
        let changes = self.window.changes((0..differences.len()).filter_map(|number| case.identity(number)));
        let (mut verdicts, mut asked) = (Vec::with_capacity(differences.len()), 0);
        for (number, differences) in differences.into_iter().enumerate() {
            if differences.count == 0 {
                verdicts.push(SuspectVerdict::Same);
                continue;
            }
            let Some(times) = case.identity(number).and_then(|key| changes.times(&key)) else {
                verdicts.push(SuspectVerdict::Differs(differences));
                continue;
            };
            let mut verdict = SuspectVerdict::Open(OpenReason::Behind);
            if let Some(past) = past
                && asked < PAST_DOCUMENTS
            {
                asked += 1;
                let times = times.iter().rev().take(PAST_TIMES).copied().filter(|time| *time > past);
                if self.was(case, number, times.chain([past])).await? {
                    verdict = SuspectVerdict::Same;
                }
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    /// Whether the rows match the document at one of these times, as far as the server can tell.
    async fn was(
        &mut self,
        case: &mut RecheckBatch,
        number: usize,
        times: impl Iterator<Item = Timestamp>,
    ) -> Result<bool> {
        if self.source.require_states_of_the_past().is_err() {
            return Ok(false);
        }
        let Some(document_key) = case.document_key(number) else { return Ok(false) };
        for at in times {
            let lookup = self.source.lookup_at(&self.info.namespace, [&*document_key], at).await;
            let mut lookup = match lookup {
                Ok(Some(lookup)) => lookup,
                Ok(None) => return Ok(false),
                // The server may have discarded it just now.
                Err(error) => {
                    tracing::debug!("{error}");
                    return Ok(false);
                }
            };
            let mut is_there = false;
            while let Ok(Some(documents)) = lookup.next().await {
                for document in documents.iter()? {
                    is_there = true;
                    if case.is_as(number, Some(document?)) {
                        return Ok(true);
                    }
                }
            }
            if !is_there && case.is_as(number, None) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The result of a round.
struct RecheckRound {
    /// Those to recheck.
    next: Vec<SuspectEntry>,
    /// How far the pipeline must get, for the open ones.
    until: Timestamp,
    /// Why something is open.
    why: Option<OpenReason>,
}

fn documents(count: usize) -> String {
    let documents = if count == 1 { "document" } else { "documents" };
    format!("{} {documents}", HumanCount(u64::try_from(count).unwrap_or(u64::MAX)))
}

/// Parts of a size that can be rechecked together.
fn parts(entries: Vec<SuspectEntry>) -> Vec<Vec<SuspectEntry>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for entry in entries {
        bytes += entry.suspect.bytes;
        let full = parts.last().is_some_and(|part: &Vec<_>| part.len() >= TOGETHER || bytes > BYTES);
        if full && parts.last().is_some_and(|part| !part.is_empty()) {
            bytes = entry.suspect.bytes;
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}
