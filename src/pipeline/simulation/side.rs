//! The side of PostgreSQL: what [`Pipeline::attempt`](crate::pipeline::context::Pipeline) and what it calls do, in the same order. A step is one
//! transaction, or one question to the source.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
};

use mongodb::bson::Timestamp;

use super::{
    Bug, Error, World,
    document::State,
    intake::{ApplyState, fingerprint},
    postgres::{Contents, Plan},
    source::{Doc, Name, at},
    worker::{Crew, End, Worker},
};
use crate::{
    config::Order,
    model::{
        change::{CollectionId, Position},
        partition::Partition,
        phase::Phase,
        resync_reason::Reason,
    },
    pipeline::{
        apply::watermark::Watermark,
        stream::{partitioner::Router, repartition},
    },
    sink::metadata::positions::StoredPosition,
};

/// What comes next.
pub(super) enum Stage {
    Idle,
    Register,
    Reconcile(u64),
    WriteDown,
    Prepare,
    Plan(Planning),
    Positions(Rc<[Name]>, Vec<CollectionId>),
    Follow(Rc<[Name]>, Vec<CollectionId>),
    Following(Rc<[Name]>, Completing),
    Ending(Turn),
    Failed,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Turn {
    Done,
    Again,
}

pub(super) struct Planning {
    names: Rc<[Name]>,
    asked: BTreeMap<Name, Reason>,
    next: usize,
    live: Vec<CollectionId>,
    start: Option<Position>,
}

/// How far the completing of the collections is.
pub(super) enum Completing {
    KeysOfReplaced,
    Copy,
    Chunks { left: Vec<Chunk>, after: u32, reading: Vec<(Chunk, Vec<(Doc, State)>)> },
    Copied,
    Keys,
    Sweep(usize),
    Swept { id: usize, seen: HashSet<Doc> },
    Ready,
    Done,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    name: Name,
    id: CollectionId,
    number: usize,
    replaces: bool,
}

impl World {
    pub(super) fn step_side(&mut self) -> Result<(), Error> {
        let stage = std::mem::replace(&mut self.run.stage, Stage::Failed);
        self.run.stage = match self.advance(stage) {
            Err(Error::Away | Error::Rebuilt) => {
                self.say(|_| "the attempt fails".to_owned());
                if let Some(crew) = self.run.crew.take() {
                    crew.borrow_mut().workers.iter_mut().for_each(|worker| worker.end = Some(End::Failed));
                }
                Stage::Failed
            }
            next => next?,
        };
        Ok(())
    }

    fn advance(&mut self, stage: Stage) -> Result<Stage, Error> {
        Ok(match stage {
            Stage::Failed => {
                self.run.demand.crew = None;
                Stage::Idle
            }
            Stage::Idle => {
                self.run.session = self.pg.starts;
                Stage::Register
            }
            Stage::Register => {
                let life = self.rng.u64(..);
                self.commit(|pg| {
                    pg.life.get_or_insert(life);
                    Ok(())
                })?;
                Stage::Reconcile(self.pg.now.life.unwrap())
            }
            Stage::Reconcile(life) => {
                self.spool.reconcile(life)?;
                Stage::WriteDown
            }
            Stage::WriteDown => {
                let anew = self.run.notices.anew.clone();
                if !anew.is_empty() {
                    self.say(|_| format!("it is written down: {anew:?}"));
                    self.commit(|pg| {
                        pg.resyncs.extend(anew.clone());
                        Ok(())
                    })?;
                }
                self.run.notices.anew.retain(|name, _| !anew.contains_key(name));
                Stage::Prepare
            }
            Stage::Prepare => self.prepare()?,
            Stage::Plan(planning) => self.plan(planning)?,
            Stage::Positions(names, live) => self.positions(names, live)?,
            Stage::Follow(names, live) => self.follow(names, &live)?,
            Stage::Following(names, completing) => self.following(names, completing)?,
            Stage::Ending(turn) => self.end(turn)?,
        })
    }

    fn commit(&mut self, change: impl FnOnce(&mut Contents) -> Result<(), Error>) -> Result<(), Error> {
        self.transaction(self.run.session, change)
    }

    fn prepare(&mut self) -> Result<Stage, Error> {
        let names: Vec<Name> = self.source.names().filter(|name| self.source.exists(*name)).collect();
        let (known, asked) = (self.pg.now.known.clone(), self.pg.now.resyncs.clone());
        for name in known.into_iter().filter(|name| !names.contains(name)) {
            if self.set.truncates && asked.get(&name) != Some(&Reason::Recreated) {
                self.commit(|pg| {
                    pg.rows.retain(|(of, _), _| *of != name);
                    Ok(())
                })?;
            }
            self.commit(|pg| {
                pg.resyncs.insert(name, Reason::Recreated);
                Ok(())
            })?;
        }
        self.commit(|pg| {
            pg.known.extend(&names);
            Ok(())
        })?;
        self.say(|_| format!("the collections are {names:?}"));
        let asked = self.pg.now.resyncs.clone();
        Ok(Stage::Plan(Planning { names: names.into(), asked, next: 0, live: Vec::new(), start: None }))
    }

