//! What a partition's [`worker`](crate::pipeline::apply::worker) does, in the same order, with the models of the source and of PostgreSQL.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
};

use mongodb::bson::Timestamp;

use super::{
    Bug, Error, World,
    document::{document, fields_of},
    source::{Doc, Name, at, doc_of},
    write::Write,
};
use crate::{
    config::Order,
    model::{
        change::{Change, CollectionId, Op, Position},
        partial_update::Patch,
        partition::Partition,
    },
    pipeline::{
        apply::{
            batch::{Batch, Positions},
            staleness::Ahead,
            watermark::Watermark,
        },
        stream::{
            channel::{Reached, WorkerMessage},
            partitioner::Router,
        },
    },
};

/// The workers of a turn, and what they share.
pub(super) struct Crew {
    /// The names of the collections, by their ids.
    pub(super) names: Rc<[Name]>,
    pub(super) session: u32,
    pub(super) router: Router,
    pub(super) watermark: Watermark,
    pub(super) workers: Vec<Worker>,
    /// The side of PostgreSQL has nothing more for them.
    pub(super) is_closed: bool,
    /// What they have not begun of the stream is left.
    pub(super) is_left: bool,
}

impl Crew {
    pub(super) fn is_gone(&self) -> bool {
        self.workers.iter().any(|worker| worker.end.is_some())
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
}

#[derive(Default)]
pub(super) struct Worker {
    pub(super) partition: u16,
    incoming: VecDeque<WorkerMessage>,
    /// What is left of the parcel that was taken.
    taken: VecDeque<Change>,
    reached: Option<Reached>,
    pub(super) batch: Batch,
    /// When each collection last changed.
    changed: BTreeMap<CollectionId, Timestamp>,
    /// What is wrongly made of changes on purpose.
    wrongly: BTreeMap<(CollectionId, Doc), Op>,
    /// Whether there is something in the batch, if only a position.
    pub(super) has_positions: bool,
    ahead: Option<Ahead>,
    pub(super) stored: BTreeMap<CollectionId, Position>,
    pub(super) touched: BTreeSet<CollectionId>,
    /// Up to when rows may show states, as was noted.
    pub(super) noted: Option<Timestamp>,
    flush: Option<Flush>,
    pub(super) end: Option<End>,
}

/// A batch on its way.
pub(super) struct Flush {
    pub(super) positions: Positions,
    /// Whether they are stored of all collections.
    pub(super) all: bool,
    pub(super) latest: Timestamp,
    pub(super) writes: Vec<Write>,
    pub(super) unknown: Vec<(CollectionId, Vec<Wanted>)>,
    /// What was stored, of which nobody knows yet.
    stored: Option<Vec<(CollectionId, Position)>>,
    /// The positions that are stored already, which they must not be.
    early: Option<Vec<(CollectionId, Position)>>,
}

/// A document that is to be looked up.
pub(super) struct Wanted {
    pub(super) doc: Doc,
    pub(super) at: Timestamp,
    pub(super) patch: Option<Patch>,
}

impl Worker {
    pub(super) fn new(
        partition: Partition,
        ahead: Timestamp,
        stored: &HashMap<(Partition, CollectionId), Position>,
    ) -> Self {
        let own = stored.iter().filter(|((of, _), _)| *of == partition);
        let stored = own.map(|((_, id), position)| (*id, position.clone())).collect();
        Self { partition: partition.0, ahead: Some(Ahead::new(ahead)), stored, ..Self::default() }
    }

    pub(super) fn receive(&mut self, parcel: WorkerMessage) {
        // To one that is gone, it is lost.
        if self.end.is_none() {
            self.incoming.push_back(parcel);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.incoming.len()
    }

    pub(super) fn rests(&self) -> bool {
        let is_empty = self.incoming.is_empty() && self.taken.is_empty() && self.reached.is_none();
        is_empty && self.flushed() && self.flush.is_none()
    }

    fn flushed(&self) -> bool {
        self.batch.is_empty() && !self.has_positions
    }

    pub(super) fn ahead(&mut self) -> &mut Ahead {
        self.ahead.as_mut().unwrap()
    }
}

impl World {
    pub(super) fn step_worker(&mut self, crew: &Rc<RefCell<Crew>>, number: usize) -> Result<(), Error> {
        let mut worker = std::mem::take(&mut crew.borrow_mut().workers[number]);
        if worker.end.is_none() {
            match self.work(crew, &mut worker) {
                Err(Error::Away) => worker.end = Some(End::Failed),
                done => done?,
            }
        }
        crew.borrow_mut().workers[number] = worker;
        Ok(())
    }

