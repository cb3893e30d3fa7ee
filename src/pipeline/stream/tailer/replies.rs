//! Passes replies of the stream on: into the spool, and to the workers.

use std::sync::Arc;

use mongodb::bson::DateTime;
use tokio::sync::mpsc;

use super::{PendingReply, Tailer, WorkerRoom};
use crate::{
    config::Order,
    error::Result,
    model::{
        change::{Change, CollectionId, Namespace, Position},
        resync_reason::Reason,
    },
    pipeline::{
        planted::{self, Bug},
        stream::{
            channel::{ReachedPosition, WorkerMessage},
            route::Route,
        },
    },
    source::{Event, StreamBatch},
};

impl Tailer {
    /// Takes a reply of the stream.
    pub(super) async fn take(&mut self, batch: StreamBatch) -> Result<()> {
        let StreamBatch { events, position, at_end, unknown, oldest, .. } = batch;
        if self.tail.is_empty() {
            self.oldest = oldest;
        }
        if unknown > 0 {
            tracing::info!("{unknown} events of types that do not matter here were passed over");
        }
        let mut changes = std::mem::take(&mut self.tail);
        for event in events {
            match event {
                Event::Change(change) => changes.push(change),
                event => self.notice(&event),
            }
        }
        self.pass_on(PendingReply { changes, position, at_end }).await
    }

    /// Passes a reply on, into the spool and to the workers; or holds it, if the spool has no space for it.
    pub(super) async fn pass_on(&mut self, mut reply: PendingReply) -> Result<()> {
        self.abandon_stopped();
        self.post.at("waits for room at the workers");
        let permits = match self.room().await {
            WorkerRoom::Yes(permits) => permits,
            WorkerRoom::Gone => {
                self.rewind();
                return Ok(());
            }
            WorkerRoom::No => {
                tracing::info!(
                    "PostgreSQL does not keep up: changes now go into the spool, in the state directory"
                );
                let direct: Vec<_> = self.flow.on(Route::Direct).collect();
                direct.into_iter().for_each(|id| self.flow.turn_away(id));
                Vec::new()
            }
        };
        reply.changes.retain(|change| {
            let is_wanted = self.flow.way(change.collection) != Route::Nowhere;
            is_wanted && self.flow.is_new(change.collection, &change.position)
        });
        self.post.at("puts changes into the spool");
        let is_spooled = |change: &&Change| self.flow.is_spooled(change.collection);
        let spooled = reply.changes.iter().filter(is_spooled).cloned().collect();
        if !self.put(spooled, &reply.position).await? {
            if planted::has(Bug::WaitsForSpace) {
                std::future::pending::<()>().await;
            }
            self.held = Some(reply);
            return Ok(());
        }
        let PendingReply { mut changes, position, at_end } = reply;
        changes.retain(|change| self.flow.way(change.collection) == Route::Direct);
        self.hand_out(changes, permits, &position, at_end);
        self.report_arrival(&position, at_end);
        Ok(())
    }

    /// Hands changes to the workers, and how far the collections that go direct have come.
    fn hand_out(
        &mut self,
        mut changes: Vec<Change>,
        permits: Vec<mpsc::OwnedPermit<WorkerMessage>>,
        position: &Position,
        at_end: bool,
    ) {
        let mut position = position.clone();
        if self.order == Order::Commit && !at_end {
            // More of the transaction at the end may come; all its changes have one time.
            let time = position.cluster_time();
            let complete = changes.partition_point(|change| change.position.cluster_time() < time);
            self.tail = changes.split_off(complete);
            if !self.tail.is_empty() {
                let Some(last) = changes.last() else { return };
                position = last.position.clone();
            }
        }
        let collections: Arc<[CollectionId]> = self.flow.reached(&position).collect();
        if !collections.is_empty() {
            self.send(changes, permits, collections, &position, self.oldest);
            self.flow.pass(&position);
        }
    }

    pub(super) fn send(
        &self,
        changes: Vec<Change>,
        permits: Vec<mpsc::OwnedPermit<WorkerMessage>>,
        collections: Arc<[CollectionId]>,
        position: &Position,
        oldest: Option<DateTime>,
    ) {
        let Some(workers) = &self.now.workers else { return };
        let ahead_until = self.now.ahead_until(&*collections);
        let reached = ReachedPosition { collections, position: position.clone() };
        for (permit, changes) in permits.into_iter().zip(workers.router.route(changes)) {
            permit.send(WorkerMessage { changes, reached: Some(reached.clone()), oldest, ahead_until });
        }
    }

    fn report_arrival(&self, position: &Position, at_end: bool) {
        let Some(until) = self.now.until else { return };
        // The start position itself says nothing about the events of its time.
        let is_new = self.start.as_ref().is_some_and(|start| position > start);
        let is_there = position.is_past(until) || (at_end && is_new && position.cluster_time() >= until);
        let ids = (0..self.now.collections.len()).map(CollectionId);
        let is_handed_out = |id| matches!(self.flow.way(id), Route::Direct | Route::Nowhere);
        if is_there && self.tail.is_empty() && ids.into_iter().all(is_handed_out) {
            self.events.send_modify(|events| events.arrived = true);
        }
    }

    /// Handles something that happened to a whole collection. Its changes from here on are ignored: it must
    /// be copied again.
    fn notice(&mut self, event: &Event) {
        let (happened, position) = match event {
            Event::Dropped { collection, position } => (vec![(*collection, Reason::Dropped)], position),
            Event::Renamed { from, to, position } => {
                let from = from.map(|id| (id, Reason::Dropped));
                let to = to.map(|id| (id, Reason::Replaced));
                (from.into_iter().chain(to).collect(), position)
            }
            Event::Change(_) | Event::DatabaseDropped { .. } | Event::Invalidated { .. } => return,
        };
        let mut saved = Vec::new();
        for (id, reason) in happened {
            if let Some(collection) =
                self.now.collections.get(id.0).filter(|_| self.flow.is_new(id, position))
            {
                let namespace = collection.namespace().clone();
                saved.extend(self.flow.hold(id));
                self.require_resync(namespace, reason);
            }
        }
        self.owe(saved);
    }

    pub(super) fn require_resync(&self, namespace: Namespace, reason: Reason) {
        self.events.send_modify(|events| {
            events.resyncs.insert(namespace, reason);
        });
    }
}
