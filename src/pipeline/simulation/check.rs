//! What must hold after each transaction, and at the end of a schedule.

use super::{
    columns::in_extra,
    document::{DocumentState, FieldVersions, shorthand},
    mongo::{CollectionName, DocumentNumber, TimedState, namespace},
    postgres::DatabaseContents,
    world::SimulatedWorld,
};
use crate::{
    config::Order,
    model::{change::Position, partition::Partition, phase::Phase},
};

impl SimulatedWorld {
    /// Whether `next` may follow what is in PostgreSQL now. Brings the records of the checks in it up to
    /// date.
    pub(super) fn check(&self, next: &mut DatabaseContents) -> Result<(), String> {
        for name in self.source.names() {
            if next.phase(name) != Phase::Live {
                next.floors.retain(|(of, _), _| *of != name);
                continue;
            }
            self.check_drops(next, name)?;
            for doc in self.source.docs() {
                self.check_order(next, name, doc)?;
                self.check_position(next, name, doc)?;
            }
        }
        match self.settings.order {
            Order::Commit => self.check_commits(next),
            Order::Document => Self::check_shown(next),
        }
    }

    /// G3: the stored bound covers every state that workers have written. After a crash it is all that docrow
    /// knows of how far rows may be ahead.
    fn check_shown(next: &DatabaseContents) -> Result<(), String> {
        match next.shown() {
            Some(shown) if shown.time < next.latest => {
                Err(format!("rows show states up to {}, but {} is stored", next.latest, shown.time))
            }
            _ => Ok(()),
        }
    }

    /// G3: a row never shows an older state after a newer one. In a mixed row, that holds for each field on
    /// its own.
    fn check_order(
        &self,
        next: &mut DatabaseContents,
        name: CollectionName,
        doc: DocumentNumber,
    ) -> Result<(), String> {
        let (row, is_mixed) = (shows(next, name, doc), self.is_mixed(next, name, doc));
        if is_removed(next, name, doc) {
            return Ok(());
        }
        let states = self.source.states(name, doc);
        let floors = next.floors.entry((name, doc)).or_default();
        let is_further = match row.filter(|_| is_mixed) {
            Some(fields) => (0..fields.len()).all(|field| {
                let further = states[floors[field]..].iter().position(|past| has(past, &fields, field));
                floors[field] += further.unwrap_or(0);
                further.is_some()
            }),
            None => {
                let least = floors.iter().copied().max().unwrap_or(0);
                let further = states[least..].iter().position(|past| past.state == row);
                floors.fill(least + further.unwrap_or(0));
                further.is_some()
            }
        };
        if is_further {
            if next.by_worker && row != shows(&self.pg.now, name, doc) {
                let since = next.floors[&(name, doc)].iter().map(|floor| states[*floor].time).max();
                next.latest = next.latest.max(since.unwrap_or(0));
            }
            return Ok(());
        }
        let before = shorthand(shows(&self.pg.now, name, doc));
        Err(format!("c{name}/{doc} goes back from {before} to {}", shorthand(row)))
    }

