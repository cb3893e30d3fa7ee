//! What a worker's [`Writer`](crate::pipeline::apply::writer::Writer) does, in the same order, with the model of PostgreSQL.

use std::{cell::RefCell, collections::BTreeMap, fmt, rc::Rc};

use mongodb::bson::Timestamp;

use super::{
    Bug, Error, World,
    document::{State, word},
    source::Doc,
    worker::{Crew, Flush, Wanted, Worker},
};
use crate::{
    config::Order,
    model::{
        change::{CollectionId, Position},
        partition::Partition,
    },
    pipeline::apply::batch::Positions,
};

/// What a document is to be.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) collection: CollectionId,
    pub(super) doc: Doc,
    pub(super) state: State,
    /// The only fields of it that are to be written.
    pub(super) fields: Option<Vec<Box<str>>>,
    pub(super) at: Timestamp,
    /// Not docrow's: the time that it is of, if it was looked up.
    pub(super) read_at: Option<u32>,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}/{} {}", self.collection.0, self.doc, word(self.state))?;
        self.fields.iter().try_for_each(|fields| write!(f, " of {fields:?}"))
    }
}

impl World {
    /// Up to when rows will show states, once events up to `latest` are written.
    pub(super) fn shown(&self, worker: &mut Worker, latest: Timestamp) -> Option<Timestamp> {
        let looked_up = if self.has(Bug::ShownNotRaised) { latest } else { worker.ahead().latest() };
        (self.set.order == Order::Document).then(|| looked_up.max(latest))
    }

    /// A transaction of a flush: all of it, or, where PostgreSQL refuses that, some of it, without a position. Where there
    /// are only some fields of documents, those are to be looked up instead, and written whole.
    pub(super) fn write(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        flush: &mut Flush,
    ) -> Result<Option<Vec<(CollectionId, Position)>>, Error> {
        let shown = self.shown(worker, flush.latest);
        let in_parts = flush.writes.iter().any(|write| write.fields.is_some());
        let is_refused = !self.is_calm && self.rng.u8(..6) == 0;
        if is_refused && !in_parts && flush.writes.len() > 1 {
            let rest = flush.writes.split_off(self.rng.usize(1..flush.writes.len()));
            let first = std::mem::replace(&mut flush.writes, rest);
            self.store(crew, worker, &first, None, shown)?;
            self.is_bad_moment = true;
            return Ok(None);
        }
        let reached = Some((&flush.positions, flush.all));
        let stored = match in_parts && is_refused {
            true => Err(Error::Refused),
            false => self.store(crew, worker, &flush.writes, reached, shown),
        };
        match stored {
            Err(Error::Refused) => self.say(|_| "PostgreSQL refuses it".to_owned()),
            stored => return stored.map(Some),
        }
        let mut unknown: BTreeMap<CollectionId, Vec<Wanted>> = BTreeMap::new();
        for Write { collection, doc, at, .. } in flush.writes.extract_if(.., |write| write.fields.is_some()) {
            unknown.entry(collection).or_default().push(Wanted { doc, at, patch: None });
        }
        flush.unknown = unknown.into_iter().collect();
        Ok(None)
    }

    /// One transaction.
    pub(super) fn store(
        &mut self,
        crew: &Rc<RefCell<Crew>>,
        worker: &mut Worker,
        writes: &[Write],
        reached: Option<(&Positions, bool)>,
        shown: Option<Timestamp>,
    ) -> Result<Vec<(CollectionId, Position)>, Error> {
        let (names, session, partition) =
            (crew.borrow().names.clone(), crew.borrow().session, Partition(worker.partition));
        worker.touched.extend(writes.iter().map(|write| write.collection));
        let stopped = self.run.stopped.clone();
        let mut moved = Vec::new();
        if let Some((positions, all)) = reached {
            for (id, position) in positions {
                let concerned = all || worker.touched.contains(id);
                let moves = worker.stored.get(id).is_none_or(|stored| stored < position);
                if concerned && moves && !stopped.contains(id) {
                    moved.push((*id, position.clone()));
                }
            }
        }
        let is_untold = |write: &&Write| !moved.iter().any(|(id, _)| *id == write.collection);
        let until = writes.iter().filter(is_untold).map(|write| shown.unwrap_or(write.at)).max();
        if until > worker.noted && !self.has(Bug::PartNotNoted) {
            self.say(|_| format!("worker {} notes {until:?}", partition.0));
            self.transaction(session, |pg| {
                match shown {
                    Some(_) => pg.noted = pg.noted.max(until),
                    None => (pg.ahead, pg.settled) = (pg.ahead.max(until), false),
                }
                Ok(())
            })?;
            worker.noted = until;
        }
        let writes: Vec<_> = writes.iter().filter(|write| !stopped.contains(&write.collection)).collect();
        if !writes.is_empty() || !moved.is_empty() {
            let fingerprint = super::intake::fingerprint(&names);
            self.say(|_| format!("worker {} stores {writes:?} {moved:?} {shown:?}", partition.0));
            self.transaction(session, |pg| {
                // What PostgreSQL refuses breaks up transactions.
                pg.settled &= reached.is_some();
                for Write { collection, doc, state, fields, at, read_at } in &writes {
                    pg.latest = pg.latest.max(read_at.unwrap_or(at.time));
                    let row = (names[collection.0], *doc);
                    match fields.as_ref().zip(*state) {
                        None => pg.put(row.0, row.1, *state),
                        Some((fields, part)) if pg.patch(row, fields, &part, *read_at) => {}
                        Some(_) => return Err(Error::Refused),
                    }
                }
                for (id, position) in &moved {
                    let place = (partition, names[id.0]);
                    let before = pg.positions.insert(place, (position.clone(), fingerprint));
                    if before.is_some_and(|(before, _)| before > *position) {
                        return Err(Error::Away);
                    }
                    match shown {
                        Some(shown) => drop(pg.shown.insert(place, shown)),
                        None => drop(pg.shown.remove(&place)),
                    }
                }
                Ok(())
            })?;
        }
        if let Some((positions, all)) = reached {
            worker.touched.clear();
            if !all {
                positions.iter().for_each(|(id, position)| worker.batch.reach(*id, position));
                worker.has_positions = true;
            }
        }
        worker.stored.extend(moved.iter().cloned());
        Ok(moved)
    }
}
