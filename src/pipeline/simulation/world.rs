//! All that the parts of a schedule share, and their handle on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use tokio::{sync::watch, task::yield_now, time::sleep};

use super::{
    document::FieldVersions,
    mongo::{CollectionName, DocumentNumber, MongoModel},
    postgres::PostgresModel,
    settings::{FaultFocus, ScheduleSettings},
    spool::SpoolModel,
};
use crate::{
    config::{Config, Order},
    error::Result,
    mapping::Mapping,
    model::change::Position,
    pipeline::stream::channel::{ApplyState, TailerEvents},
    process_status::Vitals,
    schema::MappingSpec,
    shutdown::Shutdown,
    source::StreamStart,
};

pub(super) struct SimulatedWorld {
    pub(super) rng: Rng,
    pub(super) set: ScheduleSettings,
    pub(super) config: Config,
    pub(super) source: MongoModel,
    pub(super) spool: SpoolModel,
    pub(super) pg: PostgresModel,
    pub(super) mappings: HashMap<String, Arc<Mapping>>,
    pub(super) excused: ExcusedLosses,
    /// What docrow's process is told, and what is seen of it.
    pub(super) shutdown: Shutdown,
    pub(super) demand: Option<watch::Receiver<ApplyState>>,
    pub(super) notices: Option<watch::Receiver<TailerEvents>>,
    pub(super) vitals: Option<Arc<Vitals>>,
    /// Where it reads the stream on.
    pub(super) stream: Option<StreamStart>,
    /// A start position that it has taken.
    pub(super) planned: Option<Position>,
    /// The latest time that the source has told it.
    pub(super) seen: u32,
    /// Documents that it has looked up since they were written, as of when.
    pub(super) looked_up: BTreeMap<(CollectionName, DocumentNumber), u32>,
    /// Repairs that it has taken.
    pub(super) taken: BTreeSet<(CollectionName, DocumentNumber)>,
    /// It is a bad moment to be killed.
    pub(super) is_bad_moment: bool,
    /// Whether faults and writes are over.
    pub(super) is_calm: bool,
    pub(super) steps_left: usize,
    pub(super) warmed_up: bool,
    /// How often docrow was started again.
    pub(super) restarts: u32,
    /// Whether docrow is told to stop for good.
    pub(super) is_over: bool,
    pub(super) wrong: Option<String>,
    pub(super) story: Option<VecDeque<String>>,
}

/// What faults have made possible that else must not happen.
#[derive(Debug, Default)]
pub(super) struct ExcusedLosses {
    /// That the spool is found lost.
    pub(super) spool: bool,
    /// That history is lost.
    pub(super) history: bool,
}

/// What everybody has of it.
#[derive(Clone)]
pub(super) struct SharedWorld(Arc<Mutex<SimulatedWorld>>);

impl SharedWorld {
    pub(super) fn new(seed: u64, focus: FaultFocus, order: Order, tells: bool) -> Self {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        let mut rng = Rng::with_seed(seed);
        let set = ScheduleSettings::draw(&mut rng, focus, order);
        let (collections, docs) = (rng.usize(1..=3), rng.usize(1..=4));
        let source = MongoModel::new(&mut rng, collections, docs);
        let (steps_left, warmed_up) = (set.steps, !set.warms_up);
        Self(Arc::new(Mutex::new(SimulatedWorld {
            rng,
            set,
            config: CONFIG.get_or_init(Config::with_defaults).clone(),
            source,
            spool: SpoolModel::default(),
            pg: PostgresModel::new(),
            mappings: HashMap::new(),
            excused: ExcusedLosses::default(),
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

    pub(super) fn lock(&self) -> MutexGuard<'_, SimulatedWorld> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long an answer takes; `None`: no time.
    pub(super) fn delay(&self) -> Option<Duration> {
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
    pub(super) async fn pass(&self) {
        match self.delay() {
            Some(delay) => sleep(delay).await,
            None => yield_now().await,
        }
    }
}

impl SimulatedWorld {
    pub(super) fn is_silent(&mut self) -> bool {
        !self.is_calm && self.rng.u32(..1000) < self.set.faults.slow
    }

    /// Whether PostgreSQL refuses a row that shows this.
    pub(super) fn refuses(&self, fields: &FieldVersions) -> bool {
        let refused = self.set.refused;
        !self.is_calm && refused > 0 && fields.iter().any(|version| *version > 0 && version % refused == 0)
    }

    pub(super) fn compile(&mut self, text: &str) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.mappings.get(text) {
            return Ok(mapping.clone());
        }
        let mapping = Arc::new(self.config.compile(&MappingSpec::parse(text, "simulation")?)?);
        self.mappings.insert(text.to_owned(), mapping.clone());
        Ok(mapping)
    }

    /// Notes what must not be.
    pub(super) fn is_wrong(&mut self, what: String) {
        self.say(|_| format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    pub(super) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(mut story) = self.story.take() {
            story.push_back(what(self));
            self.story = Some(story);
        }
    }
}
