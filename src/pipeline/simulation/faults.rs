//! What goes wrong, and what may follow from it.

use super::{
    Process, World,
    intake::{least, least_of},
    settings::Faults,
    source::Start,
};
use crate::{
    config::Order,
    model::{
        change::{Change, CollectionId, Op, Position},
        phase::Phase,
    },
    pipeline::stream::{
        channel::WorkerMessage,
        route::{Flow, Route},
    },
};

/// What faults have made possible that else must not happen.
#[derive(Debug, Default)]
pub(super) struct Excused {
    /// That the spool is found lost.
    pub(super) spool: bool,
    /// That history is lost.
    pub(super) history: bool,
}

impl World {
    /// Something may go wrong.
    pub(super) fn fail(&mut self) {
        let Faults {
            kill,
            stop,
            away,
            set_back,
            damage,
            forget,
            lose,
            whole,
            refuse,
            remove,
            retry,
            full,
            bad_moment,
            ..
        } = self.set.faults;
        let mut roll = self.rng.u32(..1000);
        let mut happens = |rate: u32| {
            let happens = roll < rate;
            roll = if happens { u32::MAX } else { roll.wrapping_sub(rate) };
            happens
        };
        let is_bad_moment = std::mem::take(&mut self.is_bad_moment);
        if happens(if is_bad_moment { bad_moment } else { kill }) {
            self.crash();
        } else if happens(stop) {
            self.run.stops = true;
        } else if happens(if self.pg.is_up { away } else { 30 }) {
            self.pg.is_up = !self.pg.is_up;
            self.pg.starts += 1;
            self.say(|world| format!("PostgreSQL is {}", if world.pg.is_up { "back" } else { "away" }));
        } else if happens(set_back) {
            self.set_back();
        } else if happens(damage) {
            self.excused = Excused { spool: true, history: true };
            self.spool.damage();
            self.say(|_| "the state directory is damaged".to_owned());
        } else if happens(forget) {
            self.forget();
        } else if happens(lose) {
            self.excused.history = true;
            self.source.cut = self.rng.u32(self.source.cut..self.source.now);
            self.say(|world| format!("the log begins after {}", world.source.cut));
        } else if happens(whole) {
            let said = self.source.whole(&mut self.rng);
            self.say(|_| said);
        } else if happens(refuse) && self.run.stopped.is_empty() && !self.run.demand.names.is_empty() {
            let id = CollectionId(self.rng.usize(..self.run.demand.names.len()));
            self.run.stopped.insert(id);
            // What waits of it is forgotten.
            self.excused.history = true;
            self.pg.now.settled = false;
            self.say(|_| format!("#{} is stopped", id.0));
        } else if happens(remove) {
            self.remove();
        } else if happens(retry) {
            self.retry();
        } else if happens(full) {
            self.spool.fill();
            self.say(|_| "the disk of the state directory is full".to_owned());
        } else if happens(10) {
            self.source.now += 1;
        } else if happens(10) {
            self.pg.copies.push(self.pg.now.clone());
            self.spool.copy();
        }
    }

    /// Somebody removes a row.
    fn remove(&mut self) {
        let pg = &self.pg.now;
        let rows: Vec<_> =
            pg.rows.keys().copied().filter(|(name, _)| pg.phase(*name) == Phase::Live).collect();
        let Some(row) = self.rng.choice(rows) else { return };
        self.pg.now.rows.remove(&row);
        self.pg.now.removed.insert(row);
        self.say(|_| format!("somebody removes the row c{}/{}", row.0, row.1));
    }

