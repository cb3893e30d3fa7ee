//! Bugs that the simulation plants, to show that it would find them. Outside of its tests there are none, and no code for
//! them.

/// What can be wrong on purpose.
#[cfg_attr(not(test), expect(dead_code, reason = "planted by tests only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A position is stored before the rows that it speaks of.
    PositionBeforeRows,
    /// The spool's token is stored before the changes that it speaks of.
    TokenWithoutChanges,
    /// The `from` of a span is ignored: it is believed though PostgreSQL is not as far as where it begins.
    SpanBelieved,
    /// A collection goes direct while something of it still waits in the spool.
    DirectTooEarly,
    /// What was handed to workers that are gone is not taken again.
    DroppedWhenGone,
    /// The workers are not told how far the copied rows are ahead.
    AheadNotRaised,
    /// A chunk's mark is not of the transaction of its rows.
    ChunkTwice,
    /// It is not stored that rows show what was looked up.
    ShownNotRaised,
    /// Rows are written without a position, and it is not noted before up to when they show states.
    PartNotNoted,
    /// What an event says of some fields is written though the row may show them as they were later.
    PatchOfThePast,
    /// What is said of some fields is all that is left of a whole document before it.
    PatchOntoWhole,
    /// In the order of commits, what is tried again is looked up as it was when the workers began.
    TriedAgainAsItWas,
    /// Nothing else goes on while a reply waits for space in the spool.
    WaitsForSpace,
    /// A position is acknowledged before it is on PostgreSQL's disk.
    AcknowledgedEarly,
    /// A lock is held by a future that is not polled.
    LockNotPolled,
    /// What is encoded by a mapping is encoded by it also after it has changed.
    MappingCached,
    /// A dead letter that is to be tried again is answered when it is handed out.
    RetryAnsweredEarly,
    /// Rows are read, and filled, while somebody else may write them.
    FillOvertakes,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this one is planted.
#[cfg(test)]
pub(super) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this one is planted: never.
#[cfg(not(test))]
pub(super) const fn has(_: Bug) -> bool {
    false
}

/// Does `work` with this bug.
#[cfg(test)]
pub(super) fn with<T>(bug: Option<Bug>, work: impl FnOnce() -> T) -> T {
    PLANTED.set(bug);
    let done = work();
    PLANTED.set(None);
    done
}

/// A future that waits for the mapping of the first collection, or has it, and is not polled any more.
#[cfg(test)]
pub(super) async fn lock_that_nobody_polls(
    collections: &[super::collection::Collection],
) -> Option<impl Future<Output = super::collection::Changing> + use<>> {
    let wanted = collections.first().filter(|_| has(Bug::LockNotPolled))?;
    let mapping = wanted.in_force();
    let mut waits = Box::pin(async move {
        let held = mapping.write_owned().await;
        // It has it now, and goes on with something else.
        tokio::task::yield_now().await;
        held
    });
    let _ = futures_util::poll!(&mut waits);
    Some(waits)
}
