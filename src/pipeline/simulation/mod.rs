//! A model test without servers: docrow itself in a deterministic simulation, thousands of schedules by seed.
//!
//! All of the program runs that is behind its [ports](super::ports): tailer, workers, writers, supervisor, snapshot,
//! evolution, fills and requests, in one thread and on virtual time ([`run`]). What they speak to is modelled: MongoDB
//! ([`source`], [`mongo`]), the state directory ([`spool`]) and PostgreSQL ([`postgres`], [`sessions`]). Documents have a
//! few fields, each with a version of its own ([`document`]). All that a schedule does is drawn from its seed: how
//! everything is set ([`settings`]), how long each answer takes, what is written, what fails ([`faults`]).
//!
//! After each transaction it is checked ([`check`]) that no position is stored before the rows that it speaks of (G2),
//! that no row goes back (G3), that no chunk is copied twice (G5), and, in the order of commits, that all rows are of one
//! time. Where some fields of a row were looked up, each field of it must not go back, until the stream has passed the
//! lookup: from then on it must be of one time again, as any row. A row that somebody removes may stay away until it is
//! written. Meanwhile the log forgets whatever is in the spool, and that must not be asked for (G6); the spool must hold
//! what is not on PostgreSQL's disk, and must not be taken for lost when it is not. A schedule ends with faults and writes
//! ended: within a few virtual minutes everything must come to rest, the rows be the documents (G1), and docrow stop when
//! it is told to. What neither moves nor ends fails by that.
//!
//! Two processes at once, masks, child tables, wider columns and the end of a backfill are left to other tests.
//!
//! What the simulation is worth is shown by bugs that are planted ([`Bug`]): each is found. A schedule that fails is told
//! by its last steps; `DOCROW_SIM_SEED=n` plays it again, and tells all of it.

mod check;
mod columns;
mod document;
mod faults;
mod mongo;
mod postgres;
mod run;
mod sessions;
mod settings;
mod source;
mod spool;
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    runtime::Builder,
    sync::watch,
    task::yield_now,
    time::{Instant, sleep},
};

use self::{
    document::Fields,
    faults::{Excused, Fate},
    postgres::Postgres,
    settings::{Focus, Settings},
    source::{Doc, Name, Source},
    spool::Spool,
};
pub(super) use super::planted::Bug;
use super::{
    planted,
    stream::channel::{ApplyState, TailerEvents},
};
use crate::{
    config::{Config, Order},
    error::{Code, Kind, Result},
    mapping::Mapping,
    model::{change::Position, resync_reason::Reason},
    process_status::Vitals,
    schema::MappingSpec,
    shutdown::Shutdown,
    source::StreamStart,
};

/// What does not come to rest within so long has stalled, and so has what does not stop.
const PATIENCE: Duration = Duration::from_secs(600);
/// Whoever has started docrow so often has no use for it.
const MOST_RESTARTS: u32 = 1_000;
const STOPS_WITHIN: Duration = Duration::from_secs(60);

struct World {
    rng: Rng,
    set: Settings,
    config: Config,
    source: Source,
    spool: Spool,
    pg: Postgres,
    mappings: HashMap<String, Arc<Mapping>>,
    excused: Excused,
    /// What docrow's process is told, and what is seen of it.
    shutdown: Shutdown,
    demand: Option<watch::Receiver<ApplyState>>,
    notices: Option<watch::Receiver<TailerEvents>>,
    vitals: Option<Arc<Vitals>>,
    /// Where it reads the stream on.
    stream: Option<StreamStart>,
    /// A start position that it has taken.
    planned: Option<Position>,
    /// The latest time that the source has told it.
    seen: u32,
    /// Documents that it has looked up since they were written, as of when.
    looked_up: BTreeMap<(Name, Doc), u32>,
    /// Repairs that it has taken.
    taken: BTreeSet<(Name, Doc)>,
    /// It is a bad moment to be killed.
    is_bad_moment: bool,
    /// Whether faults and writes are over.
    is_calm: bool,
    steps_left: usize,
    warmed_up: bool,
    /// How often docrow was started again.
    restarts: u32,
    /// Whether docrow is told to stop for good.
    is_over: bool,
    wrong: Option<String>,
    story: Option<VecDeque<String>>,
}

