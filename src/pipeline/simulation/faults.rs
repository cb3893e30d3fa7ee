//! The faults of a schedule.

use std::{collections::BTreeMap, sync::PoisonError, time::SystemTime};

use super::{
    document::FIELD_NAMES,
    mongo::{CollectionName, name_of},
    postgres::LetterRow,
    settings::FaultRates,
    world::{ExcusedLosses, SimulatedWorld},
};
use crate::{
    config::Order,
    model::{
        change::{CollectionId, Position},
        phase::Phase,
        resync_reason::Reason,
    },
    pipeline::{stream::route::Flow, watermark::Watermark},
    shutdown::Shutdown,
    source::StreamStart,
};

/// What a fault does to docrow's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessFate {
    GoesOn,
    IsKilled,
}

impl SimulatedWorld {
    /// Draws a fault, or none, and makes it happen.
    pub(super) fn inject_fault(&mut self) -> ProcessFate {
        let FaultRates {
            kill,
            stop,
            down,
            crash,
            set_back,
            damage,
            trim_log,
            lose_history,
            drop_or_replace,
            remove_row,
            repair,
            retry,
            resync,
            full_disk,
            bad_moment,
            ..
        } = self.settings.faults;
        let mut roll = self.rng.u32(..1000);
        let mut happens = |rate: u32| {
            let happens = roll < rate;
            roll = if happens { u32::MAX } else { roll.wrapping_sub(rate) };
            happens
        };
        let is_bad_moment = std::mem::take(&mut self.is_bad_moment);
        if happens(if is_bad_moment { bad_moment } else { kill }) {
            return ProcessFate::IsKilled;
        } else if happens(stop) {
            self.say(|_| "docrow is asked to stop".to_owned());
            self.shutdown.request();
        } else if happens(if self.pg.is_up { down } else { 100 }) {
            self.pg.is_up = !self.pg.is_up;
            self.pg.starts += 1;
            self.say(|world| format!("PostgreSQL is {}", if world.pg.is_up { "back" } else { "down" }));
        } else if happens(crash) {
            self.crash_postgres();
        } else if happens(set_back) {
            self.set_back();
        } else if happens(damage) {
            self.excused = ExcusedLosses { spool: true, history: true };
            self.spool.damage();
            self.say(|_| "the state directory is damaged".to_owned());
        } else if happens(trim_log) {
            self.trim_log();
        } else if happens(lose_history) {
            self.excused.history = true;
            self.source.cut = self.rng.u32(self.source.cut..self.source.now);
            self.say(|world| format!("the log begins after {}", world.source.cut));
        } else if happens(drop_or_replace) {
            let happened = self.source.drop_or_replace(&mut self.rng);
            self.say(|_| happened);
        } else if happens(remove_row) {
            self.remove_row();
        } else if happens(repair) {
            self.ask_for_repairs();
        } else if happens(retry) {
            self.ask_for_retries();
        } else if happens(resync) {
            let known: Vec<CollectionName> = self.pg.now.mapped.keys().copied().collect();
            if let Some(name) = self.rng.choice(known) {
                self.pg.now.resyncs.insert(name, Reason::Asked);
                self.say(|_| format!("someone requests a resync of c{name}"));
            }
        } else if happens(full_disk) {
            self.spool.fill_disk();
            self.say(|_| "the disk of the state directory is full".to_owned());
        } else if happens(20) {
            self.source.now += 1;
        } else if happens(20) {
            self.pg.copies.push(self.pg.now.clone());
            self.spool.copy();
        } else if happens(20) {
            self.source.fields = (self.source.fields + 1).min(FIELD_NAMES.len());
        }
        ProcessFate::GoesOn
    }

    /// PostgreSQL crashes, and loses some of what it has not synced.
    fn crash_postgres(&mut self) {
        let kept = self.rng.usize(..=self.pg.unsynced.len());
        if let Some(kept) = self.pg.unsynced.get(kept) {
            self.pg.now = kept.clone();
        }
        self.pg.unsynced.clear();
        self.pg.starts += 1;
        self.say(|world| format!("PostgreSQL crashes, and keeps {:?}", world.pg.now.positions));
    }

    /// Someone removes a row.
    fn remove_row(&mut self) {
        let pg = &self.pg.now;
        let rows: Vec<_> =
            pg.rows.keys().copied().filter(|(name, _)| pg.phase(*name) == Phase::Live).collect();
        let Some(row) = self.rng.choice(rows) else { return };
        self.pg.now.rows.remove(&row);
        self.pg.now.removed.insert(row);
        self.say(|_| format!("someone removes the row c{}/{}", row.0, row.1));
    }

