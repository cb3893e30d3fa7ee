//! The settings of a schedule, all drawn from its seed.

use fastrand::Rng;

use crate::config::Order;

/// What mostly goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultFocus {
    /// docrow is stopped and killed.
    Docrow,
    /// PostgreSQL is down, crashes, is restored from an old copy, loses answers.
    Postgres,
    /// The state directory is lost, damaged or replaced by an older copy, or its disk is full.
    StateDirectory,
    /// MongoDB loses history; collections are dropped and replaced; documents are refused.
    Mongo,
    /// Operators request repairs, retries and resyncs, while little else happens.
    Requests,
    /// A bit of everything.
    Everything,
}

/// How often each fault happens in a thousand steps, unless stated otherwise.
#[derive(Debug, Default)]
pub(super) struct FaultRates {
    pub(super) kill: u32,
    /// docrow is killed when it hurts most: after a write, before it has seen the answer.
    pub(super) bad_moment: u32,
    pub(super) stop: u32,
    /// PostgreSQL shuts down for a while.
    pub(super) down: u32,
    /// PostgreSQL crashes, and loses what it has not synced.
    pub(super) crash: u32,
    /// The answer to a transaction is lost; in a thousand transactions.
    pub(super) lost_answer: u32,
    /// PostgreSQL does not answer at all; in a thousand requests.
    pub(super) silence: u32,
    /// PostgreSQL is restored from an old copy.
    pub(super) set_back: u32,
    /// The state directory is damaged.
    pub(super) damage: u32,
    /// The state directory is exchanged for an old copy or an empty one; in 4,000 restarts.
    pub(super) exchange: u32,
    /// MongoDB's log drops what docrow no longer needs.
    pub(super) trim_log: u32,
    /// MongoDB's log drops what docrow may still need.
    pub(super) lose_history: u32,
    /// A collection is dropped, or replaced by another one.
    pub(super) drop_or_replace: u32,
    /// Someone removes a row.
    pub(super) remove_row: u32,
    /// Someone requests a repair.
    pub(super) repair: u32,
    /// Someone requests a retry of all dead letters.
    pub(super) retry: u32,
    /// Someone requests a resync.
    pub(super) resync: u32,
    /// The disk of the state directory is full.
    pub(super) full_disk: u32,
}

impl FaultRates {
    fn draw(rng: &mut Rng, focus: FaultFocus, are_rare: bool) -> Self {
        let mut faults = Self { trim_log: 40, ..Self::default() };
        let mut rate = |some: &[FaultFocus], most: u32| {
            let most = if are_rare { most.div_ceil(5) } else { most };
            if some.contains(&focus) || focus == FaultFocus::Everything { rng.u32(..=most) } else { 0 }
        };
        let (docrow, postgres, state, source) =
            (FaultFocus::Docrow, FaultFocus::Postgres, FaultFocus::StateDirectory, FaultFocus::Mongo);
        let requests = FaultFocus::Requests;
        faults.kill = rate(&[docrow, postgres, state, source, requests], 24);
        faults.stop = rate(&[docrow, state], 24);
        faults.down = rate(&[docrow, postgres], 20);
        faults.crash = rate(&[docrow, postgres], 20);
        faults.lost_answer = rate(&[docrow, postgres], 60);
        faults.silence = rate(&[docrow, postgres, source], 20);
        faults.set_back = rate(&[postgres], 20);
        faults.damage = rate(&[state], 16);
        faults.exchange = rate(&[state], 1000);
        faults.lose_history = rate(&[source], 20);
        faults.drop_or_replace = rate(&[source], 40);
        faults.remove_row = rate(&[docrow, postgres, requests], 12);
        faults.repair = rate(&[docrow, postgres, requests], if focus == requests { 100 } else { 12 });
        faults.retry = rate(&[docrow, postgres, source, requests], 24);
        faults.resync = rate(&[docrow, source, requests], if focus == requests { 50 } else { 12 });
        faults.full_disk = rate(&[postgres, state], 24);
        faults.bad_moment = if faults.kill > 0 && rng.bool() { 700 } else { faults.kill };
        faults
    }
}

/// The settings of a schedule.
#[derive(Debug)]
pub(super) struct ScheduleSettings {
    pub(super) order: Order,
    pub(super) partitions: u16,
    /// The most documents in a batch.
    pub(super) rows: usize,
    /// How many chunks a collection is copied in.
    pub(super) chunks: usize,
    /// The most changes that the spool may hold.
    pub(super) budget: u64,
    /// Whether everything is copied again when history is lost.
    pub(super) resyncs: bool,
    /// Whether the tables of a dropped collection are emptied.
    pub(super) truncates: bool,
    /// Whether mappings grow with their documents.
    pub(super) evolves: bool,
    /// PostgreSQL refuses rows with a version that is a multiple of this. Zero: none.
    pub(super) refused: i32,
    /// A collection with more dead letters than this is stopped.
    pub(super) most_dead: u64,
    /// Whether everything comes to rest first, and less goes wrong afterwards. Otherwise changes hardly ever
    /// bypass the spool.
    pub(super) warms_up: bool,
    /// How many steps there are with writes and faults.
    pub(super) steps: usize,
    /// How many in a thousand steps are writes.
    pub(super) writes: u32,
    /// The longest step, in milliseconds.
    pub(super) step: u64,
    /// The longest ordinary answer, in milliseconds.
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
            writes: if focus == FaultFocus::Requests { rng.u32(5..=50) } else { rng.u32(50..=400) },
            step: if rng.bool() { 100 } else { 1_000 },
            answer: [1, 20, 200][rng.usize(..3)],
            faults: FaultRates::draw(rng, focus, are_rare),
        }
    }
}
