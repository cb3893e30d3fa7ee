//! The schedule of faults, which depends only on the seed. Pure.

use std::{fmt, time::Duration};

use fastrand::Rng;

/// The victim of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Docrow,
    Postgres,
    Mongod,
    /// The network between docrow and PostgreSQL.
    ToPostgres,
    /// The network between docrow and mongod.
    ToMongod,
}

/// The kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    /// SIGKILL, and a restart.
    Kill,
    /// SIGKILL, and a restart without its state directory.
    KillAndForget,
    /// The signal for a clean stop, or, for PostgreSQL, an immediate one; and a restart.
    Stop,
    /// SIGSTOP, and SIGCONT.
    Freeze,
    /// All connections are cut, and new ones refused for a while.
    Cut,
    /// Nothing comes through for a while.
    Stall,
}

/// A fault of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) victim: Victim,
    pub(crate) blow: Blow,
}

/// Simultaneous faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// How long nothing fails before.
    pub(crate) after: Duration,
    /// The faults, in this order; they are also ended in this order.
    pub(crate) faults: Vec<Fault>,
    /// How long they last.
    pub(crate) lasts: Duration,
}

/// The steps of each round, without an end.
pub(crate) struct Schedule(Rng);

impl Schedule {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// The steps of the next round.
    pub(crate) fn round(&mut self) -> Vec<Step> {
        (0..self.0.usize(1..=3)).map(|_| self.step()).collect()
    }

    fn step(&mut self) -> Step {
        let (after, lasts) = (self.millis(1500), self.millis(1200));
        // Mostly one alone; sometimes several at once, each victim once.
        let count = [1, 1, 1, 2, 2, 3][self.0.usize(..6)];
        let mut victims = vec![
            Victim::Docrow,
            Victim::Docrow,
            Victim::Postgres,
            Victim::Mongod,
            Victim::ToPostgres,
            Victim::ToMongod,
        ];
        let mut faults = Vec::new();
        while faults.len() < count {
            let victim = victims[self.0.usize(..victims.len())];
            victims.retain(|other| *other != victim);
            faults.push(Fault { victim, blow: self.blow(victim) });
        }
        Step { after, faults, lasts }
    }

    fn blow(&mut self, victim: Victim) -> Blow {
        let blows: &[Blow] = match victim {
            Victim::Docrow => {
                &[Blow::Kill, Blow::Kill, Blow::Kill, Blow::KillAndForget, Blow::Stop, Blow::Freeze]
            }
            Victim::Postgres | Victim::Mongod => &[Blow::Kill, Blow::Kill, Blow::Stop, Blow::Freeze],
            Victim::ToPostgres | Victim::ToMongod => &[Blow::Cut, Blow::Cut, Blow::Stall],
        };
        blows[self.0.usize(..blows.len())]
    }

    /// Short times as often as long ones.
    fn millis(&mut self, most: u64) -> Duration {
        let most = self.0.u64(1..=most);
        Duration::from_millis(self.0.u64(0..=most))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = match self.victim {
            Victim::Docrow => "docrow",
            Victim::Postgres => "PostgreSQL",
            Victim::Mongod => "mongod",
            Victim::ToPostgres => "way to PostgreSQL",
            Victim::ToMongod => "way to mongod",
        };
        let blow = match self.blow {
            Blow::Kill => "killed",
            Blow::KillAndForget => "killed, its state removed",
            Blow::Stop if self.victim == Victim::Postgres => "stopped immediately",
            Blow::Stop => "stopped",
            Blow::Freeze => "frozen",
            Blow::Cut => "cut",
            Blow::Stall => "stalled",
        };
        write!(f, "{victim} {blow}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(ToString::to_string).collect();
        let Self { after, lasts, .. } = self;
        write!(f, "after {after:?} {} for {lasts:?}", faults.join(" + "))
    }
}

#[test]
fn the_same_seed_makes_the_same_schedule() {
    let of = |seed| {
        let mut schedule = Schedule::new(seed);
        (0..50).flat_map(|_| schedule.round()).collect::<Vec<_>>()
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let faults: std::collections::BTreeSet<_> = of(1).into_iter().flat_map(|step| step.faults).collect();
    assert_eq!(faults.len(), 4 + 3 + 3 + 2 + 2, "{faults:?}");
}
