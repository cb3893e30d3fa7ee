//! A model test without servers: the whole of docrow as a deterministic simulation, thousands of schedules by seed.
//!
//! What decides is the program's own: [`flow`](super::flow), [`router`](super::router), [`batch`](super::batch),
//! [`watermark`](super::watermark), [`ahead`](super::ahead), [`phase`](super::phase), [`positions`](super::positions). What does the
//! I/O around them is modelled, step by step as the program does it: the intake, the side of PostgreSQL and the workers
//! ([`intake`], [`side`], [`worker`]), and what they speak to: MongoDB ([`source`]), the state directory ([`spool`]),
//! [`postgres`]. All that a schedule does is drawn from its seed: how everything is set, which of the three takes its
//! next step, what is written, what fails.
//!
//! After each transaction it is checked ([`check`]) that no position is stored before the rows that it speaks of (G2), that no row
//! goes back (G3), that no chunk is copied twice (G5), and, in the order of commits, that all rows are of one time. A schedule
//! ends with faults and writes ended: everything must come to rest, and then the rows are the documents (G1).
//!
//! What the model is worth is shown by bugs that are planted into it ([`Bug`]): each is found.
//!
//! `DOCROW_SIM_SEED=n` replays a schedule of a test, and tells all of it.

mod check;
mod intake;
mod postgres;
mod side;
mod source;
mod spool;
mod worker;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    io::Write,
    ops::Range,
    rc::Rc,
};

use fastrand::Rng;

use self::{
    intake::{Demand, Intake, Notices, least, least_of},
    postgres::{Contents, Postgres},
    side::Stage,
    source::Source,
    spool::Spool,
    worker::Crew,
};
use super::flow::{Flow, Way};
use crate::{change::CollectionId, config::Order};

/// How many steps of a failed schedule are told.
const TOLD: usize = 40;
/// What does not come to rest within so many steps has stalled.
const PATIENCE: usize = 6_000;

/// Why a step was not done.
#[derive(Debug)]
enum Error {
    /// PostgreSQL is away, or refuses.
    Away,
    /// The state directory was made anew.
    Rebuilt,
    /// The log has forgotten what is needed, and that is to stop docrow.
    HistoryLost,
    /// What must not be.
    Wrong(String),
}

impl Error {
    fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }
}

/// What can be wrong with the model's I/O, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A position is stored before the rows that it speaks of.
    PositionBeforeRows,
    /// The spool's token is stored before the changes that it speaks of.
    TokenWithoutChanges,
    /// A span of the spool is believed though PostgreSQL is not as far as where it begins.
    SpanBelieved,
    /// A collection goes direct while something of it still waits in the spool.
    DirectTooEarly,
    /// What was handed to workers that are gone is not taken again.
    DroppedWhenGone,
    /// The workers are not told how far the copied rows are ahead.
    AheadNotRaised,
    /// A chunk's mark is not of the transaction of its rows.
    ChunkTwice,
}

/// What mostly goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Focus {
    /// docrow stops and is killed.
    Docrow,
    /// PostgreSQL is away, set back, loses answers.
    Postgres,
    /// The state directory is lost, damaged, an older one.
    State,
    /// History is lost, collections are dropped, replaced.
    Source,
    /// A bit of everything.
    All,
}

/// How often something goes wrong, of a thousand steps; answers of transactions: of a thousand of them.
#[derive(Debug, Default)]
struct Faults {
    kill: u32,
    stop: u32,
    away: u32,
    answer: u32,
    set_back: u32,
    damage: u32,
    exchange: u32,
    forget: u32,
    lose: u32,
    whole: u32,
    refuse: u32,
}

