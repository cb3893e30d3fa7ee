//! The model of PostgreSQL: rows and bookkeeping, changed by transactions that are atomic, and may be carried out though
//! their answer is lost. It may be away for a while, and be set back to an earlier copy of itself.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::Timestamp;

use super::{
    document::{Fields, NAMES, State},
    source::{Doc, Name},
};
use crate::model::{
    change::Position,
    partition::Partition,
    phase::{Evidence, Phase},
    resync_reason::Reason,
};

/// All that is in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) life: Option<u64>,
    /// The collections that have tables.
    pub(super) known: BTreeSet<Name>,
    pub(super) keyed: BTreeSet<Name>,
    /// What each row shows.
    pub(super) rows: BTreeMap<(Name, Doc), Fields>,
    pub(super) positions: BTreeMap<(Partition, Name), (Position, i64)>,
    /// Up to when rows may show states, as stored with the positions, and besides them.
    pub(super) shown: BTreeMap<(Partition, Name), Timestamp>,
    pub(super) noted: Option<Timestamp>,
    pub(super) plans: BTreeMap<Name, Plan>,
    pub(super) resyncs: BTreeMap<Name, Reason>,
    pub(super) ahead: Option<Timestamp>,
    /// Not docrow's: of each field of a row the place of its state among all that the document had, at the least.
    pub(super) floors: BTreeMap<(Name, Doc), [usize; NAMES.len()]>,
    /// Not docrow's: the rows that were written as of several times, up to which time.
    pub(super) mixed: BTreeMap<(Name, Doc), u32>,
    /// Not docrow's: the latest state that workers have written.
    pub(super) latest: u32,
    /// Not docrow's: the rows that somebody removed.
    pub(super) removed: BTreeSet<(Name, Doc)>,
    /// Not docrow's: in the order of commits, that the rows are of one time.
    pub(super) settled: bool,
}

/// The chunks of a collection.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) copied: Vec<bool>,
    pub(super) replaces: bool,
    /// Not docrow's: the first start position.
    pub(super) start: Position,
}

impl Contents {
    pub(super) fn phase(&self, name: Name) -> Phase {
        let plan = self.plans.get(&name);
        Phase::of(Evidence {
            planned: plan.is_some(),
            chunks_left: plan.map_or(0, |plan| plan.copied.iter().filter(|copied| !**copied).count()),
            keys_missing: usize::from(!self.keyed.contains(&name)),
            replaces: plan.is_some_and(|plan| plan.replaces),
        })
    }

    pub(super) fn put(&mut self, name: Name, doc: Doc, state: State) {
        match state {
            Some(fields) => self.rows.insert((name, doc), fields),
            None => self.rows.remove(&(name, doc)),
        };
        self.mixed.remove(&(name, doc));
        self.removed.remove(&(name, doc));
    }

    /// Writes some fields of a row, as of `read_at` if they were looked up. False: there is none.
    pub(super) fn patch(
        &mut self,
        (name, doc): (Name, Doc),
        fields: &[Box<str>],
        part: &Fields,
        read_at: Option<u32>,
    ) -> bool {
        let Some(row) = self.rows.get_mut(&(name, doc)) else { return false };
        for (number, of) in NAMES.iter().enumerate() {
            if fields.iter().any(|field| **field == *of.as_str()) {
                row[number] = part[number];
            }
        }
        if let Some(read_at) = read_at {
            let until = self.mixed.entry((name, doc)).or_default();
            *until = read_at.max(*until);
        }
        true
    }

    /// Up to when rows may show states, if it is stored of all.
    pub(super) fn shown(&self) -> Option<Timestamp> {
        let of_all = self.positions.keys().map(|place| self.shown.get(place).copied());
        let shown = of_all.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(shown).max(self.noted)
    }

    /// Stores a plan and start positions in place of what there is.
    pub(super) fn plan(&mut self, name: Name, plan: Plan, partitions: u16, start: &(Position, i64)) {
        self.resyncs.remove(&name);
        self.plans.insert(name, plan);
        self.positions.retain(|(_, of), _| *of != name);
        self.shown.retain(|(_, of), _| *of != name);
        // Rows that are not copied anew stay as they are, until an event replaces or removes them.
        let mixed = self.mixed.iter_mut().filter(|((of, _), _)| *of == name);
        mixed.for_each(|(_, until)| *until = u32::MAX);
        for partition in (0..partitions).map(Partition) {
            self.positions.insert((partition, name), start.clone());
        }
    }

    /// The least position of a collection.
    pub(super) fn least(&self, name: Name) -> Option<&Position> {
        self.positions.iter().filter(|((_, of), _)| *of == name).map(|(_, (position, _))| position).min()
    }
}

#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) now: Contents,
    pub(super) copies: Vec<Contents>,
    pub(super) is_up: bool,
    /// Counts how often all connections were lost.
    pub(super) starts: u32,
}

impl Postgres {
    pub(super) fn new() -> Self {
        Self { now: Contents::default(), copies: vec![Contents::default()], is_up: true, starts: 0 }
    }
}
