//! A replicated collection: what is known about it, its mapping in force, and whether it is stopped.
//!
//! The mapping in force may change while documents are written ([`evolution`](super::mappings::evolution)).
//! Every writer holds it, from the encoding of a transaction's first document to its commit; the one task
//! that changes it waits until no writer holds it. So all rows of a transaction belong to one mapping, which
//! is still in force when they are committed.
//!
//! A collection that is [paused](super::pausing) is not written to, either, until it is resumed.
//!
//! If a collection is stopped, nothing more is written to it in this run: its positions stay where they are,
//! so that the next run, with a corrected mapping, continues from there, if the oplog still reaches back that
//! far; if not, the collection needs a resync. Other collections are not affected.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use mongodb::bson::RawDocument;
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::misfits_due::MisfitsDue;
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

/// A collection. Its index in the list is its [`CollectionId`](crate::model::change::CollectionId).
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) info: CollectionInfo,
    name: String,
    in_force: Arc<RwLock<Arc<Mapping>>>,
    evidence: Option<Evidence>,
    /// The documents, of all collections, that have a dead letter.
    dead: Arc<Mutex<DeadKeys>>,
    /// How many documents of this collection may have one.
    most_dead: usize,
    stopped: OnceLock<String>,
    is_paused: bool,
    pub(super) misfits: MisfitsDue,
    /// Whether it has been stopped for so long that the oplog no longer holds its changes.
    is_left_behind: AtomicBool,
}

/// What documents contain that the mapping does not cover.
#[derive(Debug)]
struct Evidence {
    sample: Mutex<Sample>,
    /// Columns of whole numbers that lack fractions, each with its table.
    narrow: Mutex<Vec<(String, String)>>,
    is_fresh: AtomicBool,
    /// Notified of every discovery.
    wake: Notify,
}