    fn plan(&mut self, mut planning: Planning) -> Result<Stage, Error> {
        let Some(&name) = planning.names.get(planning.next) else {
            return Ok(Stage::Positions(planning.names, planning.live));
        };
        let replaces = match (self.pg.now.phase(name), planning.asked.get(&name)) {
            (Phase::New, _) => false,
            (_, Some(_)) => true,
            (phase, None) => {
                if phase == Phase::Live {
                    planning.live.push(CollectionId(planning.next));
                }
                planning.next += 1;
                return Ok(Stage::Plan(planning));
            }
        };
        let Some(start) = planning.start.clone() else {
            planning.start = Some(self.source.start(&mut self.rng));
            return Ok(Stage::Plan(planning));
        };
        // It is tried again.
        if let Some(id) = self.run.demand.names.iter().position(|of| *of == name) {
            self.run.stopped.remove(&CollectionId(id));
        }
        let stored = (start.clone(), fingerprint(&planning.names));
        let plan = Plan { copied: vec![false; self.set.chunks], replaces, start: start.clone() };
        let partitions = self.set.partitions;
        self.say(|_| format!("c{name} is planned from {start:?}, in place: {replaces}"));
        self.commit(|pg| {
            pg.plan(name, plan, partitions, &stored);
            pg.settled = false;
            Ok(())
        })?;
        planning.next += 1;
        Ok(Stage::Plan(planning))
    }

    fn positions(&mut self, names: Rc<[Name]>, live: Vec<CollectionId>) -> Result<Stage, Error> {
        if !self.pg.is_up || self.pg.starts != self.run.session {
            return Err(Error::Away);
        }
        let load = |((partition, name), (position, fingerprint)): (&(Partition, Name), &(Position, i64))| {
            StoredPosition {
                partition: *partition,
                collection: name.to_string(),
                position: position.clone(),
                fingerprint: Some(*fingerprint),
            }
        };
        let mut stored: Vec<_> = self.pg.now.positions.iter().map(load).collect();
        if !repartition::are_of(&stored, self.set.partitions) {
            stored = repartition::spread(&stored, self.set.partitions);
            let of = |stored: &StoredPosition| {
                let place = (stored.partition, stored.collection.parse().unwrap());
                (place, (stored.position.clone(), stored.fingerprint.unwrap()))
            };
            let reset = stored.iter().map(of).collect();
            self.commit(|pg| {
                (pg.positions, pg.shown) = (reset, BTreeMap::new());
                Ok(())
            })?;
        }
        let before = std::mem::take(&mut self.run.stopped);
        let (old, new) = (self.run.demand.names.clone(), names.clone());
        let place = |id: &CollectionId| new.iter().position(|name| *name == old[id.0]).map(CollectionId);
        self.run.stopped = before.iter().filter_map(place).collect();
        let mut known = HashMap::new();
        let mut foreign = false;
        for StoredPosition { partition, collection, position, fingerprint: of } in stored {
            if let Some(id) = names.iter().position(|name| name.to_string() == collection) {
                foreign |= of != Some(fingerprint(&names)) && !self.run.stopped.contains(&CollectionId(id));
                known.insert((partition, CollectionId(id)), position);
            }
        }
        let attempt = self.run.demand.attempt + 1;
        self.say(|_| format!("attempt {attempt} has {known:?}"));
        self.run.demand = ApplyState {
            attempt,
            names: names.clone(),
            stored: Rc::new(known),
            foreign,
            ..ApplyState::default()
        };
        Ok(Stage::Follow(names, live))
    }

    fn follow(&mut self, names: Rc<[Name]>, live: &[CollectionId]) -> Result<Stage, Error> {
        let now = at(self.operation_time());
        let ahead = match (self.set.order, self.pg.now.ahead) {
            (Order::Commit, Some(stored)) => stored,
            (order, _) => {
                self.commit(|pg| {
                    pg.ahead = (order == Order::Commit).then_some(now);
                    Ok(())
                })?;
                self.pg.now.shown().filter(|_| order == Order::Document).unwrap_or(now)
            }
        };
        self.say(|_| format!("rows may be ahead up to {ahead:?}"));
        let stored = self.run.demand.stored.clone();
        let partitions = (0..self.set.partitions).map(Partition);
        let crew = Rc::new(RefCell::new(Crew {
            names: names.clone(),
            session: self.run.session,
            router: Router::new(self.set.partitions, HashMap::clone(&stored)),
            watermark: Watermark::new(stored.iter().map(|(place, position)| (*place, position.clone()))),
            workers: partitions.map(|partition| Worker::new(partition, ahead, &stored)).collect(),
            is_closed: false,
            is_left: false,
        }));
        self.run.crew = Some(crew.clone());
        self.run.demand.crew = Some(crew);
        self.run.demand.ready = live.iter().map(|id| (*id, ahead)).collect();
        Ok(Stage::Following(names, Completing::KeysOfReplaced))
    }

