//! What must hold after each transaction, and at the end.

use super::{
    columns::in_extra,
    document::{DocumentState, FieldVersions, word},
    mongo::{CollectionName, DocumentNumber, TimedState, namespace},
    postgres::DatabaseContents,
    world::SimulatedWorld,
};
use crate::{
    config::Order,
    model::{change::Position, partition::Partition, phase::Phase},
};

/// What is wrong.

impl SimulatedWorld {
    /// Whether `next` may follow what is in PostgreSQL. Keeps account of the rows.
    pub(super) fn check(&self, next: &mut DatabaseContents) -> Result<(), String> {
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
    fn check_shown(next: &DatabaseContents) -> Result<(), String> {
        match next.shown() {
            Some(shown) if shown.time < next.latest => {
                Err(format!("rows show states up to {}, and {} is stored", next.latest, shown.time))
            }
            _ => Ok(()),
        }
    }

    /// G3: a row never shows an older state after a newer one, and no field of a row does that was written as of several
    /// times.
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
            if next.by_worker && row != shows(&self.pg.now, name, doc) {
                let since = next.floors[&(name, doc)].iter().map(|floor| shown[*floor].time).max();
                next.latest = next.latest.max(since.unwrap_or(0));
            }
            return Ok(());
        }
        let before = word(shows(&self.pg.now, name, doc));
        Err(format!("c{name}/{doc} goes back from {before} to {}", word(row)))
    }

    /// Whether a row may still show fields as of several times: until the stream has passed them.
    fn is_mixed(&self, next: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> bool {
        let position = self.position(next, name, doc);
        let until = next.mixed.get(&(name, doc));
        until.zip(position).is_some_and(|(until, position)| position.cluster_time().time <= *until)
    }

    /// G2: what is at or before a stored position is in the rows.
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
        Err(format!("c{name}/{doc} is {is}, though {position:?} is stored, when it was {should}"))
    }

    fn is_any_stopped(&self, next: &DatabaseContents) -> bool {
        next.mapped.values().any(|mapped| mapped.record.stopped.is_some())
    }

    /// G2: the spool holds all that is not on PostgreSQL's disk.
    pub(super) fn check_trim(&mut self, name: CollectionName, until: &Position) {
        let durable = self.pg.durable().least(name);
        if durable.is_none_or(|durable| until > durable) && !self.excused.history {
            self.is_wrong(format!(
                "c{name} is trimmed up to {until:?}, and {durable:?} is on PostgreSQL's disk"
            ));
        }
    }

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

    /// G2: what happens to a whole collection is not passed over.
    fn check_whole(&self, next: &DatabaseContents, name: CollectionName) -> Result<(), String> {
        let plan = &next.plans[&name];
        let Some(whole) = self.source.last_whole(name).filter(|whole| **whole > plan.start) else {
            return Ok(());
        };
        match next.least(name) {
            Some(position) if position > whole => {
                Err(format!("c{name} has {position:?}, though it was dropped or replaced at {whole:?}"))
            }
            _ => Ok(()),
        }
    }

    /// In the order of commits, rows that have settled are of one time.
    fn check_commits(&self, next: &mut DatabaseContents) -> Result<(), String> {
        let is_followed = |name: &CollectionName| {
            let start = next.plans.get(name).map(|plan| &plan.start);
            self.source.exists(*name) && self.source.last_whole(*name) <= start
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
        let rows =
            next.rows.iter().map(|((name, doc), row)| format!("c{name}/{doc} {}", word(Some(row.fields))));
        let rows: Vec<_> = rows.collect();
        Err(format!("the rows are of no one time: {rows:?}"))
    }

    /// Whether a collection goes direct, and all is applied of it that the workers were given, and up to `furthest`.
    fn is_level(&self, next: &DatabaseContents, name: CollectionName, furthest: Option<&Position>) -> bool {
        let Some(notices) = &self.notices else { return false };
        let notices = notices.borrow();
        let Some(known) = notices.direct.get(&namespace(name)) else { return false };
        let until = Some(known).max(furthest);
        next.least(name).zip(until).is_some_and(|(least, until)| !self.source.has_between(name, least, until))
    }

    /// What is still to be done. `None`: everything has come to rest.
    pub(super) fn is_left(&self) -> Option<String> {
        let pg = &self.pg.now;
        for name in self.source.names().filter(|name| self.source.exists(*name)) {
            if pg.phase(name) != Phase::Live {
                return Some(format!("c{name} is {:?}", pg.phase(name)));
            }
            for doc in self.source.docs() {
                let shown = self.source.shown(name, doc);
                let last = shown.iter().rev().find_map(|shown| shown.event.as_ref());
                if last > self.position(pg, name, doc) {
                    return Some(format!("c{name}/{doc} has changed, and no position says so"));
                }
            }
            let mapped = &pg.mapped[&name];
            if !mapped.record.filled || mapped.record.stopped.is_some() {
                return Some(format!("c{name} is not filled, or stopped: {:?}", mapped.record.stopped));
            }
            if let Some(left) = is_unfilled(pg, name) {
                return Some(left);
            }
        }
        // What is asked for of a collection that is gone waits until it comes back.
        let of = pg.resyncs.keys().chain(pg.repairs.keys()).find(|name| self.source.exists(**name));
        if let Some(name) = of {
            return Some(format!("there is a request for c{name}"));
        }
        let dead = pg.letters.keys().find(|(name, _)| self.source.exists(*name));
        if let Some((name, doc)) = dead {
            return Some(format!("c{name}/{doc} is a dead letter"));
        }
        self.check_end().err()
    }

    /// G1: the rows are the documents.
    pub(super) fn check_end(&self) -> Result<(), String> {
        for name in self.source.names() {
            for doc in self.source.docs() {
                let (should, is) =
                    (self.source.state(name, doc, self.source.now), shows(&self.pg.now, name, doc));
                let is_kept =
                    !self.source.exists(name) && !self.set.truncates || is_removed(&self.pg.now, name, doc);
                if should != is && !is_kept {
                    let (is, should) = (word(is), word(should));
                    return Err(format!("at the end c{name}/{doc} is {is}, and should be {should}"));
                }
            }
        }
        Ok(())
    }
}

fn shows(contents: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> DocumentState {
    contents.shows(name, doc)
}

/// What there is a column for, and is in `extra`.
pub(super) fn is_unfilled(contents: &DatabaseContents, name: CollectionName) -> Option<String> {
    let mapping = contents.mapping(name)?;
    let root = mapping.tables().first()?;
    // Of what type an `_id` was is noted there, for its column does not say.
    let has_column = |key: &String| *key != "_id" && root.columns.iter().any(|column| column.name == *key);
    let mut rows = contents.rows.iter().filter(|((of, _), _)| *of == name);
    rows.find_map(|((_, doc), row)| {
        let field = in_extra(mapping, &row.columns).into_iter().find(has_column)?;
        Some(format!("c{name}/{doc} has {field} in extra, and there is a column for it"))
    })
}

/// Whether the row may be missing: somebody has removed it, or PostgreSQL has refused it.
fn is_removed(contents: &DatabaseContents, name: CollectionName, doc: DocumentNumber) -> bool {
    contents.removed.contains(&(name, doc)) || contents.letters.contains_key(&(name, doc))
}

/// Whether this field changed from one to the other.
fn differ(two: &[TimedState], field: usize) -> bool {
    two[0].state.map(|state| state[field]) != two[1].state.map(|state| state[field])
}

/// Whether a document had this field then.
fn has(shown: &TimedState, fields: &FieldVersions, field: usize) -> bool {
    shown.state.is_some_and(|state| state[field] == fields[field])
}