impl Faults {
    fn of(rng: &mut Rng, focus: Focus) -> Self {
        let mut faults = Self { forget: 20, ..Self::default() };
        let mut of = |some: &[Focus], most: u32| {
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
        faults
    }
}

/// How everything is set.
#[derive(Debug)]
struct Settings {
    order: Order,
    partitions: u16,
    /// Parcels that wait for a worker.
    capacity: usize,
    /// Documents in a batch.
    rows: usize,
    /// Changes that are taken out of the spool at a time.
    window: usize,
    chunks: usize,
    /// Changes that the spool may hold.
    budget: usize,
    /// Whether everything is copied anew when history is lost.
    resyncs: bool,
    /// Whether a collection that is dropped is emptied.
    truncates: bool,
    /// How many steps are taken before everything comes to rest, and how many of a thousand are writes.
    steps: usize,
    writes: u32,
    faults: Faults,
}

impl Settings {
    fn of(rng: &mut Rng, focus: Focus, order: Order) -> Self {
        Self {
            order,
            partitions: if order == Order::Commit { 1 } else { rng.u16(1..=3) },
            capacity: rng.usize(1..=2),
            rows: rng.usize(1..=3),
            window: rng.usize(1..=4),
            chunks: rng.usize(1..=3),
            budget: if rng.u8(..4) == 0 { rng.usize(2..=8) } else { usize::MAX },
            resyncs: rng.u8(..4) > 0,
            truncates: rng.bool(),
            steps: rng.usize(30..=350),
            writes: rng.u32(20..=200),
            faults: Faults::of(rng, focus),
        }
    }
}

/// What faults have made possible that else must not happen.
#[derive(Debug, Default)]
struct Excused {
    /// That the spool is found lost.
    spool: bool,
    /// That history is lost.
    history: bool,
}

/// All that a kill ends.
struct Process {
    demand: Demand,
    notices: Notices,
    intake: Intake,
    stage: Stage,
    /// The connection to PostgreSQL.
    session: u32,
    crew: Option<Rc<RefCell<Crew>>>,
    /// The collections that are stopped because too much of them can't be written.
    stopped: BTreeSet<CollectionId>,
    /// It is told to stop.
    stops: bool,
    /// The latest time that the source has told.
    seen: u32,
    /// The same, since a lookup began.
    looked: u32,
}

impl Process {
    fn new() -> Self {
        Self {
            demand: Demand::default(),
            notices: Notices::default(),
            intake: Intake::new(),
            stage: Stage::Idle,
            session: 0,
            crew: None,
            stopped: BTreeSet::new(),
            stops: false,
            seen: 0,
            looked: 0,
        }
    }
}

struct World {
    rng: Rng,
    set: Settings,
    bug: Option<Bug>,
    source: Source,
    spool: Spool,
    pg: Postgres,
    run: Process,
    excused: Excused,
    /// Whether faults and writes are over.
    is_calm: bool,
    story: Option<VecDeque<String>>,
}

impl World {
    fn new(seed: u64, (focus, order): (Focus, Order), bug: Option<Bug>, tells: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let set = Settings::of(&mut rng, focus, order);
        let (collections, docs) = (rng.usize(1..=3), rng.usize(1..=4));
        let source = Source::new(&mut rng, collections, docs);
        let story = tells.then(VecDeque::new);
        Self {
            rng,
            set,
            bug,
            source,
            spool: Spool::default(),
            pg: Postgres::new(),
            run: Process::new(),
            excused: Excused::default(),
            is_calm: false,
            story,
        }
    }

    /// The whole schedule.
    fn play(&mut self) -> Result<(), Error> {
        self.say(|world| format!("{:?}, {} collections", world.set, world.source.names().len()));
        for _ in 0..self.set.steps {
            self.step()?;
        }
        self.is_calm = true;
        self.say(|_| "faults and writes end".to_owned());
        self.pg.is_up = true;
        if !self.run.stopped.is_empty() {
            self.crash();
        }
        for _ in 0..PATIENCE {
            if self.rests() {
                return self.check_end();
            }
            self.go_on()?;
        }
        Err(Error::wrong("it does not come to rest"))
    }

