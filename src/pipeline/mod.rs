//! Connects the stages. The decisions are in the pure files beside this one; [`run`](mod@self::run) has none but the order of things.
//!
//! # From nothing to live
//!
//! Two sides run beside each other. The [`tailer`](stream::tailer) reads the change stream for as long as the run lasts. An
//! [`attempt`](context::Pipeline::attempt) does everything that has to do with PostgreSQL, always from what PostgreSQL says, so a
//! first start, a start after a crash and a reconnection are the same code:
//!
//! 1. Take the pipeline for this process (G9), and see that MongoDB is the one that was copied. (`prepare::deployment`)
//! 2. For every collection that is new, or is to be copied anew: take the start position of the change stream, prove that
//!    the server accepts it, and store it together with the chunk plan, before the first page is read. ([`prepare`])
//! 3. Read all positions, and have the tailer begin at the least of them. Have workers apply the changes of the collections that
//!    are live; those of the others wait in the spool. ([`supervisor`])
//! 4. Meanwhile, copy the chunks that are not marked as copied, a chunk's rows and its mark together (G5), and build the
//!    primary keys that are missing. ([`snapshot`]) Where a collection is copied anew, its rows are replaced, and those
//!    of documents that are no more are swept away. (`snapshot::resync`)
//! 5. Have the workers apply what has waited, and from then on everything.
//!
//! Meanwhile mappings may evolve ([`evolution`](mappings::evolution)): a collection's tables change between two transactions of docrow, never
//! during one; columns become wider ([`widening`](mappings::widening)); and what does not fit its column is counted ([`census`](observe::census)). What happens to a whole collection (it is new, dropped, renamed, replaced, its history is lost) is
//! dealt with by going back to 2; so is somebody's wish to [pause](requests::pausing) one, or to have it go on.
//!
//! # Why nothing is lost (G1, G2, G3)
//!
//! A chunk is read at some time after the start position, so whatever changes after it was read has an event after the
//! start position, and whatever changed before is in the chunk. The stream is applied from the start position on; an
//! event that is older than what the chunk holds is not applied as it stands but looked up ([`staleness`](apply::staleness)), so that
//! replaying it is harmless. The same argument holds for a replay after a crash: every change is at or before a stored
//! position, and then its rows are committed, or after it, and then it is read again, from the spool or from the stream ([`route`](stream::route)).
//!
//! How it goes is told by [`reporter`](observe::reporter), and how far behind MongoDB the rows are by `observe::lag`; nothing else depends on
//! either.
//!
//! An error that may pass ([`Disposition::Retry`](crate::error::Disposition)) ends the attempt, and after a while there is another one.

pub mod apply;
mod collection;
mod context;
mod counts;
mod gauges;
mod mappings;
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