/// What everybody has of it.
#[derive(Clone)]
struct Sim(Arc<Mutex<World>>);

/// How a process of docrow ended.
enum Ended {
    Killed,
    ByItself(Result<()>),
    /// The schedule is over.
    Over,
}

impl Sim {
    fn new(seed: u64, (focus, order): (Focus, Order), tells: bool) -> Self {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        let mut rng = Rng::with_seed(seed);
        let set = Settings::of(&mut rng, focus, order);
        let (collections, docs) = (rng.usize(1..=3), rng.usize(1..=4));
        let source = Source::new(&mut rng, collections, docs);
        let (steps_left, warmed_up) = (set.steps, !set.warms_up);
        Self(Arc::new(Mutex::new(World {
            rng,
            set,
            config: CONFIG.get_or_init(run::config).clone(),
            source,
            spool: Spool::default(),
            pg: Postgres::new(),
            mappings: HashMap::new(),
            excused: Excused::default(),
            shutdown: Shutdown::default(),
            demand: None,
            notices: None,
            vitals: None,
            stream: None,
            planned: None,
            seen: 0,
            looked_up: BTreeMap::new(),
            taken: BTreeSet::new(),
            is_bad_moment: false,
            is_calm: false,
            steps_left,
            warmed_up,
            restarts: 0,
            is_over: false,
            wrong: None,
            story: tells.then(VecDeque::new),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an answer takes; `None`: no time.
    fn delay(&self) -> Option<Duration> {
        let mut world = self.lock();
        let longest = world.set.answer;
        let delay = match world.rng.u8(..16) {
            0..8 => return None,
            8..15 => world.rng.u64(1..=longest),
            _ if world.is_calm => longest,
            _ => world.rng.u64(1..=20 * longest),
        };
        Some(Duration::from_millis(delay))
    }

    /// Lets some time pass: others go on.
    async fn pass(&self) {
        match self.delay() {
            Some(delay) => sleep(delay).await,
            None => yield_now().await,
        }
    }

    /// The whole schedule. `Err`: what is wrong.
    fn play(&self) -> Result<(), String> {
        self.lock().say(|world| format!("{:?}, {} collections", world.set, world.source.names().len()));
        loop {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let seed = self.lock().rng.u64(..);
            fastrand::seed(seed);
            let ended = runtime.block_on(async {
                tokio::select! {
                    biased;
                    ended = self.drive() => ended,
                    ended = run::docrow(self.clone()) => Ended::ByItself(ended),
                }
            });
            drop(runtime);
            let mut world = self.lock();
            if let Some(wrong) = world.wrong.take() {
                return Err(wrong);
            }
            match ended {
                Ended::Over => return Ok(()),
                Ended::ByItself(Ok(())) if world.is_over => return Ok(()),
                Ended::Killed | Ended::ByItself(Ok(())) => {}
                Ended::ByItself(Err(error)) => {
                    world.say(|_| format!("docrow ends: {error}"));
                    match error.kind() {
                        Kind::HistoryLost if world.excused.history => return Ok(()),
                        _ if error.code() == Code::AllStopped => {}
                        _ => return Err(format!("docrow ends: {error}")),
                    }
                }
            }
            world.restart();
            if world.restarts > MOST_RESTARTS {
                return Err("docrow ends again and again".to_owned());
            }
        }
    }

    /// Writes, and lets things go wrong, beside docrow; then waits until all has come to rest.
    async fn drive(&self) -> Ended {
        if let Some(ended) = self.stir().await {
            return ended;
        }
        self.lock().calm_down();
        if !self.comes_to_rest().await {
            return Ended::Over;
        }
        {
            let mut world = self.lock();
            world.say(|_| "all has come to rest, and docrow is told to stop".to_owned());
            world.is_over = true;
            world.shutdown.request();
        }
        sleep(STOPS_WITHIN).await;
        self.lock().is_wrong("docrow does not stop".to_owned());
        Ended::Over
    }

    /// The stirring part of a schedule. `Some`: docrow's process is over.
    async fn stir(&self) -> Option<Ended> {
        let is_cold = {
            let mut world = self.lock();
            world.is_calm |= !world.warmed_up;
            !world.warmed_up
        };
        if is_cold {
            if !self.comes_to_rest().await {
                return Some(Ended::Over);
            }
            let mut world = self.lock();
            (world.is_calm, world.warmed_up) = (false, true);
        }
        let mut stopped_at = None;
        while self.lock().steps_left > 0 {
            let step = {
                let mut world = self.lock();
                let longest = world.set.step;
                Duration::from_millis(world.rng.u64(..=longest))
            };
            sleep(step).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return Some(Ended::Over);
            }
            world.steps_left -= 1;
            if world.rng.u32(..1000) < world.set.writes {
                let World { source, rng, .. } = &mut *world;
                let said = source.write(rng);
                world.say(|_| said);
            }
            if world.fail() == Fate::IsKilled {
                world.say(|_| "docrow is killed".to_owned());
                return Some(Ended::Killed);
            }
            if world.shutdown.is_requested()
                && Instant::now() - *stopped_at.get_or_insert_with(Instant::now) > STOPS_WITHIN
            {
                world.is_wrong("docrow does not stop".to_owned());
                return Some(Ended::Over);
            }
        }
        None
    }

    /// Waits until nothing is left to do. False: something is wrong.
    async fn comes_to_rest(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(Duration::from_millis(500)).await;
            let mut world = self.lock();
            if world.wrong.is_some() {
                return false;
            }
            world.help();
            let Some(left) = world.is_left() else { return true };
            if Instant::now() > deadline {
                let places = world.vitals.as_ref().map(|vitals| vitals.places().words()).unwrap_or_default();
                world.is_wrong(format!("it does not come to rest: {left}; {places}"));
                return false;
            }
        }
    }
}

impl World {
    /// Faults and writes end.
    fn calm_down(&mut self) {
        if std::mem::replace(&mut self.is_calm, true) {
            return;
        }
        self.say(|_| "faults and writes end".to_owned());
        self.set.refused = 0;
        if !self.pg.is_up {
            (self.pg.is_up, self.pg.starts) = (true, self.pg.starts + 1);
        }
        // The disk may be too small for a transaction whose rest is still to come.
        self.spool.empty();
        // What somebody has removed is repaired.
        for (name, doc) in std::mem::take(&mut self.taken) {
            self.pg.now.repairs.entry(name).or_default().insert(doc);
        }
    }

    /// What people do in the end: they have dead letters tried again, and collections copied again that are stopped.
    fn help(&mut self) {
        if self.warmed_up {
            self.ask_for_retries();
        }
        let stopped = self.pg.now.mapped.iter().filter(|(_, mapped)| mapped.record.stopped.is_some());
        let stopped: Vec<Name> = stopped.map(|(name, _)| *name).collect();
        self.pg.now.resyncs.extend(stopped.into_iter().map(|name| (name, Reason::Asked)));
    }

    fn is_silent(&mut self) -> bool {
        !self.is_calm && self.rng.u32(..1000) < self.set.faults.slow
    }

    /// Whether PostgreSQL refuses a row that shows this.
    fn refuses(&self, fields: &Fields) -> bool {
        let refused = self.set.refused;
        !self.is_calm && refused > 0 && fields.iter().any(|version| *version > 0 && version % refused == 0)
    }

    fn compile(&mut self, text: &str) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.mappings.get(text) {
            return Ok(mapping.clone());
        }
        let mapping = Arc::new(self.config.compile(&MappingSpec::parse(text, "simulation")?)?);
        self.mappings.insert(text.to_owned(), mapping.clone());
        Ok(mapping)
    }

    /// Notes what must not be.
    fn is_wrong(&mut self, what: String) {
        self.say(|_| format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(mut story) = self.story.take() {
            story.push_back(what(self));
            self.story = Some(story);
        }
    }
}
