//! Tests of the spool: a process that uses it as it is meant to be used, beside a naive model of what it holds; and what
//! is left of it when its files are damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use mongodb::bson::{RawDocumentBuf, rawdoc};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::change::Position;

/// In memory: it is not the disk that is tested.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Positions are times; every seventh has an old server's `_typeBits`.
fn position(time: u32) -> Position {
    let data = format!("82{time:08X}000000012B022C0100296E5A1004");
    Position::from_token(&match time % 7 {
        0 => rawdoc! { "_data": data, "_typeBits": { "x": 1 } },
        _ => rawdoc! { "_data": data },
    })
    .unwrap()
}

/// Names that would be mistaken for one another if they were not kept apart.
const NAMES: [(&str, &str); 4] = [("a", "b"), ("a", "b.c"), ("a", "b/c\u{ff}\n"), ("a-b", "c")];

/// Whose change each position is of.
fn collection_at(time: u32) -> usize {
    (time as usize * 7 + time as usize / 5) % NAMES.len()
}

fn document_key(time: u32) -> RawDocumentBuf {
    rawdoc! { "shard": "x", "_id": i64::from(time) }
}

#[derive(Clone, Debug)]
enum Step {
    /// Reads so many changes of the stream; those of collections without a span are applied at once.
    Read(u32),
    /// Begins to spool a collection.
    Open(usize),
    /// Applies so many of a collection's changes; trims if told to.
    Drain(usize, usize, bool),
    /// All of the collection's changes are applied.
    Forget(usize),
    /// Ends the span where it is: as `Forget`, but it stays there.
    Close(usize),
    /// The process ends, and another begins.
    Restart,
    /// What is applied of a collection is set back, as if PostgreSQL were restored.
    SetBack(usize, u32),
    /// The last write's answer is lost: it is repeated.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let step = prop_oneof![
        6 => (1..200u32).prop_map(Step::Read),
        3 => name.clone().prop_map(Step::Open),
        4 => (name.clone(), 1..150usize, any::<bool>()).prop_map(|(c, n, trims)| Step::Drain(c, n, trims)),
        2 => name.clone().prop_map(Step::Forget),
        1 => name.clone().prop_map(Step::Close),
        1 => Just(Step::Restart),
        1 => (name, 1..50u32).prop_map(|(c, n)| Step::SetBack(c, n)),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Clone, Debug)]
struct ModelSpan {
    from: u32,
    to: Option<u32>,
    changes: BTreeSet<u32>,
}

/// Changes, token and spans.
type Write = (Vec<u32>, Option<u32>, Vec<(usize, Option<Span>)>);

/// A process that uses the spool as it is meant to be used, and the naive model of what the spool holds.
struct World {
    dir: TempDir,
    spool: Option<Checkpoint>,
    names: Vec<Namespace>,
    spans: BTreeMap<usize, ModelSpan>,
    token: Option<u32>,
    /// How far the stream was read by this process.
    read: u32,
    /// What PostgreSQL says.
    applied: Vec<u32>,
    last: Option<Write>,
}

impl World {
    fn new() -> Self {
        let dir = folder();
        let spool = Checkpoint::open(dir.path(), "p").unwrap();
        spool.reconcile("life").unwrap();
        let names = NAMES.iter().map(|(database, name)| Namespace::new(*database, *name)).collect();
        let applied = vec![1000; NAMES.len()];
        Self {
            dir,
            spool: Some(spool),
            names,
            spans: BTreeMap::new(),
            token: None,
            read: 1000,
            applied,
            last: None,
        }
    }

    fn spool(&self) -> &Checkpoint {
        self.spool.as_ref().unwrap()
    }

