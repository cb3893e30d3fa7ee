//! Collections that somebody has paused: their changes wait in the spool, and nothing is written to their tables.
//!
//! # Why nothing is lost by it, and nothing goes backwards (G1-G4)
//!
//! To the [tailer](crate::pipeline::stream::tailer), a collection that is paused is one that is not complete yet, as during its snapshot: it is
//! *held* ([`route`](crate::pipeline::stream::route)). A pause, and its end, ends the turn, as a resync does. So by the time that it is in
//! force, the workers have stored how far they have written, and are gone; the positions are read from PostgreSQL, and
//! everything begins from there.
//!
//! - **Positions (G2).** Nobody writes for the collection, so its stored position `P` stays where it is. Everything after
//!   `P` is in the spool, in a span that begins at or before `P` and is open, or is read from the stream into it. After a crash
//!   or a restart, that is how [`Flow::resume`](crate::pipeline::stream::route::Flow::resume) finds it: `known` is the spool's token, so the oplog is not needed for
//!   what waits (G6). If the state directory is lost, it is read again from `P`, or, where the oplog has moved on, G8 applies to this
//!   collection alone (G7).
//! - **Order (G3).** When it goes on, it is released as one that has become complete: what waits is handed out in the order of the
//!   stream, before anything that comes from the stream. What comes out of the spool is looked up, so that no row shows an older state
//!   after a newer one, however long it was paused.
//! - **Trimming.** A span is trimmed up to what is durable, which is `P`. So nothing of what waits is given up, but for
//!   what is said below. The spans of the others are trimmed by themselves.
//! - **Snapshot (G5).** Its chunks are left, with their marks, and copied when it goes on. Changes from its start position on wait.
//! - **Lossless (G4).** What waits is which documents changed, never values, as always.
//! - **Whatever else writes rows waits, too**: repairs, tries of dead letters, the filling of new columns, the building of keys,
//!   sweeps. What happens to the whole collection (a drop, a rename, `docrow resync`) is noted at once, as ever; what is to
//!   be copied for it is copied when it goes on.
//!
//! In the order of commits, what is paused is not in step with the others; when it goes on, they wait until it is.
//!
//! # When the spool is full
//!
//! What waits of a collection that is paused never becomes less, so a full spool would hold up the others for good. So it is
//! given up: its span is forgotten, and the collection is *stopped*, which is said as an error. Its position still says how far its
//! rows are. `docrow resume` has it go on from there, from the oplog; where that has moved on, its history is lost (G8), and only its own.
//! Where all are paused or stopped there is nobody to make room for: then the stream waits in the oplog, as with any full
//! spool.

use crate::{
    error::{Code, Error, Result},
    pipeline::{collection::Collection, context::Pipeline, ports::TargetSession},
    sink::metadata::requests::Requested,
};

/// The collections that are paused.
pub(super) async fn paused(session: &dyn TargetSession) -> Result<Vec<String>> {
    let all = session.pauses().await?;
    Ok(all.into_iter().map(|pause| pause.collection).collect())
}

/// Whether one of these collections is to be paused, or to go on.
pub(super) async fn is_pause_asked(
    session: &mut dyn TargetSession,
    requested: &Requested,
    collections: &[Collection],
) -> Result<bool> {
    let is_among = |names: &[String], own: &Collection| names.iter().any(|name| name == own.name());
    if collections.iter().any(|own| own.is_paused() != is_among(&requested.paused, own)) {
        return Ok(true);
    }
    // Resumed and paused again before that was seen: it is held all the same.
    let unheard = collections.iter().filter(|own| is_among(&requested.unheard, own));
    let unheard: Vec<&str> = unheard.map(Collection::name).collect();
    if !unheard.is_empty() {
        session.hold_pauses(&unheard).await?;
    }
    Ok(false)
}

/// Whether a collection was paused in the turn before, and goes on: then what had stopped it is tried again.
pub(super) fn is_resumed(pipeline: &Pipeline, collection: &Collection) -> bool {
    let before = pipeline.signals.apply_state.borrow().collections.clone();
    let was_paused = before.iter().any(|known| known.is_paused() && known.name() == collection.name());
    was_paused && !collection.is_paused()
}

/// Notes, for whoever asked, that nothing more is written to the collections that are paused, and says which go on.
pub(super) async fn note_paused(
    pipeline: &Pipeline,
    session: &mut dyn TargetSession,
    collections: &[Collection],
) -> Result<()> {
    let before = pipeline.signals.apply_state.borrow().collections.clone();
    let was_paused = |name: &str| before.iter().any(|known| known.is_paused() && known.name() == name);
    for collection in collections.iter().filter(|collection| is_resumed(pipeline, collection)) {
        tracing::info!("{} goes on: it was paused", collection.name());
    }
    let paused: Vec<&str> = collections.iter().filter(|c| c.is_paused()).map(Collection::name).collect();
    for name in paused.iter().filter(|name| !was_paused(name)) {
        tracing::info!("{name} is paused: its changes wait in the spool, until docrow resume '{name}'");
    }
    if paused.is_empty() { Ok(()) } else { session.hold_pauses(&paused).await }
}

/// A run that ends when all is applied can't, while something is paused. Error: something is.
pub(super) fn refuse(collections: &[Collection]) -> Result<()> {
    let Some(paused) = collections.iter().find(|collection| collection.is_paused()) else { return Ok(()) };
    let name = paused.name();
    let advice = format!("docrow resume '{name}', or leave it out by [source] exclude");
    Err(Error::new(
        Code::CollectionPaused,
        format!("{name} is paused, so not everything can be copied: {advice}"),
    ))
}
