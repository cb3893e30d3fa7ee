//! The model of the state directory: what `checkpoint` promises of it. A write is atomic and synced. A trim
//! is not synced, so a crash may undo it. The whole directory may be lost, or replaced by an older copy. Its
//! disk may be full until enough of it is freed.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;

use super::mongo::{CollectionName, DocumentNumber, doc_of, name_of, namespace};
use crate::{
    checkpoint::SpoolSpan,
    error::{Code, Error, Result},
    model::change::Position,
    pipeline::ports::{SpoolState, SpoolUpdate},
};

/// Everything in the state directory.
#[derive(Clone, Debug, Default)]
pub(super) struct SpoolContents {
    identity: Option<String>,
    pub(super) plans: BTreeMap<CollectionName, Vec<u8>>,
    token: Option<Position>,
    fingerprint: Option<i64>,
    records: BTreeMap<CollectionName, SpooledCollection>,
}

/// A collection's span, and its changes in the spool.
#[derive(Clone, Debug)]
struct SpooledCollection {
    span: SpoolSpan,
    last: Option<Position>,
    changes: BTreeMap<Position, DocumentNumber>,
}

/// The state directory: its contents, and what a crash may bring back.
#[derive(Debug, Default)]
pub(super) struct SpoolModel {
    /// How many directories docrow has had before this one.
    pub(super) life: i64,
    now: SpoolContents,
    /// What a crash may bring back: the contents before each trim since the last synced write.
    unsynced: Vec<SpoolContents>,
    /// Copies that someone made.
    copies: Vec<SpoolContents>,
    /// Its files are damaged, as the next access will find.
    damaged: bool,
    /// The disk is full while it holds more changes than this.
    limit: Option<usize>,
}

/// A collection has no span, or not the one that docrow expects.
fn span_lost<T>() -> Result<T> {
    Err(Error::new(Code::SpoolLost, "simulation: the spool does not have the span"))
}

fn bug<T>(what: String) -> Result<T> {
    Err(Error::bug(what))
}

impl SpoolModel {
    /// The contents, unless they are found damaged.
    pub(super) fn readable(&mut self) -> Result<&mut SpoolContents> {
        if std::mem::take(&mut self.damaged) {
            let (life, copies) = (self.life + 1, std::mem::take(&mut self.copies));
            *self = Self { life, copies, ..Self::default() };
            return Err(Error::new(Code::StateRebuilt, "simulation: the state directory was damaged"));
        }
        Ok(&mut self.now)
    }

    pub(super) fn reconcile(&mut self, identity: &str) -> Result<()> {
        if self.readable()?.identity.as_deref() != Some(identity) {
            self.now = SpoolContents { identity: Some(identity.to_owned()), ..SpoolContents::default() };
            self.unsynced.clear();
            self.life += 1;
        }
        Ok(())
    }

    pub(super) fn state(&mut self) -> Result<SpoolState> {
        self.readable()?;
        let (life, SpoolContents { token, fingerprint, records, .. }) = (self.life, &self.now);
        let spans = records.iter().map(|(name, record)| (namespace(*name), record.span.clone())).collect();
        Ok(SpoolState { life, spans, token: token.clone(), fingerprint: *fingerprint })
    }

    pub(super) fn write(&mut self, write: &SpoolUpdate) -> Result<()> {
        let mut next = self.readable()?.clone();
        if write.life.is_some_and(|life| life != self.life) {
            return span_lost();
        }
        let mut back: Option<Position> = None;
        for (name, span) in &write.spans {
            match span {
                None => drop(next.records.remove(&name_of(&name.to_string()))),
                Some(span) => {
                    let reached = next.set_span(name_of(&name.to_string()), span, self.now.token.as_ref())?;
                    back = back.into_iter().chain(reached).min();
                }
            }
        }
        for change in &write.changes {
            let (name, position) = (name_of(&write.names[change.collection.0].to_string()), &change.position);
            let Some(SpooledCollection { span, last, changes }) = next.records.get_mut(&name) else {
                return span_lost();
            };
            if *position <= span.from || last.as_ref().is_some_and(|last| position <= last) {
                continue;
            }
            if span.to.as_ref().is_some_and(|to| position > to) {
                return bug(format!("c{name}: a change is after the end of its span"));
            }
            *last = Some(position.clone());
            changes.insert(position.clone(), doc_of(&change.document_key));
        }
        if let Some(given) =
            write.token.as_ref().filter(|given| back.is_some() || Some(*given) >= next.token.as_ref())
        {
            next.token = Some(given.clone());
            next.fingerprint = write.fingerprint.or(next.fingerprint);
        } else if back.is_some() {
            next.token = back;
        }
        self.now = next;
        self.unsynced.clear();
        Ok(())
    }