impl Collection {
    /// A collection whose mapping does not evolve. More than `most_dead` dead letters stop it.
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
        let (misfits, is_left_behind) = (MisfitsDue::default(), AtomicBool::new(false));
        let is_paused = false;
        let evidence = None;
        Self { info, name, in_force, evidence, dead, most_dead, stopped, is_paused, misfits, is_left_behind }
    }

    /// The same collection, paused for this turn.
    pub(super) fn paused(mut self) -> Self {
        self.is_paused = true;
        metrics::set_phase(&self.name, "paused");
        self
    }

    /// The same collection, with a mapping that evolves.
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

    /// Returns the mapping in force, which stays in force until the guard is dropped.
    pub(super) async fn hold(&self) -> Held {
        self.in_force.clone().read_owned().await
    }

    /// Returns the mapping that is in force now, for uses that need not share one mapping with what others
    /// write.
    pub(super) async fn mapping(&self) -> Arc<Mapping> {
        self.in_force.read().await.clone()
    }

    /// Returns the mapping in force, to change it: waits until no one holds it. Meanwhile no one else can get
    /// it, so only the collection's own task may wait here, and not for long
    /// ([`Tries`](super::tries::Tries)).
    pub(super) async fn change(&self) -> Changing {
        self.in_force.clone().write_owned().await
    }

    /// Returns the lock on the mapping in force.
    #[cfg(test)]
    pub(super) fn in_force(&self) -> Arc<RwLock<Arc<Mapping>>> {
        self.in_force.clone()
    }

    /// Returns an encoder for `mapping`, which the caller must hold.
    pub(super) fn encoder(&self, mapping: &Arc<Mapping>, framing: Framing) -> Encoder {
        let mut encoder = Encoder::new(mapping.clone(), framing);
        if self.evidence.is_some() {
            encoder.watch();
        }
        encoder
    }

    /// Notes a document that contains something that the mapping does not cover.
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

    /// Notes that a column of whole numbers, given with its table, lacks fractions. Each column is noted
    /// once.
    pub(super) fn is_narrow(&self, column: (String, String)) {
        let Some(evidence) = &self.evidence else { return };
        let mut narrow = evidence.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        if !narrow.contains(&column) {
            narrow.push(column);
            evidence.is_fresh.store(true, Ordering::Release);
            evidence.wake.notify_one();
        }
    }

    /// Returns `spec` with the columns that lack fractions widened. `None`: they are wide already.
    pub(super) fn widened(&self, spec: &MappingSpec) -> Option<MappingSpec> {
        let narrow = self.evidence.as_ref()?.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        spec.with_fractions(&narrow)
    }

    /// Whether its mapping evolves.
    pub(super) fn evolves(&self) -> bool {
        self.evidence.is_some()
    }

    /// Passes the sample to `weigh`, if the mapping evolves.
    pub(super) fn weigh<T>(&self, weigh: impl FnOnce(&Sample) -> Option<T>) -> Option<T> {
        let sample = self.evidence.as_ref()?.sample.lock().ok()?;
        weigh(&sample)
    }

    /// Waits until there are discoveries that have not been taken.
    pub(super) async fn discoveries(&self) {
        let Some(evidence) = &self.evidence else { return std::future::pending().await };
        while !self.has_discoveries() {
            evidence.wake.notified().await;
        }
    }

    /// Whether there are discoveries that have not been taken.
    pub(super) fn has_discoveries(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.is_fresh.load(Ordering::Acquire))
    }

    /// Takes the discoveries. Returns whether there were any since the last call.
    pub(super) fn take_discoveries(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.is_fresh.swap(false, Ordering::AcqRel))
    }

    /// Puts taken discoveries back, because they could not be acted on.
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

    /// Whether this many more dead letters would stop it.
    pub(super) fn would_stop(&self, letters: usize) -> bool {
        letters > 0 && self.dead().count(&self.name).saturating_add(letters) > self.most_dead
    }

    /// Stops it because of too many dead letters; `reason` is that of the last one.
    pub(super) fn stop_for_letters(&self, reason: &str) {
        self.stop(&format!(
            "more than {} documents can't be written (mapping.max_dead_letters), the last because: {reason}",
            self.most_dead
        ));
    }

    /// Returns the key of a document, if the document has a dead letter.
    pub(super) fn dead_key(&self, document_key: &RawDocument) -> Result<Option<DeadKey>> {
        let dead = self.dead();
        if dead.count(&self.name) == 0 {
            return Ok(None);
        }
        let key = DeadKey { collection: self.name.clone(), key: document_key::id_text(document_key)? };
        Ok(dead.contains(&key.collection, &key.key).then_some(key))
    }

    /// Notes that a document turned out to have a dead letter.
    pub(super) fn found_dead(&self, key: DeadKey) {
        self.dead().insert(key);
    }

    /// Notes that a document no longer has a dead letter.
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

    /// Shows its phase, unless it is stopped or paused.
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
        let advice = "fix its mapping file (anything but additions needs another pipeline name and schema) or the \
            documents, then start docrow again";
        self.stop_by(Code::CollectionStopped, reason, &format!(": {advice}"));
    }

    /// Stops it because the oplog no longer holds its changes.
    pub(super) fn stop_for_history(&self) {
        self.stop_by(Code::CollectionHistoryLost, &self.history_lost(), "");
    }

    /// Says that its history is lost, and what to do.
    fn history_lost(&self) -> String {
        format!(
            "the oplog no longer holds its changes: copy it again, in place: docrow resync '{}'",
            self.name
        )
    }

    fn stop_by(&self, code: Code, reason: &str, advice: &str) {
        if self.stay_stopped(reason) {
            tracing::error!(code = %code, "{} is stopped, other collections continue: {reason}{advice}", self.name);
        }
    }

    /// Keeps it stopped, as it was before. Returns whether that is news.
    pub(super) fn stay_stopped(&self, reason: &str) -> bool {
        let is_news = self.stopped.set(reason.to_owned()).is_ok();
        if is_news {
            metrics::set_phase(&self.name, "stopped");
        }
        is_news
    }

    /// Stops it because it is paused: its spooled changes are discarded, so that the other collections can
    /// continue.
    pub(super) fn stop_for_space(&self) {
        let reason = format!(
            "it is paused, and the spool is full: its spooled changes are discarded, so that the others can continue: \
             docrow resume '{}' continues from the oplog, if that still reaches back to its position",
            self.name
        );
        self.stop_by(Code::PausedGivenUp, &reason, "");
    }

    /// Notes that the oplog has moved past a collection that is stopped. Logs it once.
    pub(super) fn history_goes_by(&self) {
        if !self.is_left_behind.swap(true, Ordering::Relaxed) {
            let (name, lost) = (&self.name, self.history_lost());
            tracing::warn!(code = %Code::CollectionHistoryLost, "{name} is stopped, and by now fixing it is not enough: {lost}");
        }
    }

    /// Whether an operator has paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether nothing is written to it: it is stopped or paused.
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

/// A mapping that is being changed, or whose rows are: no one else holds it.
pub(super) type Changing = OwnedRwLockWriteGuard<Arc<Mapping>>;

/// Returns a document's dead letter, without the parts of the document that `mapping` hides, if any.
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
