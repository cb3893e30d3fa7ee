//! Plays the schedules.

use std::{
    collections::VecDeque,
    io::{self, Write},
};

use super::{settings::FaultFocus, world::SharedWorld};
use crate::{
    config::Order,
    pipeline::planted::{self, Bug},
};

/// How many steps of a failed schedule are printed.
const PRINTED_STEPS: usize = 60;

/// Plays a schedule. `Err`: the violation that it found.
pub(super) fn play(seed: u64, focus: FaultFocus, order: Order, bug: Option<Bug>) -> Result<(), String> {
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

/// Plays 1,000 schedules, or as many as `DOCROW_SIM_SCHEDULES` says, or only the one that `DOCROW_SIM_SEED`
/// asks for.
fn play_all(name: &str, focus: FaultFocus, order: Order) {
    if let Ok(seed) = std::env::var("DOCROW_SIM_SEED") {
        let seed = seed.parse().unwrap();
        story_of(seed, focus, order, None).iter().for_each(|step| println!("{step}"));
        return assert_eq!(play(seed, focus, order, None), Ok(()));
    }
    let asked = std::env::var("DOCROW_SIM_SCHEDULES").ok();
    let count: u64 = asked.map_or(1_000, |asked| asked.parse().unwrap());
    let began = std::time::Instant::now();
    for seed in 0..count {
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
    play_all("docrow_stops_and_is_killed", FaultFocus::Docrow, Order::Document);
}

#[test]
fn postgres_is_away_and_set_back() {
    play_all("postgres_is_away_and_set_back", FaultFocus::Postgres, Order::Document);
}

#[test]
fn the_state_directory_is_lost() {
    play_all("the_state_directory_is_lost", FaultFocus::StateDirectory, Order::Document);
}

#[test]
fn history_is_lost_and_collections_are_replaced() {
    play_all("history_is_lost_and_collections_are_replaced", FaultFocus::Mongo, Order::Document);
}

#[test]
fn much_is_requested() {
    play_all("much_is_requested", FaultFocus::Requests, Order::Document);
}

#[test]
fn much_is_requested_while_transactions_are_kept_whole() {
    let name = "much_is_requested_while_transactions_are_kept_whole";
    play_all(name, FaultFocus::Requests, Order::Commit);
}

#[test]
fn everything_goes_wrong() {
    play_all("everything_goes_wrong", FaultFocus::Everything, Order::Document);
}

#[test]
fn transactions_are_kept_whole() {
    play_all("transactions_are_kept_whole", FaultFocus::Docrow, Order::Commit);
}

#[test]
fn transactions_are_kept_whole_when_everything_goes_wrong() {
    play_all("transactions_are_kept_whole_when_everything_goes_wrong", FaultFocus::Everything, Order::Commit);
}
