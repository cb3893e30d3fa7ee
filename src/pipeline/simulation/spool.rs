//! The model of the state directory, and its port: what `checkpoint` promises of it. A write is atomic and synced; a trim is not, so that
//! a crash may undo it. All of it may be lost, or be an older copy of itself. Its disk may be full, until enough is given back.

use std::collections::{BTreeMap, HashMap};

use fastrand::Rng;

use super::mongo::{CollectionName, DocumentNumber, doc_of, name_of, namespace};
use crate::{
    checkpoint::SpoolSpan,
    error::{Code, Error, Result},
    model::change::Position,
    pipeline::ports::{SpoolState, SpoolUpdate},
};

#[derive(Clone, Debug, Default)]
pub(super) struct SpoolContents {
    identity: Option<String>,
    pub(super) plans: BTreeMap<CollectionName, Vec<u8>>,
    token: Option<Position>,
    fingerprint: Option<i64>,
    records: BTreeMap<CollectionName, SpooledCollection>,
}

#[derive(Clone, Debug)]
struct SpooledCollection {
    span: SpoolSpan,
    last: Option<Position>,
    changes: BTreeMap<Position, DocumentNumber>,
}

#[derive(Debug, Default)]
pub(super) struct SpoolModel {
    /// Which one it is.
    pub(super) life: i64,
    now: SpoolContents,
    /// What a crash may bring back: since the last synced write.
    unsynced: Vec<SpoolContents>,
    /// Somebody's copies.
    copies: Vec<SpoolContents>,
    /// Its files are damaged, which the next use finds.
    damaged: bool,
    /// There is no space while it holds more changes than this.
    limit: Option<usize>,
}

/// What a collection without a span, or with another one than is thought, means.
fn gone<T>() -> Result<T> {
    Err(Error::new(Code::SpoolLost, "simulation: the spool has nothing of it"))
}

fn wrong<T>(what: String) -> Result<T> {
    Err(Error::bug(what))
}

impl SpoolModel {
    pub(super) fn used(&mut self) -> Result<&mut SpoolContents> {
        if std::mem::take(&mut self.damaged) {
            let (life, copies) = (self.life + 1, std::mem::take(&mut self.copies));
            *self = Self { life, copies, ..Self::default() };
            return Err(Error::new(Code::StateRebuilt, "simulation: the state directory was damaged"));
        }
        Ok(&mut self.now)
    }

    pub(super) fn reconcile(&mut self, identity: &str) -> Result<()> {
        if self.used()?.identity.as_deref() != Some(identity) {
            self.now = SpoolContents { identity: Some(identity.to_owned()), ..SpoolContents::default() };
            self.unsynced.clear();
            self.life += 1;
        }
        Ok(())
    }

    pub(super) fn state(&mut self) -> Result<SpoolState> {
        self.used()?;
        let (life, SpoolContents { token, fingerprint, records, .. }) = (self.life, &self.now);
        let spans = records.iter().map(|(name, record)| (namespace(*name), record.span.clone())).collect();
        Ok(SpoolState { life, spans, token: token.clone(), fingerprint: *fingerprint })
    }

    pub(super) fn write(&mut self, write: &SpoolUpdate) -> Result<()> {
        let mut next = self.used()?.clone();
        if write.life.is_some_and(|life| life != self.life) {
            return gone();
        }
        let mut back: Option<Position> = None;
        for (name, span) in &write.spans {
            match span {
                None => drop(next.records.remove(&name_of(&name.to_string()))),
                Some(span) => {
                    let reached = next.open(name_of(&name.to_string()), span, self.now.token.as_ref())?;
                    back = back.into_iter().chain(reached).min();
                }
            }
        }
        for change in &write.changes {
            let (name, position) = (name_of(&write.names[change.collection.0].to_string()), &change.position);
            let Some(SpooledCollection { span, last, changes }) = next.records.get_mut(&name) else {
                return gone();
            };
            if *position <= span.from || last.as_ref().is_some_and(|last| position <= last) {
                continue;
            }
            if span.to.as_ref().is_some_and(|to| position > to) {
                return wrong(format!("c{name}: a change comes after the end of its span"));
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

    /// The next changes that wait; fewer than `most` only if there are no more.
    pub(super) fn waiting(
        &mut self,
        name: CollectionName,
        after: &Position,
        most: usize,
    ) -> Result<Vec<(Position, DocumentNumber)>> {
        match self.used()?.records.get(&name) {
            Some(record) if *after >= record.span.from => {
                let changes = record.changes.iter().filter(|(position, _)| *position > after);
                Ok(changes.take(most).map(|(position, doc)| (position.clone(), *doc)).collect())
            }
            _ => gone(),
        }
    }

    pub(super) fn trim(&mut self, name: CollectionName, until: &Position) -> Result<()> {
        let before = self.used()?.clone();
        if let Some(record) = self.now.records.get_mut(&name).filter(|record| *until > record.span.from) {
            record.span.from = until.clone();
            record.changes.retain(|position, _| position > until);
            self.unsynced.push(before);
        }
        Ok(())
    }

    /// How many changes are in it.
    pub(super) fn len(&self) -> usize {
        self.now.records.values().map(|record| record.changes.len()).sum()
    }

    /// Its disk is full, until it has given back half of what it holds.
    pub(super) fn fill(&mut self) {
        self.limit = Some(self.len() / 2);
    }

    /// Somebody makes space.
    pub(super) fn empty(&mut self) {
        self.limit = None;
    }

    pub(super) fn is_full(&mut self) -> bool {
        self.limit = self.limit.filter(|limit| self.len() > *limit);
        self.limit.is_some()
    }

    /// What is certain to be there after a crash.
    pub(super) fn durable(&self) -> (HashMap<CollectionName, SpoolSpan>, Option<Position>) {
        let SpoolContents { token, records, .. } = self.unsynced.first().unwrap_or(&self.now);
        (records.iter().map(|(name, record)| (*name, record.span.clone())).collect(), token.clone())
    }

    pub(super) fn present(&self) -> (HashMap<CollectionName, SpoolSpan>, Option<Position>) {
        let SpoolContents { token, records, .. } = &self.now;
        (records.iter().map(|(name, record)| (*name, record.span.clone())).collect(), token.clone())
    }

    /// The machine stops: of what was not synced, the last is lost.
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

    /// Another one is put in its place: a copy, or none.
    pub(super) fn exchange(&mut self, rng: &mut Rng) {
        let copy = rng.usize(..=self.copies.len());
        self.now = self.copies.get(copy).cloned().unwrap_or_default();
        self.unsynced.clear();
    }
}

impl SpoolContents {
    /// Opens or closes a span. Returns how far it is known to reach, if the token is ahead of that.
    fn open(
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
            return wrong(format!("c{name}: its span is to begin where the old one does not reach"));
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
