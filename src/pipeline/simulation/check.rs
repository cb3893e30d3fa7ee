//! What must hold after each transaction, and at the end.

use super::{
    Error, World,
    document::{Fields, State, word},
    postgres::Contents,
    side::{Completing, Stage},
    source::{Doc, Name, Shown},
};
use crate::{
    config::Order,
    model::{
        change::{CollectionId, Position},
        partition::Partition,
        phase::Phase,
    },
    pipeline::stream::route::Route,
};

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
        match self.set.order {
            Order::Commit => self.check_commits(next),
            Order::Document => Self::check_shown(next),
        }
    }

    /// G3: were docrow killed now, it would not take for news what rows are ahead of.
    fn check_shown(next: &Contents) -> Result<(), Error> {
        match next.shown() {
            Some(shown) if shown.time < next.latest => Err(Error::wrong(format!(
                "rows show states up to {}, and {} is stored",
                next.latest, shown.time
            ))),
            _ => Ok(()),
        }
    }

    /// G3: a row never shows an older state after a newer one, and no field of a row does that was written as of several
    /// times.
    fn check_order(&self, next: &mut Contents, name: Name, doc: Doc) -> Result<(), Error> {
        let (row, is_mixed) = (shows(next, name, doc), self.is_mixed(next, name, doc));
        if is_removed(next, name, doc) {
            return Ok(());
        }
        let shown = self.source.shown(name, doc);
        let floors = next.floors.entry((name, doc)).or_default();
        let is_further = match row.filter(|_| is_mixed) {
            Some(fields) => (0..fields.len()).all(|field| {
                let further = shown[floors[field]..].iter().position(|shown| has(shown, &fields, field));
                floors[field] += further.unwrap_or(0);
                further.is_some()
            }),
            None => {
                let least = floors.iter().copied().max().unwrap_or(0);
                let further = shown[least..].iter().position(|shown| shown.state == row);
                floors.fill(least + further.unwrap_or(0));
                further.is_some()
            }
        };
        if is_further {
            return Ok(());
        }
        let before = word(shows(&self.pg.now, name, doc));
        Err(Error::wrong(format!("c{name}/{doc} goes back from {before} to {}", word(row))))
    }

    /// Whether a row may still show fields as of several times: until the stream has passed them.
    fn is_mixed(&self, next: &Contents, name: Name, doc: Doc) -> bool {
        let position = self.position(next, name, doc);
        let until = next.mixed.get(&(name, doc));
        until.zip(position).is_some_and(|(until, position)| position.cluster_time().time <= *until)
    }

    /// G2: what is at or before a stored position is in the rows.
    fn check_position(&self, next: &Contents, name: Name, doc: Doc) -> Result<(), Error> {
        let Some(position) = self.position(next, name, doc) else {
            return Err(Error::wrong(format!("c{name} is live without a position")));
        };
        if is_removed(next, name, doc) {
            return Ok(());
        }
        let shown = self.source.shown(name, doc);
        // What was before the start is in the copied chunks, or has an event after it.
        let start = &next.plans[&name].start;
        let is_before =
            |event: &Option<Position>| event.as_ref().is_some_and(|event| event > start && event <= position);
        let Some(last) = shown.iter().rposition(|shown| is_before(&shown.event)) else { return Ok(()) };
        let row = shows(next, name, doc);
        let is_there = match row.filter(|_| self.is_mixed(next, name, doc)) {
            Some(fields) => (0..fields.len()).all(|field| {
                let last = shown.windows(2).rposition(|two| is_before(&two[1].event) && differ(two, field));
                last.is_none_or(|last| shown[last + 1..].iter().any(|shown| has(shown, &fields, field)))
            }),
            None => shown[last..].iter().any(|shown| shown.state == row),
        };
        if is_there {
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
            let furthest = names.iter().filter_map(|name| next.least(*name)).max();
            let has_come = |name: &Name| passed(name) && self.is_level(next, *name, furthest);
            if names.is_empty() || !is_ahead || !names.iter().all(has_come) {
                return Ok(());
            }
            next.settled = true;
        }
        let is_at = |time: u32| {
            names.iter().all(|name| {
                self.source.docs().all(|doc| {
                    let row = shows(next, *name, doc);
                    self.source.state(*name, doc, time) == row || is_removed(next, *name, doc)
                })
            })
        };
        if (0..=self.source.now).rev().any(is_at) {
            return Ok(());
        }
        let rows = next.rows.iter().map(|((name, doc), row)| format!("c{name}/{doc} {}", word(Some(*row))));
        let rows: Vec<_> = rows.collect();
        Err(Error::wrong(format!("the rows are of no one time: {rows:?}")))
    }

    /// Whether a collection goes direct, and all is applied of it that the workers were given, and up to `furthest`.
    fn is_level(&self, next: &Contents, name: Name, furthest: Option<&Position>) -> bool {
        let intake = &self.run.intake;
        let id = intake.now.names.iter().position(|of| *of == name).map(CollectionId);
        let Some(id) = id.filter(|id| intake.flow.way(*id) == Route::Direct) else { return false };
        let until = intake.flow.known(id).max(furthest);
        next.least(name).zip(until).is_some_and(|(least, until)| !self.source.has_between(name, least, until))
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
                let is_kept =
                    !self.source.exists(name) && !self.set.truncates || is_removed(&self.pg.now, name, doc);
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

/// Whether somebody has removed the row.
fn is_removed(contents: &Contents, name: Name, doc: Doc) -> bool {
    contents.removed.contains(&(name, doc))
}

/// Whether this field changed from one to the other.
fn differ(two: &[Shown], field: usize) -> bool {
    two[0].state.map(|state| state[field]) != two[1].state.map(|state| state[field])
}

/// Whether a document had this field then.
fn has(shown: &Shown, fields: &Fields, field: usize) -> bool {
    shown.state.is_some_and(|state| state[field] == fields[field])
}
