//! The index of the spool, without the changes themselves: which collections it has, from where to where, and
//! how far the stream was read. Pure.
//!
//! # The invariant
//!
//! For every span: each change of its collection in `(from, to]` is in the spool, or was applied (with `to`
//! unset: in `(from, token]`). This is a statement about the past, so it stays true whatever is lost after it
//! was written; an older copy of all records together is as true as the newest, and says less.
//!
//! So any order of writes is safe in which no statement is written before it is true:
//!
//! - **Entries, token and spans are one write**, so no crash comes between a change and the token that says
//!   it is here.
//! - **The token advances for all open spans at once.** So a collection whose changes start to bypass the
//!   spool must be deleted from it, or its span closed, before the token is next stored. While nothing is
//!   spooled, no token is stored at all: the existing one grows old, which claims nothing false, because no
//!   open span refers to it. The first write after that opens a span and stores a newer token; the span's
//!   `from` is where the direct changes ended.
//! - **The token moves backward only when a span is opened before it**: for that collection, nothing is known
//!   up to the token. Other open spans then claim less than they could, until the stream has passed again.
//!   Any other older token is ignored: it belongs to a stream that repeats what is here.
//! - **`from` advances only after PostgreSQL has committed** the changes that this deletes, and need not be
//!   synced: an older `from` claims more, which was already true. It never moves backward: what came before
//!   it is deleted.
//! - **PostgreSQL's position decides at a restart.** A span with `from <= position <= to` continues it; any
//!   other one is deleted, and the stream is read from the position. So there is no gap if PostgreSQL was
//!   restored to before `from`, nor if a state directory was restored to before the position.
//!
//! # Damage
//!
//! `RocksDB`'s checksums find damaged bytes, but a truncated manifest can lose files in the middle of the
//! history without any other trace. So the records contain enough to detect that: the head record seals all
//! span records (so that none of them is older than the rest), a span record counts its changes, and each
//! change has its number (so that none is missing).

use std::collections::HashMap;

use mongodb::bson::{RawDocument, RawDocumentBuf, cstr};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    failure::{StoreFailure, StoreResult},
    garbage::SpoolGarbage,
};
use crate::{
    error::Error,
    model::change::{Namespace, Position},
};

/// One atomic, synced write.
///
/// A failed one can safely be repeated, whether it was written or not.
#[derive(Default)]
pub struct SpoolWrite<'a> {
    /// Changes of collections with a span, in order within each collection. Changes that a span already has
    /// are skipped.
    pub changes: &'a [(&'a Namespace, &'a Position, &'a RawDocument)],
    /// How far the stream was read; all changes of open spans up to there are in this write or an earlier
    /// one. A token older than the stored one is ignored, unless `spans` opens a span before that.
    pub token: Option<&'a Position>,
    /// Spans to open (`to: None`), to close, or to forget with all their changes (`None`), one after the
    /// other and before `changes`. A span can't begin before the one that is there, nor where that one does
    /// not reach: it is to be forgotten first. Where it begins later, the beginning stays: only
    /// [`Checkpoint::trim`](super::Checkpoint::trim) moves it.
    pub spans: Vec<(&'a Namespace, Option<SpoolSpan>)>,
    /// The fingerprint of the stream that `token` belongs to; stored with it.
    pub fingerprint: Option<i64>,
    /// What [`Checkpoint::life`](super::Checkpoint::life) was when the spans were read that this goes on
    /// from.
    pub life: Option<i64>,
}

/// Which of a collection's changes are in the spool: every change in `(from, to]` is there, or was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSpan {
    /// The position after which the span begins.
    pub from: Position,
    /// The last position it covers; `None`: as far as [`Checkpoint::token`](super::Checkpoint::token).
    pub to: Option<Position>,
}

/// A span, and which of its changes are there.
#[derive(Clone, Debug)]
pub(super) struct SpanRecord {
    /// Its changes are found by this; never reused for another span, so that leftover changes of a deleted
    /// one are not mistaken for its own.
    pub(super) id: i64,
    pub(super) span: SpoolSpan,
    /// The number of the first change after `from`, or, if there is none, `next`.
    pub(super) first: i64,
    /// The number that the next change gets.
    pub(super) next: i64,
    /// The space of changes before this number has been released; not stored.
    pub(super) swept: i64,
    last: Option<Position>,
}

impl SpanRecord {
    fn new(span: SpoolSpan) -> Self {
        Self { id: fastrand::i64(..), span, first: 0, next: 0, swept: 0, last: None }
    }

    /// Whether the change at `position` is in the spool, or was.
    fn has_seen(&self, position: &Position) -> bool {
        *position <= self.span.from || self.last.as_ref().is_some_and(|last| position <= last)
    }

    pub(super) fn encode(&self) -> RawDocumentBuf {
        let mut record = RawDocumentBuf::new();
        record.append(cstr!("id"), self.id);
        record.append(cstr!("first"), self.first);
        record.append(cstr!("next"), self.next);
        record.append(cstr!("from"), self.span.from.token());
        if let Some(to) = &self.span.to {
            record.append(cstr!("to"), to.token());
        }
        if let Some(last) = &self.last {
            record.append(cstr!("last"), last.token());
        }
        record
    }

