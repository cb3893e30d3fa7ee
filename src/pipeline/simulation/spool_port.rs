//! The port to the spool, on its model.

use async_trait::async_trait;

use super::{mongo::name_of, spool::SpoolModel, world::SharedWorld};
use crate::{
    checkpoint::Waiting,
    error::{Code, Error, Result},
    model::change::{Namespace, Position},
    pipeline::{
        planted::{self, Bug},
        ports::{SpoolLog, SpoolState, SpoolUpdate},
    },
};

/// The port for the spool.
pub(super) struct SimulatedSpool(pub(super) SharedWorld);

impl SimulatedSpool {
    /// Works with the spool. If docrow finds it lost, a fault must be the reason.
    async fn with<T>(&self, work: impl FnOnce(&mut SpoolModel) -> Result<T>) -> Result<T> {
        self.0.pass().await;
        let mut world = self.0.lock();
        let done = work(&mut world.spool);
        match &done {
            Err(error) if error.code() == Code::Bug => world.report_violation(error.to_string()),
            Err(error) if !world.excused.spool => {
                world.report_violation(format!("docrow finds the spool lost: {error}"))
            }
            _ => {}
        }
        done
    }
}

#[async_trait]
impl SpoolLog for SimulatedSpool {
    async fn reconcile(&self, identity: String) -> Result<()> {
        self.with(|spool| spool.reconcile(&identity)).await
    }

    async fn plan(&self, namespace: Namespace) -> Result<Option<Vec<u8>>> {
        self.with(|spool| Ok(spool.readable()?.plans.get(&name_of(&namespace.to_string())).cloned())).await
    }

    async fn save_plan(&self, namespace: Namespace, plan: Vec<u8>) -> Result<()> {
        let save = |spool: &mut SpoolModel| {
            spool.readable()?.plans.insert(name_of(&namespace.to_string()), plan);
            Ok(())
        };
        self.with(save).await
    }

    async fn state(&self) -> Result<SpoolState> {
        self.with(SpoolModel::state).await
    }

    async fn write(&self, update: SpoolUpdate) -> Result<()> {
        let is_full = {
            let mut world = self.0.lock();
            !update.changes.is_empty() && world.spool.is_full()
        };
        if is_full {
            // The write may succeed although it is reported as failed.
            if self.0.lock().rng.u8(..4) == 0 {
                self.with(|spool| spool.write(&update)).await?;
            }
            return Err(Error::new(Code::StateFull, "simulation: the disk is full"));
        }
        if planted::has(Bug::TokenWithoutChanges) {
            let early = SpoolUpdate { changes: Vec::new(), ..update.clone() };
            self.with(|spool| spool.write(&early)).await?;
        }
        self.0.pass().await;
        let written = self.with(|spool| spool.write(&update)).await;
        let mut world = self.0.lock();
        world.is_bad_moment = true;
        let (changes, spans) = (update.changes.len(), update.spans.len());
        if changes + spans > 0 {
            world.say(|_| {
                format!("the spool takes {changes} changes and {spans} spans, up to {:?}", update.token)
            });
        }
        written
    }

    async fn waiting(&self, namespace: Namespace, after: Position, most: usize) -> Result<Vec<Waiting>> {
        let name = name_of(&namespace.to_string());
        let waiting = self.with(|spool| spool.waiting(name, &after, most)).await?;
        let world = self.0.lock();
        let waiting = waiting.into_iter().map(|(position, doc)| {
            let document_key = world.source.document_key(doc).clone();
            Waiting { position, document_key }
        });
        Ok(waiting.collect())
    }

    async fn trim(&self, namespace: Namespace, until: Position) -> Result<()> {
        let name = name_of(&namespace.to_string());
        {
            let mut world = self.0.lock();
            world.say(|_| format!("the spool is trimmed: c{name} up to {until:?}"));
            world.check_trim(name, &until);
        }
        self.with(|spool| spool.trim(name, &until)).await
    }

    async fn size(&self) -> Result<(u64, u64)> {
        let size = |spool: &mut SpoolModel| {
            let len = u64::try_from(spool.len()).unwrap();
            Ok((len, len))
        };
        self.with(size).await
    }
}
