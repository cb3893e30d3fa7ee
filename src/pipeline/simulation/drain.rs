//! What [`drain`](crate::pipeline::stream::tailer) does, in the same order.

use std::sync::Arc;

use super::{Bug, Error, World};
use crate::{
    config::Order,
    model::change::{Change, CollectionId, Op, Position},
    pipeline::stream::route::Route,
};

impl World {
    pub(super) fn drain(&mut self) -> Result<(), Error> {
        match self.set.order {
            Order::Document => self.drain_one(),
            Order::Commit => self.drain_all(),
        }
    }

    fn drain_one(&mut self) -> Result<(), Error> {
        let intake = &mut self.run.intake;
        let draining: Vec<_> = intake.flow.on(Route::Draining).collect();
        let next = draining.iter().find(|id| **id > intake.last).or(draining.first());
        let Some(&id) = next else { return Ok(()) };
        intake.last = id;
        let (changes, mut is_all) = self.waiting(id, self.set.window)?;
        is_all |= self.has(Bug::DirectTooEarly);
        let last = changes.last().map(|change| change.position.clone());
        let position = if is_all { self.run.intake.flow.known(id).cloned() } else { last };
        let Some(position) = position else { return Ok(()) };
        self.say(|_| format!("the intake drains {} of #{}, all: {is_all}", changes.len(), id.0));
        self.send(changes, Arc::new([id]), &position);
        self.run.intake.flow.give(id, &position);
        if is_all {
            self.run.intake.flow.drained(id);
        }
        Ok(())
    }

    fn drain_all(&mut self) -> Result<(), Error> {
        let draining: Vec<_> = self.run.intake.flow.on(Route::Draining).collect();
        let mut most = self.set.window;
        loop {
            let (mut changes, mut horizon, mut all) = (Vec::new(), None::<Position>, true);
            for &id in &draining {
                let (waiting, is_all) = self.waiting(id, most)?;
                let known = self.run.intake.flow.known(id).cloned();
                let end = if is_all { known } else { waiting.last().map(|c| c.position.clone()) };
                horizon = horizon.into_iter().chain(end).min();
                all &= is_all;
                changes.extend(waiting);
            }
            all |= self.has(Bug::DirectTooEarly);
            let Some(horizon) = horizon else { return Ok(()) };
            changes.sort_by(|a, b| a.position.cmp(&b.position));
            let whole = changes.partition_point(|c| c.position.cluster_time() < horizon.cluster_time());
            let is_empty = all && whole == changes.len();
            changes.truncate(whole);
            let Some(position) = changes.last().map(|change| change.position.clone()) else {
                if is_empty {
                    draining.iter().for_each(|id| self.run.intake.flow.drained(*id));
                } else if all {
                    self.run.intake.is_full = false;
                } else {
                    most *= 2;
                    continue;
                }
                return Ok(());
            };
            self.say(|_| format!("the intake drains {} of all, empty: {is_empty}", changes.len()));
            self.send(changes, draining.as_slice().into(), &position);
            draining.iter().for_each(|id| self.run.intake.flow.give(*id, &position));
            if is_empty {
                draining.iter().for_each(|id| self.run.intake.flow.drained(*id));
            }
            return Ok(());
        }
    }

    fn waiting(&mut self, id: CollectionId, most: usize) -> Result<(Vec<Change>, bool), Error> {
        let intake = &self.run.intake;
        let Some(given) = intake.flow.given(id) else { return Ok((Vec::new(), true)) };
        let waiting = self.spool.waiting(intake.now.names[id.0], given, most)?;
        let is_all = waiting.len() < most;
        let changes = waiting.into_iter().map(|(position, doc)| {
            let (key, document_key) = self.source.key(doc).clone();
            Change { collection: id, key, document_key, op: Op::Update, position }
        });
        Ok((changes.collect(), is_all))
    }
}
