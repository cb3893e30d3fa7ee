//! A process that uses the spool as it is meant to be used, beside a naive model of what it holds.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{RawDocumentBuf, rawdoc};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::change::{Namespace, Position};

/// In memory: the disk is not under test.
pub(super) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Positions are times; every seventh has an old server's `_typeBits`.
pub(super) fn position(time: u32) -> Position {
    let data = format!("82{time:08X}000000012B022C0100296E5A1004");
    Position::from_token(&match time % 7 {
        0 => rawdoc! { "_data": data, "_typeBits": { "x": 1 } },
        _ => rawdoc! { "_data": data },
    })
    .unwrap()
}

/// Names that would be mistaken for one another if they were not kept apart.
pub(super) const NAMES: [(&str, &str); 4] = [("a", "b"), ("a", "b.c"), ("a", "b/c\u{ff}\n"), ("a-b", "c")];

/// Whose change each position is of.
pub(super) fn collection_at(time: u32) -> usize {
    (time as usize * 7 + time as usize / 5) % NAMES.len()
}

pub(super) fn document_key(time: u32) -> RawDocumentBuf {
    rawdoc! { "shard": "x", "_id": i64::from(time) }
}

#[derive(Clone, Debug)]
pub(super) enum SpoolStep {
    /// Reads this many changes of the stream; those of collections without a span are applied at once.
    Read(u32),
    /// Begins to spool a collection.
    Open(usize),
    /// Applies this many of a collection's changes; trims if set.
    Drain(usize, usize, bool),
    /// All of the collection's changes are applied.
    Forget(usize),
    /// Ends the span where it is: as `Forget`, but it stays there.
    Close(usize),
    /// The process ends, and another begins.
    Restart,
    /// The applied position of a collection is set back, as if PostgreSQL were restored.
    SetBack(usize, u32),
    /// The answer to the last write is lost: the write is repeated.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<SpoolStep>> {
    let name = 0..NAMES.len();
    let step = prop_oneof![
        6 => (1..200u32).prop_map(SpoolStep::Read),
        3 => name.clone().prop_map(SpoolStep::Open),
        4 => (name.clone(), 1..150usize, any::<bool>()).prop_map(|(c, n, trims)| SpoolStep::Drain(c, n, trims)),
        2 => name.clone().prop_map(SpoolStep::Forget),
        1 => name.clone().prop_map(SpoolStep::Close),
        1 => Just(SpoolStep::Restart),
        1 => (name, 1..50u32).prop_map(|(c, n)| SpoolStep::SetBack(c, n)),
        1 => Just(SpoolStep::Again),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Clone, Debug)]
pub(super) struct ModelSpan {
    from: u32,
    to: Option<u32>,
    changes: BTreeSet<u32>,
}

/// Changes, token and spans.
type ModelWrite = (Vec<u32>, Option<u32>, Vec<(usize, Option<SpoolSpan>)>);

/// A process that uses the spool as intended, and the naive model of the spool's contents.
pub(super) struct SpoolWorld {
    pub(super) dir: TempDir,
    spool: Option<Checkpoint>,
    pub(super) names: Vec<Namespace>,
    pub(super) spans: BTreeMap<usize, ModelSpan>,
    pub(super) token: Option<u32>,
    /// How far the stream was read by this process.
    pub(super) read: u32,
    /// What PostgreSQL says.
    applied: Vec<u32>,
    last: Option<ModelWrite>,
}

impl SpoolWorld {
    pub(super) fn new() -> Self {
        let dir = folder();
        let spool = Checkpoint::open(dir.path(), "p").unwrap();
        spool.reconcile("life").unwrap();
        let names = NAMES.iter().map(|(database, name)| Namespace::new(*database, *name)).collect();
        let applied = vec![1000; NAMES.len()];
        Self {
            dir,
            spool: Some(spool),
            names,
            spans: BTreeMap::new(),
            token: None,
            read: 1000,
            applied,
            last: None,
        }
    }

    fn spool(&self) -> &Checkpoint {
        self.spool.as_ref().unwrap()
    }

    fn write(&mut self, changes: Vec<u32>, token: Option<u32>, spans: Vec<(usize, Option<SpoolSpan>)>) {
        let at: Vec<Position> = changes.iter().map(|time| position(*time)).collect();
        let keys: Vec<RawDocumentBuf> = changes.iter().map(|time| document_key(*time)).collect();
        let entries: Vec<_> = changes
            .iter()
            .zip(at.iter().zip(&keys))
            .map(|(time, (at, key))| (&self.names[collection_at(*time)], at, &**key))
            .collect();
        let token_at = token.map(position);
        self.spool()
            .spool(&SpoolWrite {
                changes: &entries,
                token: token_at.as_ref(),
                spans: spans.iter().map(|(c, span)| (&self.names[*c], span.clone())).collect(),
                fingerprint: token.map(i64::from),
                life: None,
            })
            .unwrap();
        self.last = Some((changes, token, spans));
    }

    pub(super) fn step(&mut self, step: &SpoolStep) {
        match *step {
            SpoolStep::Read(count) => self.read(count),
            SpoolStep::Open(c) => self.open(c, self.read),
            SpoolStep::Drain(c, most, trims) => self.drain(c, most, trims),
            SpoolStep::Forget(c) => self.forget(c),
            SpoolStep::Close(c) => self.close(c),
            SpoolStep::Restart => self.restart(),
            SpoolStep::SetBack(c, by) => {
                self.applied[c] = self.applied[c].saturating_sub(by).max(1000);
                self.restart();
            }
            SpoolStep::Again => {
                if let Some((changes, token, spans)) = self.last.clone() {
                    self.write(changes, token, spans);
                }
            }
        }
    }

