//! The plan of a seed: a configuration and a list of steps, which depend only on the seed. Pure.
//!
//! A step can be executed whatever preceded it, so that any of them may be left out. Each plan is random
//! throughout, and has one [`Scenario`] in its middle: events that must coincide for some faults to appear,
//! which hardly ever happens by chance.

use std::fmt;

use fastrand::Rng;
use mongodb::bson::{Bson, RawArrayBuf, RawDocument, RawDocumentBuf, raw::RawBsonRef, rawdoc};

use super::{
    documents::{self, Ids, one_of, rarely},
    scenarios::Scenario,
    survivable::survivable,
    updates,
};
use crate::support::Capability;

/// The collections that random writes go to.
pub(super) const COLLECTIONS: [&str; 4] = ["people", "orders", "things", "odd"];
/// A collection with many small documents.
pub(super) const BIG: &str = "big";
/// How long the text of a value may be in a list of steps.
const SHOWN: usize = 60;

/// All of a seed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
    /// Whether each step is logged before it is executed.
    pub(super) aloud: bool,
}

impl Plan {
    /// What it needs that not every MongoDB has.
    pub(super) fn needs(&self) -> Vec<Capability> {
        let past = (self.setup.order == "commit").then_some(Capability::StatesOfThePast);
        let clustered = (self.setup.scenario == Scenario::Clustered).then_some(Capability::Clustered);
        past.into_iter().chain(clustered).collect()
    }
}

/// How docrow is configured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setup {
    pub(super) scenario: Scenario,
    pub(super) partitions: u8,
    pub(super) order: &'static str,
    pub(super) mapping: Mapped,
    pub(super) on_drop: &'static str,
    pub(super) evolve: &'static str,
    pub(super) batch_rows: u16,
    /// The type of the key in the mapping file.
    pub(super) key: &'static str,
}

/// Where mappings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    Auto,
    /// There are mapping files, which grow, for [`BIG`] and the first of [`COLLECTIONS`].
    Files,
    /// Document mode, in one of the two forms of JSON.
    Document(&'static str),
}

