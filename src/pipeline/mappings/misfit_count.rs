//! Counts, now and then, the values that do not fit their columns
//! ([`misfits`](crate::sink::metadata::misfits)), for `docrow status` and other readers: in SQL a sum over
//! such a column is wrong, and nothing else says so. The rows are what is counted, so values that were
//! corrected are no longer counted, however that happened. Values that a new column has yet to take over are
//! no misfits: nothing is counted before.
//!
//! It also finds columns of whole numbers that lack fractions which no encoder of this process has met; in an
//! automatic mapping, these columns are widened ([`evolution`](crate::pipeline::mappings::evolution)).

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    error::Result,
    model::change::CollectionId,
    pipeline::{collection::Collection, ports::RowTarget, stream::channel::ApplyState},
    sink::metadata::misfits::Misfits,
};

/// How long to wait for more: misfits mostly come together.
const GATHERING: Duration = Duration::from_secs(2);
/// Nothing is counted afterwards for this many times as long as the count took: it reads whole tables.
const REST: u32 = 20;
/// A count is repeated after this long, because misfits may be gone.
const STALE: Duration = Duration::from_secs(3600);

/// Counts misfits.
pub(crate) struct MisfitCounter {
    pub(crate) target: Arc<dyn RowTarget>,
    pub(crate) apply_state: watch::Receiver<ApplyState>,
}

impl MisfitCounter {
    /// Counts for as long as it is polled. Errors do no harm: it tries again later.
    pub(crate) async fn run(&self, collections: &[Collection]) -> Infallible {
        let mut counted = vec![None; collections.len()];
        loop {
            sleep(GATHERING).await;
            let began = Instant::now();
            if let Err(error) = self.count_what_is_due(collections, &mut counted).await {
                tracing::debug!("misfits are not counted: {error}");
            }
            sleep(began.elapsed() * REST).await;
        }
    }

    async fn count_what_is_due(
        &self,
        collections: &[Collection],
        counted: &mut [Option<SystemTime>],
    ) -> Result<()> {
        let ready = self.apply_state.borrow().ready.clone();
        let is_ready = |id: CollectionId| ready.contains_key(&id);
        let each = || (0..).map(CollectionId).zip(collections);
        if counted.iter().any(Option::is_none) && each().any(|(id, _)| is_ready(id)) {
            // The server's clock and this machine's are close enough to each other.
            let session = self.target.connect().await?;
            let known = session.misfits().await?;
            for (at, collection) in counted.iter_mut().zip(collections) {
                // A collection that lacks values is counted at once: what kept it from being widened may be
                // gone.
                let known = known.get(collection.name()).filter(|count| count.found.is_empty());
                *at = at.or(known.map(|count| count.at));
            }
        }
        for ((id, collection), at) in each().zip(counted) {
            let stale = at.is_none_or(|at| at.elapsed().is_ok_and(|age| age > STALE));
            if is_ready(id)
                && !collection.misfits.is_unfilled()
                && (collection.misfits.take_uncounted() || stale)
            {
                *at = self.count_in(collection).await?.then(SystemTime::now);
            }
        }
        Ok(())
    }

    /// `false`: the mapping has changed meanwhile.
    async fn count_in(&self, collection: &Collection) -> Result<bool> {
        let mapping = collection.mapping().await;
        if collection.misfits.is_unfilled() {
            return Ok(false);
        }
        let mut session = self.target.connect().await?;
        let found = session.count_misfits(&mapping).await?;
        session.store_misfits(collection.name(), &found).await?;
        for Misfits { table, column, numbers, .. } in found {
            let lacks = numbers > 0 && collection.evolves();
            if lacks && mapping.is_whole(&table, &column) && session.fits_double(&table, &column).await? {
                collection.is_narrow((table, column));
            }
        }
        Ok(true)
    }
}
