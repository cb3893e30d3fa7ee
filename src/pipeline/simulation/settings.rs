//! How a schedule is set: all of it is drawn from its seed.

use fastrand::Rng;

use crate::config::Order;

/// What mostly goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultFocus {
    /// docrow stops and is killed.
    Docrow,
    /// PostgreSQL is away, crashes, is set back, loses answers.
    Postgres,
    /// The state directory is lost, damaged, an older one, or its disk is full.
    StateDirectory,
    /// History is lost, collections are dropped, replaced; documents are refused.
    Mongo,
    /// A bit of everything.
    Everything,
}

/// How often something goes wrong, of a thousand steps; answers of transactions: of a thousand of them.
#[derive(Debug, Default)]
pub(super) struct FaultRates {
    pub(super) kill: u32,
    /// When it is most telling.
    pub(super) bad_moment: u32,
    pub(super) stop: u32,
    pub(super) away: u32,
    pub(super) crash: u32,
    pub(super) answer: u32,
    pub(super) slow: u32,
    pub(super) set_back: u32,
    pub(super) damage: u32,
    pub(super) exchange: u32,
    pub(super) forget: u32,
    pub(super) lose: u32,
    pub(super) whole: u32,
    pub(super) remove: u32,
    pub(super) repair: u32,
    pub(super) retry: u32,
    pub(super) resync: u32,
    /// The disk of the state directory is full.
    pub(super) full: u32,
}

impl FaultRates {
    fn draw(rng: &mut Rng, focus: FaultFocus, are_rare: bool) -> Self {
        let mut faults = Self { forget: 40, ..Self::default() };
        let mut rate = |some: &[FaultFocus], most: u32| {
            let most = if are_rare { most.div_ceil(5) } else { most };
            if some.contains(&focus) || focus == FaultFocus::Everything { rng.u32(..=most) } else { 0 }
        };
        let (docrow, postgres, state, source) =
            (FaultFocus::Docrow, FaultFocus::Postgres, FaultFocus::StateDirectory, FaultFocus::Mongo);
        faults.kill = rate(&[docrow, postgres, state, source], 24);
        faults.stop = rate(&[docrow, state], 24);
        faults.away = rate(&[docrow, postgres], 20);
        faults.crash = rate(&[docrow, postgres], 20);
        faults.answer = rate(&[docrow, postgres], 60);
        faults.slow = rate(&[docrow, postgres, source], 20);
        faults.set_back = rate(&[postgres], 20);
        faults.damage = rate(&[state], 16);
        faults.exchange = rate(&[state], 1000);
        faults.lose = rate(&[source], 20);
        faults.whole = rate(&[source], 40);
        faults.remove = rate(&[docrow, postgres], 12);
        faults.repair = rate(&[docrow, postgres], 12);
        faults.retry = rate(&[docrow, postgres, source], 24);
        faults.resync = rate(&[docrow, source], 12);
        faults.full = rate(&[postgres, state], 24);
        faults.bad_moment = if faults.kill > 0 && rng.bool() { 700 } else { faults.kill };
        faults
    }
}

/// How everything is set.
#[derive(Debug)]
pub(super) struct ScheduleSettings {
    pub(super) order: Order,
    pub(super) partitions: u16,
    /// Documents in a batch.
    pub(super) rows: usize,
    pub(super) chunks: usize,
    /// Changes that the spool may hold.
    pub(super) budget: u64,
    /// Whether everything is copied anew when history is lost.
    pub(super) resyncs: bool,
    /// Whether a collection that is dropped is emptied.
    pub(super) truncates: bool,
    /// Whether mappings follow their documents.
    pub(super) evolves: bool,
    /// Of how many writes one makes a document that PostgreSQL refuses; 0: of none.
    pub(super) refused: i32,
    /// A collection with more dead letters is stopped.
    pub(super) most_dead: u64,
    /// Whether everything comes to rest first, and less goes wrong afterwards: else changes hardly ever go the direct way.
    pub(super) warms_up: bool,
    /// How many steps are taken before everything comes to rest, and how many of a thousand are writes.
    pub(super) steps: usize,
    pub(super) writes: u32,
    /// The longest that a step takes, and an answer, in milliseconds.
    pub(super) step: u64,
    pub(super) answer: u64,
    pub(super) faults: FaultRates,
}

impl ScheduleSettings {
    pub(super) fn draw(rng: &mut Rng, focus: FaultFocus, order: Order) -> Self {
        let are_rare = rng.bool();
        let refuses = matches!(focus, FaultFocus::Mongo | FaultFocus::Everything) && rng.bool();
        Self {
            order,
            warms_up: are_rare,
            partitions: if order == Order::Commit { 1 } else { rng.u16(1..=3) },
            rows: rng.usize(1..=3),
            chunks: rng.usize(1..=3),
            budget: if rng.u8(..4) == 0 { rng.u64(2..=8) } else { 1_000_000 },
            resyncs: rng.u8(..4) > 0,
            truncates: rng.bool(),
            evolves: rng.bool(),
            refused: if refuses { rng.i32(3..=20) } else { 0 },
            most_dead: if rng.u8(..4) == 0 { rng.u64(..=2) } else { 100 },
            steps: if are_rare { rng.usize(50..=250) } else { rng.usize(15..=150) },
            writes: rng.u32(50..=400),
            step: if rng.bool() { 100 } else { 1_000 },
            answer: [1, 20, 200][rng.usize(..3)],
            faults: FaultRates::draw(rng, focus, are_rare),
        }
    }
}