    fn read(&mut self, count: u32) {
        let range = self.read + 1..=self.read + count;
        self.read += count;
        let mut changes = Vec::new();
        for time in range {
            let c = collection_at(time);
            match self.spans.get_mut(&c) {
                Some(span) if span.to.is_none() => {
                    changes.push(time);
                    if time > span.from {
                        span.changes.insert(time);
                    }
                }
                _ => self.applied[c] = self.applied[c].max(time),
            }
        }
        if self.spans.values().any(|span| span.to.is_none()) {
            self.token = self.token.max(Some(self.read));
            self.write(changes, Some(self.read), Vec::new());
        }
    }

    /// What was read directly is applied, so the span begins where the reading is.
    fn open(&mut self, c: usize, from: u32) {
        let span = SpoolSpan { from: position(from), to: None };
        if self.spans.get(&c).is_some_and(|span| span.to.is_none()) {
            return;
        }
        let mut spans = vec![(c, Some(span))];
        if self.spans.remove(&c).is_some() {
            spans.insert(0, (c, None));
        }
        self.spans.insert(c, ModelSpan { from, to: None, changes: BTreeSet::new() });
        if self.token > Some(from) {
            self.token = Some(from);
        }
        self.write(Vec::new(), None, spans);
    }

    fn drain(&mut self, c: usize, most: usize, trims: bool) {
        let Some(span) = self.spans.get_mut(&c) else { return };
        let after = position(self.applied[c].max(span.from));
        let spool = self.spool.as_ref().unwrap();
        let waiting = spool.waiting(&self.names[c], &after, most).unwrap();
        if let Some(last) = waiting.last() {
            self.applied[c] = last.position.cluster_time().time;
        }
        if trims {
            span.from = span.from.max(self.applied[c]);
            span.changes = span.changes.split_off(&(self.applied[c] + 1));
            spool.trim(&self.names[c], &position(self.applied[c])).unwrap();
            self.last = None;
        }
    }

    fn forget(&mut self, c: usize) {
        self.drain(c, usize::MAX, false);
        if self.spans.remove(&c).is_some() {
            self.applied[c] = self.applied[c].max(self.read);
            self.write(Vec::new(), None, vec![(c, None)]);
        }
    }

    fn close(&mut self, c: usize) {
        let token = self.token;
        let Some(span) = self.spans.get_mut(&c).filter(|span| span.to.is_none()) else { return };
        let to = token.unwrap_or(0).max(span.from);
        span.to = Some(to);
        let span = SpoolSpan { from: position(span.from), to: Some(position(to)) };
        self.write(Vec::new(), None, vec![(c, Some(span))]);
    }

    /// What the next process does: it forgets what does not continue PostgreSQL's positions, and reads from
    /// the least.
    fn restart(&mut self) {
        self.spool = None;
        self.spool = Some(Checkpoint::open(self.dir.path(), "p").unwrap());
        self.spool().reconcile("life").unwrap();
        let token = self.spool().token().unwrap();
        let mut start = Vec::new();
        let mut forgotten = Vec::new();
        for (c, name) in self.names.iter().enumerate() {
            let applied = position(self.applied[c]);
            match self.spool().spans().unwrap().get(name) {
                Some(span)
                    if span.from <= applied && Some(&applied) <= span.to.as_ref().or(token.as_ref()) =>
                {
                    start.push(span.to.clone().or(token.clone()).unwrap().cluster_time().time);
                }
                span => {
                    forgotten.extend(span.map(|_| (c, None)));
                    start.push(self.applied[c]);
                }
            }
        }
        for (c, _) in &forgotten {
            self.spans.remove(c);
        }
        self.write(Vec::new(), None, forgotten);
        self.read = *start.iter().min().unwrap();
    }

    fn check(&self) {
        let token = self.spool().token().unwrap();
        assert_eq!(token, self.token.map(position));
        let spans = self.spool().spans().unwrap();
        assert_eq!(spans.len(), self.spans.len());
        for (c, model) in &self.spans {
            let name = &self.names[*c];
            let span = &spans[name];
            assert_eq!(*span, SpoolSpan { from: position(model.from), to: model.to.map(position) });
            // From everywhere that may be asked for, all of them or some.
            for after in
                [model.from, model.from + 3, self.applied[*c].max(model.from), self.read.max(model.from)]
            {
                let found = self.spool().waiting(name, &position(after), usize::MAX).unwrap();
                let expected: Vec<u32> = model.changes.range(after + 1..).copied().collect();
                let times: Vec<u32> = found.iter().map(|w| w.position.cluster_time().time).collect();
                assert_eq!(times, expected);
                for (waiting, time) in found.iter().zip(&expected) {
                    assert_eq!(waiting.position.as_bytes(), position(*time).as_bytes());
                    assert_eq!(waiting.document_key, document_key(*time));
                }
                let some = self.spool().waiting(name, &position(after), 3).unwrap();
                assert_eq!(some, found[..found.len().min(3)]);
            }
            // What a span is for: nothing between its ends is missing.
            let end = model.to.or(self.token).unwrap_or(0);
            for time in (self.applied[*c].max(model.from) + 1..=end).filter(|time| collection_at(*time) == *c)
            {
                assert!(model.changes.contains(&time), "{time} is missing");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// G6: the spool holds what it says, through restarts, and when what was read is read again.
    #[test]
    fn holds_what_it_says(steps in steps()) {
        let mut world = SpoolWorld::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
