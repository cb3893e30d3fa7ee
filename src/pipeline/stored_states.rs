//! What PostgreSQL stores about stopped collections and dead letters.

use std::sync::atomic::Ordering;

use super::{collection::Collection, context::Pipeline, ports::TargetSession};
use crate::{
    error::{Code, Error, Result},
    failpoint::{self, Failpoint},
};

/// Stores why collections are stopped, and counts them.
pub(super) async fn record_stopped(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let mut stopped = 0_u64;
    for collection in collections {
        if let Some(reason) = collection.stopped() {
            stopped += 1;
            if pipeline.monitor.gauges.is_left_behind(collection.name()) {
                collection.history_goes_by();
            }
            let reason = Some(reason);
            session.set_stopped(collection.name(), reason).await?;
            failpoint::reach(Failpoint::StopNoted);
        }
    }
    let refused = u64::try_from(pipeline.monitor.refused.show()).unwrap_or(0);
    pipeline.monitor.counts.stopped.store(stopped.saturating_add(refused), Ordering::Relaxed);
    if stopped > 0 && stopped == u64::try_from(collections.len()).unwrap_or(0) {
        return Err(Error::new(Code::AllStopped, "every collection is stopped: there is nothing left to do"));
    }
    Ok(())
}

/// Shows how many dead letters there are: an operator may have discarded some.
pub(super) async fn show_dead_letters(
    pipeline: &Pipeline,
    session: &dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let counts = session.dead_letter_counts().await?;
    let mut left = 0_u64;
    for collection in collections {
        let count = counts.get(collection.name()).copied().unwrap_or(0);
        collection.show_dead(usize::try_from(count).unwrap_or(usize::MAX));
        left = left.saturating_add(count);
    }
    pipeline.monitor.counts.dead_letters_left.store(left, Ordering::Relaxed);
    Ok(())
}
