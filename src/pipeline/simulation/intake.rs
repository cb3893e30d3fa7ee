//! What [`tailer`](crate::pipeline::stream::tailer) does, in the same order, with the models of the stream and of the spool. A step of it
//! is what happens between two points where another task may come in between.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use mongodb::bson::Timestamp;

use super::{
    Bug, Error, World,
    source::{Event, Name, Start, doc_of},
    spool,
    worker::Crew,
};
use crate::{
    checkpoint::Span,
    config::Order,
    model::{
        change::{Change, CollectionId, Position},
        partition::Partition,
        resync_reason::Reason,
    },
    pipeline::{
        apply::watermark::Watermark,
        stream::{
            channel::{Reached, WorkerMessage},
            route::{Flow, Route, Saved, Trim},
        },
    },
};

/// See [`ApplyState`](crate::pipeline::stream::channel::ApplyState).
#[derive(Clone, Default)]
pub(super) struct ApplyState {
    pub(super) attempt: u64,
    pub(super) names: Rc<[Name]>,
    pub(super) stored: Rc<HashMap<(Partition, CollectionId), Position>>,
    pub(super) foreign: bool,
    pub(super) crew: Option<Rc<RefCell<Crew>>>,
    pub(super) ready: BTreeMap<CollectionId, Timestamp>,
}

/// See [`TailerEvents`](crate::pipeline::stream::channel::TailerEvents).
#[derive(Clone, Debug, Default)]
pub(super) struct TailerEvents {
    pub(super) attempt: u64,
    pub(super) anew: BTreeMap<Name, Reason>,
    pub(super) is_lost: bool,
}

pub(super) struct Intake {
    pub(super) now: ApplyState,
    gone: Option<u64>,
    fingerprint: i64,
    is_foreign: bool,
    pub(super) flow: Flow,
    pub(super) stream: Option<Start>,
    tail: Vec<Change>,
    pub(super) is_full: bool,
    life: u64,
    pub(super) last: CollectionId,
    /// A reply that waits for room.
    taken: Option<Taken>,
    /// A reply that the spool has no space for.
    held: Option<Taken>,
    /// Spans to be stored with the next write.
    owed: Vec<(Name, Option<Span>)>,
    /// What is to be done next, one by one.
    effects: VecDeque<Effect>,
    /// Whether the last step was done without a look at the demand.
    blind: bool,
}

/// A reply of the stream, with the tail of the one before.
struct Taken {
    changes: Vec<Change>,
    position: Position,
    at_end: bool,
}

enum Effect {
    /// Changes go into the spool; then the flow is this one, and the reply is handed out.
    Put(spool::Write, Flow, Taken),
    /// What is owed is stored.
    Pay,
    Send(Rc<RefCell<Crew>>, Vec<WorkerMessage>),
}

#[derive(PartialEq)]
enum Room {
    Yes,
    No,
    Gone,
}

pub(super) fn fingerprint(names: &[Name]) -> i64 {
    names.iter().map(|name| 1 << name).sum()
}

impl Intake {
    pub(super) fn new() -> Self {
        Self {
            now: ApplyState::default(),
            gone: None,
            fingerprint: 0,
            is_foreign: false,
            flow: Flow::resume([], None).0,
            stream: None,
            tail: Vec::new(),
            is_full: false,
            life: 0,
            last: CollectionId(0),
            taken: None,
            held: None,
            owed: Vec::new(),
            effects: VecDeque::new(),
            blind: false,
        }
    }

    fn beginning_at(&self, position: &Position) -> Start {
        match self.is_foreign {
            true => Start::At(position.cluster_time().time),
            false => Start::After(position.clone()),
        }
    }

    /// Whether it has begun to write, and does not know of all of it whether it is stored.
    pub(super) fn writes(&self) -> bool {
        self.held.is_some() || !self.effects.is_empty()
    }

    /// Whether there is nothing under way.
    pub(super) fn rests(&self) -> bool {
        let all_direct = (0..self.now.names.len()).all(|id| self.flow.way(CollectionId(id)) == Route::Direct);
        let is_idle = self.taken.is_none() && self.held.is_none() && self.effects.is_empty();
        is_idle && self.tail.is_empty() && all_direct
    }
}

pub(super) fn least(watermark: &Watermark, demand: &ApplyState) -> Vec<Position> {
    (0..demand.names.len()).filter_map(|id| watermark.least(CollectionId(id)).cloned()).collect()
}