    fn write(&mut self, changes: Vec<u32>, token: Option<u32>, spans: Vec<(usize, Option<Span>)>) {
        let at: Vec<Position> = changes.iter().map(|time| position(*time)).collect();
        let keys: Vec<RawDocumentBuf> = changes.iter().map(|time| document_key(*time)).collect();
        let entries: Vec<_> = changes
            .iter()
            .zip(at.iter().zip(&keys))
            .map(|(time, (at, key))| (&self.names[collection_at(*time)], at, &**key))
            .collect();
        let token_at = token.map(position);
        self.spool()
            .spool(&SpoolWrite {
                changes: &entries,
                token: token_at.as_ref(),
                spans: spans.iter().map(|(c, span)| (&self.names[*c], span.clone())).collect(),
                fingerprint: token.map(i64::from),
                life: None,
            })
            .unwrap();
        self.last = Some((changes, token, spans));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Read(count) => self.read(count),
            Step::Open(c) => self.open(c, self.read),
            Step::Drain(c, most, trims) => self.drain(c, most, trims),
            Step::Forget(c) => self.forget(c),
            Step::Close(c) => self.close(c),
            Step::Restart => self.restart(),
            Step::SetBack(c, by) => {
                self.applied[c] = self.applied[c].saturating_sub(by).max(1000);
                self.restart();
            }
            Step::Again => {
                if let Some((changes, token, spans)) = self.last.clone() {
                    self.write(changes, token, spans);
                }
            }
        }
    }

    fn read(&mut self, count: u32) {
        let range = self.read + 1..=self.read + count;
        self.read += count;
        let mut changes = Vec::new();
        for time in range {
            let c = collection_at(time);
            match self.spans.get_mut(&c) {
                Some(span) if span.to.is_none() => {
                    changes.push(time);
                    if time > span.from {
                        span.changes.insert(time);
                    }
                }
                _ => self.applied[c] = self.applied[c].max(time),
            }
        }
        if self.spans.values().any(|span| span.to.is_none()) {
            self.token = self.token.max(Some(self.read));
            self.write(changes, Some(self.read), Vec::new());
        }
    }

    /// What was read directly is applied, so the span begins where the reading is.
    fn open(&mut self, c: usize, from: u32) {
        let span = Span { from: position(from), to: None };
        if self.spans.get(&c).is_some_and(|span| span.to.is_none()) {
            return;
        }
        let mut spans = vec![(c, Some(span))];
        if self.spans.remove(&c).is_some() {
            spans.insert(0, (c, None));
        }
        self.spans.insert(c, ModelSpan { from, to: None, changes: BTreeSet::new() });
        if self.token > Some(from) {
            self.token = Some(from);
        }
        self.write(Vec::new(), None, spans);
    }

    fn drain(&mut self, c: usize, most: usize, trims: bool) {
        let Some(span) = self.spans.get_mut(&c) else { return };
        let after = position(self.applied[c].max(span.from));
        let spool = self.spool.as_ref().unwrap();
        let waiting = spool.waiting(&self.names[c], &after, most).unwrap();
        if let Some(last) = waiting.last() {
            self.applied[c] = last.position.cluster_time().time;
        }
        if trims {
            span.from = span.from.max(self.applied[c]);
            span.changes = span.changes.split_off(&(self.applied[c] + 1));
            spool.trim(&self.names[c], &position(self.applied[c])).unwrap();
            self.last = None;
        }
    }

    fn forget(&mut self, c: usize) {
        self.drain(c, usize::MAX, false);
        if self.spans.remove(&c).is_some() {
            self.applied[c] = self.applied[c].max(self.read);
            self.write(Vec::new(), None, vec![(c, None)]);
        }
    }

    fn close(&mut self, c: usize) {
        let token = self.token;
        let Some(span) = self.spans.get_mut(&c).filter(|span| span.to.is_none()) else { return };
        let to = token.unwrap_or(0).max(span.from);
        span.to = Some(to);
        let span = Span { from: position(span.from), to: Some(position(to)) };
        self.write(Vec::new(), None, vec![(c, Some(span))]);
    }

    /// What the next process does: it forgets what does not continue PostgreSQL's positions, and reads from the least.
    fn restart(&mut self) {
        self.spool = None;
        self.spool = Some(Checkpoint::open(self.dir.path(), "p").unwrap());
        self.spool().reconcile("life").unwrap();
        let token = self.spool().token().unwrap();
        let mut start = Vec::new();
        let mut forgotten = Vec::new();
        for (c, name) in self.names.iter().enumerate() {
            let applied = position(self.applied[c]);
            match self.spool().spans().unwrap().get(name) {
                Some(span)
                    if span.from <= applied && Some(&applied) <= span.to.as_ref().or(token.as_ref()) =>
                {
                    start.push(span.to.clone().or(token.clone()).unwrap().cluster_time().time);
                }
                span => {
                    forgotten.extend(span.map(|_| (c, None)));
                    start.push(self.applied[c]);
                }
            }
        }
        for (c, _) in &forgotten {
            self.spans.remove(c);
        }
        self.write(Vec::new(), None, forgotten);
        self.read = *start.iter().min().unwrap();
    }

    fn check(&self) {
        let token = self.spool().token().unwrap();
        assert_eq!(token, self.token.map(position));
        let spans = self.spool().spans().unwrap();
        assert_eq!(spans.len(), self.spans.len());
        for (c, model) in &self.spans {
            let name = &self.names[*c];
            let span = &spans[name];
            assert_eq!(*span, Span { from: position(model.from), to: model.to.map(position) });
            // From everywhere that may be asked for, all of them or some.
            for after in
                [model.from, model.from + 3, self.applied[*c].max(model.from), self.read.max(model.from)]
            {
                let found = self.spool().waiting(name, &position(after), usize::MAX).unwrap();
                let expected: Vec<u32> = model.changes.range(after + 1..).copied().collect();
                let times: Vec<u32> = found.iter().map(|w| w.position.cluster_time().time).collect();
                assert_eq!(times, expected);
                for (waiting, time) in found.iter().zip(&expected) {
                    assert_eq!(waiting.position.as_bytes(), position(*time).as_bytes());
                    assert_eq!(waiting.document_key, document_key(*time));
                }
                let some = self.spool().waiting(name, &position(after), 3).unwrap();
                assert_eq!(some, found[..found.len().min(3)]);
            }
            // What a span is for: nothing between its ends is missing.
            let end = model.to.or(self.token).unwrap_or(0);
            for time in (self.applied[*c].max(model.from) + 1..=end).filter(|time| collection_at(*time) == *c)
            {
                assert!(model.changes.contains(&time), "{time} is missing");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// G6: the spool holds what it says, through restarts, and when what was read is read again.
    #[test]
    fn holds_what_it_says(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}

fn random_step(rng: &mut Rng) -> Step {
    let c = rng.usize(..NAMES.len());
    match rng.u8(..20) {
        0..8 => Step::Read(rng.u32(1..150)),
        8..12 => Step::Open(c),
        12..15 => Step::Drain(c, rng.usize(1..100), true),
        15 => Step::Forget(c),
        16 => Step::Close(c),
        17 => Step::Again,
        _ => Step::Restart,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &to);
        } else if fs::copy(file.path(), to).is_err() {
            // Deleted meanwhile: as if the copy had been made a moment later.
            assert!(!file.path().exists());
        }
    }
}

/// Does to some file of the database what disks, people and restored backups do.
fn damage(rng: &mut Rng, database: &Path, older: &Path) -> String {
    let mut files: Vec<PathBuf> = fs::read_dir(database).unwrap().map(|file| file.unwrap().path()).collect();
    let matters =
        |file: &PathBuf| !["LOG", "OPTIONS"].iter().any(|name| file.to_str().unwrap().contains(name));
    files.retain(|file| fs::metadata(file).unwrap().len() > 0 && matters(file));
    files.sort();
    // A cut manifest is the worst: RocksDB takes it for a shorter one, and what it deletes by that is a gap in the middle.
    let manifest = files.iter().find(|file| file.to_str().unwrap().contains("MANIFEST"));
    let (file, kind) = match manifest {
        Some(manifest) if rng.u8(..3) == 0 => (manifest, 2),
        _ => (&files[rng.usize(..files.len())], rng.u8(..6)),
    };
    let mut bytes = fs::read(file).unwrap();
    let name = file.file_name().unwrap();
    let at = rng.usize(..bytes.len());
    let what = match kind {
        0 => {
            fs::remove_file(file).unwrap();
            return format!("{name:?} is lost");
        }
        1 => match fs::read(older.join(name)) {
            Ok(old) => {
                bytes = old;
                "is older".to_owned()
            }
            Err(_) => "is what it was".to_owned(),
        },
        2 => {
            bytes.truncate(at);
            format!("is cut at {at}")
        }
        3 => {
            bytes[at] ^= 1 << rng.u8(..8);
            format!("has a bit flipped at {at}")
        }
        4 => {
            let end = at + rng.usize(..=(bytes.len() - at).min(4096));
            bytes[at..end].fill(0);
            format!("is zero from {at} to {end}")
        }
        _ => {
            bytes[at..].fill(0);
            format!("is zero from {at}")
        }
    };
    fs::write(file, bytes).unwrap();
    format!("{name:?} {what}")
}

/// What became of a damaged directory.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RebuiltAtOpen,
    RebuiltAtRead,
    Believed { all: bool },
}

