//! Mappings that follow their documents: new fields become columns and tables while the pipeline runs.
//!
//! Encoders notice what their mapping does not know; the documents are shown to their [`Collection`], and
//! wake its [`Keeper`], the one task that changes its mapping. So two workers that meet the same field at
//! once do not race: the second one's discovery is already known. From everything it has seen, including a
//! sample of the collection, the keeper decides what the mapping becomes ([`evolve`]); it changes the tables
//! and stores the new version in one transaction; and it puts the new mapping in force; all this while
//! nothing writes to the collection. Rows written before hold the new fields' values in `extra`, and
//! [`backfill`] takes them out from there. Exactness needs none of this: old rows and new ones both yield
//! their document.
//!
//! Tables are filled once the collection is complete. After a crash before the end, the next start makes up
//! for it, because the version is stored as not filled.
//!
//! # Why nothing waits for a task that is stuck
//!
//! A mapping is a lock: writers share it; a keeper has it alone, while it changes the tables and while it
//! fills some rows. A future that has a lock, or waits in line for it, and is not polled, stops all others
//! for good. So a keeper is a task of its own, which always continues, and no other task ever asks for a
//! mapping for itself alone. What the keeper does then is short: it asks for locks in PostgreSQL by short
//! tries, and releases the mapping between two of them ([`tries`](crate::pipeline::tries)).
//!
//! Nor is a keeper cut off while it has the mapping: what it has sent might be committed later than what a
//! worker writes next. It is asked to stop, and does so before it begins anything else; the rest can be
//! dropped at any time. Once it is asked, it takes no mapping any more. So a keeper whose task is aborted,
//! because the turn failed, can't begin anything while a worker's last transaction may still be under way.
//!
//! Keepers have only two things in common: one at a time changes tables, which is short; and the number of
//! those that sample a collection or fill rows at once is limited, for the sake of memory and the servers. So
//! whatever holds up one keeper, a long fill or another session's lock on a table, does not affect the
//! others.
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

/// The keepers of all collections' mappings. When this is dropped, they begin nothing more, and are aborted.
pub(crate) struct Evolution {
    keepers: JoinSet<Result<()>>,
    orders: KeeperOrders,
    stop: Shutdown,
}

/// Tells keepers what they can't know.
#[derive(Clone)]
pub(crate) struct KeeperOrders {
    all: Arc<[mpsc::Sender<KeeperOrder>]>,
    /// The numbers of the keepers whose collections are not complete.
    incomplete: Arc<[usize]>,
}

impl Evolution {
    /// Starts to evolve the mappings of the prepared collections.
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
            // One task gives orders, one at a time.
            let (sender, orders) = mpsc::channel(1);
            let name = in_force.spec.collection().to_string();
            let is_paused = shared.collections.get(id).is_some_and(Collection::is_paused);
            // The next turn gets it again.
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

    /// Asks all keepers to end once they have finished what they are doing.
    pub(crate) fn stop(&self) {
        self.stop.request();
    }

    /// Asks them to, and waits until all have ended.
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
    ended.map_err(|e| Error::caused(Kind::Bug, "run a mapping's keeper", e))?
}

impl KeeperOrders {
    /// Makes the mappings of collections that are not complete take up what was discovered, then stay as they
    /// are.
    pub(crate) async fn settle(&self) {
        self.ask(self.incomplete.iter(), KeeperOrder::Settle).await;
    }

    /// Says that these collections are complete.
    pub(crate) async fn complete(&self) {
        for sender in self.incomplete.iter().filter_map(|id| self.all.get(*id)) {
            let _ = sender.send(KeeperOrder::Complete).await;
        }
    }

    /// Makes all mappings take up what was discovered, and fills all columns: no more discoveries will come.
    pub(crate) async fn finish(&self) {
        self.ask(&(0..self.all.len()).collect::<Vec<_>>(), KeeperOrder::Finish).await;
    }

    /// Gives an order to these keepers, and waits until they have carried it out. A keeper that is gone has
    /// failed, which [`Evolution::failed`] reports: that ends the turn, and this future with it.
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