    /// Somebody wants a document to be written again, as if it were a dead letter.
    fn retry(&mut self) {
        let demand = &self.run.demand;
        let Some(crew) = demand.crew.clone() else { return };
        let has_begun = |id: &&CollectionId| {
            let name = demand.names[id.0];
            let plan = self.pg.now.plans.get(&name);
            self.pg.now.least(name) > plan.map(|plan| &plan.start)
        };
        let ready: Vec<_> = demand.ready.keys().filter(has_begun).copied().collect();
        let (Some(collection), doc) = (self.rng.choice(ready), self.rng.usize(self.source.docs())) else {
            return;
        };
        let (key, document_key) = self.source.key(doc).clone();
        let partition = crew.borrow().router.partition(&key);
        let stored = self.run.demand.stored.get(&(partition, collection)).cloned();
        // A position may be of a time that has not come. By the time that anybody asks, it has.
        let has_come = |position: &Position| position.cluster_time().time <= self.source.now;
        let Some(position) = stored.filter(has_come) else { return };
        self.say(|_| format!("#{}/{doc} is tried again", collection.0));
        let change = Change { collection, key, document_key, op: Op::Update, position };
        let worker = &mut crew.borrow_mut().workers[usize::from(partition.0)];
        worker.receive(WorkerMessage { changes: vec![change], reached: None, oldest: None });
    }

    /// An earlier copy of PostgreSQL takes its place.
    fn set_back(&mut self) {
        let copy = self.rng.usize(..self.pg.copies.len());
        self.pg.now = self.pg.copies[copy].clone();
        self.pg.starts += 1;
        self.excused.history = true;
        // Another life of the pipeline: the state directory is emptied while it is in use.
        self.excused.spool |= self.pg.now.life.is_none();
        self.say(|world| format!("PostgreSQL is set back: {:?}", world.pg.now));
    }

    /// docrow is gone, and is started again.
    pub(super) fn crash(&mut self) {
        self.run = Process::new();
        self.spool.crash(&mut self.rng);
        if self.set.order == Order::Document && self.rng.u8(..4) == 0 {
            self.set.partitions = self.rng.u16(1..=3);
        }
        self.say(|world| format!("docrow is started again, with {} partitions", world.set.partitions));
        if !self.is_calm && self.rng.u32(..4000) < self.set.faults.exchange {
            self.spool.exchange(&mut self.rng);
            self.excused.history = true;
            self.say(|world| format!("with another state directory: {:?}", world.spool));
        }
    }

    /// The log forgets what nobody can need, whatever happens to docrow next.
    fn forget(&mut self) {
        let durable = self.spool.durable();
        let now = self.spool.present();
        let mut needed =
            vec![self.source.now, self.run.planned().map_or(u32::MAX, |start| start.cluster_time().time)];
        let pg = &self.pg.now;
        let mut of = |names: &[usize], applied: Vec<Position>| {
            for (spans, token) in [&durable, &now] {
                let known = applied.iter().cloned().zip(names.iter().map(|name| spans.get(name).cloned()));
                let (flow, _) = Flow::resume(known, token.as_ref());
                needed.extend(flow.start().map(|start| start.cluster_time().time));
            }
        };
        let names: Vec<_> = self.source.names().filter(|name| pg.least(*name).is_some()).collect();
        of(&names, names.iter().filter_map(|name| pg.least(*name).cloned()).collect());
        for demand in [&self.run.demand, &self.run.intake.now] {
            of(&demand.names, least_of(demand));
            if let Some(crew) = &demand.crew {
                of(&demand.names, least(&crew.borrow().watermark, demand));
            }
        }
        // What goes direct is soon in no span: it is taken for granted that the log holds it for a moment.
        let flow = &self.run.intake.flow;
        needed.extend(flow.on(Route::Direct).filter_map(|id| Some(flow.given(id)?.cluster_time().time)));
        needed.extend(match &self.run.intake.stream {
            Some(Start::After(position)) => Some(position.cluster_time().time),
            Some(Start::At(time)) => Some(*time),
            None => None,
        });
        // What found no space may be on the disk all the same. The intake does not know, and goes by what it was told.
        if self.run.intake.writes() {
            needed.extend(flow.start().map(|start| start.cluster_time().time));
        }
        let cut = needed.into_iter().min().unwrap_or(0).saturating_sub(1);
        self.source.cut = cut.max(self.source.cut);
        self.say(|world| format!("the log begins after {}, which nobody needs", world.source.cut));
    }
}
