//! Takes changes out of the spool, and hands them to the workers, in the stream's order.

use std::{sync::Arc, time::Duration};

use indicatif::HumanCount;
use mongodb::bson::DateTime;
use tokio::{sync::mpsc, time::sleep};

use super::Tailer;
use crate::{
    checkpoint::Waiting,
    config::Order,
    error::Result,
    failpoint::{self, Failpoint},
    model::{
        change::{Change, CollectionId, Op, Position},
        document_key::{DocumentKey, Id},
    },
    pipeline::{
        planted::{self, Bug},
        stream::{channel::WorkerMessage, route::Route},
    },
};

/// How many changes are taken out of the spool at a time. (The simulation has few.)
const WINDOW: usize = if cfg!(test) { 3 } else { 2_000 };

impl Tailer {
    /// Takes some changes out of the spool, and hands them to the workers.
    pub(super) async fn drain(&mut self, permits: Vec<mpsc::OwnedPermit<WorkerMessage>>) -> Result<()> {
        self.post.at("takes changes out of the spool");
        match self.order {
            Order::Document => self.drain_one(permits).await,
            Order::Commit => self.drain_all(permits).await,
        }
    }

    /// Drains one collection; each has its turn.
    async fn drain_one(&mut self, permits: Vec<mpsc::OwnedPermit<WorkerMessage>>) -> Result<()> {
        let draining: Vec<_> = self.flow.on(Route::Draining).collect();
        let next = draining.iter().find(|id| **id > self.spool.last).or(draining.first());
        let Some(&id) = next else { return Ok(()) };
        self.spool.last = id;
        let (changes, is_all) = self.waiting(id, WINDOW).await?;
        *self.spool.taken.entry(id).or_default() += u64::try_from(changes.len()).unwrap_or(0);
        let last = changes.last().map(|change| change.position.clone());
        let position = if is_all { self.flow.known(id).cloned() } else { last };
        let Some(position) = position else { return Ok(()) };
        let oldest = oldest(&changes);
        self.send(changes, permits, Arc::new([id]), &position, oldest);
        self.flow.give(id, &position);
        if is_all {
            self.go_direct(&[id]);
        }
        Ok(())
    }

    /// Drains all collections, in the stream's order, and only whole transactions: those before the time up
    /// to which all collections are known.
    async fn drain_all(&mut self, permits: Vec<mpsc::OwnedPermit<WorkerMessage>>) -> Result<()> {
        let draining: Vec<_> = self.flow.on(Route::Draining).collect();
        let mut most = WINDOW;
        loop {
            let (mut changes, mut horizon, mut all) = (Vec::new(), None::<Position>, true);
            for &id in &draining {
                let (waiting, is_all) = self.waiting(id, most).await?;
                let end = if is_all {
                    self.flow.known(id).cloned()
                } else {
                    waiting.last().map(|c| c.position.clone())
                };
                horizon = horizon.into_iter().chain(end).min();
                all &= is_all;
                changes.extend(waiting);
            }
            let Some(horizon) = horizon else { return Ok(()) };
            changes.sort_by(|a, b| a.position.cmp(&b.position));
            let whole = changes.partition_point(|c| c.position.cluster_time() < horizon.cluster_time());
            let is_empty = all && whole == changes.len();
            changes.truncate(whole);
            let Some(position) = changes.last().map(|change| change.position.clone()) else {
                if is_empty {
                    self.go_direct(&draining);
                    return Ok(());
                }
                if all {
                    // The rest of the last transaction is still to come: it must be read, however full the
                    // spool is.
                    self.spool.tenths = self.spool.tenths.min(9);
                    sleep(Duration::from_millis(10)).await;
                    return Ok(());
                }
                // A transaction larger than the window.
                most = most.saturating_mul(2);
                continue;
            };
            for change in &changes {
                *self.spool.taken.entry(change.collection).or_default() += 1;
            }
            let oldest = oldest(&changes);
            self.send(changes, permits, draining.as_slice().into(), &position, oldest);
            draining.iter().for_each(|id| self.flow.give(*id, &position));
            if is_empty {
                self.go_direct(&draining);
            }
            return Ok(());
        }
    }

    /// The next changes of a collection that wait, and whether these are all.
    pub(super) async fn waiting(&self, id: CollectionId, most: usize) -> Result<(Vec<Change>, bool)> {
        let collection = self.now.collections.get(id.0);
        let (Some(collection), Some(given)) = (collection, self.flow.given(id)) else {
            return Ok((Vec::new(), true));
        };
        let (namespace, given) = (collection.namespace().clone(), given.clone());
        let waiting = self.log()?.waiting(namespace, given, most).await?;
        let is_all = waiting.len() < most || planted::has(Bug::DirectTooEarly);
        let changes = waiting.into_iter().map(|Waiting { position, document_key }| {
            let key = DocumentKey::of(Id::of(&document_key)?);
            Ok(Change { collection: id, key, document_key, op: Op::Update, position })
        });
        Ok((changes.collect::<Result<_>>()?, is_all))
    }

    fn go_direct(&mut self, ids: &[CollectionId]) {
        for id in ids {
            self.flow.drained(*id);
            let taken = self.spool.taken.remove(id).unwrap_or(0);
            if let (1.., Some(collection)) = (taken, self.now.collections.get(id.0)) {
                tracing::info!("{}: took {} changes out of the spool", collection.name(), HumanCount(taken));
            }
        }
        failpoint::reach(Failpoint::SpoolDrained);
    }
}

/// When the first of these changes happened, to the second.
fn oldest(changes: &[Change]) -> Option<DateTime> {
    let seconds = i64::from(changes.first()?.position.cluster_time().time);
    Some(DateTime::from_millis(seconds * 1000))
}
