//! The world of one schedule: the three models, the settings and what is known of docrow's process. All parts
//! of the simulation share it.

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

/// Everything that a schedule consists of.
pub(super) struct SimulatedWorld {
    pub(super) rng: Rng,
    pub(super) settings: ScheduleSettings,
    pub(super) config: Config,
    pub(super) source: MongoModel,
    pub(super) spool: SpoolModel,
    pub(super) pg: PostgresModel,
    /// Mappings that were compiled before, by their text.
    pub(super) mappings: HashMap<String, Arc<Mapping>>,
    pub(super) excused: ExcusedLosses,
    /// Asks docrow's process to stop.
    pub(super) shutdown: Shutdown,
    /// What docrow's process shows of itself.
    pub(super) demand: Option<watch::Receiver<ApplyState>>,
    pub(super) notices: Option<watch::Receiver<TailerEvents>>,
    pub(super) vitals: Option<Arc<Vitals>>,
    /// From where docrow reads the stream next.
    pub(super) stream: Option<StreamStart>,
    /// The last start position that docrow took.
    pub(super) planned: Option<Position>,
    /// The latest time that MongoDB has reported to docrow.
    pub(super) seen: u32,
    /// Documents that docrow has looked up and not yet written, each with the time it read them as of.
    pub(super) looked_up: BTreeMap<(CollectionName, DocumentNumber), u32>,
    /// Repairs that docrow has taken on.
    pub(super) taken: BTreeSet<(CollectionName, DocumentNumber)>,
    /// Whether a crash right now would hurt most: something was written, and docrow has not seen the answer.
    pub(super) is_bad_moment: bool,
    /// Whether faults and writes are over.
    pub(super) is_calm: bool,
    pub(super) steps_left: usize,
    /// Whether everything has come to rest before the first fault, if the settings ask for that.
    pub(super) warmed_up: bool,
    /// How often docrow was restarted.
    pub(super) restarts: u32,
    /// Whether docrow was asked to stop for good.
    pub(super) is_over: bool,
    /// The first violation that was found.
    pub(super) wrong: Option<String>,
    /// Every step so far, if they are kept.
    pub(super) story: Option<VecDeque<String>>,
}

/// Losses that are no bug, because a fault has caused them.
#[derive(Debug, Default)]
pub(super) struct ExcusedLosses {
    /// docrow may find its spool lost.
    pub(super) spool: bool,
    /// docrow may find that MongoDB's log no longer reaches back far enough.
    pub(super) history: bool,
}

/// A handle on the world of a schedule.
#[derive(Clone)]
pub(super) struct SharedWorld(Arc<Mutex<SimulatedWorld>>);

impl SharedWorld {
    pub(super) fn new(seed: u64, focus: FaultFocus, order: Order, keeps_story: bool) -> Self {
        static CONFIG: OnceLock<Config> = OnceLock::new();
        let mut rng = Rng::with_seed(seed);
        let settings = ScheduleSettings::draw(&mut rng, focus, order);
        let (collections, docs) = (rng.usize(1..=3), rng.usize(1..=4));
        let source = MongoModel::new(&mut rng, collections, docs);
        let (steps_left, warmed_up) = (settings.steps, !settings.warms_up);
        Self(Arc::new(Mutex::new(SimulatedWorld {
            rng,
            settings,
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
            story: keeps_story.then(VecDeque::new),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SimulatedWorld> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws how long an answer takes. `None`: no time at all.
    pub(super) fn delay(&self) -> Option<Duration> {
        let mut world = self.lock();
        let longest = world.settings.answer;
        let delay = match world.rng.u8(..16) {
            0..8 => return None,
            8..15 => world.rng.u64(1..=longest),
            _ if world.is_calm => longest,
            _ => world.rng.u64(1..=20 * longest),
        };
        Some(Duration::from_millis(delay))
    }

    /// Lets as much time pass as an answer takes, so that other tasks run.
    pub(super) async fn pass(&self) {
        match self.delay() {
            Some(delay) => sleep(delay).await,
            None => yield_now().await,
        }
    }
}

impl SimulatedWorld {
    /// Draws whether PostgreSQL stops answering.
    pub(super) fn goes_silent(&mut self) -> bool {
        !self.is_calm && self.rng.u32(..1000) < self.settings.faults.silence
    }

    /// Whether PostgreSQL refuses a row with these fields.
    pub(super) fn refuses(&self, fields: &FieldVersions) -> bool {
        let refused = self.settings.refused;
        !self.is_calm && refused > 0 && fields.iter().any(|version| *version > 0 && version % refused == 0)
    }

    /// Compiles the text of a mapping, or returns what an earlier call made of it.
    pub(super) fn compile(&mut self, text: &str) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.mappings.get(text) {
            return Ok(mapping.clone());
        }
        let mapping = Arc::new(self.config.compile(&MappingSpec::parse(text, "simulation")?)?);
        self.mappings.insert(text.to_owned(), mapping.clone());
        Ok(mapping)
    }

    /// Fails the schedule; the first violation is what it reports.
    pub(super) fn report_violation(&mut self, what: String) {
        self.say(|_| format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    /// Adds a step to the story.
    pub(super) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(mut story) = self.story.take() {
            story.push_back(what(self));
            self.story = Some(story);
        }
    }
}