pub(super) fn least_of(demand: &ApplyState) -> Vec<Position> {
    least(&Watermark::new(demand.stored.iter().map(|(place, position)| (*place, position.clone()))), demand)
}

impl World {
    pub(super) fn step_intake(&mut self) -> Result<(), Error> {
        match self.try_intake() {
            Err(Error::Rebuilt) => self.begin_anew(),
            done => done,
        }
    }

    fn try_intake(&mut self) -> Result<(), Error> {
        if let Some(effect) = self.run.intake.effects.pop_front() {
            return self.perform(effect);
        }
        if let Some(taken) = self.run.intake.taken.take() {
            return self.pass_on(taken);
        }
        // The demand may change right after it was looked at.
        self.run.intake.blind = !self.run.intake.blind && self.rng.u8(..4) == 0;
        if !self.run.intake.blind {
            self.apply_demand()?;
            if !self.run.intake.effects.is_empty() {
                return Ok(());
            }
        }
        let intake = &self.run.intake;
        let room = match &intake.now.crew {
            Some(crew) if intake.flow.any_on(Route::Draining) => {
                Some(self.room(crew)).filter(|room| *room != Room::No)
            }
            _ => None,
        };
        let for_somebody = intake.now.crew.is_some() || self.rng.u8(..self.set.patience) == 0;
        let reads = intake.held.is_none() && (for_somebody && !intake.is_full || !intake.tail.is_empty());
        match (self.rng.u8(..6), room) {
            (0, _) => self.trim_and_measure(),
            (1..4, Some(Room::Yes)) => self.drain(),
            (1..4, Some(Room::Gone)) => self.rewind(),
            (4, _) if intake.held.is_some() => match self.run.intake.held.take() {
                Some(held) => self.pass_on(held),
                None => Ok(()),
            },
            _ if reads && self.run.intake.stream.is_some() => self.receive(),
            _ => Ok(()),
        }
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Error> {
        match effect {
            Effect::Put(mut write, flow, taken) => {
                if self.has(Bug::TokenWithoutChanges) && write.token.is_some() && !write.changes.is_empty() {
                    let (changes, life) = (std::mem::take(&mut write.changes), write.life);
                    self.write_spool(&write)?;
                    let rest = spool::Write { changes, life, ..spool::Write::default() };
                    self.run.intake.effects.push_front(Effect::Put(rest, flow, taken));
                    return Ok(());
                }
                self.say(|_| format!("the intake writes to the spool: {write:?}"));
                match self.write_spool(&write) {
                    Err(Error::Full) if self.has(Bug::WaitsForSpace) => {
                        self.run.intake.effects.push_front(Effect::Put(write, flow, taken));
                        return Ok(());
                    }
                    Err(Error::Full) => {
                        // It may be written all the same.
                        let intake = &self.run.intake;
                        let opened = intake.flow.clone().spool(&taken.position);
                        let new = opened.into_iter().filter(|(id, _)| intake.flow.given(*id).is_none());
                        let new: Vec<Saved> = new.map(|(id, _)| (id, None)).collect();
                        self.owe(new);
                        if !write.changes.is_empty() {
                            self.run.intake.held = Some(taken);
                            return Ok(());
                        }
                    }
                    written => {
                        written?;
                        self.run.intake.flow = flow;
                        self.run.intake.owed.clear();
                    }
                }
                self.hand_out(taken);
                Ok(())
            }
            Effect::Pay => {
                let intake = &self.run.intake;
                if intake.owed.is_empty() {
                    return Ok(());
                }
                let (spans, life) = (intake.owed.clone(), intake.life);
                match self.write_spool(&spool::Write { spans, life, ..spool::Write::default() }) {
                    Err(Error::Full) => {}
                    written => {
                        written?;
                        self.run.intake.owed.clear();
                    }
                }
                Ok(())
            }
            Effect::Send(crew, parcels) => {
                for (worker, parcel) in crew.borrow_mut().workers.iter_mut().zip(parcels) {
                    worker.receive(parcel);
                }
                Ok(())
            }
        }
    }

    /// Where there is no space, whoever writes can't know whether it was written.
    fn write_spool(&mut self, write: &spool::Write) -> Result<(), Error> {
        let is_full = self.spool.is_full();
        if is_full && (!write.changes.is_empty() || self.rng.bool()) {
            if self.rng.u8(..3) == 0 {
                self.spool.write(write)?;
            }
            self.say(|_| "there is no space left for the spool".to_owned());
            return Err(Error::Full);
        }
        self.spool.write(write)
    }

    fn room(&self, crew: &Rc<RefCell<Crew>>) -> Room {
        let crew = crew.borrow();
        match () {
            () if crew.is_gone() => Room::Gone,
            () if crew.workers.iter().all(|worker| worker.waiting() < self.set.capacity) => Room::Yes,
            () => Room::No,
        }
    }

    fn apply_demand(&mut self) -> Result<(), Error> {
        let mut demand = self.run.demand.clone();
        if self.run.intake.gone == Some(demand.attempt) {
            demand.crew = None;
        }
        let before = std::mem::replace(&mut self.run.intake.now, demand);
        let now = &self.run.intake.now;
        if now.attempt != before.attempt {
            if self.has(Bug::DroppedWhenGone) && before.names == now.names {
                return Ok(());
            }
            let applied = least_of(now);
            self.resume(applied)?;
        } else if let (Some(crew), None) = (before.crew, &now.crew) {
            let applied = least(&crew.borrow().watermark, now);
            self.resume(applied)?;
        }
        let intake = &mut self.run.intake;
        if intake.now.crew.is_some() {
            for id in intake.now.ready.keys() {
                intake.flow.release(*id);
            }
        }
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), Error> {
        if !self.excused.spool {
            return Err(Error::wrong("the intake finds the spool lost, which it was not"));
        }
        self.say(|_| "the intake begins anew: the spool is lost".to_owned());
        let attempt = self.run.intake.now.attempt;
        (self.run.notices.attempt, self.run.notices.is_lost) = (attempt, true);
        self.run.intake.gone = Some(attempt);
        let crew = self.run.intake.now.crew.take();
        let applied = crew.map_or_else(
            || least_of(&self.run.intake.now),
            |crew| least(&crew.borrow().watermark, &self.run.intake.now),
        );
        self.resume(applied)
    }

    fn rewind(&mut self) -> Result<(), Error> {
        let Some(crew) = self.run.intake.now.crew.take() else { return Ok(()) };
        self.run.intake.gone = Some(self.run.intake.now.attempt);
        if self.has(Bug::DroppedWhenGone) {
            return Ok(());
        }
        let applied = least(&crew.borrow().watermark, &self.run.intake.now);
        self.resume(applied)
    }

    fn resume(&mut self, applied: Vec<Position>) -> Result<(), Error> {
        let names = self.run.intake.now.names.clone();
        if applied.len() != names.len() {
            return Err(Error::wrong("the intake: a collection has no position"));
        }
        let intake = &mut self.run.intake;
        (intake.taken, intake.held, intake.effects) = (None, None, VecDeque::new());
        let (mut spans, token, stored) = self.spool.read()?;
        self.run.intake.life = self.spool.life;
        let known = applied.into_iter().zip(names.iter().map(|name| spans.remove(name)));
        let known: Vec<_> = if self.has(Bug::SpanBelieved) {
            let believed = |(applied, span): (Position, Option<Span>)| match span {
                Some(span) => (applied.max(span.from.clone()), Some(span)),
                None => (applied, None),
            };
            known.map(believed).collect()
        } else {
            known.collect()
        };
        let (flow, worthless) = Flow::resume(known, token.as_ref());
        self.run.intake.flow = flow;
        self.run.intake.owed = spans.into_keys().map(|name| (name, None)).collect();
        self.owe(worthless);
        self.abandon_stopped();
        self.run.intake.effects.push_back(Effect::Pay);
        let (intake, notices) = (&mut self.run.intake, &mut self.run.notices);
        intake.fingerprint = fingerprint(&names);
        if notices.attempt != intake.now.attempt {
            *notices = TailerEvents { attempt: intake.now.attempt, ..TailerEvents::default() };
        }
        intake.is_foreign = intake.now.foreign || stored.is_some_and(|stored| stored != intake.fingerprint);
        self.read_on();
        self.say(|world| format!("the intake resumes: {:?}", world.run.intake.flow));
        Ok(())
    }

    fn read_on(&mut self) {
        let intake = &mut self.run.intake;
        intake.tail.clear();
        intake.stream = intake.flow.start().map(|start| intake.beginning_at(start));
    }

    fn receive(&mut self) -> Result<(), Error> {
        let intake = &mut self.run.intake;
        let Some(start) = &intake.stream else { return Ok(()) };
        let Some(reply) = self.source.read(&mut self.rng, &intake.now.names, start) else {
            return self.lose_history();
        };
        // The server takes its time before it says that there is nothing: that does not keep workers busy.
        let is_busy = |crew: &Rc<RefCell<Crew>>| crew.borrow().workers.iter().any(|worker| !worker.rests());
        if self.is_calm && reply.at_end && intake.now.crew.as_ref().is_some_and(is_busy) {
            return Ok(());
        }
        intake.stream = Some(Start::After(reply.position.clone()));
        self.run.seen = reply.position.cluster_time().time.min(self.source.now).max(self.run.seen);
        self.say(|_| {
            let changes = reply.events.iter().map(|event| match event {
                Event::Change(c) => {
                    format!("{:?} of #{}/{}", c.position, c.collection.0, doc_of(&c.document_key))
                }
                Event::Whole(id, reason, position) => format!("{position:?}: #{} {reason:?}", id.0),
            });
            let changes: Vec<_> = changes.collect();
            format!("the intake reads up to {}: {changes:?}", reply.position.data())
        });
        let mut changes = std::mem::take(&mut self.run.intake.tail);
        for event in reply.events {
            match event {
                Event::Change(change) => changes.push(change),
                Event::Whole(id, reason, position) if self.run.intake.flow.is_new(id, &position) => {
                    let intake = &mut self.run.intake;
                    let saved = intake.flow.hold(id);
                    self.run.notices.anew.insert(intake.now.names[id.0], reason);
                    self.owe(saved.into_iter().collect());
                }
                Event::Whole(..) => {}
            }
        }
        self.pass_on(Taken { changes, position: reply.position, at_end: reply.at_end })
    }

    fn lose_history(&mut self) -> Result<(), Error> {
        if !self.excused.history {
            return Err(Error::wrong("history is lost, though the log forgot only what is durable"));
        }
        let names = self.run.intake.now.names.clone();
        let lost = self.lost();
        self.say(|_| format!("the intake: history is lost of {lost:?}"));
        if self.set.resyncs {
            let lost = lost.iter().map(|id| (names[id.0], Reason::HistoryLost));
            self.run.notices.anew.extend(lost);
        } else {
            let stopped = self.stopped();
            if (0..names.len()).map(CollectionId).all(|id| stopped.contains(&id) || lost.contains(&id)) {
                return Err(Error::HistoryLost);
            }
            if self.run.intake.now.attempt == self.run.demand.attempt {
                self.run.stopped.extend(&lost);
                self.needs_resync.extend(lost.iter().map(|id| names[id.0]));
                self.pg.now.settled = false;
            }
        }
        let saved = lost.into_iter().filter_map(|id| self.run.intake.flow.abandon(id)).collect();
        self.owe(saved);
        self.run.intake.effects.push_back(Effect::Pay);
        self.read_on();
        Ok(())
    }

    /// Of which collections the log has forgotten what comes next.
    fn lost(&self) -> Vec<CollectionId> {
        let intake = &self.run.intake;
        let is_lost = |id: &CollectionId| {
            let known = intake.flow.known(*id);
            known.is_some_and(|known| !self.source.reaches(&intake.beginning_at(known)))
        };
        let lost: Vec<_> = intake.flow.followed().filter(is_lost).collect();
        if lost.is_empty() { intake.flow.followed().collect() } else { lost }
    }

    /// Those that are stopped of the collections that the intake knows.
    fn stopped(&self) -> BTreeSet<CollectionId> {
        let is_known = self.run.intake.now.attempt == self.run.demand.attempt;
        if is_known { self.run.stopped.clone() } else { BTreeSet::new() }
    }

    fn abandon_stopped(&mut self) {
        let stopped = self.stopped();
        let saved = stopped.iter().filter_map(|id| self.run.intake.flow.abandon(*id)).collect();
        self.owe(saved);
    }

    fn pass_on(&mut self, mut taken: Taken) -> Result<(), Error> {
        self.abandon_stopped();
        let room = match &self.run.intake.now.crew {
            Some(crew) if self.run.intake.flow.any_on(Route::Direct) => self.room(crew),
            _ => Room::Yes,
        };
        match room {
            Room::Yes => {}
            Room::Gone => return self.rewind(),
            Room::No if self.rng.u8(..self.set.patience) > 0 => {
                self.run.intake.taken = Some(taken);
                return Ok(());
            }
            Room::No => {
                self.say(|_| "the intake: the workers have no room".to_owned());
                let intake = &mut self.run.intake;
                let direct: Vec<_> = intake.flow.on(Route::Direct).collect();
                direct.into_iter().for_each(|id| intake.flow.turn_away(id));
            }
        }
        let intake = &mut self.run.intake;
        taken.changes.retain(|change| {
            let is_wanted = intake.flow.way(change.collection) != Route::Nowhere;
            is_wanted && intake.flow.is_new(change.collection, &change.position)
        });
        let is_spooled = |change: &&Change| intake.flow.is_spooled(change.collection);
        let spooled = taken.changes.iter().filter(is_spooled).cloned().collect();
        self.put(spooled, taken);
        Ok(())
    }

    fn put(&mut self, changes: Vec<Change>, taken: Taken) {
        let intake = &mut self.run.intake;
        let is_due = intake.flow.has_begun() || self.rng.bool();
        if !intake.flow.any_is_spooled() || (changes.is_empty() && !is_due) {
            return self.hand_out(taken);
        }
        let mut flow = intake.flow.clone();
        let spans = flow.spool(&taken.position);
        let of = |c: Change| (intake.now.names[c.collection.0], c.position, doc_of(&c.document_key));
        let write = spool::Write {
            changes: changes.into_iter().map(of).collect(),
            token: Some(taken.position.clone()),
            spans: [intake.owed.clone(), self.named(spans)].concat(),
            fingerprint: Some(self.run.intake.fingerprint),
            life: self.run.intake.life,
        };
        self.run.intake.effects.push_back(Effect::Put(write, flow, taken));
    }

    fn hand_out(&mut self, taken: Taken) {
        let intake = &mut self.run.intake;
        let Taken { mut changes, mut position, at_end } = taken;
        changes.retain(|change| intake.flow.way(change.collection) == Route::Direct);
        if self.set.order == Order::Commit && !at_end {
            let time = position.cluster_time();
            let complete = changes.partition_point(|change| change.position.cluster_time() < time);
            intake.tail = changes.split_off(complete);
            if !intake.tail.is_empty() {
                let Some(last) = changes.last() else { return };
                position = last.position.clone();
            }
        }
        let collections: Arc<[CollectionId]> = intake.flow.reached(&position).collect();
        if !collections.is_empty() {
            self.send(changes, collections, &position);
            self.run.intake.flow.pass(&position);
        }
    }

    pub(super) fn send(
        &mut self,
        changes: Vec<Change>,
        collections: Arc<[CollectionId]>,
        position: &Position,
    ) {
        let intake = &mut self.run.intake;
        let Some(crew) = &intake.now.crew else { return };
        let times = collections.iter().filter_map(|id| intake.now.ready.get(id));
        let ahead_until = times.max().copied().unwrap_or(Timestamp { time: 0, increment: 0 });
        let reached = Reached { collections, position: position.clone(), ahead_until };
        let parcels = crew.borrow().router.route(changes).into_iter();
        let parcels = parcels
            .map(|changes| WorkerMessage { changes, reached: Some(reached.clone()), oldest: None })
            .collect();
        intake.effects.push_back(Effect::Send(crew.clone(), parcels));
    }

    fn trim_and_measure(&mut self) -> Result<(), Error> {
        if let Some(crew) = self.run.intake.now.crew.clone() {
            for (id, name) in self.run.intake.now.names.clone().iter().enumerate() {
                let id = CollectionId(id);
                if self.run.intake.owed.iter().any(|(owed, _)| owed == name) {
                    continue;
                }
                let Some(least) = crew.borrow().watermark.least(id).cloned() else { continue };
                let Some(trim) = self.run.intake.flow.trim(id, &least) else { continue };
                self.say(|_| format!("the intake trims #{}: {trim:?}", id.0));
                match trim {
                    Trim::All => self.run.intake.owed.push((*name, None)),
                    // It may find no space for that.
                    Trim::Until(_) if self.spool.is_full() && self.rng.bool() => {}
                    Trim::Until(position) => self.spool.trim(*name, &position)?,
                }
            }
        }
        self.run.intake.effects.push_back(Effect::Pay);
        self.run.intake.is_full = self.spool.len() >= self.set.budget;
        Ok(())
    }

    fn named(&self, spans: Vec<Saved>) -> Vec<(Name, Option<Span>)> {
        spans.into_iter().map(|(id, span)| (self.run.intake.now.names[id.0], span)).collect()
    }

    fn owe(&mut self, spans: Vec<Saved>) {
        let spans = self.named(spans);
        self.run.intake.owed.extend(spans);
    }
}