    fn step(&mut self) -> Result<(), Error> {
        if self.rng.u32(..1000) < self.set.writes {
            let said = self.source.write(&mut self.rng);
            self.say(|_| said);
        }
        self.fail();
        self.go_on()
    }

    /// docrow's next step.
    fn go_on(&mut self) -> Result<(), Error> {
        if self.run.demand.attempt == 0 {
            return self.step_side();
        }
        let crew = self.run.crew.clone();
        let workers = crew.as_ref().map_or(0, |crew| crew.borrow().workers.len());
        match (self.rng.usize(..2 + workers), crew) {
            (0, _) | (2.., None) => self.step_intake(),
            (1, _) => self.step_side(),
            (number, Some(crew)) => self.step_worker(&crew, number - 2),
        }
    }

    /// Something may go wrong.
    fn fail(&mut self) {
        let Faults { kill, stop, away, set_back, damage, forget, lose, whole, refuse, .. } = self.set.faults;
        let mut roll = self.rng.u32(..1000);
        let mut happens = |rate: u32| {
            let happens = roll < rate;
            roll = if happens { u32::MAX } else { roll.wrapping_sub(rate) };
            happens
        };
        if happens(kill) {
            self.crash();
        } else if happens(stop) {
            self.run.stops = true;
        } else if happens(if self.pg.is_up { away } else { 30 }) {
            self.pg.is_up = !self.pg.is_up;
            self.pg.starts += 1;
            self.say(|world| format!("PostgreSQL is {}", if world.pg.is_up { "back" } else { "away" }));
        } else if happens(set_back) {
            self.set_back();
        } else if happens(damage) {
            self.excused = Excused { spool: true, history: true };
            self.spool.damage();
            self.say(|_| "the state directory is damaged".to_owned());
        } else if happens(forget) {
            self.forget();
        } else if happens(lose) {
            self.excused.history = true;
            self.source.cut = self.rng.u32(self.source.cut..self.source.now);
            self.say(|world| format!("the log begins after {}", world.source.cut));
        } else if happens(whole) {
            let said = self.source.whole(&mut self.rng);
            self.say(|_| said);
        } else if happens(refuse) && self.run.stopped.is_empty() && !self.run.demand.names.is_empty() {
            let id = CollectionId(self.rng.usize(..self.run.demand.names.len()));
            self.run.stopped.insert(id);
            // What waits of it is forgotten.
            self.excused.history = true;
            self.pg.now.settled = false;
            self.say(|_| format!("#{} is stopped", id.0));
        } else if happens(10) {
            self.source.now += 1;
        } else if happens(10) {
            self.pg.copies.push(self.pg.now.clone());
            self.spool.copy();
        }
    }

    /// An earlier copy of PostgreSQL takes its place.
    fn set_back(&mut self) {
        let copy = self.rng.usize(..self.pg.copies.len());
        self.pg.now = self.pg.copies[copy].clone();
        self.pg.starts += 1;
        self.excused.history = true;
        // Another life of the pipeline: the state directory is emptied while it is in use.
        self.excused.spool |= self.pg.now.life.is_none();
        self.say(|world| format!("PostgreSQL is set back: {:?}", world.pg.now));
    }

    /// docrow is gone, and is started again.
    fn crash(&mut self) {
        self.run = Process::new();
        self.spool.crash(&mut self.rng);
        if self.set.order == Order::Document && self.rng.u8(..4) == 0 {
            self.set.partitions = self.rng.u16(1..=3);
        }
        self.say(|world| format!("docrow is started again, with {} partitions", world.set.partitions));
        if !self.is_calm && self.rng.u32(..4000) < self.set.faults.exchange {
            self.spool.exchange(&mut self.rng);
            self.excused.history = true;
            self.say(|world| format!("with another state directory: {:?}", world.spool));
        }
    }

