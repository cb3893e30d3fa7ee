//! Mappings that follow their documents: new fields become columns and tables while the pipeline runs.
//!
//! Encoders notice what their mapping does not know; the documents are shown to their [`Collection`], and wake its
//! [`Keeper`], the one task that changes its mapping. So two workers that meet the same field at once are no race: whoever
//! tells second finds it known. The keeper decides by all it has seen, a sample of the collection included, what the mapping
//! becomes ([`evolve`]); changes the tables and stores the new version in one transaction; and puts the new mapping in
//! force, all while nobody writes to the collection. Rows written before hold the new fields' values in `extra`, and
//! [`backfill`] takes them out from there. Nothing of this is needed for exactness: old rows and new ones both tell their
//! document.
//!
//! Tables are filled once the collection is complete. A crash before the end is made up for at the next start, because
//! the version is stored as not filled.
//!
//! # Why nobody waits for one who does not go on
//!
//! A mapping is a lock: writers share it, a keeper has it alone, while it changes the tables and while it fills some rows.
//! A future that has a lock, or waits in the line for it, and is not polled stops everybody else for good. So a keeper is
//! a task of its own, which always goes on, and nobody else ever asks for a mapping alone. What it does then is short:
//! locks in PostgreSQL are asked for by short tries, and a mapping is let go between two of them ([`tries`](crate::pipeline::tries)).
//!
//! Nor is a keeper cut off while it has the mapping: what it has sent might be committed later than what a worker writes
//! next. It is asked to stop, and does so before it would begin with anything; the rest can be dropped at any time. Once it
//! is asked it takes no mapping any more, so that one whose task is aborted, because the turn failed, can't begin with
//! anything while a worker's last transaction may still be under way.
//!
//! Keepers have nothing in common but that one at a time changes tables, which is short, and what bounds them all: how many
//! sample a collection and how many fill rows at once, for memory's and the servers' sake. So whatever holds up one, a long
//! fill or somebody's lock on a table, is nothing to the others.
//!
//! [`evolve`]: crate::schema::evolve
//! [`backfill`]: super::backfill

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    active::PreparedMappings,
    keeper::{Keeper, KeeperOrder},
    keeper_context::KeeperContext,
};
use crate::{
    error::{Error, Kind, Result},
    model::change::CollectionId,
    pipeline::{collection::Collection, context::Pipeline},
    shutdown::Shutdown,
};

/// The keepers of all collections' mappings. Dropping it has them begin with nothing more, and aborts them.
pub(crate) struct Evolution {
    keepers: JoinSet<Result<()>>,
    orders: KeeperOrders,
    stop: Shutdown,
}

/// Where keepers are told what they can't know.
#[derive(Clone)]
pub(crate) struct KeeperOrders {
    all: Arc<[mpsc::Sender<KeeperOrder>]>,
    /// The places of those whose collections are not complete.
    incomplete: Arc<[usize]>,
}

impl Evolution {
    /// Begins to evolve the mappings of the collections that are prepared.
    pub(crate) fn start(
        pipeline: &Pipeline,
        collections: Arc<[Collection]>,
        mappings: PreparedMappings,
        live: &[CollectionId],
    ) -> Self {
        let PreparedMappings { in_force, mut pending, tables } = mappings;
        let stop = Shutdown::default();
        let shared = Arc::new(KeeperContext::new(pipeline.clone(), collections, tables));
        let (mut keepers, mut all) = (JoinSet::new(), Vec::new());
        for (id, in_force) in in_force.into_iter().enumerate() {
            // There is one who gives orders, one at a time.
            let (sender, orders) = mpsc::channel(1);
            let name = in_force.spec.collection().to_string();
            let is_paused = shared.collections.get(id).is_some_and(Collection::is_paused);
            // The next turn has it again.
            let pending = pending.remove(&name).filter(|_| !is_paused);
            let keeper = Keeper::new(shared.clone(), id, in_force, pending, orders, stop.clone());
            let is_complete = live.contains(&CollectionId(id));
            keepers.spawn(keeper.run(is_complete));
            all.push(sender);
        }
        let is_paused = |id: usize| shared.collections.get(id).is_some_and(Collection::is_paused);
        let incomplete = (0..all.len()).filter(|id| !is_paused(*id) && !live.contains(&CollectionId(*id)));
        let incomplete = incomplete.collect();
        Self { keepers, orders: KeeperOrders { all: all.into(), incomplete }, stop }
    }

    pub(crate) fn orders(&self) -> KeeperOrders {
        self.orders.clone()
    }

    /// Returns once a keeper has failed.
    pub(crate) async fn failed(&mut self) -> Error {
        match self.keepers.join_next().await {
            Some(ended) => why(ended).err().unwrap_or_else(|| Error::bug("a mapping's keeper ended early")),
            None => std::future::pending().await,
        }
    }

    /// Asks all keepers to end once they have done what they are about.
    pub(crate) fn stop(&self) {
        self.stop.request();
    }

    /// Has them end so.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.stop();
        while let Some(ended) = self.keepers.join_next().await {
            why(ended)?;
        }
        Ok(())
    }
}

impl Drop for Evolution {
    fn drop(&mut self) {
        self.stop.request();
    }
}

fn why(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.map_err(|e| Error::caused(Kind::Bug, "a mapping's keeper broke off", e))?
}

impl KeeperOrders {
    /// Has the mappings of collections that are not complete take up what was discovered, and stay as they are then.
    pub(crate) async fn settle(&self) {
        self.ask(self.incomplete.iter(), KeeperOrder::Settle).await;
    }

    /// Says that these collections are complete.
    pub(crate) async fn complete(&self) {
        for sender in self.incomplete.iter().filter_map(|id| self.all.get(*id)) {
            let _ = sender.send(KeeperOrder::Complete).await;
        }
    }

    /// Has all mappings take up what was discovered, and all columns filled: no more will come.
    pub(crate) async fn finish(&self) {
        self.ask(&(0..self.all.len()).collect::<Vec<_>>(), KeeperOrder::Finish).await;
    }

    /// A keeper that is gone has failed, which [`Evolution::failed`] says: that ends the turn, and this with it.
    async fn ask(
        &self,
        ids: impl IntoIterator<Item = &usize>,
        order: fn(oneshot::Sender<()>) -> KeeperOrder,
    ) {
        let mut answers = Vec::new();
        for sender in ids.into_iter().filter_map(|id| self.all.get(*id)) {
            let (sent, answer) = oneshot::channel();
            if sender.send(order(sent)).await.is_err() {
                return std::future::pending().await;
            }
            answers.push(answer);
        }
        for answer in answers {
            if answer.await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
