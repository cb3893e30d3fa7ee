//! A replicated collection: what is known of it, its mapping in force, and whether it is stopped.
//!
//! The mapping in force may change while documents are written ([`evolution`](super::mappings::evolution)). Whoever writes holds it,
//! from the encoding of a transaction's first document to its commit; the one task that changes it waits until nobody does.
//! So the rows of a transaction are of one mapping, and it is still in force when they are committed.
//!
//! A collection that is [paused](super::requests::pausing) is not written to, either, for as long as somebody wants that.
//!
//! A collection that is stopped is written to no more in this run: its positions stay where they are, so that the next
//! run, with a mended mapping, goes on from there, if the oplog still reaches back so far; if not, it needs a resync. Other
//! collections do not notice.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use mongodb::bson::RawDocument;
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::{
    error::{Code, Result},
    mapping::{Encoder, Framing, Mapping},
    metrics,
    model::{change::Namespace, document_key, phase::Phase},
    schema::{MappingSpec, Sample},
    shown,
    sink::metadata::dead_letters::{DeadKey, DeadKeys, DeadLetter},
    source::CollectionInfo,
};

/// A collection. Its place in the list is its [`CollectionId`](crate::model::change::CollectionId).
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) info: CollectionInfo,
    name: String,
    in_force: Arc<RwLock<Arc<Mapping>>>,
    evidence: Option<Evidence>,
    /// The documents of all collections that have a dead letter, and how many of this one may.
    dead: Arc<Mutex<DeadKeys>>,
    most_dead: usize,
    stopped: OnceLock<String>,
    is_paused: bool,
    /// Whether there are misfits that were not counted yet.
    uncounted: AtomicBool,
    /// Whether it was stopped for so long that the oplog no longer holds its changes.
    is_left_behind: AtomicBool,
}

/// What documents have shown that the mapping does not know.
#[derive(Debug)]
struct Evidence {
    sample: Mutex<Sample>,
    /// Columns of whole numbers that lack fractions, with their tables.
    narrow: Mutex<Vec<(String, String)>>,
    is_fresh: AtomicBool,
    /// Notified of every discovery.
    wake: Notify,
}

impl Collection {
    /// A collection with a mapping that stays as it is. More than `most_dead` dead letters stop it.
    pub(super) fn new(
        info: CollectionInfo,
        mapping: Mapping,
        dead: Arc<Mutex<DeadKeys>>,
        most_dead: usize,
    ) -> Self {
        let name = info.namespace.to_string();
        let in_force = Arc::new(RwLock::new(Arc::new(mapping)));
        let stopped = OnceLock::new();
        metrics::begin(&name);
        let (uncounted, is_left_behind) = (AtomicBool::new(false), AtomicBool::new(false));
        let is_paused = false;
        let evidence = None;
        Self {
            info,
            name,
            in_force,
            evidence,
            dead,
            most_dead,
            stopped,
            is_paused,
            uncounted,
            is_left_behind,
        }
    }

    /// The same, paused for this turn.
    pub(super) fn paused(mut self) -> Self {
        self.is_paused = true;
        metrics::set_phase(&self.name, "paused");
        self
    }

    /// The same, with a mapping that evolves.
    pub(super) fn evolving(mut self) -> Self {
        let (sample, narrow) = (Mutex::default(), Mutex::default());
        let (is_fresh, wake) = (AtomicBool::new(false), Notify::new());
        self.evidence = Some(Evidence { sample, narrow, is_fresh, wake });
        self
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.info.namespace
    }

    /// `database.collection`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The mapping in force, which stays so until the guard is dropped.
    pub(super) async fn hold(&self) -> Held {
        self.in_force.clone().read_owned().await
    }

    /// The mapping in force at present, for what need not be of one mapping with what others write.
    pub(super) async fn mapping(&self) -> Arc<Mapping> {
        self.in_force.read().await.clone()
    }

    /// The mapping in force, to be changed: waits until nobody holds it. Meanwhile nobody else gets hold of it, so that only
    /// the collection's own task may wait here, and not for long ([`Tries`](super::tries::Tries)).
    pub(super) async fn change(&self) -> Changing {
        self.in_force.clone().write_owned().await
    }

    /// Who holds the mapping in force, or waits for it.
    #[cfg(test)]
    pub(super) fn in_force(&self) -> Arc<RwLock<Arc<Mapping>>> {
        self.in_force.clone()
    }

