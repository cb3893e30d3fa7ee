//! Plays the schedules, and plants bugs to see whether they are found.

use std::{
    collections::VecDeque,
    io::{self, Write},
    ops::Range,
};

use super::{settings::FaultFocus, world::SharedWorld};
use crate::{
    config::Order,
    pipeline::planted::{self, Bug},
};

/// How many steps of a failed schedule are printed.
const PRINTED_STEPS: usize = 60;

/// Plays a schedule. `Err`: the violation that it found.
fn play(seed: u64, focus: FaultFocus, order: Order, bug: Option<Bug>) -> Result<(), String> {
    planted::with(bug, || SharedWorld::new(seed, focus, order, false).play())
}

/// Makes docrow's log a part of the story.
#[derive(Clone)]
struct StoryLog(SharedWorld);

impl Write for StoryLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().say(|_| format!("  {}", String::from_utf8_lossy(line).trim()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plays a schedule, and returns its story.
fn story_of(seed: u64, focus: FaultFocus, order: Order, bug: Option<Bug>) -> VecDeque<String> {
    let shared = SharedWorld::new(seed, focus, order, true);
    let log = StoryLog(shared.clone());
    let log = tracing_subscriber::fmt()
        .with_writer(move || log.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    let _ = tracing::subscriber::with_default(log, || planted::with(bug, || shared.play()));
    let story = shared.lock().story.take();
    story.unwrap()
}

/// Plays the schedules of these seeds, or only the one that `DOCROW_SIM_SEED` asks for.
fn play_all(name: &str, seeds: Range<u64>, focus: FaultFocus, order: Order) {
    if let Ok(seed) = std::env::var("DOCROW_SIM_SEED") {
        let seed = seed.parse().unwrap();
        story_of(seed, focus, order, None).iter().for_each(|step| println!("{step}"));
        return assert_eq!(play(seed, focus, order, None), Ok(()));
    }
    let (count, began) = (seeds.clone().count(), std::time::Instant::now());
    for seed in seeds {
        if let Err(what) = play(seed, focus, order, None) {
            let story = story_of(seed, focus, order, None);
            let last = story.iter().skip(story.len().saturating_sub(PRINTED_STEPS));
            last.for_each(|step| println!("{step}"));
            panic!(
                "{what}: DOCROW_SIM_SEED={seed} cargo test --lib simulation::tests::{name} -- --nocapture"
            );
        }
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    // Unlike `eprintln!`, this is not captured.
    let _ = writeln!(io::stderr(), "{name}: {count} schedules, {rate:.0}/s");
}

/// Shows that a planted bug is found.
fn find(bug: Bug, focus: FaultFocus, order: Order) {
    let began = std::time::Instant::now();
    let found =
        (0..10_000).find_map(|seed| play(seed, focus, order, Some(bug)).err().map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    let took = began.elapsed().as_secs_f64();
    let _ = writeln!(io::stderr(), "{bug:?} is found after {seed} schedules, in {took:.1} s: {what}");
}

/// The log is left out: it has real durations.
#[test]
fn a_schedule_repeats() {
    let steps_of = |seed, focus, order| {
        let story = story_of(seed, focus, order, None);
        story.into_iter().filter(|step| !step.starts_with("  ")).collect::<Vec<_>>()
    };
    for seed in 0..50 {
        for order in [Order::Document, Order::Commit] {
            let steps = || steps_of(seed, FaultFocus::Everything, order);
            assert_eq!(steps(), steps(), "{seed}");
        }
    }
}

#[test]
fn docrow_stops_and_is_killed() {
    play_all("docrow_stops_and_is_killed", 0..1_000, FaultFocus::Docrow, Order::Document);
}

#[test]
fn postgres_is_away_and_set_back() {
    play_all("postgres_is_away_and_set_back", 0..1_000, FaultFocus::Postgres, Order::Document);
}

#[test]
fn the_state_directory_is_lost() {
    play_all("the_state_directory_is_lost", 0..1_000, FaultFocus::StateDirectory, Order::Document);
}

#[test]
fn history_is_lost_and_collections_are_replaced() {
    play_all("history_is_lost_and_collections_are_replaced", 0..1_000, FaultFocus::Mongo, Order::Document);
}

#[test]
fn everything_goes_wrong() {
    play_all("everything_goes_wrong", 0..1_000, FaultFocus::Everything, Order::Document);
}

#[test]
fn transactions_are_kept_whole() {
    play_all("transactions_are_kept_whole", 0..1_000, FaultFocus::Docrow, Order::Commit);
}

#[test]
fn transactions_are_kept_whole_when_everything_goes_wrong() {
    play_all(
        "transactions_are_kept_whole_when_everything_goes_wrong",
        0..1_000,
        FaultFocus::Everything,
        Order::Commit,
    );
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
fn a_patch_without_a_note_is_found_in_the_order_of_commits() {
    find(Bug::PartNotNoted, FaultFocus::Docrow, Order::Commit);
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
