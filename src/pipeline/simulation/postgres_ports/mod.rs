//! The ports to PostgreSQL, on its model: each method is a transaction on the [`DatabaseContents`], or reads
//! them.

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
    connection::{SimulatedConnection, connection_lost},
    rows::{SimulatedApplier, SimulatedReader},
};
use super::{
    mongo::{DocumentNumber, doc_of, name_of},
    postgres::DatabaseContents,
    world::{SharedWorld, SimulatedWorld},
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

/// The port that all connections come from.
pub(super) struct SimulatedTarget(pub(super) SharedWorld);

#[async_trait]
impl RowTarget for SimulatedTarget {
    fn pipeline(&self) -> &'static str {
        "simulation"
    }

    async fn acquire(&self, _: &Holder, _: OnHeld) -> Result<Box<dyn Hold>> {
        Ok(Box::new(SimulatedHold(SimulatedConnection::open(&self.0).await?)))
    }

    async fn connect(&self) -> Result<Box<dyn TargetSession>> {
        Ok(Box::new(SimulatedConnection::open(&self.0).await?))
    }

    async fn connect_in_haste(&self) -> Result<Box<dyn TargetSession>> {
        self.connect().await
    }

    async fn applier(&self, partition: Partition, fingerprint: i64) -> Result<Box<dyn RowApplier>> {
        let link = SimulatedConnection::open(&self.0).await?;
        Ok(Box::new(SimulatedApplier { link, partition, fingerprint, in_haste: false }))
    }

    async fn applier_in_haste(&self) -> Result<Box<dyn RowApplier>> {
        let link = SimulatedConnection::open(&self.0).await?;
        Ok(Box::new(SimulatedApplier { link, partition: Partition(0), fingerprint: 0, in_haste: true }))
    }

    async fn copier(&self) -> Result<Box<dyn RowCopier>> {
        Ok(Box::new(SimulatedConnection::open(&self.0).await?))
    }

    async fn reader(&self) -> Result<Box<dyn RowReader>> {
        Ok(Box::new(SimulatedReader {
            link: SimulatedConnection::open(&self.0).await?,
            seen: HashSet::new(),
        }))
    }

    async fn reader_in_haste(&self) -> Result<Box<dyn RowReader>> {
        self.reader().await
    }

    async fn ask_for_repairs(&self, collection: &str, repairs: &Repairs) -> Result<()> {
        let (name, docs): (_, Vec<DocumentNumber>) =
            (name_of(collection), repairs.documents.iter().map(|key| doc_of(key)).collect());
        let link = SimulatedConnection::open(&self.0).await?;
        let ask = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.repairs.entry(name).or_default().extend(docs);
            Ok(())
        };
        link.change("repairs are requested", ask).await
    }
}

/// The hold on the pipeline, which lasts as long as its connection.
struct SimulatedHold(SimulatedConnection);

#[async_trait]
impl Hold for SimulatedHold {
    fn target(&self) -> Arc<dyn RowTarget> {
        Arc::new(SimulatedTarget(self.0.shared.clone()))
    }

    fn answered(&self) -> watch::Receiver<Instant> {
        watch::channel(Instant::now()).1
    }

    async fn lost(&mut self) -> Error {
        loop {
            sleep(Duration::from_millis(700)).await;
            if self.0.is_lost(&self.0.shared.lock()) {
                return connection_lost();
            }
        }
    }
}