/// Opens the directory and asks for everything that it says it has: each answer is right, or the whole is made anew.
fn outcome(dir: &Path, world: &World) -> Outcome {
    let spool = Checkpoint::open(dir, "p").unwrap();
    spool.reconcile("life").unwrap();
    let (spans, token) = (spool.spans().unwrap(), spool.token().unwrap());
    let outcome = if dir.join("db.corrupt").exists() {
        assert!(spans.is_empty() && token.is_none());
        Outcome::RebuiltAtOpen
    } else if spans.iter().all(|(name, span)| tells_the_truth(&spool, world, name, span, token.as_ref())) {
        Outcome::Believed { all: token == world.token.map(position) && spans.len() == world.spans.len() }
    } else {
        assert!(spool.spans().unwrap().is_empty() && dir.join("db.corrupt").exists());
        Outcome::RebuiltAtRead
    };
    // Whatever it was, it is of use again.
    let (name, span) = (Namespace::new("new", "one"), Span { from: position(5000), to: None });
    let (at, key) = (position(5001), document_key(5001));
    let write = SpoolWrite {
        changes: &[(&name, &at, &key)],
        token: Some(&at),
        spans: vec![(&name, Some(span))],
        ..SpoolWrite::default()
    };
    if let Err(error) = spool.spool(&write) {
        // What nobody asked for is damaged, and was to be compacted.
        assert_eq!(error.kind(), crate::error::Kind::StateRebuilt, "{error}");
        spool.spool(&write).unwrap();
    }
    assert_eq!(spool.waiting(&name, &position(5000), 10).unwrap().len(), 1);
    outcome
}

