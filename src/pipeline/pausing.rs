//! Collections that an operator has paused: their changes wait in the spool, and nothing is written to their
//! tables.
//!
//! # Why nothing is lost, and nothing goes backwards (G1-G4)
//!
//! To the [tailer](crate::pipeline::stream::tailer), a paused collection is one that is not complete yet, as
//! during its snapshot: it is *held* ([`route`](crate::pipeline::stream::route)). The start of a pause, and
//! its end, ends the turn, as a resync does. So by the time a pause is in force, the workers have stored how
//! far they have written, and are gone; the positions are read from PostgreSQL, and everything starts from
//! there.
//!
//! - **Positions (G2).** No task writes for the collection, so its stored position `P` stays where it is.
//!   Every change after `P` is in the spool, in a span that begins at or before `P` and is open, or is read
//!   from the stream into it. After a crash or a restart,
//!   [`Flow::resume`](crate::pipeline::stream::route::Flow::resume) finds the changes there: `known` is the
//!   spool's token, so the oplog is not needed for the waiting changes (G6). If the state directory is lost,
//!   they are read again from `P`, or, if the oplog has moved on, G8 applies to this collection alone (G7).
//! - **Order (G3).** When the collection is resumed, it is released like one that has become complete: its
//!   waiting changes are handed out in the order of the stream, before any change that comes from the stream.
//!   Changes from the spool are looked up, so that no row shows an older state after a newer one, however
//!   long the pause was.
//! - **Trimming.** A span is trimmed up to what is durable, which is `P`. So no waiting change is discarded,
//!   except as described below. The spans of the other collections are trimmed independently.
//! - **Snapshot (G5).** Its chunks stay, with their marks, and are copied after it is resumed. Changes from
//!   its start position on wait.
//! - **Lossless (G4).** The spool records which documents changed, never values, as always.
//! - **All other tasks that write rows wait, too**: repairs, retries of dead letters, the filling of new
//!   columns, the building of keys, sweeps. What happens to the whole collection (a drop, a rename, a
//!   requested resync) is recorded at once, as always; whatever must be copied because of that is copied
//!   after the collection is resumed.
//!
//! In commit order, a paused collection is not in step with the others; when it is resumed, they wait until
//! it is in step again.
//!
//! # When the spool is full
//!
//! The waiting changes of a paused collection never become fewer, so a full spool would hold up the other
//! collections for good. So they are discarded: the span is forgotten, and the collection is *stopped*, which
//! is logged as an error. Its position still says how far its rows are. After `docrow resume` it continues
//! from there, from the oplog; if the oplog has moved on, its history is lost (G8), and only its own. If all
//! collections are paused or stopped, there is none to make room for: then the stream waits in the oplog, as
//! with any full spool.

use crate::{
    error::{Code, Error, Result},
    pipeline::{collection::Collection, context::Pipeline, ports::TargetSession},
    sink::metadata::requests::Requested,
};

/// Returns the collections that are paused.
pub(super) async fn paused(session: &dyn TargetSession) -> Result<Vec<String>> {
    let all = session.pauses().await?;
    Ok(all.into_iter().map(|pause| pause.collection).collect())
}

/// Whether one of these collections must be paused or resumed.
pub(super) async fn is_pause_asked(
    session: &mut dyn TargetSession,
    requested: &Requested,
    collections: &[Collection],
) -> Result<bool> {
    let is_among = |names: &[String], own: &Collection| names.iter().any(|name| name == own.name());
    if collections.iter().any(|own| own.is_paused() != is_among(&requested.paused, own)) {
        return Ok(true);
    }
    // Resumed and paused again before this was noticed: it is held all the same.
    let unheard = collections.iter().filter(|own| is_among(&requested.unheard, own));
    let unheard: Vec<&str> = unheard.map(Collection::name).collect();
    if !unheard.is_empty() {
        session.hold_pauses(&unheard).await?;
    }
    Ok(false)
}

/// Whether a collection was paused in the turn before, and is not any more: then whatever had stopped it is
/// tried again.
pub(super) fn is_resumed(pipeline: &Pipeline, collection: &Collection) -> bool {
    let before = pipeline.signals.apply_state.borrow().collections.clone();
    let was_paused = before.iter().any(|known| known.is_paused() && known.name() == collection.name());
    was_paused && !collection.is_paused()
}

/// Records, for the operator who asked, that nothing more is written to the paused collections, and logs
/// which ones continue.
pub(super) async fn note_paused(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let before = pipeline.signals.apply_state.borrow().collections.clone();
    let was_paused = |name: &str| before.iter().any(|known| known.is_paused() && known.name() == name);
    for collection in collections.iter().filter(|collection| is_resumed(pipeline, collection)) {
        tracing::info!("{} continues: it was paused", collection.name());
    }
    let paused: Vec<&str> = collections.iter().filter(|c| c.is_paused()).map(Collection::name).collect();
    for name in paused.iter().filter(|name| !was_paused(name)) {
        tracing::info!("{name} is paused: its changes wait in the spool until docrow resume '{name}'");
    }
    if paused.is_empty() { Ok(()) } else { session.hold_pauses(&paused).await }
}

/// Refuses a run that ends once everything is applied, which is impossible while a collection is paused.
/// Error: one is.
pub(super) fn refuse(collections: &[Collection]) -> Result<()> {
    let Some(paused) = collections.iter().find(|collection| collection.is_paused()) else { return Ok(()) };
    let name = paused.name();
    let advice = format!("docrow resume '{name}', or exclude it by [source] exclude");
    Err(Error::new(
        Code::CollectionPaused,
        format!("{name} is paused, so not everything can be copied: {advice}"),
    ))
}