    /// An encoder for `mapping`, which must be held.
    pub(super) fn encoder(&self, mapping: &Arc<Mapping>, framing: Framing) -> Encoder {
        let mut encoder = Encoder::new(mapping.clone(), framing);
        if self.evidence.is_some() {
            encoder.watch();
        }
        encoder
    }

    /// Notes a document that has something that the mapping does not know.
    pub(super) fn discovered(&self, document: &RawDocument) {
        if let Some(evidence) = &self.evidence {
            self.observe(document);
            evidence.is_fresh.store(true, Ordering::Release);
            evidence.wake.notify_one();
        }
    }

    /// Adds a document to the evidence.
    pub(super) fn observe(&self, document: &RawDocument) {
        if let Some(Ok(mut sample)) = self.evidence.as_ref().map(|evidence| evidence.sample.lock()) {
            sample.observe(document);
        }
    }

    /// Notes that a column of whole numbers, named with its table, lacks fractions. Each is told once.
    pub(super) fn is_narrow(&self, column: (String, String)) {
        let Some(evidence) = &self.evidence else { return };
        let mut narrow = evidence.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        if !narrow.contains(&column) {
            narrow.push(column);
            evidence.is_fresh.store(true, Ordering::Release);
            evidence.wake.notify_one();
        }
    }

    /// `spec`, in which those columns are wide. `None`: they are.
    pub(super) fn widened(&self, spec: &MappingSpec) -> Option<MappingSpec> {
        let narrow = self.evidence.as_ref()?.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        spec.with_fractions(&narrow)
    }

    /// Whether it evolves.
    pub(super) fn evolves(&self) -> bool {
        self.evidence.is_some()
    }

    /// Notes that values did not fit their columns; they are counted sometime.
    pub(super) fn count_misfits(&self, values: u64) -> u64 {
        if values > 0 {
            self.uncounted.store(true, Ordering::Release);
        }
        values
    }

    /// Has misfits counted again.
    pub(super) fn recount(&self) {
        self.uncounted.store(true, Ordering::Release);
    }

    /// Whether there may be misfits that were not there when this was last asked.
    pub(super) fn take_uncounted(&self) -> bool {
        self.uncounted.swap(false, Ordering::AcqRel)
    }

    /// Gives the evidence to `weigh`, if there is any that it has not seen.
    pub(super) fn weigh<T>(&self, weigh: impl FnOnce(&Sample) -> Option<T>) -> Option<T> {
        let sample = self.evidence.as_ref()?.sample.lock().ok()?;
        weigh(&sample)
    }

    /// Returns once there are discoveries that nobody has taken.
    pub(super) async fn discoveries(&self) {
        let Some(evidence) = &self.evidence else { return std::future::pending().await };
        while !self.has_discoveries() {
            evidence.wake.notified().await;
        }
    }