    /// Whether the fields of a row may still be of different times: the stream has not passed all of these
    /// yet.
    fn is_mixed(&self, next: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> bool {
        let position = self.position(next, name, doc);
        let until = next.mixed.get(&(name, doc));
        until.zip(position).is_some_and(|(until, position)| position.cluster_time().time <= *until)
    }

    /// G2: the rows show everything up to the stored position.
    fn check_position(
        &self,
        next: &DatabaseContents,
        name: CollectionName,
        doc: DocumentNumber,
    ) -> Result<(), String> {
        let Some(position) = self.position(next, name, doc) else {
            return Err(format!("c{name} is live without a position"));
        };
        if is_removed(next, name, doc) {
            return Ok(());
        }
        let states = self.source.states(name, doc);
        // A change before the start position is in the copied chunks, or was followed by an event that is
        // newer.
        let start = &next.plans[&name].start;
        let is_before =
            |event: &Option<Position>| event.as_ref().is_some_and(|event| event > start && event <= position);
        let Some(last) = states.iter().rposition(|past| is_before(&past.event)) else { return Ok(()) };
        let row = shows(next, name, doc);
        let is_there = match row.filter(|_| self.is_mixed(next, name, doc)) {
            Some(fields) => (0..fields.len()).all(|field| {
                let last = states.windows(2).rposition(|two| is_before(&two[1].event) && differ(two, field));
                last.is_none_or(|last| states[last + 1..].iter().any(|past| has(past, &fields, field)))
            }),
            None => states[last..].iter().any(|past| past.state == row),
        };
        if is_there {
            return Ok(());
        }
        let (should, is) = (shorthand(states[last].state), shorthand(row));
        Err(format!("c{name}/{doc} is {is}, but it was {should} at the stored position {position:?}"))
    }

    fn is_any_stopped(&self, next: &DatabaseContents) -> bool {
        next.mapped.values().any(|mapped| mapped.record.stopped.is_some())
    }

    /// G2: the spool keeps everything that is not on PostgreSQL's disk.
    pub(super) fn check_trim(&mut self, name: CollectionName, until: &Position) {
        let durable = self.pg.durable().least(name);
        if durable.is_none_or(|durable| until > durable) && !self.excused.history {
            self.report_violation(format!(
                "c{name} is trimmed up to {until:?}, but only {durable:?} is on PostgreSQL's disk"
            ));
        }
    }

    /// The stored position of the partition that a document belongs to.
    fn position<'a>(
        &self,
        next: &'a DatabaseContents,
        name: CollectionName,
        doc: DocumentNumber,
    ) -> Option<&'a Position> {
        let of = |(partition, of): &(Partition, CollectionName)| (*of == name).then_some(partition.0);
        let partitions = next.positions.keys().filter_map(of).count();
        let partition = self.source.key(doc).hash64() % u64::try_from(partitions.max(1)).unwrap();
        next.positions
            .get(&(Partition(u16::try_from(partition).unwrap()), name))
            .map(|(position, _)| position)
    }

    /// G2: no position passes a drop or a replacement of its collection that docrow has not dealt with.
    fn check_drops(&self, next: &DatabaseContents, name: CollectionName) -> Result<(), String> {
        let plan = &next.plans[&name];
        let Some(dropped) =
            self.source.last_drop_or_replacement(name).filter(|dropped| **dropped > plan.start)
        else {
            return Ok(());
        };
        match next.least(name) {
            Some(position) if position > dropped => Err(format!(
                "c{name} has the position {position:?}, but was dropped or replaced at {dropped:?}"
            )),
            _ => Ok(()),
        }
    }

    /// In the order of commits, all rows are of one time once they have settled.
    fn check_commits(&self, next: &mut DatabaseContents) -> Result<(), String> {
        let is_followed = |name: &CollectionName| {
            let start = next.plans.get(name).map(|plan| &plan.start);
            // A collection with too many is stopped before that is stored.
            let dead = next.letters.keys().filter(|(own, _)| own == name).count();
            self.source.exists(*name)
                && self.source.last_drop_or_replacement(*name) <= start
                && u64::try_from(dead).is_ok_and(|dead| dead <= self.settings.most_dead)
        };
        let names: Vec<CollectionName> = next.plans.keys().copied().filter(is_followed).collect();
        if !next.settled {
            let passed = |name: &CollectionName| {
                let position = next.least(*name).filter(|_| next.phase(*name) == Phase::Live);
                position.is_some_and(|position| Some(position.cluster_time()) > next.ahead)
            };
            let is_ahead = next.ahead.is_some() && !self.is_any_stopped(next);
            let furthest = names.iter().filter_map(|name| next.least(*name)).max();
            let has_come = |name: &CollectionName| passed(name) && self.is_level(next, *name, furthest);
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
        let rows = next
            .rows
            .iter()
            .map(|((name, doc), row)| format!("c{name}/{doc} {}", shorthand(Some(row.fields))));
        let rows: Vec<_> = rows.collect();
        Err(format!("the rows are not of one time: {rows:?}"))
    }

    /// Whether a collection bypasses the spool, and everything is applied that its workers were given, and
    /// that is at or before `furthest`.
    fn is_level(&self, next: &DatabaseContents, name: CollectionName, furthest: Option<&Position>) -> bool {
        let Some(notices) = &self.notices else { return false };
        let notices = notices.borrow();
        let Some(known) = notices.direct.get(&namespace(name)) else { return false };
        let until = Some(known).max(furthest);
        next.least(name).zip(until).is_some_and(|(least, until)| !self.source.has_between(name, least, until))
    }

    /// Something that is not done yet. `None`: everything has come to rest.
    pub(super) fn remaining_work(&self) -> Option<String> {
        let pg = &self.pg.now;
        for name in self.source.names().filter(|name| self.source.exists(*name)) {
            if pg.phase(name) != Phase::Live {
                return Some(format!("c{name} is {:?}", pg.phase(name)));
            }
            for doc in self.source.docs() {
                let states = self.source.states(name, doc);
                let last = states.iter().rev().find_map(|past| past.event.as_ref());
                if last > self.position(pg, name, doc) {
                    return Some(format!("c{name}/{doc} has a change that no position has reached"));
                }
            }
            let mapped = &pg.mapped[&name];
            if !mapped.record.filled || mapped.record.stopped.is_some() {
                return Some(format!("c{name} is not backfilled, or stopped: {:?}", mapped.record.stopped));
            }
            if let Some(left) = is_unfilled(pg, name) {
                return Some(left);
            }
        }
        // Requests for a dropped collection wait until it comes back.
        let of = pg.resyncs.keys().chain(pg.repairs.keys()).find(|name| self.source.exists(**name));
        if let Some(name) = of {
            return Some(format!("a request for c{name} is open"));
        }
        let dead = pg.letters.keys().find(|(name, _)| self.source.exists(*name));
        if let Some((name, doc)) = dead {
            return Some(format!("c{name}/{doc} is a dead letter"));
        }
        self.check_end().err()
    }

    /// G1: the rows equal the documents.
    pub(super) fn check_end(&self) -> Result<(), String> {
        for name in self.source.names() {
            for doc in self.source.docs() {
                let (should, is) =
                    (self.source.state(name, doc, self.source.now), shows(&self.pg.now, name, doc));
                let is_kept = !self.source.exists(name) && !self.settings.truncates
                    || is_removed(&self.pg.now, name, doc);
                if should != is && !is_kept {
                    let (is, should) = (shorthand(is), shorthand(should));
                    return Err(format!("at the end c{name}/{doc} is {is}, but should be {should}"));
                }
            }
        }
        Ok(())
    }
}

