//! The adversary: seeded random operations against real servers, while docrow is killed, stopped, cut off and
//! gets requests. After each seed everything must have been applied, and three checks must find nothing (G1,
//! G2, G4).
//!
//! A seed determines the operations and their order ([`plan`]); docrow's timing always differs, so a seed
//! that failed need not fail the next time. A run that neither makes progress nor ends has failed.

mod documents;
mod failure;
mod figures;
mod judge;
mod mappings;
mod plan;
mod scenarios;
mod shrink;
mod survivable;
mod updates;
mod world;

use std::{
    collections::VecDeque,
    ops::Range,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{
    task::{JoinSet, LocalSet},
    time::timeout,
};

use self::{
    failure::{Failure, Kind},
    figures::Figures,
    plan::{Plan, Step},
    world::World,
};
use crate::support::lacks_for;

/// How long shrinking a failing seed may take.
const SHRINKING: Duration = Duration::from_secs(150);
/// How many lists of its steps are tried.
const TRIES: u32 = 60;

/// A short run of what `make fuzz-live` does for longer.
#[tokio::test]
async fn some_seeds_leave_nothing_wrong_and_end() {
    assert_eq!(run(0..10, 3).await, 0, "seeds that failed");
}

/// Runs these seeds, this many at once, and logs the events. Returns the number of failures.
pub(crate) async fn run(seeds: Range<u64>, jobs: usize) -> u64 {
    let (began, count) = (Instant::now(), seeds.end - seeds.start);
    // A single one logs its steps.
    let aloud = count == 1;
    let figures = Rc::new(Figures::default());
    let waiting = &mut seeds.collect::<VecDeque<_>>();
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut running = JoinSet::new();
            loop {
                while running.len() < jobs.max(1)
                    && let Some(seed) = waiting.pop_front()
                {
                    let plan = Plan { aloud, ..plan::plan(seed) };
                    running.spawn_local(one(plan, figures.clone()));
                }
                match running.join_next().await {
                    None => break,
                    Some(ended) => ended.unwrap(),
                }
            }
        })
        .await;
    let failures = figures.failures();
    println!("{count} seeds, {failures} failed, {figures}, {:.0} seconds", began.elapsed().as_secs_f64());
    failures
}

/// Runs a seed, logs the result, and shrinks it if it failed.
async fn one(plan: Plan, figures: Rc<Figures>) {
    let (began, seed) = (Instant::now(), plan.seed);
    for capability in plan.needs() {
        if lacks_for(&format!("seed {seed}"), capability).await {
            return println!("seed {seed}: not applicable, for want of {capability:?}; {}", plan.setup);
        }
    }
    let outcome = attempt(&plan, 0, &figures).await;
    let (seconds, steps) = (began.elapsed().as_secs_f64(), plan.steps.len());
    let Err(failure) = outcome else {
        return println!("seed {seed}: well, {steps} steps, {seconds:.1}s; {}", plan.setup);
    };
    let counter = match failure.kind {
        Kind::Hang => &figures.hangs,
        Kind::Difference => &figures.differences,
        Kind::Ended | Kind::Panicked => &figures.others,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    println!("seed {seed}: FAILED, {steps} steps, {seconds:.1}s; {}\nseed {seed}: {failure}", plan.setup);
    println!("seed {seed}: again: make fuzz-live FROM={seed} SEEDS=1\n{}", failure.detail);
    let (steps, again, last) = shorter(&plan, &failure).await;
    if again == 0 {
        return println!("seed {seed}: did not fail like that again; it is a matter of time");
    }
    let steps: Vec<_> = steps.iter().enumerate().map(|(at, step)| format!("{at:4}. {step}")).collect();
    println!("seed {seed}: {} steps are enough ({last}):\n{}", steps.len(), steps.join("\n"));
}

/// Fewer steps of a failing plan that fail in the same way, how often they did, and the last failure.
async fn shorter(plan: &Plan, failure: &Failure) -> (Vec<Step>, u32, String) {
    let (deadline, unseen) = (Instant::now() + SHRINKING, Figures::default());
    let (mut tries, mut again, mut last) = (0, 0, String::new());
    let steps = shrink::shrink(&plan.steps, async |steps| {
        tries += 1;
        if tries > TRIES {
            return None;
        }
        let shorter = Plan { steps: steps.to_vec(), aloud: false, ..plan.clone() };
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = timeout(left, attempt(&shorter, tries, &unseen)).await.ok()?;
        let alike = outcome.as_ref().err().filter(|other| other.is_like(failure));
        if let Some(failure) = alike {
            again += 1;
            last = failure.to_string();
        }
        Some(alike.is_some())
    })
    .await;
    (steps, again, last)
}

/// Executes a plan, and checks. A failing assertion is a failure, too.
async fn attempt(plan: &Plan, attempt: u32, figures: &Figures) -> Result<(), Failure> {
    let mut world = World::new(plan, attempt, figures).await;
    let outcome = AssertUnwindSafe(carry_out(plan, &mut world)).catch_unwind().await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            Err(Failure::new(Kind::Panicked, text.lines().next().unwrap_or_default(), text.clone()))
        }
    };
    world.clear().await;
    outcome
}

async fn carry_out(plan: &Plan, world: &mut World<'_>) -> Result<(), Failure> {
    let began = Instant::now();
    for step in &plan.steps {
        if plan.aloud {
            println!(
                "{:7.3}s {}",
                began.elapsed().as_secs_f64(),
                step.to_string().chars().take(200).collect::<String>()
            );
        }
        world.step(step).await?;
    }
    world.settle().await?;
    judge::judge(world).await
}
