//! Connects the stages. The decisions are made in the pure files beside this one; [`run`](mod@self::run)
//! decides nothing but the order of steps.
//!
//! # From nothing to live
//!
//! Two sides run beside each other. The [`tailer`](stream::tailer) reads the change stream for as long as the
//! run lasts. An [`attempt`](context::Pipeline::attempt) does everything that involves PostgreSQL, always
//! starting from what PostgreSQL says, so a first start, a start after a crash and a reconnection run the
//! same code:
//!
//! 1. Take the pipeline for this process (G9), and check that MongoDB is the deployment that was copied.
//!    (`prepare::deployment`)
//! 2. For every collection that is new or must be copied again: take the start position of the change stream,
//!    prove that the server accepts it, and store it together with the chunk plan, before the first page is
//!    read. ([`prepare`])
//! 3. Read all positions, and make the tailer start at the least of them. Start workers, which apply the
//!    changes of the live collections; those of the others wait in the spool. ([`supervisor`])
//! 4. Meanwhile, copy the chunks that are not marked as copied, each chunk's rows together with its mark
//!    (G5), and build the missing primary keys. ([`snapshot`]) If a collection is copied again, its rows are
//!    replaced, and the rows of documents that no longer exist are swept. (`snapshot::resync`)
//! 5. Make the workers apply the changes that wait in the spool, and from then on all changes.
//!
//! Meanwhile mappings may evolve ([`evolution`](mappings::evolution)): a collection's tables change between
//! two of docrow's transactions, never during one; columns become wider ([`widening`](mappings::widening));
//! and values that do not fit their columns are counted ([`misfit_count`](mappings::misfit_count)). What
//! happens to a whole collection (it is new, dropped, renamed or replaced, or its history is lost) is handled
//! by returning to step 2; so is an operator's request to [pause](pausing) or resume one.
//!
//! # Why nothing is lost (G1, G2, G3)
//!
//! A chunk is read at some time after the start position. So whatever changes after it was read has an event
//! after the start position, and whatever changed before is in the chunk. The stream is applied from the
//! start position on; an event that is older than what the chunk holds is not applied directly: its document
//! is looked up ([`staleness`](apply::staleness)), so replaying the event is harmless. The same argument
//! holds for a replay after a crash: every change is either at or before a stored position, and then its rows
//! are committed, or after it, and then it is read again, from the spool or from the stream
//! ([`route`](stream::route)).
//!
//! [`reporter`](observe::reporter) reports the progress, and `gauges::lag` how far the rows are behind
//! MongoDB; nothing else depends on either.
//!
//! An error that may pass ([`Disposition::Retry`](crate::error::Disposition)) ends the attempt, and after a
//! delay another one starts.

pub mod apply;
mod collection;
mod context;
mod counts;
mod gauges;
mod mappings;
mod misfits_due;
mod observe;
mod pausing;
mod planted;
mod ports;
mod prepare;
mod refused_collections;
mod reload;
mod requests;
mod run;
#[cfg(test)]
mod simulation;
mod snapshot;
mod startup;
mod stored_states;
pub mod stream;
mod supervisor;
mod table_keys;
mod throttle;
mod tries;
mod watermark;

pub use self::{
    context::Until,
    counts::Summary,
    mappings::{
        active::is_automatic,
        preview::{Preview, plan, preview},
    },
    reload::Reload,
    requests::row_repair::repair,
    run::{Job, run},
};
