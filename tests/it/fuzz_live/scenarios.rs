//! Events that must coincide for some faults to appear: a fill of new columns and the end of an attempt, a
//! copy and a kill. Pure.

use fastrand::Rng;
use mongodb::bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::{
    documents::{one_of, rarely},
    plan::{BIG, DAMAGES, LOCKS, Mapped, Step, out},
};

/// How many documents are enough for a fill or a copy to take a while.
const MANY: i32 = 8000;

/// The core of a seed: the seed's number determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// An attempt ends while a column that a mapping file added is being filled, under writes.
    GrownFill,
    /// A kill, or the end of an attempt, while a new field becomes a column, under writes.
    EvolvedFill,
    /// Operations on collections, or on docrow, during the copy.
    Copying,
    /// Collections are dropped, renamed, replaced and created again.
    Whole,
    /// Equal `_id`s of other types, several fields of one name, and a docrow that has an old state.
    Equal,
    /// Rows were changed by hand.
    Damaged,
    /// Locks of other sessions, and connections that are cut.
    Locked,
    /// Whole numbers that become fractions, columns of names that docrow uses itself.
    Widened,
    /// A clustered collection with `_id`s of all types.
    Clustered,
    /// Nothing in particular.
    Random,
}

impl Scenario {
    pub(super) const ALL: [Self; 10] = [
        Self::GrownFill,
        Self::EvolvedFill,
        Self::Copying,
        Self::Whole,
        Self::Equal,
        Self::Damaged,
        Self::Locked,
        Self::Widened,
        Self::Clustered,
        Self::Random,
    ];

    /// Cyclically, so that a few consecutive seeds include one of each.
    pub(super) fn of(seed: u64) -> Self {
        Self::ALL[(seed % Self::ALL.len() as u64) as usize]
    }

    /// The mapping that it needs, if any.
    pub(super) fn mapping(self) -> Option<Mapped> {
        match self {
            Self::GrownFill => Some(Mapped::Files),
            Self::EvolvedFill | Self::Damaged | Self::Widened => Some(Mapped::Auto),
            _ => None,
        }
    }

    /// Whether it has enough documents for a fill or a copy to take a while.
    pub(super) fn has_many_documents(self) -> bool {
        matches!(self, Self::GrownFill | Self::EvolvedFill | Self::Copying)
    }

    /// The events before docrow is first started, and while it runs.
    pub(super) fn steps(self, rng: &mut Rng) -> (Vec<Step>, Vec<Step>) {
        let many = Step::Many(BIG, MANY);
        match self {
            Self::GrownFill => {
                let mut after = vec![Step::CaughtUp, Step::Storm(BIG), Step::Grow(1)];
                // In the middle of a page, and then of a wait for a lock.
                after.extend([Step::UntilFilling("x"), Step::Restart, Step::UntilFilling("x")]);
                after.extend(held(rng));
                after.extend(end_of_turn(rng));
                after.extend([Step::Pause(rng.u64(..1500)), Step::Restart, Step::Calm]);
                (vec![many], after)
            }
            Self::EvolvedFill => {
                let mut after = vec![Step::CaughtUp, Step::Storm(BIG), Step::Command(grow_all())];
                after.push(Step::UntilFilling("grown"));
                after.push(one_of(rng, &[Step::Kill, Step::KillAndForget, Step::OldState]));
                after.push(Step::UntilFilling("grown"));
                after.extend(held(rng));
                after.extend(end_of_turn(rng));
                after.extend([Step::Pause(rng.u64(..1000)), Step::Restart, Step::Calm]);
                (vec![many], after)
            }
            Self::Copying => {
                let mut after = vec![Step::UntilCopying];
                after.extend(trouble(rng));
                after.extend([Step::CaughtUp, Step::Resync("*"), Step::UntilCopying]);
                after.extend(trouble(rng));
                (vec![many, Step::Many("things", 500)], after)
            }
            Self::Whole => (vec![Step::Many("things", 500)], whole(rng)),
            Self::Equal => (vec![], equal(rng)),
            Self::Damaged => {
                let mut after = vec![Step::CaughtUp];
                for _ in 0..3 {
                    let (name, how) = (one_of(rng, &["people", "orders"]), one_of(rng, &DAMAGES));
                    after.extend([Step::Damage(name, how, rng.u8(..5)), touch(name)]);
                    after.push(Step::Pause(rng.u64(..300)));
                }
                after.extend([Step::Repair, Step::CaughtUp]);
                (vec![], after)
            }
            Self::Locked => {
                let mut after = vec![Step::CaughtUp];
                for _ in 0..3 {
                    let lock = Step::Lock(
                        one_of(rng, &["people", "orders"]),
                        one_of(rng, &LOCKS),
                        rng.u64(200..1500),
                    );
                    after.extend([lock, touch("people"), touch("orders")]);
                    after.push(one_of(
                        rng,
                        &[Step::CutPostgres, Step::CutMongodb, Step::Pause(100), Step::Restart],
                    ));
                }
                (vec![], after)
            }
            Self::Widened => (vec![Step::Many(BIG, 300)], widened(rng)),
            Self::Clustered => (vec![], vec![Step::Resync("odd"), Step::Kill, Step::CaughtUp]),
            Self::Random => (vec![], vec![]),
        }
    }
}

/// Mostly, another session's lock interrupts a fill: it is not over before another event.
fn held(rng: &mut Rng) -> Vec<Step> {
    if rarely(rng, 4) { vec![] } else { vec![Step::Lock(BIG, "SHARE", 2500), Step::Pause(200)] }
}