    /// The next changes in the spool; fewer than `most` only if there are no more.
    pub(super) fn waiting(
        &mut self,
        name: CollectionName,
        after: &Position,
        most: usize,
    ) -> Result<Vec<(Position, DocumentNumber)>> {
        match self.readable()?.records.get(&name) {
            Some(record) if *after >= record.span.from => {
                let changes = record.changes.iter().filter(|(position, _)| *position > after);
                Ok(changes.take(most).map(|(position, doc)| (position.clone(), *doc)).collect())
            }
            _ => span_lost(),
        }
    }

    pub(super) fn trim(&mut self, name: CollectionName, until: &Position) -> Result<()> {
        let before = self.readable()?.clone();
        if let Some(record) = self.now.records.get_mut(&name).filter(|record| *until > record.span.from) {
            record.span.from = until.clone();
            record.changes.retain(|position, _| position > until);
            self.unsynced.push(before);
        }
        Ok(())
    }

    /// How many changes it holds.
    pub(super) fn len(&self) -> usize {
        self.now.records.values().map(|record| record.changes.len()).sum()
    }

    /// Fills its disk, until docrow has trimmed half of its changes.
    pub(super) fn fill_disk(&mut self) {
        self.limit = Some(self.len() / 2);
    }

    /// Makes space on its disk.
    pub(super) fn free_disk(&mut self) {
        self.limit = None;
    }

    pub(super) fn is_full(&mut self) -> bool {
        self.limit = self.limit.filter(|limit| self.len() > *limit);
        self.limit.is_some()
    }

    /// The spans and the token that it has at least after a crash.
    pub(super) fn durable(&self) -> (HashMap<CollectionName, SpoolSpan>, Option<Position>) {
        let SpoolContents { token, records, .. } = self.unsynced.first().unwrap_or(&self.now);
        (records.iter().map(|(name, record)| (*name, record.span.clone())).collect(), token.clone())
    }

    /// The present spans and token.
    pub(super) fn present(&self) -> (HashMap<CollectionName, SpoolSpan>, Option<Position>) {
        let SpoolContents { token, records, .. } = &self.now;
        (records.iter().map(|(name, record)| (*name, record.span.clone())).collect(), token.clone())
    }

    /// The machine crashes: some of the trims that were not synced are undone.
    pub(super) fn crash(&mut self, rng: &mut Rng) {
        let kept = rng.usize(..=self.unsynced.len());
        if let Some(kept) = self.unsynced.get(kept) {
            self.now = kept.clone();
        }
        self.unsynced.clear();
    }

    pub(super) fn damage(&mut self) {
        self.damaged = true;
    }

    pub(super) fn copy(&mut self) {
        self.copies.push(self.now.clone());
    }

    /// Puts another directory in its place: a copy, or an empty one.
    pub(super) fn exchange(&mut self, rng: &mut Rng) {
        let copy = rng.usize(..=self.copies.len());
        self.now = self.copies.get(copy).cloned().unwrap_or_default();
        self.unsynced.clear();
    }
}

impl SpoolContents {
    /// Opens or closes a span. Returns how far the spool has its changes, if that is before the token.
    fn set_span(
        &mut self,
        name: CollectionName,
        span: &SpoolSpan,
        token: Option<&Position>,
    ) -> Result<Option<Position>> {
        let old = self.records.get(&name);
        let reach = match old {
            None => Some(&span.from),
            Some(old) => old.span.to.as_ref().or(token).max(Some(&old.span.from)),
        };
        if old.is_some_and(|old| span.from < old.span.from || Some(&span.from) > reach) {
            return bug(format!("c{name}: its new span begins outside of the old one"));
        }
        let back = reach.filter(|reach| span.to.is_none() && Some(*reach) < token).cloned();
        let record = match old {
            None => SpooledCollection { span: span.clone(), last: None, changes: BTreeMap::new() },
            Some(old) => SpooledCollection {
                span: SpoolSpan { from: old.span.from.clone(), to: span.to.clone() },
                ..old.clone()
            },
        };
        self.records.insert(name, record);
        Ok(back)
    }
}