    /// Someone requests the repair of a row, which may have been removed.
    fn ask_for_repairs(&mut self) {
        let live = |name: &CollectionName| self.pg.now.phase(*name) == Phase::Live;
        let names: Vec<_> = self.source.names().filter(live).collect();
        let (Some(name), doc) = (self.rng.choice(names), self.rng.usize(self.source.docs())) else { return };
        self.pg.now.repairs.entry(name).or_default().insert(doc);
        self.say(|_| format!("someone requests a repair of c{name}/{doc}"));
    }

    /// Someone requests a retry of all dead letters, but never twice of the same.
    pub(super) fn ask_for_retries(&mut self) {
        let letters = self.pg.now.letters.values_mut().filter(|letter| !letter.was_asked);
        let ask = |letter: &mut LetterRow| (letter.asked, letter.was_asked) = (Some(SystemTime::now()), true);
        let count = letters.map(ask).count();
        if count > 0 {
            self.say(|_| format!("someone requests a retry of {count} dead letters"));
        }
    }

    /// PostgreSQL is restored from an old copy.
    fn set_back(&mut self) {
        let copy = self.rng.usize(..self.pg.copies.len());
        self.pg.now = self.pg.copies[copy].clone();
        self.pg.unsynced.clear();
        self.pg.starts += 1;
        self.excused.history = true;
        // Without a life, docrow begins another one, and empties the state directory for it.
        self.excused.spool |= self.pg.now.life.is_none();
        self.say(|world| format!("PostgreSQL is restored from an old copy: {:?}", world.pg.now.positions));
    }

    /// docrow has ended, and is restarted.
    pub(super) fn restart(&mut self) {
        let SimulatedWorld { spool, rng, .. } = self;
        spool.crash(rng);
        self.restarts += 1;
        (self.demand, self.notices, self.stream, self.planned) = (None, None, None, None);
        (self.seen, self.is_bad_moment) = (0, false);
        self.shutdown = Shutdown::default();
        self.looked_up.clear();
        if self.settings.order == Order::Document && self.rng.u8(..4) == 0 {
            self.settings.partitions = self.rng.u16(1..=3);
        }
        self.say(|world| format!("docrow is restarted, with {} partitions", world.settings.partitions));
        if !self.is_calm && self.rng.u32(..4000) < self.settings.faults.exchange {
            let SimulatedWorld { spool, rng, .. } = self;
            spool.exchange(rng);
            self.excused.history = true;
            self.say(|_| "with another state directory".to_owned());
        }
    }

    /// Trims MongoDB's log of what docrow cannot need, whatever happens to it next.
    fn trim_log(&mut self) {
        let spools = [self.spool.durable(), self.spool.present()];
        let mut needed = vec![self.source.now];
        needed.extend(self.planned.iter().map(|start| start.cluster_time().time));
        let mut need_since = |applied: &BTreeMap<CollectionName, Position>| {
            for (spans, token) in &spools {
                let known =
                    applied.iter().map(|(name, position)| (position.clone(), spans.get(name).cloned()));
                let (flow, _) = Flow::resume(known, token.as_ref());
                needed.extend(flow.start().map(|start| start.cluster_time().time));
            }
        };
        let all = || [self.pg.durable(), &self.pg.now].into_iter().chain(&self.pg.unsynced);
        for contents in all() {
            let least = |name: CollectionName| Some((name, contents.least(name)?.clone()));
            need_since(&self.source.names().filter_map(least).collect());
        }
        if let Some(demand) = &self.demand {
            let demand = demand.borrow();
            let least = |watermark: &Watermark| {
                let names = (0..).map(CollectionId).zip(demand.collections.iter());
                let least = names.filter_map(|(id, collection)| {
                    Some((name_of(collection.name()), watermark.least(id)?.clone()))
                });
                least.collect::<BTreeMap<_, _>>()
            };
            let stored = demand.stored.iter().map(|(place, position)| (*place, position.clone()));
            need_since(&least(&Watermark::new(stored)));
            if let Some(workers) = &demand.workers {
                need_since(&least(&workers.watermark.lock().unwrap_or_else(PoisonError::into_inner)));
            }
        }
        needed.extend(match &self.stream {
            Some(StreamStart::After(position)) => Some(position.cluster_time().time),
            Some(StreamStart::At(time)) => Some(time.time),
            None => None,
        });
        let cut = needed.into_iter().min().unwrap_or(0).saturating_sub(1);
        self.source.cut = cut.max(self.source.cut);
        self.say(|world| {
            format!("the log begins after {}, and docrow needs nothing older", world.source.cut)
        });
    }
}
