//! What is left of the spool when its files are damaged.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::{
    spool_model_test::{NAMES, SpoolStep, SpoolWorld, collection_at, document_key, folder, position},
    *,
};
use crate::model::change::{Namespace, Position};

fn random_step(rng: &mut Rng) -> SpoolStep {
    let c = rng.usize(..NAMES.len());
    match rng.u8(..20) {
        0..8 => SpoolStep::Read(rng.u32(1..150)),
        8..12 => SpoolStep::Open(c),
        12..15 => SpoolStep::Drain(c, rng.usize(1..100), true),
        15 => SpoolStep::Forget(c),
        16 => SpoolStep::Close(c),
        17 => SpoolStep::Again,
        _ => SpoolStep::Restart,
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
    // A cut manifest is the worst: RocksDB takes it for a shorter one, and what it deletes by that is a gap
    // in the middle.
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
enum DamageOutcome {
    RebuiltAtOpen,
    RebuiltAtRead,
    Believed { all: bool },
}

/// Opens the directory and reads everything that it claims to hold: each answer is right, or the spool is
/// recreated.
fn outcome(dir: &Path, world: &SpoolWorld) -> DamageOutcome {
    let spool = Checkpoint::open(dir, "p").unwrap();
    spool.reconcile("life").unwrap();
    let (spans, token) = (spool.spans().unwrap(), spool.token().unwrap());
    let outcome = if dir.join("db.corrupt").exists() {
        assert!(spans.is_empty() && token.is_none());
        DamageOutcome::RebuiltAtOpen
    } else if spans.iter().all(|(name, span)| tells_the_truth(&spool, world, name, span, token.as_ref())) {
        DamageOutcome::Believed {
            all: token == world.token.map(position) && spans.len() == world.spans.len(),
        }
    } else {
        assert!(spool.spans().unwrap().is_empty() && dir.join("db.corrupt").exists());
        DamageOutcome::RebuiltAtRead
    };
    // Whatever happened to it, it is usable again.
    let (name, span) = (Namespace::new("new", "one"), SpoolSpan { from: position(5000), to: None });
    let (at, key) = (position(5001), document_key(5001));
    let write = SpoolWrite {
        changes: &[(&name, &at, &key)],
        token: Some(&at),
        spans: vec![(&name, Some(span))],
        ..SpoolWrite::default()
    };
    if let Err(error) = spool.spool(&write) {
        // Parts that were not read are damaged, and were due for compaction.
        assert_eq!(error.kind(), crate::error::Kind::StateRebuilt, "{error}");
        spool.spool(&write).unwrap();
    }
    assert_eq!(spool.waiting(&name, &position(5000), 10).unwrap().len(), 1);
    outcome
}

/// Whether the spool answers at all. Its answers are compared with the contents of the stream.
fn tells_the_truth(
    spool: &Checkpoint,
    world: &SpoolWorld,
    name: &Namespace,
    span: &SpoolSpan,
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
    let mut outcomes = BTreeMap::<DamageOutcome, usize>::new();
    let seeds = std::env::var("DOCROW_SEEDS").map_or(40, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let mut world = SpoolWorld::new();
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
    assert!(outcomes.keys().any(|outcome| matches!(outcome, DamageOutcome::Believed { .. })), "{outcomes:?}");
    assert!(outcomes.contains_key(&DamageOutcome::RebuiltAtOpen), "{outcomes:?}");
}