    fn work(&mut self, crew: &Rc<RefCell<Crew>>, worker: &mut Worker) -> Result<(), Error> {
        if let Some(flush) = worker.flush.take() {
            return self.flush(crew, worker, flush);
        }
        let is_left = crew.borrow().is_left;
        if worker.taken.is_empty() && worker.reached.is_none() {
            // The time of a batch may be up before the next parcel is taken.
            match if self.rng.u8(..4) == 0 { None } else { worker.incoming.pop_front() } {
                Some(WorkerMessage { reached: Some(_), .. }) if is_left => return Ok(()),
                Some(WorkerMessage { changes, reached, .. }) => {
                    if let Some(reached) = reached.as_ref().filter(|_| !self.has(Bug::AheadNotRaised)) {
                        worker.ahead().raise(reached.ahead_until);
                    }
                    (worker.taken, worker.reached) = (changes.into(), reached);
                }
                None if self.is_closed(crew) && worker.incoming.is_empty() && worker.flushed() => {
                    worker.end = Some(End::Done);
                    return Ok(());
                }
                None => {
                    self.begin_flush(worker);
                    return Ok(());
                }
            }
        }
        while let Some(change) = worker.taken.front() {
            let may_end = match self.set.order {
                Order::Document => true,
                Order::Commit => worker.batch.ends_before(change.position.cluster_time()),
            };
            if worker.batch.is_full(self.set.rows) && may_end {
                self.begin_flush(worker);
                if is_left && worker.reached.take().is_some() {
                    worker.taken.clear();
                }
                return Ok(());
            }
            let Some(change) = worker.taken.pop_front() else { break };
            if self.has(Bug::PatchOntoWhole) {
                let place = (change.collection, doc_of(&change.document_key));
                let op = fold_wrongly(worker.wrongly.remove(&place), change.op.clone());
                worker.wrongly.insert(place, op);
            }
            worker.batch.push(change);
        }
        if let Some(Reached { collections, position, .. }) = worker.reached.take() {
            collections.iter().for_each(|id| worker.batch.reach(*id, &position));
        }
        worker.has_positions = true;
        if worker.batch.is_full(self.set.rows) {
            self.begin_flush(worker);
        }
        Ok(())
    }

    /// Whether nobody can send anything any more.
    fn is_closed(&self, crew: &Rc<RefCell<Crew>>) -> bool {
        let sender = self.run.intake.now.crew.as_ref();
        crew.borrow().is_closed && !sender.is_some_and(|sender| Rc::ptr_eq(sender, crew))
    }

    fn begin_flush(&mut self, worker: &mut Worker) {
        worker.has_positions = false;
        let events = worker.batch.events();
        let (changes, positions) = worker.batch.take();
        let mut wrongly = std::mem::take(&mut worker.wrongly);
        let Some(latest) = positions.values().map(Position::cluster_time).max() else { return };
        let mut writes = Vec::new();
        let mut unknown: BTreeMap<CollectionId, Vec<Wanted>> = BTreeMap::new();
        for Change { collection, key, document_key, op, position } in changes {
            let (doc, at) = (doc_of(&document_key), position.cluster_time());
            if !self.has(Bug::TriedAgainAsItWas) {
                let changed = worker.changed.entry(collection).or_insert(at);
                *changed = at.max(*changed);
            }
            let newest = !worker.ahead().may_be(&key, at);
            let (state, fields) = match wrongly.remove(&(collection, doc)).unwrap_or(op) {
                Op::Whole(document) if newest => (Some(fields_of(&document)), None),
                Op::Delete if newest => (None, None),
                Op::Patch(Patch { fields, document, is_complete: true })
                    if newest || self.has(Bug::PatchOfThePast) =>
                {
                    (Some(fields_of(&document)), Some(fields))
                }
                op => {
                    let patch = if let Op::Patch(patch) = op { Some(patch) } else { None };
                    unknown.entry(collection).or_default().push(Wanted { doc, at, patch });
                    continue;
                }
            };
            writes.push(Write { collection, doc, state, fields, at, read_at: None });
        }
        let unknown = unknown.into_iter().collect();
        let all = events == 0 || self.rng.bool();
        let (stored, early) = (None, None);
        worker.flush = Some(Flush { positions, all, latest, writes, unknown, stored, early });
    }