    fn following(&mut self, names: Rc<[Name]>, completing: Completing) -> Result<Stage, Error> {
        let is_gone = self.run.crew.as_ref().is_some_and(|crew| crew.borrow().is_gone());
        // The connection that holds the pipeline is lost, too.
        let is_lost = self.pg.starts != self.run.session && self.rng.bool();
        if is_gone || is_lost {
            return Err(Error::Away);
        }
        let notices = &self.run.notices;
        let is_said = notices.attempt == self.run.demand.attempt;
        if is_said && notices.is_lost && self.rng.bool() {
            return Err(Error::Rebuilt);
        }
        let asked = |pg: &Contents| names.iter().any(|name| pg.resyncs.contains_key(name));
        let is_new = || self.source.names().any(|name| self.source.exists(name) && !names.contains(&name));
        let again = (is_said && !notices.anew.is_empty()) || asked(&self.pg.now) || is_new();
        if (again || self.run.stops) && self.rng.bool() {
            self.run.demand.crew = None;
            if let Some(crew) = &self.run.crew {
                let mut crew = crew.borrow_mut();
                (crew.is_closed, crew.is_left) = (true, true);
            }
            return Ok(Stage::Ending(if self.run.stops { Turn::Done } else { Turn::Again }));
        }
        let completing = self.complete(&names, completing)?;
        Ok(Stage::Following(names, completing))
    }

    fn end(&mut self, turn: Turn) -> Result<Stage, Error> {
        let Some(crew) = self.run.crew.clone() else { return Ok(Stage::Register) };
        // The workers end when nobody can send to them any more.
        if self.run.intake.now.crew.as_ref().is_some_and(|known| Rc::ptr_eq(known, &crew)) {
            return Ok(Stage::Ending(turn));
        }
        if crew.borrow().workers.iter().any(|worker| worker.end == Some(End::Failed)) {
            return Err(Error::Away);
        }
        if crew.borrow().workers.iter().any(|worker| worker.end.is_none()) {
            return Ok(Stage::Ending(turn));
        }
        self.run.crew = None;
        self.say(|_| "the turn ends".to_owned());
        if turn == Turn::Done {
            self.crash();
            return Ok(Stage::Idle);
        }
        Ok(Stage::Register)
    }

    fn complete(&mut self, names: &Rc<[Name]>, completing: Completing) -> Result<Completing, Error> {
        Ok(match completing {
            Completing::KeysOfReplaced => {
                let replaced =
                    |pg: &Contents, name: &Name| pg.plans.get(name).is_some_and(|plan| plan.replaces);
                self.commit(|pg| {
                    let replaced: Vec<_> = names.iter().copied().filter(|name| replaced(pg, name)).collect();
                    pg.keyed.extend(replaced);
                    Ok(())
                })?;
                Completing::Copy
            }
            Completing::Copy => {
                let mut left = Vec::new();
                for (id, name) in names.iter().enumerate() {
                    let Some(plan) = self.pg.now.plans.get(name) else { continue };
                    let numbers = (0..plan.copied.len()).filter(|number| !plan.copied[*number]);
                    let (name, id, replaces) = (*name, CollectionId(id), plan.replaces);
                    left.extend(numbers.map(|number| Chunk { name, id, number, replaces }));
                }
                Completing::Chunks { left, after: self.operation_time(), reading: Vec::new() }
            }
            Completing::Chunks { left, after, reading } => self.copy(left, after, reading)?,
            Completing::Copied => {
                self.note_ahead()?;
                Completing::Keys
            }
            Completing::Keys => {
                let stopped = self.run.stopped.clone();
                self.commit(|pg| {
                    let of = names.iter().enumerate().filter(|(id, _)| !stopped.contains(&CollectionId(*id)));
                    pg.keyed.extend(of.map(|(_, name)| *name));
                    Ok(())
                })?;
                Completing::Sweep(0)
            }
            Completing::Sweep(id) => match names.get(id) {
                None => Completing::Ready,
                Some(&name) => {
                    let is_stopped = self.run.stopped.contains(&CollectionId(id));
                    if is_stopped || self.pg.now.phase(name) != Phase::Sweeping {
                        return Ok(Completing::Sweep(id + 1));
                    }
                    let after = self.operation_time();
                    let seen = self.read_all(name, after).into_iter().map(|(doc, _)| doc).collect();
                    Completing::Swept { id, seen }
                }
            },
            Completing::Swept { id, seen } => {
                let name = names[id];
                let unseen = |pg: &Contents| {
                    pg.rows.keys().find(|(of, doc)| *of == name && !seen.contains(doc)).copied()
                };
                if let Some(row) = unseen(&self.pg.now) {
                    self.commit(|pg| {
                        pg.rows.remove(&row);
                        Ok(())
                    })?;
                    return Ok(Completing::Swept { id, seen });
                }
                self.note_ahead()?;
                self.commit(|pg| {
                    pg.plans.get_mut(&name).into_iter().for_each(|plan| plan.replaces = false);
                    Ok(())
                })?;
                Completing::Sweep(id + 1)
            }
            Completing::Ready => {
                let now = self.note_ahead()?;
                for id in (0..names.len()).map(CollectionId) {
                    self.run.demand.ready.entry(id).or_insert(now);
                }
                self.say(|_| "all collections are ready".to_owned());
                Completing::Done
            }
            Completing::Done => Completing::Done,
        })
    }