/// Ends an attempt, without a kill: work in progress must release what others wait for.
fn end_of_turn(rng: &mut Rng) -> Vec<Step> {
    match rng.u8(..8) {
        0..2 => vec![Step::Restart],
        2..4 => vec![Step::Resync(BIG)],
        4 => vec![Step::Command(rawdoc! { "drop": "things" })],
        5 => vec![Step::Command(out("people", "things"))],
        6 => vec![Step::Retry],
        _ => vec![Step::Repair],
    }
}

/// Ends an attempt, or a run.
fn trouble(rng: &mut Rng) -> Vec<Step> {
    let extent = if rarely(rng, 2) { BIG } else { "*" };
    match rng.u8(..12) {
        0..3 => vec![Step::Restart],
        3..6 => vec![Step::Resync(extent)],
        6 => vec![Step::Command(out("people", "things"))],
        7 => vec![Step::Rename("people", "orders")],
        8 => vec![Step::Command(rawdoc! { "drop": "things" }), Step::Many("things", 300)],
        9 => vec![Step::Kill],
        10 => vec![Step::CutPostgres, Step::Retry],
        _ => vec![Step::Lock(BIG, one_of(rng, &LOCKS), 1000), Step::Restart],
    }
}

/// A field that all documents get.
fn grow_all() -> RawDocumentBuf {
    rawdoc! { "update": BIG, "updates": [{ "q": {}, "u": { "$set": { "grown": "by all" } }, "multi": true }] }
}

/// A change of every document.
fn touch(collection: &str) -> Step {
    Step::Command(rawdoc! {
        "update": collection,
        "updates": [{ "q": {}, "u": [{ "$set": { "touched": { "$add": [{ "$ifNull": ["$touched", 0] }, 1] } } }], "multi": true }],
    })
}

fn whole(rng: &mut Rng) -> Vec<Step> {
    let mut steps = vec![Step::CaughtUp];
    for _ in 0..4 {
        let (name, other) =
            (one_of(rng, &["people", "orders", "things"]), one_of(rng, &["orders", "things", "odd", "late"]));
        steps.push(match rng.u8(..8) {
            0 => Step::Command(rawdoc! { "drop": name }),
            1 | 2 => Step::Rename(name, other),
            3 => Step::MoveIn(other),
            4 | 5 => Step::Command(out(name, other)),
            6 => Step::Resync(name),
            _ => Step::Many(other, 200),
        });
        steps.extend([touch(other), Step::Pause(rng.u64(..1200)), touch(name)]);
        steps
            .push(one_of(rng, &[Step::Kill, Step::Restart, Step::Pause(10), Step::CaughtUp, Step::OldState]));
    }
    steps
}

fn equal(rng: &mut Rng) -> Vec<Step> {
    let keyed = |n: i64| rawdoc! { "t": n, "of": { "n": 1 } };
    let one = rng.i32(100..200);
    vec![
        Step::Command(rawdoc! { "insert": "things", "documents": [
            { "_id": keyed(one.into()), "n": 1, "name": "first" }, { "_id": one, "n": 1 }, { "_id": one + 1, "n": 1 },
        ] }),
        Step::Command(doubled(one + 2)),
        Step::CaughtUp,
        Step::KeepState,
        Step::Command(rawdoc! { "update": "things", "updates": [
            { "q": { "_id": keyed(one.into()) }, "u": { "_id": { "t": one, "of": { "n": 1.0 } }, "n": 2 } },
            { "q": { "_id": one }, "u": { "_id": f64::from(one), "n": 2 } },
            { "q": { "_id": one + 1 }, "u": { "_id": i64::from(one + 1), "n": 2 } },
            { "q": { "_id": one + 2 }, "u": { "$set": { "a": 7 } } },
        ] }),
        one_of(rng, &[Step::CaughtUp, Step::Pause(0), Step::Pause(200)]),
        one_of(rng, &[Step::OldState, Step::KillAndForget, Step::Kill, Step::Restart]),
        Step::CaughtUp,
        Step::Command(rawdoc! { "update": "things", "updates": [
            { "q": { "_id": { "t": one, "of": { "n": 1 } } }, "u": { "$inc": { "n": 1 } } },
            { "q": { "_id": one }, "u": { "$inc": { "n": 1 } } },
            { "q": { "_id": one + 2 }, "u": { "$unset": { "a": 1 } } },
        ] }),
    ]
}

/// A document with several fields of one name.
fn doubled(id: i32) -> RawDocumentBuf {
    let mut document = rawdoc! { "_id": id, "a": 1, "b": 3 };
    super::documents::put(&mut document, "a", 2.into());
    let mut documents = RawArrayBuf::new();
    documents.push(document);
    rawdoc! { "insert": "things", "documents": documents }
}

fn widened(rng: &mut Rng) -> Vec<Step> {
    let set = |name: &str, value: f64| {
        let mut fields = RawDocumentBuf::new();
        super::documents::put(&mut fields, name, value.into());
        rawdoc! { "q": { "_id": 1001 }, "u": { "$set": fields } }
    };
    let mut steps = vec![Step::CaughtUp];
    steps.push(Step::Command(rawdoc! { "update": BIG, "updates": [set("a", 1.5), set("_deleted_at", 2.0)] }));
    steps.extend([Step::Pause(rng.u64(..800)), touch(BIG)]);
    steps.push(Step::Command(
        rawdoc! { "update": BIG, "updates": [set("n", 0.1), set("touched", 9.007_199_254_740_993e15)] },
    ));
    steps.extend(trouble(rng));
    steps.push(Step::Command(rawdoc! { "update": BIG, "updates": [{ "q": { "_id": 1001 }, "u": { "$set": { "_deleted_at": 3, "A": 4 } } }] }));
    steps
}
