//! Bugs that the tests of the simulation plant, to show that it finds them. Outside of tests they compile to
//! nothing.

/// What can be wrong on purpose.
#[cfg_attr(not(test), expect(dead_code, reason = "planted by tests only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A position is stored before the rows that it covers.
    PositionBeforeRows,
    /// The spool's token is stored before the changes that it covers.
    TokenWithoutChanges,
    /// The `from` of a span is ignored: the span is used even if PostgreSQL has not reached its beginning.
    SpanBelieved,
    /// A collection bypasses the spool while some of its changes are still in there.
    DirectTooEarly,
    /// Changes that were handed to workers which have ended since are not handed out again.
    DroppedWhenGone,
    /// The workers do not learn how far the copied rows are ahead.
    AheadNotRaised,
    /// A chunk's mark is not written in the transaction of its rows.
    ChunkTwice,
    /// The bound for states from lookups that rows may show is not stored.
    ShownNotRaised,
    /// Rows are written without a position, and without noting first up to when they may show states.
    PartNotNoted,
    /// A patch is written although its row may already show later values of the fields.
    PatchOfThePast,
    /// A patch replaces the whole document that came before it in the batch.
    PatchOntoWhole,
    /// In the order of commits, a retry looks documents up as of the time when the workers started.
    TriedAgainAsItWas,
    /// Everything else stands still while a reply waits for space in the spool.
    WaitsForSpace,
    /// A position is acknowledged before it is on PostgreSQL's disk.
    AcknowledgedEarly,
    /// A lock is held by a future that is no longer polled.
    LockNotPolled,
    /// Documents are encoded by the old mapping even after it has changed.
    MappingCached,
    /// A repair is handed out without the time up to which rows may show states.
    RepairUnbound,
    /// The request to retry a dead letter is answered when the letter is handed out, not when it is done.
    RetryAnsweredEarly,
    /// A backfill reads and writes rows while others may write them.
    FillOvertakes,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is planted.
#[cfg(test)]
pub(super) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: never.
#[cfg(not(test))]
pub(super) const fn has(_: Bug) -> bool {
    false
}

/// Does `work` with this bug planted.
#[cfg(test)]
pub(super) fn with<T>(bug: Option<Bug>, work: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let done = work();
    PLANTED.set(None);
    done
}

/// A future that waits for the mapping of the first collection, or holds it, and is no longer polled.
#[cfg(test)]
pub(super) async fn lock_that_nobody_polls(
    collections: &[super::collection::Collection],
) -> Option<impl Future<Output = super::collection::Changing> + use<>> {
    let wanted = collections.first().filter(|_| has(Bug::LockNotPolled))?;
    let mapping = wanted.in_force();
    let mut waits = Box::pin(async move {
        let held = mapping.write_owned().await;
        // It holds the lock now, and yields before it releases it.
        tokio::task::yield_now().await;
        held
    });
    let _ = futures_util::poll!(&mut waits);
    Some(waits)
}
