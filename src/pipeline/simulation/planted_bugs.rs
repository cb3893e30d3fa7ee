//! Plants bugs, to see whether the schedules find them.

use std::io::{self, Write};

use super::{settings::FaultFocus, tests::play};
use crate::{config::Order, pipeline::planted::Bug};

/// Shows that a planted bug is found.
fn find(bug: Bug, focus: FaultFocus, order: Order) {
    let began = std::time::Instant::now();
    let found =
        (0..10_000).find_map(|seed| play(seed, focus, order, Some(bug)).err().map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    let took = began.elapsed().as_secs_f64();
    let _ = writeln!(io::stderr(), "{bug:?} is found after {seed} schedules, in {took:.1} s: {what}");
}

#[test]
fn planted_bugs_are_found() {
    let (document, commit) = (Order::Document, Order::Commit);
    find(Bug::PositionBeforeRows, FaultFocus::Docrow, document);
    find(Bug::TokenWithoutChanges, FaultFocus::Docrow, document);
    find(Bug::SpanBelieved, FaultFocus::Postgres, document);
    find(Bug::DirectTooEarly, FaultFocus::Docrow, document);
    find(Bug::DroppedWhenGone, FaultFocus::Docrow, document);
    find(Bug::AheadNotRaised, FaultFocus::Docrow, document);
    find(Bug::AheadNotRaised, FaultFocus::Docrow, commit);
    find(Bug::ChunkTwice, FaultFocus::Docrow, document);
}

/// Trimming the spool must not wait for a write that needs the space.
#[test]
fn waiting_for_space_is_found() {
    find(Bug::WaitsForSpace, FaultFocus::StateDirectory, Order::Document);
}

#[test]
fn a_position_acknowledged_before_the_disk_is_found() {
    find(Bug::AcknowledgedEarly, FaultFocus::Postgres, Order::Document);
}

#[test]
fn a_lock_held_by_an_unpolled_future_is_found() {
    find(Bug::LockNotPolled, FaultFocus::Docrow, Order::Document);
}

#[test]
fn a_mapping_cached_across_its_change_is_found() {
    find(Bug::MappingCached, FaultFocus::Docrow, Order::Document);
}

#[test]
fn a_retry_lost_at_a_reconnect_is_found() {
    find(Bug::RetryAnsweredEarly, FaultFocus::Everything, Order::Document);
}

#[test]
fn a_repair_of_the_past_is_found() {
    find(Bug::RepairUnbound, FaultFocus::Requests, Order::Commit);
}

#[test]
fn a_backfill_that_overtakes_a_patch_is_found() {
    find(Bug::FillOvertakes, FaultFocus::Docrow, Order::Document);
}

#[test]
fn a_bound_that_is_not_stored_is_found() {
    find(Bug::ShownNotRaised, FaultFocus::Docrow, Order::Document);
}

#[test]
fn a_patch_without_a_note_is_found() {
    find(Bug::PartNotNoted, FaultFocus::Docrow, Order::Document);
}

#[test]
fn a_retry_with_an_outdated_lookup_is_found() {
    find(Bug::TriedAgainAsItWas, FaultFocus::Docrow, Order::Commit);
}

#[test]
fn a_patch_of_the_past_is_found() {
    find(Bug::PatchOfThePast, FaultFocus::Docrow, Order::Document);
    find(Bug::PatchOfThePast, FaultFocus::Docrow, Order::Commit);
}

#[test]
fn a_patch_in_place_of_a_whole_document_is_found() {
    find(Bug::PatchOntoWhole, FaultFocus::Docrow, Order::Document);
    find(Bug::PatchOntoWhole, FaultFocus::Docrow, Order::Commit);
}
