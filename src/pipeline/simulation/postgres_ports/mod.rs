//! PostgreSQL's ports in the simulation: each method is a transaction on the [`Contents`], or a question to them.

mod connection;
mod requests;
mod rows;
mod state;
mod tables;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::{
    connection::{Link, away},
    rows::{SimApplier, SimReader},
};
use super::{
    mongo::{Doc, doc_of, name_of},
    postgres::Contents,
    world::{Sim, World},
};
use crate::{
    error::{Error, Result},
    model::partition::Partition,
    pipeline::ports::{Hold, RowApplier, RowCopier, RowReader, RowTarget, TargetSession},
    sink::metadata::{
        fence::{Holder, OnHeld},
        repair_requests::Repairs,
    },
};

pub(super) struct SimTarget(pub(super) Sim);

#[async_trait]
impl RowTarget for SimTarget {
    fn pipeline(&self) -> &'static str {
        "simulation"
    }

    async fn acquire(&self, _: &Holder, _: OnHeld) -> Result<Box<dyn Hold>> {
        Ok(Box::new(SimHold(Link::open(&self.0).await?)))
    }

    async fn connect(&self) -> Result<Box<dyn TargetSession>> {
        Ok(Box::new(Link::open(&self.0).await?))
    }

    async fn connect_in_haste(&self) -> Result<Box<dyn TargetSession>> {
        self.connect().await
    }

    async fn applier(&self, partition: Partition, fingerprint: i64) -> Result<Box<dyn RowApplier>> {
        let link = Link::open(&self.0).await?;
        Ok(Box::new(SimApplier { link, partition, fingerprint, in_haste: false }))
    }

    async fn applier_in_haste(&self) -> Result<Box<dyn RowApplier>> {
        let link = Link::open(&self.0).await?;
        Ok(Box::new(SimApplier { link, partition: Partition(0), fingerprint: 0, in_haste: true }))
    }

    async fn copier(&self) -> Result<Box<dyn RowCopier>> {
        Ok(Box::new(Link::open(&self.0).await?))
    }

    async fn reader(&self) -> Result<Box<dyn RowReader>> {
        Ok(Box::new(SimReader { link: Link::open(&self.0).await?, seen: HashSet::new() }))
    }

    async fn reader_in_haste(&self) -> Result<Box<dyn RowReader>> {
        self.reader().await
    }

    async fn ask_for_repairs(&self, collection: &str, repairs: &Repairs) -> Result<()> {
        let (name, docs): (_, Vec<Doc>) =
            (name_of(collection), repairs.documents.iter().map(|key| doc_of(key)).collect());
        let link = Link::open(&self.0).await?;
        let ask = |_: &mut World, pg: &mut Contents| {
            pg.repairs.entry(name).or_default().extend(docs);
            Ok(())
        };
        link.change("repairs are asked for", ask).await
    }
}

struct SimHold(Link);

#[async_trait]
impl Hold for SimHold {
    fn target(&self) -> Arc<dyn RowTarget> {
        Arc::new(SimTarget(self.0.sim.clone()))
    }

    fn answered(&self) -> watch::Receiver<Instant> {
        watch::channel(Instant::now()).1
    }

    async fn lost(&mut self) -> Error {
        loop {
            sleep(Duration::from_millis(700)).await;
            if self.0.is_lost(&self.0.sim.lock()) {
                return away();
            }
        }
    }
}
