//! A model test without servers: the whole of docrow as a deterministic simulation, thousands of schedules by seed.
//!
//! What decides is the program's own: [`route`](super::stream::route), [`partitioner`](super::stream::partitioner), [`batch`](super::apply::batch),
//! [`partial_update`](crate::model::partial_update), [`watermark`](super::apply::watermark), [`staleness`](super::apply::staleness), [`phase`](crate::model::phase),
//! [`repartition`](super::stream::repartition). What does the I/O around them is modelled, step by step as the program does it: the
//! intake ([`intake`], [`drain`]), the side of PostgreSQL ([`side`]) and the workers ([`worker`], [`write`]), and what they
//! speak to: MongoDB ([`source`]), the state directory ([`spool`]) and [`postgres`]. Documents have a few fields, each with
//! a version of its own ([`document`]). All that a schedule does is drawn from its seed: how everything is set
//! ([`settings`]), which of them takes the next step, what is written, what fails ([`faults`]).
//!
//! After each transaction it is checked ([`check`]) that no position is stored before the rows that it speaks of (G2), that
//! no row goes back (G3), that no chunk is copied twice (G5), and, in the order of commits, that all rows are of one time.
//! Where some fields of a row were looked up, each field of it must not go back, until the stream has passed the lookup:
//! from then on it must be of one time again, as any row. A row that somebody removes may stay away until it is written.
//! Meanwhile the log forgets whatever is in the spool, and that must not be asked for (G6), nor must the spool be taken for
//! lost when it is not. A schedule ends with faults and writes ended: everything must come to rest, and then the rows are
//! the documents (G1).
//!
//! Two processes at once, dead letters, mappings that evolve and the end of a backfill are left to other tests.
//!
//! What the model is worth is shown by bugs that are planted into it ([`Bug`]): each is found. A schedule that fails is
//! told by its last steps; `DOCROW_SIM_SEED=n` plays it again, and tells all of it.

mod check;
mod document;
mod drain;
mod faults;
mod intake;
mod postgres;
mod settings;
mod side;
mod source;
mod spool;
mod worker;
mod write;

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    io::Write,
    ops::Range,
    rc::Rc,
};

use fastrand::Rng;

use self::{
    faults::Excused,
    intake::{ApplyState, Intake, TailerEvents},
    postgres::{Contents, Postgres},
    settings::{Focus, Settings},
    side::Stage,
    source::{Name, Source},
    spool::Spool,
    worker::Crew,
};
use crate::{
    config::Order,
    model::{change::CollectionId, resync_reason::Reason},
};

/// How many steps of a failed schedule are told.
const TOLD: usize = 40;
/// What does not come to rest within so many steps has stalled.
const PATIENCE: usize = 20_000;

/// Why a step was not done.
#[derive(Debug)]
enum Error {
    /// PostgreSQL is away, or refuses.
    Away,
    /// PostgreSQL refuses rows.
    Refused,
    /// The state directory was made anew.
    Rebuilt,
    /// The state directory's disk is full.
    Full,
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
    /// It is not stored that rows show what was looked up.
    ShownNotRaised,
    /// Rows are written without a position, and it is not noted before up to when they show states.
    PartNotNoted,
    /// What an event says of some fields is written though the row may show them as they were later.
    PatchOfThePast,
    /// What is said of some fields is all that is left of a whole document before it.
    PatchOntoWhole,
    /// In the order of commits, what is tried again is looked up as it was when the workers began.
    TriedAgainAsItWas,
    /// Whoever has no space for a reply waits for it, and hands nothing out meanwhile.
    WaitsForSpace,
}