    /// The next step of a flush: a lookup, a transaction, or that it is made known.
    fn flush(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        mut flush: Flush,
    ) -> Result<(), Error> {
        if let Some((collection, wanted)) = flush.unknown.pop() {
            self.look_up(crew, worker, (collection, wanted), &mut flush)?;
        } else if let Some(stored) = flush.stored {
            worker.ahead().passed(flush.latest);
            let partition = Partition(worker.partition);
            for (id, at) in &stored {
                crew.borrow_mut().watermark.advance(partition, *id, at);
            }
            return Ok(());
        } else if self.has(Bug::PositionBeforeRows) && flush.early.is_none() {
            let (reached, shown) = ((&flush.positions, flush.all), Some(flush.latest));
            flush.early = Some(self.store(crew, worker, &[], Some(reached), shown)?);
        } else {
            let stored = self.write(crew, worker, &mut flush)?;
            flush.stored =
                stored.map(|stored| flush.early.take().into_iter().flatten().chain(stored).collect());
        }
        worker.flush = Some(flush);
        Ok(())
    }

    fn look_up(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        (collection, wanted): (CollectionId, Vec<Wanted>),
        flush: &mut Flush,
    ) -> Result<(), Error> {
        let name = crew.borrow().names[collection.0];
        let until = wanted.iter().map(|wanted| wanted.at).max().unwrap();
        let mut past = None;
        if self.set.order == Order::Commit {
            let changed = worker.changed.get(&collection).copied();
            let at = worker.ahead().noted().max(until).max(changed.unwrap_or(until)).time;
            if at > self.source.now {
                return Err(Error::wrong(format!("c{name} is looked up at {at}, which has not come")));
            }
            past = Some(at).filter(|at| self.source.remembers(name, *at) && self.rng.u8(..20) != 0);
        }
        let mut found = Vec::new();
        for Wanted { doc, at, patch } in &wanted {
            let time = past.unwrap_or_else(|| self.read_time(until.time));
            let state = self.source.state(name, *doc, time);
            let part = patch.as_ref().zip(state).and_then(|(patch, state)| {
                let part = patch.of_document(&document(&self.source.key(*doc).1, &state))?;
                Some((fields_of(&part), patch.fields.clone()))
            });
            // Where its part is large, it is written whole.
            let (state, fields) = match part.filter(|_| self.rng.u8(..8) > 0) {
                Some((part, fields)) => (Some(part), Some(fields)),
                None => (state, None),
            };
            found.push(Write { collection, doc: *doc, state, fields, at: *at, read_at: Some(time) });
        }
        let read_at = past.unwrap_or_else(|| self.read_until());
        if self.set.order == Order::Commit && past.is_none() {
            let session = crew.borrow().session;
            self.transaction(session, |pg| {
                (pg.ahead, pg.settled) = (pg.ahead.max(Some(at(read_at))), false);
                Ok(())
            })?;
            worker.ahead().raise(at(read_at));
        }
        for Wanted { doc, .. } in &wanted {
            worker.ahead().looked_up(&self.source.key(*doc).0, at(read_at));
        }
        self.say(|_| format!("worker {} looks up {found:?} at {read_at}, past: {past:?}", worker.partition));
        // What is too much to be held is written on the way.
        if self.set.order == Order::Document && self.rng.u8(..4) == 0 {
            let whole: Vec<_> = found.extract_if(.., |write| write.fields.is_none()).collect();
            let shown = whole.iter().map(|write| write.at).max().and_then(|at| self.shown(worker, at));
            self.store(crew, worker, &whole, None, shown)?;
            self.is_bad_moment = true;
        }
        flush.writes.append(&mut found);
        Ok(())
    }
}

/// As a batch must not do it: what came before a patch is forgotten.
fn fold_wrongly(earlier: Option<Op>, later: Op) -> Op {
    match (earlier, later) {
        (Some(Op::Patch(earlier)), Op::Patch(later)) => earlier.then(&later).map_or(Op::Update, Op::Patch),
        (Some(Op::Update | Op::Delete), Op::Patch(_)) => Op::Update,
        (_, later) => later,
    }
}
