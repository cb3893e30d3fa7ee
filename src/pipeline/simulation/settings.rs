//! How a schedule is set: all of it is drawn from its seed.

use fastrand::Rng;

use crate::config::Order;

/// What mostly goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    /// docrow stops and is killed.
    Docrow,
    /// PostgreSQL is away, set back, loses answers.
    Postgres,
    /// The state directory is lost, damaged, an older one, or its disk is full.
    State,
    /// History is lost, collections are dropped, replaced.
    Source,
    /// A bit of everything.
    All,
}

/// How often something goes wrong, of a thousand steps; answers of transactions: of a thousand of them.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) kill: u32,
    /// When it is most telling.
    pub(super) bad_moment: u32,
    pub(super) stop: u32,
    pub(super) away: u32,
    pub(super) answer: u32,
    pub(super) set_back: u32,
    pub(super) damage: u32,
    pub(super) exchange: u32,
    pub(super) forget: u32,
    pub(super) lose: u32,
    pub(super) whole: u32,
    pub(super) refuse: u32,
    pub(super) remove: u32,
    pub(super) retry: u32,
    /// The disk of the state directory is full.
    pub(super) full: u32,
}

impl Faults {
    fn of(rng: &mut Rng, focus: Focus, are_rare: bool) -> Self {
        let mut faults = Self { forget: 20, ..Self::default() };
        let mut of = |some: &[Focus], most: u32| {
            let most = if are_rare { most.div_ceil(5) } else { most };
            if some.contains(&focus) || focus == Focus::All { rng.u32(..=most) } else { 0 }
        };
        let (docrow, postgres, state, source) = (Focus::Docrow, Focus::Postgres, Focus::State, Focus::Source);
        faults.kill = of(&[docrow, postgres, state, source], 12);
        faults.stop = of(&[docrow, state], 12);
        faults.away = of(&[docrow, postgres], 10);
        faults.answer = of(&[docrow, postgres], 60);
        faults.set_back = of(&[postgres], 10);
        faults.damage = of(&[state], 8);
        faults.exchange = of(&[state], 1000);
        faults.lose = of(&[source], 10);
        faults.whole = of(&[source], 20);
        faults.refuse = of(&[source], 6);
        faults.remove = of(&[docrow, postgres], 6);
        faults.retry = of(&[docrow, postgres], 6);
        faults.full = of(&[postgres, state], 12);
        faults.bad_moment = if faults.kill > 0 && rng.bool() { 700 } else { faults.kill };
        faults
    }
}

/// How everything is set.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) order: Order,
    pub(super) partitions: u16,
    /// Parcels that wait for a worker.
    pub(super) capacity: usize,
    /// For how many steps the intake waits for workers, on average.
    pub(super) patience: u8,
    /// Documents in a batch.
    pub(super) rows: usize,
    /// Changes that are taken out of the spool at a time.
    pub(super) window: usize,
    pub(super) chunks: usize,
    /// Changes that the spool may hold.
    pub(super) budget: usize,
    /// Whether everything is copied anew when history is lost.
    pub(super) resyncs: bool,
    /// Whether a collection that is dropped is emptied.
    pub(super) truncates: bool,
    /// Whether everything comes to rest first, and less goes wrong afterwards: else changes hardly ever go the direct way.
    pub(super) warms_up: bool,
    /// How many steps are taken before everything comes to rest, and how many of a thousand are writes.
    pub(super) steps: usize,
    pub(super) writes: u32,
    /// How often the intake, the side of PostgreSQL and the workers take a step.
    pub(super) pace: [usize; 3],
    pub(super) faults: Faults,
}

impl Settings {
    pub(super) fn of(rng: &mut Rng, focus: Focus, order: Order) -> Self {
        let are_rare = rng.bool();
        Self {
            order,
            warms_up: are_rare,
            partitions: if order == Order::Commit { 1 } else { rng.u16(1..=3) },
            capacity: rng.usize(1..=2),
            patience: if rng.bool() { 4 } else { 100 },
            rows: rng.usize(1..=3),
            window: rng.usize(1..=4),
            chunks: rng.usize(1..=3),
            budget: if rng.u8(..4) == 0 { rng.usize(2..=8) } else { usize::MAX },
            resyncs: rng.u8(..4) > 0,
            truncates: rng.bool(),
            steps: if are_rare { rng.usize(100..=500) } else { rng.usize(30..=350) },
            writes: rng.u32(20..=200),
            pace: [rng.usize(1..=4), rng.usize(1..=4), rng.usize(1..=4)],
            faults: Faults::of(rng, focus, are_rare),
        }
    }
}