    fn note_ahead(&mut self) -> Result<Timestamp, Error> {
        let now = at(self.operation_time());
        if self.set.order == Order::Commit && self.run.demand.ready.len() < self.run.demand.names.len() {
            self.commit(|pg| {
                (pg.ahead, pg.settled) = (pg.ahead.max(Some(now)), false);
                Ok(())
            })?;
        }
        Ok(now)
    }

    /// Reads a chunk, or writes one that was read.
    fn copy(
        &mut self,
        mut left: Vec<Chunk>,
        after: u32,
        mut reading: Vec<(Chunk, Vec<(Doc, State)>)>,
    ) -> Result<Completing, Error> {
        if reading.len() < 2 && !left.is_empty() && self.rng.bool() {
            let chunk = left.remove(0);
            let is_copied = |plan: &Plan| plan.copied.get(chunk.number).is_none_or(|copied| *copied);
            if self.pg.starts == self.run.session && self.pg.now.plans.get(&chunk.name).is_none_or(is_copied)
            {
                return Err(Error::wrong(format!("{chunk:?} is copied already, and is read again")));
            }
            let mut found = self.read_all(chunk.name, after);
            found.retain(|(doc, _)| doc % self.set.chunks == chunk.number);
            self.say(|_| format!("{chunk:?} is read: {found:?}"));
            reading.push((chunk, found));
        } else if !reading.is_empty() {
            let (chunk, mut found) = reading.remove(self.rng.usize(..reading.len()));
            let is_stopped = self.run.stopped.contains(&chunk.id);
            if !is_stopped
                && chunk.replaces
                && self.rng.bool()
                && let Some((doc, state)) = found.pop()
            {
                self.commit(|pg| {
                    pg.put(chunk.name, doc, state);
                    Ok(())
                })?;
                reading.push((chunk, found));
            } else if !is_stopped {
                self.copy_chunk(chunk, &found)?;
            }
        } else if left.is_empty() {
            return Ok(Completing::Copied);
        }
        Ok(Completing::Chunks { left, after, reading })
    }

    fn copy_chunk(&mut self, chunk: Chunk, found: &[(Doc, State)]) -> Result<(), Error> {
        self.say(|_| format!("{chunk:?} is written"));
        let rows = |pg: &mut Contents| {
            for (doc, state) in found {
                if !chunk.replaces && pg.rows.contains_key(&(chunk.name, *doc)) {
                    return Err(Error::wrong(format!("c{}/{doc} has two rows", chunk.name)));
                }
                pg.put(chunk.name, *doc, *state);
            }
            Ok(())
        };
        let mark = |pg: &mut Contents| match pg.plans.get_mut(&chunk.name) {
            Some(plan) if !plan.copied[chunk.number] => {
                plan.copied[chunk.number] = true;
                Ok(())
            }
            _ => Err(Error::Away),
        };
        if self.has(Bug::ChunkTwice) {
            self.commit(rows)?;
            return self.commit(mark);
        }
        self.commit(|pg| rows(pg).and_then(|()| mark(pg)))
    }

    /// The documents of a collection, each as it is at some time from `after` on.
    fn read_all(&mut self, name: Name, after: u32) -> Vec<(Doc, State)> {
        let docs = self.source.docs().map(|doc| {
            let time = self.read_time(after);
            (doc, self.source.state(name, doc, time))
        });
        docs.collect::<Vec<_>>().into_iter().filter(|(_, state)| state.is_some()).collect()
    }
}

impl super::Process {
    /// A start position that is taken and not stored.
    pub(super) fn planned(&self) -> Option<&Position> {
        match &self.stage {
            Stage::Plan(planning) => planning.start.as_ref(),
            _ => None,
        }
    }
}