fn shows(contents: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> DocumentState {
    contents.shows(name, doc)
}

/// A field in `extra` that has a column of its own, if there is one.
pub(super) fn is_unfilled(contents: &DatabaseContents, name: CollectionName) -> Option<String> {
    let mapping = contents.mapping(name)?;
    let root = mapping.tables().first()?;
    // `extra` has the type of the `_id`, which its column does not say.
    let has_column = |key: &String| *key != "_id" && root.columns.iter().any(|column| column.name == *key);
    let mut rows = contents.rows.iter().filter(|((of, _), _)| *of == name);
    rows.find_map(|((_, doc), row)| {
        let field = in_extra(mapping, &row.columns).into_iter().find(has_column)?;
        Some(format!("c{name}/{doc} has {field} in extra, but there is a column for it"))
    })
}

/// Whether the row may be missing: someone has removed it, or PostgreSQL has refused it.
fn is_removed(contents: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> bool {
    contents.removed.contains(&(name, doc)) || contents.letters.contains_key(&(name, doc))
}

/// Whether a field changed from the first of two states to the second.
fn differ(two: &[TimedState], field: usize) -> bool {
    two[0].state.map(|state| state[field]) != two[1].state.map(|state| state[field])
}

/// Whether a document had this version of a field in a past state.
fn has(past: &TimedState, fields: &FieldVersions, field: usize) -> bool {
    past.state.is_some_and(|state| state[field] == fields[field])
}
