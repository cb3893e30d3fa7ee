//! What a partition's [`worker`](super::super::worker) and its [`Writer`](super::super::write::Writer) do, in the same order, with
//! the models of the source and of PostgreSQL.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
};

use mongodb::bson::Timestamp;

use super::{
    super::{
        ahead::Ahead,
        batch::{Batch, Positions},
        router::Router,
        watermark::Watermark,
        worker::{Reached, Routed},
    },
    Bug, Error, World,
    source::{Doc, Name, State, at, doc_of, word},
};
use crate::{
    change::{Change, CollectionId, Op, Position},
    config::Order,
    sink::progress::Partition,
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
    partition: u16,
    incoming: VecDeque<Routed>,
    /// What is left of the parcel that was taken.
    taken: VecDeque<Change>,
    reached: Option<Reached>,
    batch: Batch,
    /// Whether there is something in the batch, if only a position.
    has_positions: bool,
    ahead: Option<Ahead>,
    stored: BTreeMap<CollectionId, Position>,
    touched: BTreeSet<CollectionId>,
    flush: Option<Flush>,
    pub(super) end: Option<End>,
}

/// A batch on its way.
struct Flush {
    events: u64,
    positions: Positions,
    latest: Timestamp,
    writes: Vec<Write>,
    unknown: Vec<(CollectionId, Vec<Change>)>,
    /// What was stored, of which nobody knows yet.
    stored: Option<Vec<(CollectionId, Position)>>,
    /// The positions are stored already, which they must not be.
    split: bool,
}

type Write = (CollectionId, Doc, State);

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

    pub(super) fn receive(&mut self, parcel: Routed) {
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

    fn ahead(&mut self) -> &mut Ahead {
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
        if worker.taken.is_empty() && worker.reached.is_none() {
            // The time of a batch may be up before the next parcel is taken.
            match if self.rng.u8(..4) == 0 { None } else { worker.incoming.pop_front() } {
                Some(Routed { changes, reached }) => {
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
                return Ok(());
            }
            worker.taken.pop_front().into_iter().for_each(|change| worker.batch.push(change));
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
        let Some(latest) = positions.values().map(Position::cluster_time).max() else { return };
        let mut writes = Vec::new();
        let mut unknown: BTreeMap<CollectionId, Vec<Change>> = BTreeMap::new();
        for change in changes {
            let newest = !worker.ahead().may_be(&change.key, change.position.cluster_time());
            let write = |state| (change.collection, doc_of(&change.document_key), state);
            match &change.op {
                Op::Whole(document) if newest => writes.push(write(document.get_i32("v").ok())),
                Op::Delete if newest => writes.push(write(None)),
                _ => unknown.entry(change.collection).or_default().push(change),
            }
        }
        let unknown = unknown.into_iter().collect();
        let (stored, split) = (None, false);
        worker.flush = Some(Flush { events, positions, latest, writes, unknown, stored, split });
    }

    /// The next step of a flush: a lookup, the transaction, or that it is made known.
    fn flush(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        mut flush: Flush,
    ) -> Result<(), Error> {
        if let Some((collection, changes)) = flush.unknown.pop() {
            self.look_up(crew, worker, (collection, changes), &mut flush)?;
        } else if let Some(stored) = flush.stored {
            worker.ahead().passed(flush.latest);
            let partition = Partition(worker.partition);
            stored.iter().for_each(|(id, at)| crew.borrow_mut().watermark.advance(partition, *id, at));
            return Ok(());
        } else if self.has(Bug::PositionBeforeRows) && !flush.split {
            let reached = Some((&flush.positions, flush.events));
            self.store(crew, worker, &[], reached)?;
            flush.split = true;
        } else {
            let reached = (!flush.split).then_some((&flush.positions, flush.events));
            flush.stored = Some(self.store(crew, worker, &flush.writes, reached)?);
        }
        worker.flush = Some(flush);
        Ok(())
    }

    fn look_up(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        (collection, changes): (CollectionId, Vec<Change>),
        flush: &mut Flush,
    ) -> Result<(), Error> {
        let name = crew.borrow().names[collection.0];
        let until = changes.iter().map(|change| change.position.cluster_time()).max().unwrap();
        let mut past = None;
        if self.set.order == Order::Commit {
            let at = worker.ahead().noted().max(until).time;
            if at > self.source.now {
                return Err(Error::wrong(format!("c{name} is looked up at {at}, which has not come")));
            }
            past = Some(at).filter(|at| self.source.remembers(name, *at) && self.rng.u8(..20) != 0);
        }
        let mut found = Vec::new();
        for change in &changes {
            let time = past.unwrap_or_else(|| self.read_time(until.time));
            let doc = doc_of(&change.document_key);
            found.push((collection, doc, self.source.state(name, doc, time)));
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
        changes.iter().for_each(|change| worker.ahead().looked_up(&change.key, at(read_at)));
        self.say(|_| format!("worker {} looks up {found:?} at {read_at}, past: {past:?}", worker.partition));
        // What is too much to be held is written on the way.
        if self.set.order == Order::Document && self.rng.u8(..8) == 0 {
            self.store(crew, worker, &found, None)?;
        } else {
            flush.writes.append(&mut found);
        }
        Ok(())
    }

    /// One transaction.
    fn store(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        writes: &[Write],
        reached: Option<(&Positions, u64)>,
    ) -> Result<Vec<(CollectionId, Position)>, Error> {
        let (names, session, partition) =
            (crew.borrow().names.clone(), crew.borrow().session, Partition(worker.partition));
        worker.touched.extend(writes.iter().map(|(id, ..)| *id));
        let mut moved = Vec::new();
        if let Some((positions, events)) = reached {
            let all = events == 0 || self.rng.bool();
            if !all {
                positions.iter().for_each(|(id, position)| worker.batch.reach(*id, position));
                worker.has_positions = true;
            }
            for (id, position) in positions {
                let concerned = all || worker.touched.contains(id);
                let moves = worker.stored.get(id).is_none_or(|stored| stored < position);
                if concerned && moves && !self.run.stopped.contains(id) {
                    moved.push((*id, position.clone()));
                }
            }
        }
        let stopped = self.run.stopped.clone();
        let writes: Vec<_> = writes.iter().filter(|(id, ..)| !stopped.contains(id)).collect();
        if !writes.is_empty() || !moved.is_empty() {
            let fingerprint = super::intake::fingerprint(&names);
            self.say(|_| {
                let rows = writes.iter().map(|(id, doc, state)| format!("#{}/{doc} {}", id.0, word(*state)));
                let rows: Vec<_> = rows.collect();
                format!("worker {} stores {rows:?} {moved:?}", partition.0)
            });
            self.transaction(session, |pg| {
                for (id, doc, state) in &writes {
                    pg.put(names[id.0], *doc, *state);
                }
                for (id, position) in &moved {
                    let stored = (position.clone(), fingerprint);
                    let before = pg.positions.insert((partition, names[id.0]), stored);
                    if before.is_some_and(|(before, _)| before > *position) {
                        return Err(Error::Away);
                    }
                }
                Ok(())
            })?;
        }
        if reached.is_some() {
            worker.touched.clear();
        }
        worker.stored.extend(moved.iter().cloned());
        Ok(moved)
    }
}