    /// The log forgets what nobody can need, whatever happens to docrow next.
    fn forget(&mut self) {
        let durable = self.spool.durable();
        let now = self.spool.present();
        let mut needed =
            vec![self.source.now, self.run.planned().map_or(u32::MAX, |start| start.cluster_time().time)];
        let pg = &self.pg.now;
        let mut of = |names: &[usize], applied: Vec<crate::change::Position>| {
            for (spans, token) in [&durable, &now] {
                let known = applied.iter().cloned().zip(names.iter().map(|name| spans.get(name).cloned()));
                let (flow, _) = Flow::resume(known, token.as_ref());
                needed.extend(flow.start().map(|start| start.cluster_time().time));
            }
        };
        let names: Vec<_> = self.source.names().filter(|name| pg.least(*name).is_some()).collect();
        of(&names, names.iter().filter_map(|name| pg.least(*name).cloned()).collect());
        for demand in [&self.run.demand, &self.run.intake.now] {
            of(&demand.names, least_of(demand));
            if let Some(crew) = &demand.crew {
                of(&demand.names, least(&crew.borrow().watermark, demand));
            }
        }
        // What goes direct is soon in no span: it is taken for granted that the log holds it for a moment.
        let flow = &self.run.intake.flow;
        needed.extend(flow.on(Way::Direct).filter_map(|id| Some(flow.given(id)?.cluster_time().time)));
        needed.extend(match &self.run.intake.stream {
            Some(source::Start::After(position)) => Some(position.cluster_time().time),
            Some(source::Start::At(time)) => Some(*time),
            None => None,
        });
        let cut = needed.into_iter().min().unwrap_or(0).saturating_sub(1);
        self.source.cut = cut.max(self.source.cut);
        self.say(|world| format!("the log begins after {}, which nobody needs", world.source.cut));
    }

    fn transaction(
        &mut self,
        session: u32,
        change: impl FnOnce(&mut Contents) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let is_lost = !self.is_calm && self.rng.u32(..1000) < self.set.faults.answer;
        if !self.pg.is_up || self.pg.starts != session || (is_lost && self.rng.bool()) {
            self.say(|_| "PostgreSQL does not carry it out".to_owned());
            return Err(Error::Away);
        }
        let mut next = self.pg.now.clone();
        change(&mut next)?;
        self.check(&mut next)?;
        self.pg.now = next;
        if is_lost {
            self.say(|_| "PostgreSQL carries it out, and the answer is lost".to_owned());
            return Err(Error::Away);
        }
        Ok(())
    }

    /// The source's present time.
    fn operation_time(&mut self) -> u32 {
        self.run.seen = self.source.now;
        self.source.now
    }

    /// The time of a read of the present, which is not before `after`.
    fn read_time(&mut self, after: u32) -> u32 {
        let after = after.max(self.run.seen).min(self.source.now);
        let time = if self.rng.bool() { self.source.now } else { self.rng.u32(after..=self.source.now) };
        self.run.looked = self.run.looked.max(time);
        time
    }