/// Whether the spool answers at all. What it answers is compared with what was in the stream.
fn tells_the_truth(
    spool: &Checkpoint,
    world: &World,
    name: &Namespace,
    span: &Span,
    token: Option<&Position>,
) -> bool {
    let time = |position: &Position| position.cluster_time().time;
    let c = world.names.iter().position(|known| known == name).unwrap();
    let (from, to) = (time(&span.from), span.to.as_ref().or(token).map_or(0, time));
    // Wherever PostgreSQL is, as long as the span continues it.
    for after in (from..=to).step_by(37) {
        let mut found = Vec::new();
        let mut reached = position(after);
        loop {
            match spool.waiting(name, &reached, 50) {
                Ok(waiting) if waiting.is_empty() => break,
                Ok(waiting) => {
                    reached = waiting.last().unwrap().position.clone();
                    found.extend(waiting);
                }
                Err(error) => {
                    assert_eq!(error.kind(), crate::error::Kind::StateRebuilt, "{error}");
                    return false;
                }
            }
        }
        let expected = (after + 1..=world.read).filter(|time| collection_at(*time) == c);
        let count = expected.clone().take_while(|time| *time <= to).count();
        assert!(found.len() >= count, "{name:?} has {} changes of {count} from {after} to {to}", found.len());
        for (waiting, expected) in found.iter().zip(expected) {
            assert_eq!(waiting.position.as_bytes(), position(expected).as_bytes());
            assert_eq!(waiting.document_key, document_key(expected));
        }
    }
    true
}

/// G7: whatever happens to the files, an answer of the spool is right, or there is none.
#[test]
fn damaged_files_are_never_believed() {
    let mut outcomes = BTreeMap::<Outcome, usize>::new();
    let seeds = std::env::var("DOCROW_SEEDS").map_or(40, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new();
        let (older, damaged) = (folder(), folder());
        let steps = rng.usize(10..60);
        let copied_at = rng.usize(..steps);
        for step in 0..steps {
            world.step(&random_step(&mut rng));
            if step == copied_at {
                copy(world.dir.path(), older.path());
            }
        }
        copy(world.dir.path(), damaged.path());
        let (database, older) = (damaged.path().join("db"), older.path().join("db"));
        let what: Vec<String> = (0..rng.usize(1..3)).map(|_| damage(&mut rng, &database, &older)).collect();
        println!("seed {seed}: {}", what.join(", "));
        *outcomes.entry(outcome(damaged.path(), &world)).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert!(outcomes.keys().any(|outcome| matches!(outcome, Outcome::Believed { .. })), "{outcomes:?}");
    assert!(outcomes.contains_key(&Outcome::RebuiltAtOpen), "{outcomes:?}");
}
