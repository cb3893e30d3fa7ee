//! What must hold after each transaction, and at the end.

use super::{
    super::phase::Phase,
    Error, World,
    postgres::Contents,
    side::{Completing, Stage},
    source::{Doc, Name, State, word},
};
use crate::{change::Position, config::Order, sink::progress::Partition};

impl World {
    /// Whether `next` may follow what is in PostgreSQL. Keeps account of the rows.
    pub(super) fn check(&self, next: &mut Contents) -> Result<(), Error> {
        for name in self.source.names() {
            if next.phase(name) != Phase::Live {
                next.floors.retain(|(of, _), _| *of != name);
                continue;
            }
            self.check_whole(next, name)?;
            for doc in self.source.docs() {
                self.check_order(next, name, doc)?;
                self.check_position(next, name, doc)?;
            }
        }
        if self.set.order == Order::Commit {
            self.check_commits(next)?;
        }
        Ok(())
    }

    /// G3: a row never shows an older state after a newer one.
    fn check_order(&self, next: &mut Contents, name: Name, doc: Doc) -> Result<(), Error> {
        let (shown, row) = (self.source.shown(name, doc), shows(next, name, doc));
        let floor = next.floors.entry((name, doc)).or_default();
        match shown[*floor..].iter().position(|shown| shown.state == row) {
            Some(further) => *floor += further,
            None => {
                let before = word(shows(&self.pg.now, name, doc));
                return Err(Error::wrong(format!("c{name}/{doc} goes back from {before} to {}", word(row))));
            }
        }
        Ok(())
    }

    /// G2: what is at or before a stored position is in the rows.
    fn check_position(&self, next: &Contents, name: Name, doc: Doc) -> Result<(), Error> {
        let Some(position) = self.position(next, name, doc) else {
            return Err(Error::wrong(format!("c{name} is live without a position")));
        };
        let shown = self.source.shown(name, doc);
        // What was before the start is in the copied chunks, or has an event after it.
        let start = &next.plans[&name].start;
        let is_before =
            |event: &Option<Position>| event.as_ref().is_some_and(|event| event > start && event <= position);
        let Some(last) = shown.iter().rposition(|shown| is_before(&shown.event)) else { return Ok(()) };
        let row = shows(next, name, doc);
        if shown[last..].iter().any(|shown| shown.state == row) {
            return Ok(());
        }
        let (should, is) = (word(shown[last].state), word(row));
        Err(Error::wrong(format!(
            "c{name}/{doc} is {is}, though {position:?} is stored, when it was {should}"
        )))
    }

    fn position<'a>(&self, next: &'a Contents, name: Name, doc: Doc) -> Option<&'a Position> {
        let of = |(partition, of): &(Partition, Name)| (*of == name).then_some(partition.0);
        let partitions = next.positions.keys().filter_map(of).count();
        let partition = self.source.key(doc).0.hash64() % u64::try_from(partitions.max(1)).unwrap();
        next.positions
            .get(&(Partition(u16::try_from(partition).unwrap()), name))
            .map(|(position, _)| position)
    }

    /// G2: what happens to a whole collection is not passed over.
    fn check_whole(&self, next: &Contents, name: Name) -> Result<(), Error> {
        let plan = &next.plans[&name];
        let Some(whole) = self.source.last_whole(name).filter(|whole| **whole > plan.start) else {
            return Ok(());
        };
        match next.least(name) {
            Some(position) if position > whole => Err(Error::wrong(format!(
                "c{name} has {position:?}, though it was dropped or replaced at {whole:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// In the order of commits, rows that have settled are of one time.
    fn check_commits(&self, next: &mut Contents) -> Result<(), Error> {
        let is_followed = |name: &Name| {
            let start = next.plans.get(name).map(|plan| &plan.start);
            self.source.exists(*name) && self.source.last_whole(*name) <= start
        };
        let names: Vec<Name> = next.plans.keys().copied().filter(is_followed).collect();
        if !next.settled {
            let passed = |name: &Name| {
                let position = next.least(*name).filter(|_| next.phase(*name) == Phase::Live);
                position.is_some_and(|position| Some(position.cluster_time()) > next.ahead)
            };
            let is_ahead = next.ahead.is_some() && self.run.stopped.is_empty();
            if names.is_empty() || !is_ahead || !names.iter().all(passed) {
                return Ok(());
            }
            let furthest = names.iter().filter_map(|name| next.least(*name)).max().cloned();
            let lags = |name: &Name| {
                let (least, furthest) = (next.least(*name), furthest.as_ref());
                least
                    .zip(furthest)
                    .is_none_or(|(least, furthest)| self.source.has_between(*name, least, furthest))
            };
            if names.iter().any(lags) {
                return Ok(());
            }
            next.settled = true;
        }
        let is_at = |time: u32| {
            names.iter().all(|name| {
                self.source.docs().all(|doc| self.source.state(*name, doc, time) == shows(next, *name, doc))
            })
        };
        if (0..=self.source.now).rev().any(is_at) {
            return Ok(());
        }
        let rows: Vec<_> = next.rows.iter().map(|((name, doc), v)| format!("c{name}/{doc} v{v}")).collect();
        Err(Error::wrong(format!("the rows are of no one time: {rows:?}")))
    }

    /// Whether there is nothing left to do.
    pub(super) fn rests(&self) -> bool {
        let Stage::Following(names, Completing::Done) = &self.run.stage else { return false };
        let (intake, demand, notices) = (&self.run.intake, &self.run.demand, &self.run.notices);
        let Some(crew) = &intake.now.crew else { return false };
        let is_asked = names.iter().any(|name| self.pg.now.resyncs.contains_key(name));
        let is_new = self.source.names().any(|name| self.source.exists(name) && !names.contains(&name));
        let happens = !notices.anew.is_empty() || notices.is_lost || is_asked || is_new;
        if happens || intake.now.attempt != demand.attempt || !intake.rests() {
            return false;
        }
        let crew = crew.borrow();
        let is_passed = |name: &Name| {
            intake.flow.start().is_some_and(|start| !self.source.goes_on(*name, start))
                && self.source.docs().all(|doc| {
                    let last =
                        self.source.shown(*name, doc).iter().rev().find_map(|shown| shown.event.as_ref());
                    last <= self.position(&self.pg.now, *name, doc)
                })
        };
        !crew.is_gone()
            && crew.workers.iter().all(super::worker::Worker::rests)
            && names.iter().all(is_passed)
    }

    /// G1: the rows are the documents.
    pub(super) fn check_end(&self) -> Result<(), Error> {
        for name in self.source.names() {
            for doc in self.source.docs() {
                let (should, is) =
                    (self.source.state(name, doc, self.source.now), shows(&self.pg.now, name, doc));
                let is_kept = !self.source.exists(name) && !self.set.truncates;
                if should != is && !is_kept {
                    let (is, should) = (word(is), word(should));
                    return Err(Error::wrong(format!(
                        "at the end c{name}/{doc} is {is}, and should be {should}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn shows(contents: &Contents, name: Name, doc: Doc) -> State {
    contents.rows.get(&(name, doc)).copied()
}