    /// A time that is not before that of any of the last reads.
    fn read_until(&mut self) -> u32 {
        let until = self.rng.u32(self.run.looked..=self.source.now);
        (self.run.seen, self.run.looked) = (until.max(self.run.seen), 0);
        until
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(mut story) = self.story.take() {
            story.push_back(what(self));
            self.story = Some(story);
        }
    }
}

/// Plays a schedule. `Err`: what is wrong with it.
fn play(seed: u64, kind: (Focus, Order), bug: Option<Bug>) -> Result<(), String> {
    match World::new(seed, kind, bug, false).play() {
        Ok(()) | Err(Error::HistoryLost) => Ok(()),
        Err(Error::Wrong(what)) => Err(what),
        Err(error @ (Error::Away | Error::Rebuilt)) => Err(format!("nobody has dealt with {error:?}")),
    }
}

/// The same, told.
fn tell(seed: u64, kind: (Focus, Order), bug: Option<Bug>) -> VecDeque<String> {
    let mut world = World::new(seed, kind, bug, true);
    let _ = world.play();
    world.story.unwrap()
}

fn play_all(name: &str, seeds: Range<u64>, kind: (Focus, Order)) {
    if let Ok(seed) = std::env::var("DOCROW_SIM_SEED") {
        let seed = seed.parse().unwrap();
        tell(seed, kind, None).iter().for_each(|step| println!("{step}"));
        return assert_eq!(play(seed, kind, None), Ok(()));
    }
    let count = seeds.clone().count();
    for seed in seeds {
        if let Err(what) = play(seed, kind, None) {
            let story = tell(seed, kind, None);
            let last = story.iter().skip(story.len().saturating_sub(TOLD));
            last.for_each(|step| println!("{step}"));
            panic!(
                "{what}: DOCROW_SIM_SEED={seed} cargo test --release --lib simulation::{name} -- --nocapture"
            );
        }
    }
    // Past what captures the output of tests.
    let _ = writeln!(std::io::stderr(), "{name}: {count} schedules");
}

/// A planted bug is found.
fn find(bug: Bug, kind: (Focus, Order)) {
    let found = (0..5_000).find_map(|seed| play(seed, kind, Some(bug)).err().map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    let _ = writeln!(std::io::stderr(), "{bug:?} is found after {seed} schedules: {what}");
}

#[test]
fn docrow_stops_and_is_killed() {
    play_all("docrow_stops_and_is_killed", 0..2_500, (Focus::Docrow, Order::Document));
}

#[test]
fn postgres_is_away_and_set_back() {
    play_all("postgres_is_away_and_set_back", 0..2_500, (Focus::Postgres, Order::Document));
}

#[test]
fn the_state_directory_is_lost() {
    play_all("the_state_directory_is_lost", 0..2_500, (Focus::State, Order::Document));
}

#[test]
fn history_is_lost_and_collections_are_replaced() {
    play_all("history_is_lost_and_collections_are_replaced", 0..2_500, (Focus::Source, Order::Document));
}

#[test]
fn everything_goes_wrong() {
    play_all("everything_goes_wrong", 0..2_500, (Focus::All, Order::Document));
}

#[test]
fn transactions_are_kept_whole() {
    play_all("transactions_are_kept_whole", 0..2_500, (Focus::Docrow, Order::Commit));
}

#[test]
fn transactions_are_kept_whole_when_everything_goes_wrong() {
    play_all("transactions_are_kept_whole_when_everything_goes_wrong", 0..2_500, (Focus::All, Order::Commit));
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::PositionBeforeRows,
        Bug::TokenWithoutChanges,
        Bug::SpanBelieved,
        Bug::DirectTooEarly,
        Bug::DroppedWhenGone,
        Bug::AheadNotRaised,
        Bug::ChunkTwice,
    ] {
        let focus = if bug == Bug::SpanBelieved { Focus::Postgres } else { Focus::Docrow };
        find(bug, (focus, Order::Document));
    }
}

#[test]
fn survey() {
    for kind in [
        (Focus::Docrow, Order::Document),
        (Focus::Postgres, Order::Document),
        (Focus::State, Order::Document),
        (Focus::Source, Order::Document),
        (Focus::All, Order::Document),
        (Focus::Docrow, Order::Commit),
        (Focus::All, Order::Commit),
    ] {
        let mut found: std::collections::BTreeMap<String, (usize, u64)> = Default::default();
        let n: u64 = std::env::var("N").ok().map_or(1000, |n| n.parse().unwrap());
        for seed in 0..n {
            if let Err(what) = play(seed, kind, None) {
                let words: String = what.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
                found.entry(words).or_insert((0, seed)).0 += 1;
            }
        }
        println!("{kind:?}: {found:#?}");
    }
}