    pub(super) fn decode(bytes: &[u8]) -> StoreResult<Self> {
        let record =
            RawDocument::from_bytes(bytes).map_err(|_| StoreFailure::Inconsistent("a span is no BSON"))?;
        let number =
            |name| record.get_i64(name).map_err(|_| StoreFailure::Inconsistent("a span lacks a number"));
        let from =
            position_of(record, "from")?.ok_or(StoreFailure::Inconsistent("a span has no beginning"))?;
        let first = number("first")?;
        Ok(Self {
            id: number("id")?,
            span: SpoolSpan { from, to: position_of(record, "to")? },
            first,
            swept: first,
            next: number("next")?,
            last: position_of(record, "last")?,
        })
    }
}

fn position_of(record: &RawDocument, name: &str) -> StoreResult<Option<Position>> {
    let inconsistent = || StoreFailure::Inconsistent("a stored resume token is none");
    match record.get(name).map_err(|_| inconsistent())? {
        None => Ok(None),
        Some(token) => {
            let token = token.as_document().ok_or_else(inconsistent)?;
            Position::from_token(token).map(Some).map_err(|_| inconsistent())
        }
    }
}

/// All spans and the token, as on disk.
#[derive(Debug, Default)]
pub(super) struct SpoolIndex {
    /// Identifies the database: a caller that knows another one refers to lost changes.
    pub(super) life: i64,
    pub(super) token: Option<Position>,
    pub(super) fingerprint: Option<i64>,
    pub(super) records: HashMap<Namespace, SpanRecord>,
    /// Deleted, but still on disk; not stored.
    pub(super) garbage: Vec<SpoolGarbage>,
    /// The combined hash of all records' keys and values, independent of their order.
    seal: u64,
}

impl SpoolIndex {
    /// The index of these stored records. Errors: they do not belong to the same time.
    pub(super) fn open(
        head: Option<&[u8]>,
        spans: impl Iterator<Item = StoreResult<(Box<[u8]>, Box<[u8]>)>>,
    ) -> StoreResult<Self> {
        let mut book = Self::default();
        for span in spans {
            let (key, value) = span?;
            let namespace = key.strip_prefix(SPAN).and_then(|name| std::str::from_utf8(name).ok());
            let namespace = namespace.and_then(Namespace::parse);
            let namespace = namespace.ok_or(StoreFailure::Inconsistent("a span has no collection"))?;
            book.seal ^= hash(&key, &value);
            book.records.insert(namespace, SpanRecord::decode(&value)?);
        }
        let mut seal = 0;
        if let Some(head) = head {
            let head = RawDocument::from_bytes(head)
                .map_err(|_| StoreFailure::Inconsistent("the head is no BSON"))?;
            book.token = position_of(head, "token")?;
            book.fingerprint = head.get_i64("fingerprint").ok();
            seal = head
                .get_i64("seal")
                .map_err(|_| StoreFailure::Inconsistent("the head has no seal"))?
                .cast_unsigned();
        }
        if seal != book.seal {
            return Err(StoreFailure::Inconsistent("its records do not belong to the same time"));
        }
        Ok(book)
    }

    /// Starts a change of the index.
    pub(super) fn draft(&self) -> IndexDraft<'_> {
        IndexDraft {
            book: self,
            touched: HashMap::new(),
            token: self.token.clone(),
            fingerprint: self.fingerprint,
            appended: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// Applies what was written.
    pub(super) fn turn(&mut self, written: IndexWritten) {
        (self.token, self.fingerprint, self.seal) = (written.token, written.fingerprint, written.seal);
        for (namespace, record) in written.touched {
            match record {
                Some(record) => self.records.insert(namespace, record),
                None => self.records.remove(&namespace),
            };
        }
    }
}

/// A change of the index: nothing of it holds before it is written.
pub(super) struct IndexDraft<'a> {
    book: &'a SpoolIndex,
    touched: HashMap<Namespace, Option<SpanRecord>>,
    token: Option<Position>,
    fingerprint: Option<i64>,
    /// The changes to add: the span's id, the change's number, and its index among those to write.
    pub(super) appended: Vec<(i64, i64, usize)>,
    /// The spans whose changes are deleted.
    pub(super) forgotten: Vec<SpanRecord>,
}

/// The state of the index once the draft is written.
pub(super) struct IndexWritten {
    token: Option<Position>,
    fingerprint: Option<i64>,
    seal: u64,
    touched: HashMap<Namespace, Option<SpanRecord>>,
}