/// A table lock of another session.
pub(super) const LOCKS: [&str; 3] = ["ACCESS SHARE", "SHARE", "ACCESS EXCLUSIVE"];
/// Manual edits of rows, of a table `t` with the key `k`, of the one numbered `n`.
pub(super) const DAMAGES: [&str; 6] = [
    "DELETE FROM t WHERE k = (SELECT k FROM t ORDER BY k OFFSET n LIMIT 1)",
    "UPDATE t SET _extra = NULL WHERE k = (SELECT k FROM t ORDER BY k OFFSET n LIMIT 1)",
    "UPDATE t SET _extra = '{\"made.up\": true}' WHERE k = (SELECT k FROM t ORDER BY k OFFSET n LIMIT 1)",
    "UPDATE t SET c = NULL WHERE k = (SELECT k FROM t ORDER BY k OFFSET n LIMIT 1)",
    "UPDATE t SET c = now() WHERE k = (SELECT k FROM t ORDER BY k OFFSET n LIMIT 1)",
    "DELETE FROM t_lines WHERE k = (SELECT k FROM t_lines ORDER BY k OFFSET n LIMIT 1) AND _ord = 0",
];

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A command of the database: writes, and operations on whole collections.
    Command(RawDocumentBuf),
    /// Several in a transaction.
    Transaction(Vec<RawDocumentBuf>),
    /// This many small documents appear at once.
    Many(&'static str, i32),
    Rename(&'static str, &'static str),
    /// A collection of another database is renamed to this name.
    MoveIn(&'static str),
    /// From now on, numbers of a collection are incremented continuously.
    Storm(&'static str),
    Calm,
    Pause(u64),
    /// Everything is applied before the next step.
    CaughtUp,
    /// This new column of [`BIG`] is being filled, at least for a moment.
    UntilFilling(&'static str),
    /// Some chunks are copied, and some are not.
    UntilCopying,
    Start,
    /// By SIGTERM; it stays down.
    Stop,
    Restart,
    Kill,
    /// The state directory is lost, too.
    KillAndForget,
    /// A copy of the state directory is saved, while docrow is down.
    KeepState,
    /// That copy is restored, after a kill.
    OldState,
    CutMongodb,
    CutPostgres,
    Lock(&'static str, &'static str, u64),
    /// Mapping files get this version, if it is a later one, and docrow is restarted.
    Grow(usize),
    Resync(&'static str),
    Retry,
    Damage(&'static str, &'static str, u8),
    Repair,
}

/// The plan of this seed.
pub(super) fn plan(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let scenario = Scenario::of(seed);
    let setup = setup(&mut rng, scenario);
    let mut writer = Author::new(&mut rng, &setup);
    for collection in 0..writer.collections.len() {
        for _ in 0..3 {
            writer.insert(collection);
        }
    }
    writer.random(4, 0);
    let (before, after) = scenario.steps(writer.rng);
    writer.steps.extend(before);
    writer.steps.push(Step::Start);
    if writer.rng.bool() {
        writer.steps.push(Step::CaughtUp);
    }
    writer.random(30, 4);
    for step in after {
        writer.steps.push(step);
        writer.random(2, 12);
    }
    writer.random(30, 4);
    let steps = survivable(seed, writer.steps);
    Plan { seed, setup, steps, aloud: false }
}

fn setup(rng: &mut Rng, scenario: Scenario) -> Setup {
    let document = one_of(rng, &["relaxed", "canonical"]);
    let mapping = one_of(rng, &[Mapped::Auto, Mapped::Auto, Mapped::Files, Mapped::Document(document)]);
    // Two changes at a time would never catch up with a storm of updates over many documents.
    let least = if scenario.has_many_documents() { 100 } else { 1 };
    Setup {
        scenario,
        partitions: one_of(rng, &[1, 2, 4]),
        order: one_of(rng, &["document", "document", "commit"]),
        mapping: scenario.mapping().unwrap_or(mapping),
        on_drop: one_of(rng, &["keep", "truncate", "drop"]),
        evolve: one_of(rng, &["add", "add", "freeze"]),
        batch_rows: one_of(rng, &[2, 7, 100, 1000]).max(least),
        key: one_of(rng, &["bigint", "text"]),
    }
}

/// Writes random steps.
struct Author<'a> {
    rng: &'a mut Rng,
    collections: Vec<(&'static str, Ids)>,
    grows: bool,
    steps: Vec<Step>,
}

impl<'a> Author<'a> {
    fn new(rng: &'a mut Rng, setup: &Setup) -> Self {
        let count = rng.usize(2..=COLLECTIONS.len());
        let mut collections: Vec<_> = COLLECTIONS[..count].iter().map(|name| (*name, Ids::Ints)).collect();
        for (name, ids) in &mut collections {
            let wants_ints = *name == COLLECTIONS[0] && setup.key == "bigint" && rng.bool();
            *ids = if wants_ints { Ids::Ints } else { one_of(rng, &Ids::ALL) };
        }
        let grows = setup.scenario != Scenario::GrownFill;
        let mut author = Self { rng, collections, grows, steps: Vec::new() };
        if setup.scenario == Scenario::Clustered {
            let clustered =
                rawdoc! { "create": "odd", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
            author.steps.push(Step::Command(clustered));
            author.collections.retain(|(name, _)| *name != "odd");
            author.collections.push(("odd", Ids::Mixed));
        }
        author
    }

    fn insert(&mut self, collection: usize) {
        let (name, ids) = self.collections[collection];
        let mut documents = RawArrayBuf::new();
        (0..8).for_each(|_| documents.push(documents::document(self.rng, ids)));
        self.steps.push(Step::Command(rawdoc! { "insert": name, "documents": documents, "ordered": false }));
    }

    /// This many steps, of which one in `events` is no write.
    fn random(&mut self, count: usize, events: u32) {
        for _ in 0..count {
            if events > 0 && rarely(self.rng, events) {
                self.event();
            } else {
                let write = self.write();
                self.steps.push(Step::Command(write));
            }
        }
    }

    fn write(&mut self) -> RawDocumentBuf {
        let (name, ids) = one_of(self.rng, &self.collections);
        updates::write(self.rng, name, ids)
    }

    fn name(&mut self) -> &'static str {
        one_of(self.rng, &self.collections).0
    }

    fn event(&mut self) {
        let (name, other) = (self.name(), one_of(self.rng, &COLLECTIONS));
        let millis = self.rng.u64(..400);
        let step = match self.rng.u8(..48) {
            0..14 => Step::Pause(millis),
            14..17 => Step::Transaction((0..self.rng.usize(2..6)).map(|_| self.write()).collect()),
            17..20 => Step::CaughtUp,
            20 => Step::Restart,
            21 | 22 => Step::Kill,
            23 => Step::KillAndForget,
            24 => Step::KeepState,
            25 => Step::OldState,
            26 => Step::CutMongodb,
            27 => Step::CutPostgres,
            28 | 29 => Step::Lock(name, one_of(self.rng, &LOCKS), millis * 3),
            30 | 31 => Step::Resync(name),
            32 => Step::Retry,
            33 => {
                let how = one_of(self.rng, &DAMAGES);
                Step::Damage(name, how, self.rng.u8(..5))
            }
            34 => Step::Repair,
            // If a scenario extends a file, it must be the first.
            35 | 36 if self.grows => Step::Grow(self.rng.usize(1..4)),
            35 | 36 => Step::Restart,
            37 => Step::Command(rawdoc! { "drop": name }),
            38 => Step::Rename(name, other),
            39 => Step::MoveIn(other),
            40 | 41 => Step::Command(out(name, other)),
            42 => Step::Command(rawdoc! {
                "aggregate": name, "cursor": {},
                "pipeline": [{ "$set": { "n": 7 } }, { "$merge": { "into": other, "whenMatched": "merge" } }],
            }),
            43 => Step::Stop,
            44 => Step::Start,
            45 => Step::Storm(name),
            46 => Step::Calm,
            _ => Step::Command(rawdoc! { "delete": name, "deletes": [{ "q": {}, "limit": 0 }] }),
        };
        self.steps.push(step);
    }
}

/// One collection replaces another, or a new one appears.
pub(super) fn out(from: &str, to: &str) -> RawDocumentBuf {
    rawdoc! { "aggregate": from, "cursor": {}, "pipeline": [{ "$set": { "made": "by $out" } }, { "$out": to }] }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, partitions, order, mapping, on_drop, evolve, batch_rows, key } = self;
        write!(
            f,
            "{scenario:?}: {partitions} partitions, order {order}, mapping {mapping:?} (key {key}), on_drop {on_drop}, \
             evolve {evolve}, batches of {batch_rows}"
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => f.write_str(&shown(command)),
            Self::Transaction(commands) => {
                let commands: Vec<_> = commands.iter().map(|command| shown(command)).collect();
                write!(f, "in a transaction: {}", commands.join("; "))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// A document as readable text; long values are cut.
pub(super) fn shown(document: &RawDocument) -> String {
    let fields = document.iter().map(|field| {
        let (name, value) = field.unwrap();
        format!("{:?}: {}", name.as_str(), shown_value(value))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
}

fn shown_value(value: RawBsonRef<'_>) -> String {
    match value {
        RawBsonRef::Document(document) => shown(document),
        RawBsonRef::Array(array) => {
            let elements = array.into_iter().map(|element| shown_value(element.unwrap()));
            format!("[{}]", elements.collect::<Vec<_>>().join(", "))
        }
        value => {
            let text = Bson::try_from(value).unwrap().into_canonical_extjson().to_string();
            let cut: String = text.chars().take(SHOWN).collect();
            if cut.len() < text.len() { format!("{cut}… ({} bytes)", text.len()) } else { cut }
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_plan() {
    // Not by `PartialEq`: a NaN is not itself.
    let of = |seed| format!("{:?}", plan(seed));
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let scenarios: std::collections::BTreeSet<_> =
        (0..100).map(|seed| format!("{:?}", plan(seed).setup.scenario)).collect();
    assert_eq!(scenarios.len(), Scenario::ALL.len(), "{scenarios:?}");
}