/// All that a kill ends.
struct Process {
    demand: ApplyState,
    notices: TailerEvents,
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
            demand: ApplyState::default(),
            notices: TailerEvents::default(),
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
    /// The collections that are stopped because the log has gone past them: somebody asks for a resync in the end.
    needs_resync: BTreeSet<Name>,
    /// It is a bad moment to be killed.
    is_bad_moment: bool,
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
            needs_resync: BTreeSet::new(),
            is_bad_moment: false,
            is_calm: false,
            story,
        }
    }

    /// The whole schedule.
    fn play(&mut self) -> Result<(), Error> {
        self.say(|world| format!("{:?}, {} collections", world.set, world.source.names().len()));
        if self.set.warms_up {
            self.is_calm = true;
            self.come_to_rest()?;
            self.is_calm = false;
        }
        for _ in 0..self.set.steps {
            self.step()?;
        }
        self.is_calm = true;
        self.say(|_| "faults and writes end".to_owned());
        self.pg.is_up = true;
        if self.set.order == Order::Commit {
            // The disk may be too small for a transaction whose rest is still to come.
            self.spool.empty();
        }
        if !self.run.stopped.is_empty() {
            self.crash();
        }
        self.come_to_rest()?;
        self.check_end()
    }

    fn come_to_rest(&mut self) -> Result<(), Error> {
        for _ in 0..PATIENCE {
            let asked = std::mem::take(&mut self.needs_resync);
            self.pg.now.resyncs.extend(asked.into_iter().map(|name| (name, Reason::Asked)));
            if self.rests() {
                return Ok(());
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
        let [intake, side, each] = if self.is_calm { [1; 3] } else { self.set.pace };
        match (self.rng.usize(..intake + side + each * workers), crew) {
            (roll, _) if roll < intake => self.step_intake(),
            (roll, Some(crew)) if roll >= intake + side => {
                self.step_worker(&crew, (roll - intake - side) / each)
            }
            _ => self.step_side(),
        }
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

    /// The time of a read of the present, which is not before `after`, nor before any time that the source has told.
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
        Err(error @ (Error::Away | Error::Refused | Error::Rebuilt | Error::Full)) => {
            Err(format!("nobody has dealt with {error:?}"))
        }
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
            panic!("{what}: DOCROW_SIM_SEED={seed} cargo test --lib simulation::{name} -- --nocapture");
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
    let (document, commit) = (Order::Document, Order::Commit);
    find(Bug::PositionBeforeRows, (Focus::Docrow, document));
    find(Bug::TokenWithoutChanges, (Focus::Docrow, document));
    find(Bug::SpanBelieved, (Focus::Postgres, document));
    find(Bug::DirectTooEarly, (Focus::Docrow, document));
    find(Bug::DroppedWhenGone, (Focus::Docrow, document));
    find(Bug::AheadNotRaised, (Focus::Docrow, document));
    find(Bug::AheadNotRaised, (Focus::Docrow, commit));
    find(Bug::ChunkTwice, (Focus::Docrow, document));
}

/// What frees the spool's disk does not wait for what wants it.
#[test]
fn waiting_for_space_is_found() {
    find(Bug::WaitsForSpace, (Focus::State, Order::Document));
}

#[test]
fn a_bound_that_is_not_stored_is_found() {
    find(Bug::ShownNotRaised, (Focus::Docrow, Order::Document));
}

#[test]
fn a_part_without_a_note_is_found() {
    find(Bug::PartNotNoted, (Focus::Docrow, Order::Document));
}

#[test]
fn a_part_without_a_note_is_found_in_the_order_of_commits() {
    find(Bug::PartNotNoted, (Focus::Docrow, Order::Commit));
}

#[test]
fn what_is_tried_again_as_it_was_is_found() {
    find(Bug::TriedAgainAsItWas, (Focus::Docrow, Order::Commit));
}

#[test]
fn a_patch_of_the_past_is_found() {
    find(Bug::PatchOfThePast, (Focus::Docrow, Order::Document));
    find(Bug::PatchOfThePast, (Focus::Docrow, Order::Commit));
}

#[test]
fn a_patch_in_place_of_a_whole_document_is_found() {
    find(Bug::PatchOntoWhole, (Focus::Docrow, Order::Document));
    find(Bug::PatchOntoWhole, (Focus::Docrow, Order::Commit));
}