impl IndexDraft<'_> {
    fn record(&self, namespace: &Namespace) -> Option<&SpanRecord> {
        match self.touched.get(namespace) {
            Some(touched) => touched.as_ref(),
            None => self.book.records.get(namespace),
        }
    }

    /// Errors: a span begins before the existing one, or after a gap; a change belongs to a collection
    /// without a span, or is after its end.
    pub(super) fn apply(&mut self, write: &SpoolWrite<'_>) -> StoreResult<()> {
        let mut back = None;
        for (namespace, span) in &write.spans {
            match span {
                None => self.forget(namespace),
                Some(span) => back = earlier(back, self.open(namespace, span)?),
            }
        }
        for (index, (namespace, position, _)) in write.changes.iter().enumerate() {
            self.append(namespace, position, index)?;
        }
        if let Some(given) = write.token.filter(|given| back.is_some() || Some(*given) >= self.token.as_ref())
        {
            self.token = Some(given.clone());
            self.fingerprint = write.fingerprint.or(self.fingerprint);
        } else if back.is_some() {
            self.token = back;
        }
        Ok(())
    }

    fn forget(&mut self, namespace: &Namespace) {
        if let Some(record) = self.record(namespace).cloned() {
            self.forgotten.push(record);
            self.touched.insert(namespace.clone(), None);
        }
    }

    /// Opens or closes a span. Returns how far it is known to reach, if the token is ahead of that.
    fn open(&mut self, namespace: &Namespace, span: &SpoolSpan) -> StoreResult<Option<Position>> {
        let old = self.record(namespace);
        let reach = match old {
            None => Some(&span.from),
            Some(old) => old.span.to.as_ref().or(self.book.token.as_ref()).max(Some(&old.span.from)),
        };
        if let Some(old) = old
            && (span.from < old.span.from || Some(&span.from) > reach)
        {
            let what =
                format!("spool {namespace}: the new span begins where the existing one does not reach");
            return Err(Error::bug(what).into());
        }
        let back =
            reach.filter(|reach| span.to.is_none() && Some(*reach) < self.book.token.as_ref()).cloned();
        // Only trimming moves its beginning.
        let record = match old {
            None => SpanRecord::new(span.clone()),
            Some(old) => {
                let span = SpoolSpan { from: old.span.from.clone(), to: span.to.clone() };
                SpanRecord { span, ..old.clone() }
            }
        };
        self.touched.insert(namespace.clone(), Some(record));
        Ok(back)
    }

    fn append(&mut self, namespace: &Namespace, position: &Position, index: usize) -> StoreResult<()> {
        let record = self.record(namespace).ok_or_else(|| StoreFailure::Gone(namespace.clone()))?;
        if record.has_seen(position) {
            return Ok(());
        }
        if record.span.to.as_ref().is_some_and(|to| position > to) {
            return Err(
                Error::bug(format!("spool {namespace}: a change comes after the end of its span")).into()
            );
        }
        if !matches!(self.touched.get(namespace), Some(Some(_))) {
            self.touched.insert(namespace.clone(), Some(record.clone()));
        }
        if let Some(Some(record)) = self.touched.get_mut(namespace) {
            self.appended.push((record.id, record.next, index));
            record.next += 1;
            record.last = Some(position.clone());
        }
        Ok(())
    }

    /// Moves the beginning of a span to `until`, from where `first` is the number of the first change.
    pub(super) fn trim(&mut self, namespace: &Namespace, until: &Position, first: i64, sweeps: bool) {
        if let Some(record) = self.record(namespace) {
            let span = SpoolSpan { from: until.clone(), to: record.span.to.clone() };
            let swept = if sweeps { first } else { record.swept };
            let record = SpanRecord { span, first, swept, ..record.clone() };
            self.touched.insert(namespace.clone(), Some(record));
        }
    }

    /// Ends the draft: returns the records to write (or to delete), and what the index applies once that is
    /// done. `None`: nothing has changed.
    pub(super) fn finish(self) -> Option<(Vec<IndexPut>, IndexWritten)> {
        if self.touched.is_empty()
            && self.token == self.book.token
            && self.fingerprint == self.book.fingerprint
        {
            return None;
        }
        let mut seal = self.book.seal;
        let mut puts = Vec::with_capacity(self.touched.len() + 1);
        for (namespace, record) in &self.touched {
            let key = span_key(namespace);
            if let Some(old) = self.book.records.get(namespace) {
                seal ^= hash(&key, old.encode().as_bytes());
            }
            let value = record.as_ref().map(SpanRecord::encode);
            if let Some(value) = &value {
                seal ^= hash(&key, value.as_bytes());
            }
            puts.push((key, value));
        }
        let mut head = RawDocumentBuf::new();
        head.append(cstr!("seal"), seal.cast_signed());
        if let Some(token) = &self.token {
            head.append(cstr!("token"), token.token());
        }
        if let Some(fingerprint) = self.fingerprint {
            head.append(cstr!("fingerprint"), fingerprint);
        }
        puts.push((HEAD.to_vec(), Some(head)));
        let Self { token, fingerprint, touched, .. } = self;
        Some((puts, IndexWritten { token, fingerprint, seal, touched }))
    }
}

/// A record's key, and its new value if it has one.
pub(super) type IndexPut = (Vec<u8>, Option<RawDocumentBuf>);

pub(super) const HEAD: &[u8] = b"head";
pub(super) const SPAN: &[u8] = b"span/";

/// A database's name contains no dot, so the full name distinguishes the two.
pub(super) fn span_key(namespace: &Namespace) -> Vec<u8> {
    [SPAN, namespace.to_string().as_bytes()].concat()
}

fn hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}

fn earlier(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