    /// Whether there are discoveries that nobody has taken.
    pub(super) fn has_discoveries(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.is_fresh.load(Ordering::Acquire))
    }

    /// Whether there were discoveries since this was last asked.
    pub(super) fn take_discoveries(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.is_fresh.swap(false, Ordering::AcqRel))
    }

    /// Asks to be weighed again: it could not be acted on what was found.
    pub(super) fn keep_discoveries(&self) {
        if let Some(evidence) = &self.evidence {
            evidence.is_fresh.store(true, Ordering::Release);
            evidence.wake.notify_one();
        }
    }

    /// Notes dead letters that are stored. Too many stop the collection.
    pub(super) fn record_dead_letters<'a>(&self, letters: impl IntoIterator<Item = &'a DeadLetter>) {
        let (mut dead, mut last, mut count) = (self.dead(), None, 0);
        for letter in letters {
            count += 1;
            let DeadLetter { collection, key, .. } = letter;
            dead.insert(DeadKey { collection: collection.clone(), key: key.clone() });
            last = Some(letter);
        }
        metrics::DEAD_LETTERS.of(&[&self.name]).increment(count);
        self.show_dead(dead.count(&self.name));
        if let Some(letter) = last.filter(|_| dead.count(&self.name) > self.most_dead) {
            self.stop_for_letters(&letter.reason);
        }
    }

    /// Whether `letters` more would stop it.
    pub(super) fn would_stop(&self, letters: usize) -> bool {
        letters > 0 && self.dead().count(&self.name).saturating_add(letters) > self.most_dead
    }

    /// Stops it because of too many dead letters, the last of which has this reason.
    pub(super) fn stop_for_letters(&self, reason: &str) {
        self.stop(&format!(
            "more than {} documents can't be written (mapping.max_dead_letters), the last because: {reason}",
            self.most_dead
        ));
    }

    /// The key of a document, if it has a dead letter.
    pub(super) fn dead_key(&self, document_key: &RawDocument) -> Result<Option<DeadKey>> {
        let dead = self.dead();
        if dead.count(&self.name) == 0 {
            return Ok(None);
        }
        let key = DeadKey { collection: self.name.clone(), key: document_key::id_text(document_key)? };
        Ok(dead.contains(&key.collection, &key.key).then_some(key))
    }

    /// Notes that a document was found to have a dead letter.
    pub(super) fn found_dead(&self, key: DeadKey) {
        self.dead().insert(key);
    }

    /// Notes that a dead letter is none any more.
    pub(super) fn healed(&self, key: &DeadKey) {
        let mut dead = self.dead();
        dead.remove(key);
        self.show_dead(dead.count(&self.name));
    }

    /// Shows how many dead letters it has.
    pub(super) fn show_dead(&self, count: usize) {
        metrics::DEAD_LETTERS_STORED
            .of(&[&self.name])
            .set(metrics::figure(u64::try_from(count).unwrap_or(0)));
    }

    /// Shows the phase that it is in.
    pub(super) fn enter(&self, phase: Phase) {
        if !self.rests() {
            metrics::set_phase(&self.name, phase.label());
        }
    }

    fn dead(&self) -> MutexGuard<'_, DeadKeys> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it for this run.
    pub(super) fn stop(&self, reason: &str) {
        let advice = "mend its mapping file (what is more than an addition takes another pipeline name and schema) or the \
            documents, then start docrow again";
        self.stop_by(Code::CollectionStopped, reason, &format!(": {advice}"));
    }

    /// Stops it because the oplog no longer holds its changes.
    pub(super) fn stop_for_history(&self) {
        self.stop_by(Code::CollectionHistoryLost, &self.history_lost(), "");
    }

    /// That its history is lost, and what to do.
    fn history_lost(&self) -> String {
        format!(
            "the oplog no longer holds its changes: copy it again, in place: docrow resync '{}'",
            self.name
        )
    }

    fn stop_by(&self, code: Code, reason: &str, advice: &str) {
        if self.stay_stopped(reason) {
            tracing::error!(code = %code, "{} is stopped, other collections go on: {reason}{advice}", self.name);
        }
    }

    /// Leaves it stopped, as it was before. Whether that is news.
    pub(super) fn stay_stopped(&self, reason: &str) -> bool {
        let is_news = self.stopped.set(reason.to_owned()).is_ok();
        if is_news {
            metrics::set_phase(&self.name, "stopped");
        }
        is_news
    }

    /// Stops it because it is paused, and what waits of it is given up for the others' sake.
    pub(super) fn stop_for_space(&self) {
        let reason = format!(
            "it is paused, and the spool is full: what waited of it is given up, so that the others go on: docrow resume \
             '{}' goes on from the oplog, if that still reaches back to where its rows are",
            self.name
        );
        self.stop_by(Code::PausedGivenUp, &reason, "");
    }

    /// Notes that the oplog has gone past a collection that is stopped. Says so once.
    pub(super) fn history_goes_by(&self) {
        if !self.is_left_behind.swap(true, Ordering::Relaxed) {
            let (name, lost) = (&self.name, self.history_lost());
            tracing::warn!(code = %Code::CollectionHistoryLost, "{name} is stopped, and by now {lost}, when it is mended");
        }
    }

    /// Whether somebody has paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether nothing is written to it: it is stopped, or paused.
    pub(super) fn rests(&self) -> bool {
        self.is_paused || self.stopped().is_some()
    }

    /// Why it is stopped, if it is.
    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }
}

/// A mapping that is held.
pub(super) type Held = OwnedRwLockReadGuard<Arc<Mapping>>;

/// A mapping that is being changed, or whose rows are: nobody else holds it.
pub(super) type Changing = OwnedRwLockWriteGuard<Arc<Mapping>>;

/// The dead letter of a document that `mapping` hides parts of, if it says so.
pub(super) fn dead_letter_of(
    collection: &Collection,
    mapping: &Mapping,
    document: &RawDocument,
    path: &str,
    reason: &str,
) -> Result<DeadLetter> {
    Ok(DeadLetter {
        collection: collection.name().to_owned(),
        key: document_key::id_text(document)?,
        document_key: document_key::Id::of(document)?.document()?.into_bytes(),
        path: (!path.is_empty()).then(|| shown::path(path).replace('\0', "")),
        reason: reason.replace('\0', ""),
        document: mapping.censored(document),
    })
}
