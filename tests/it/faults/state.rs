//! Faults of the state directory: no space, no permission to write, damage, another pipeline's, an old one
//! (G6, G7). Tests beside the spool cover what damaged files mean for its answers, many times over.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use docrow::{
    checkpoint::{Checkpoint, SpoolSpan, SpoolWrite},
    error::{Disposition, Kind},
    model::change::{Namespace, Position},
};
use fastrand::Rng;
use mongodb::bson::{RawDocumentBuf, doc, rawdoc};

use super::{Phase, Scene, change, converges, fill};
use crate::support::{Before, Code, Gate, Home, Place, RETRIES};

/// A file system of this many bytes, which is removed with the value.
///
/// It lives in separate namespaces, held by a process that does nothing else, so that neither root's
/// privileges nor a path here are needed: others reach it through that process's root.
pub(super) struct SmallDisk {
    holder: Child,
    root: PathBuf,
}

impl SmallDisk {
    pub(super) fn new(megabytes: u64) -> Self {
        let script = "mount -t tmpfs -o \"size=$0m\" docrow /mnt && echo mounted && while read -r line; do \
            eval \"$line\"; echo $?; done";
        let mut holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", script, &megabytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`unshare` (of util-linux) is needed for a file system of a test's own");
        let said = Self::hear(&mut holder);
        assert_eq!(
            said, "mounted",
            "this system does not permit mounting a file system in a separate namespace"
        );
        // `unshare` becomes the shell.
        let root = PathBuf::from(format!("/proc/{}/root/mnt", holder.id()));
        Self { holder, root }
    }

    fn hear(holder: &mut Child) -> String {
        let mut line = String::new();
        BufReader::with_capacity(1, holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// From now on it can't be written to.
    fn set_read_only(&mut self) {
        let stdin = self.holder.stdin.as_mut().unwrap();
        stdin.write_all(b"mount -o remount,ro /mnt\n").unwrap();
        assert_eq!(Self::hear(&mut self.holder), "0");
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Takes all the space there is.
    fn fill(&self) {
        let file = File::create(self.root.join("filler")).unwrap();
        let mut buffer = [0; 1 << 16];
        buffer.fill(1);
        while (&file).write_all(&buffer).is_ok() {}
        buffer[..1].fill(1);
        while (&file).write_all(&buffer[..1]).is_ok() {}
    }

    /// Frees it.
    fn empty(&self) {
        fs::remove_file(self.root.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn position(time: u32) -> Position {
    let data = format!(
        "82{time:08X}000000012B042C0100296E5A1004{:032x}46645F696400640004",
        u128::from(time) * 0x9E37_79B9_7F4A_7C15
    );
    Position::from_token(&rawdoc! { "_data": data }).unwrap()
}

fn orders() -> Namespace {
    Namespace::new("shop", "orders")
}

/// So many changes, after `from`.
struct Changes(Vec<(Position, RawDocumentBuf)>);

const EACH: u32 = 1000;

impl Changes {
    fn after(from: u32) -> Self {
        let change = |time: u32| {
            (position(time), rawdoc! { "_id": format!("{:032x}", u128::from(time) * 0xD129_0DDA_5F3A_8C15) })
        };
        Self((from + 1..=from + EACH).map(change).collect())
    }

    fn write_to(&self, spool: &Checkpoint) -> docrow::error::Result<()> {
        let name = orders();
        let changes: Vec<_> = self.0.iter().map(|(position, key)| (&name, position, &**key)).collect();
        let token = self.0.last().map(|(position, _)| position);
        spool.spool(&SpoolWrite { changes: &changes, token, ..SpoolWrite::default() })
    }
}

fn open(dir: &Path) -> Checkpoint {
    let spool = Checkpoint::open(dir, "shop").unwrap();
    spool.reconcile("life").unwrap();
    spool
}

/// A spool with a span from 0.
fn spooling(dir: &Path) -> Checkpoint {
    let spool = open(dir);
    let span = SpoolSpan { from: position(0), to: None };
    spool.spool(&SpoolWrite { spans: vec![(&orders(), Some(span))], ..SpoolWrite::default() }).unwrap();
    spool
}

/// Writes until it fails, and returns how far it got.
fn until_it_fails(spool: &Checkpoint, mut from: u32) -> (u32, docrow::error::Error) {
    loop {
        match Changes::after(from).write_to(spool) {
            Ok(()) => from += EACH,
            Err(error) => return (from, error),
        }
    }
}

/// Asserts that exactly the changes in `(from, to]` are there.
fn assert_holds(spool: &Checkpoint, from: u32, to: u32) {
    let mut at = from;
    while at < to {
        let waiting = spool.waiting(&orders(), &position(at), 1000).unwrap();
        assert!(!waiting.is_empty(), "nothing after {at}");
        for (waiting, time) in waiting.iter().zip(at + 1..) {
            assert_eq!(waiting.position, position(time));
        }
        at += u32::try_from(waiting.len()).unwrap();
    }
    assert_eq!(at, to);
    assert!(spool.waiting(&orders(), &position(to), 1).unwrap().is_empty());
}

/// G6: another program takes the last space. Spooled changes are there, and can be read; the same write
/// succeeds when there is space again.
#[test]
fn disk_full_during_spooling() {
    let disk = SmallDisk::new(96);
    let spool = spooling(&disk.state());
    for from in [0, EACH] {
        Changes::after(from).write_to(&spool).unwrap();
    }
    disk.fill();
    let (reached, error) = until_it_fails(&spool, 2 * EACH);
    assert_eq!((error.kind(), error.kind().disposition()), (Kind::StateFull, Disposition::Retry), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_holds(&spool, 0, reached);
    // The space that the store reserved is taken as well.
    fs::write(disk.root.join("more"), "").unwrap();
    let mut more = File::options().append(true).open(disk.root.join("more")).unwrap();
    while more.write_all(&[1; 4096]).is_ok() {}
    for _ in 0..3 {
        assert_eq!(Changes::after(reached).write_to(&spool).unwrap_err().kind(), Kind::StateFull);
        spool.trim(&orders(), &position(10)).unwrap();
        assert_holds(&spool, 10, reached);
    }
    drop(more);
    fs::remove_file(disk.root.join("more")).unwrap();
    disk.empty();
    let changes = Changes::after(reached);
    // The first operation that detects space opens RocksDB again.
    assert!((0..3).any(|_| changes.write_to(&spool).is_ok()));
    assert_holds(&spool, 10, reached + EACH);
    assert_eq!(spool.token().unwrap(), Some(position(reached + EACH)));
    drop(spool);
    let spool = open(&disk.state());
    assert_holds(&spool, 10, reached + EACH);
}

/// G6: the spool itself takes the last space. It can be drained all the same, and then there is space again.
#[test]
fn disk_full_of_the_spool() {
    let disk = SmallDisk::new(64);
    let spool = spooling(&disk.state());
    let (reached, error) = until_it_fails(&spool, 0);
    assert_eq!(error.kind(), Kind::StateFull, "{error}");
    assert!(reached > 100 * EACH, "{reached}");
    assert_holds(&spool, 0, reached);
    for at in (EACH..=reached).step_by(EACH as usize) {
        let waiting = spool.waiting(&orders(), &position(at - EACH), EACH as usize).unwrap();
        assert_eq!(waiting.last().unwrap().position, position(at));
        spool.trim(&orders(), &position(at)).unwrap();
    }
    assert_holds(&spool, reached, reached);
    let (again, error) = until_it_fails(&spool, reached);
    assert_eq!(error.kind(), Kind::StateFull, "{error}");
    assert!(again - reached > reached / 5, "{reached} were written, then {}", again - reached);
    assert_holds(&spool, reached, again);
    let before = spool.spool_bytes();
    spool.spool(&SpoolWrite { spans: vec![(&orders(), None)], ..SpoolWrite::default() }).unwrap();
    let after = spool.spool_bytes();
    assert!(after < before / 4, "{before} bytes, then {after}");
}

/// G7: a file system that turns read-only is no corruption: nothing is discarded because of it, and it is
/// reported.
#[test]
fn disk_read_only_during_start() {
    let mut disk = SmallDisk::new(96);
    let spool = spooling(&disk.state());
    Changes::after(0).write_to(&spool).unwrap();
    drop(spool);
    disk.set_read_only();
    let error = Checkpoint::open(&disk.state(), "shop").unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains("writable or name another one with --state"), "{error}");
    assert!(!disk.state().join("db.corrupt").exists());
    assert_eq!(Checkpoint::open(&disk.root.join("new"), "shop").unwrap_err().kind(), Kind::Usage);
}

/// G7: damage to an open database shows when it is read. The operation that detects it reports it; the next
/// one finds it empty.
#[test]
fn file_damaged_during_draining() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = spooling(folder.path());
    for from in (0..10).map(|n| n * EACH) {
        Changes::after(from).write_to(&spool).unwrap();
    }
    // Opened again, it is in a table file.
    drop(spool);
    spool = open(folder.path());
    damage_tables(&folder.path().join("db"));
    let error = (0..10).find_map(|n| spool.waiting(&orders(), &position(n * EACH), 1000).err());
    let error = error.expect("damage is found");
    assert_eq!(
        (error.kind(), error.kind().disposition()),
        (Kind::StateRebuilt, Disposition::Retry),
        "{error}"
    );
    assert!(folder.path().join("db.corrupt").exists());
    assert!(spool.spans().unwrap().is_empty() && spool.token().unwrap().is_none());
    // A caller that does not know yet gets the same error.
    let error = Changes::after(10 * EACH).write_to(&spool).unwrap_err();
    assert_eq!(error.kind(), Kind::StateRebuilt, "{error}");
}

/// Damages the middle of every table file in place, also for processes that have it open.
fn damage_tables(database: &Path) {
    let mut damaged = 0;
    for file in fs::read_dir(database).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|kind| kind == "sst") {
            let size = file.metadata().unwrap().len();
            let mut open = File::options().write(true).open(&file).unwrap();
            open.seek(SeekFrom::Start(size / 3)).unwrap();
            open.write_all(&vec![0x5A; usize::try_from(size / 3).unwrap()]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there is nothing to damage");
}

/// Does to some file of a closed database what disks and users do.
fn damage(rng: &mut Rng, database: &Path) -> String {
    let mut files: Vec<PathBuf> = fs::read_dir(database).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| !file.to_str().unwrap().contains("LO") && file.metadata().unwrap().len() > 0);
    files.sort();
    let file = &files[rng.usize(..files.len())];
    let mut bytes = fs::read(file).unwrap();
    let at = rng.usize(..bytes.len());
    let what = match rng.u8(..4) {
        0 => {
            fs::remove_file(file).unwrap();
            return format!("{} is lost", file.display());
        }
        1 => {
            bytes.truncate(at);
            "cut"
        }
        2 => {
            bytes[at] ^= 0x10;
            "changed"
        }
        _ => {
            bytes[at..].fill(0);
            "zero"
        }
    };
    fs::write(file, bytes).unwrap();
    format!("{} is {what} at {at}", file.display())
}

/// What docrow may log about a damaged state directory.
const CORRUPT: &str = "the state directory is corrupt";

/// G7: whatever happened to the files while docrow was killed, the next start converges.
async fn state_damaged(test: &str, phase: Phase, seed: u64) {
    let place = Place::shared(test).await;
    let home = Home::new(&place);
    let Scene { place, home, mut docrow, gate, .. } = Scene::held(place, home, phase).await;
    let mut rng = Rng::with_seed(seed);
    for round in 1..4 {
        if phase != Phase::Stream {
            docrow.until("something waits in the spool", async || tables_and_logs(&home) > 0).await;
        }
        docrow.kill9().await.quiet_but(&[CORRUPT]);
        for _ in 0..round {
            println!("{}", damage(&mut rng, &home.state().join("db")));
        }
        change(&place, round).await;
        docrow = home.run();
    }
    if let Some(gate) = gate {
        gate.open().await;
    }
    change(&place, 5).await;
    converges(&place, &home, docrow).await.quiet_but(&[CORRUPT, RETRIES]);
}

fn tables_and_logs(home: &Home) -> u64 {
    let files = fs::read_dir(home.state().join("db")).into_iter().flatten().flatten();
    let holds_data = |path: &Path| path.extension().is_some_and(|kind| kind == "sst" || kind == "log");
    files.filter(|file| holds_data(&file.path())).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

#[tokio::test]
async fn state_damaged_during_snapshot() {
    state_damaged("state_snapshot", Phase::Snapshot, 1).await;
}

#[tokio::test]
async fn state_damaged_during_hand_over() {
    state_damaged("state_hand_over", Phase::HandOver, 2).await;
}

#[tokio::test]
async fn state_damaged_during_stream() {
    state_damaged("state_stream", Phase::Stream, 3).await;
}

/// G7: the files are damaged under a running docrow, which detects it when it drains the spool. It recovers
/// by itself.
#[tokio::test]
async fn state_damaged_during_draining() {
    let place = Place::shared("state_draining").await;
    let home = Home::new(&place);
    let Scene { place, home, mut docrow, gate, .. } = Scene::held(place, home, Phase::HandOver).await;
    let things = place.collection("things");
    for _ in 0..3 {
        things.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    }
    // What the first one spools is in the log; the next one finds it there, and puts it into a table file.
    docrow.until("much waits in the spool", async || tables_and_logs(&home) > 100_000).await;
    docrow.kill9().await.quiet();
    let gate = gate.unwrap();
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    change(&place, 1).await;
    docrow.until("there is a table file", async || has_table(&home)).await;
    damage_tables(&home.state().join("db"));
    gate.open().await;
    docrow.logs("the changes it held are read again").await;
    let ended = converges(&place, &home, docrow).await;
    ended.quiet_but(&[CORRUPT, "the changes it held are read again", RETRIES]).coded(Code::StateRebuilt);
    assert!(home.state().join("db.corrupt").exists());
}

fn has_table(home: &Home) -> bool {
    let files = fs::read_dir(home.state().join("db")).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.path().extension().is_some_and(|kind| kind == "sst"))
}

/// G7: an old copy of the state directory, restored while PostgreSQL is newer: with spooled changes that
/// PostgreSQL has applied since.
#[tokio::test]
async fn state_of_an_earlier_time_during_stream() {
    let place = Place::shared("state_earlier").await;
    let home = Home::new(&place);
    let Scene { place, home, mut docrow, gate, .. } = Scene::held(place, home, Phase::HandOver).await;
    docrow.until("something waits in the spool", async || tables_and_logs(&home) > 0).await;
    docrow.kill9().await.quiet();
    let earlier = tempfile::tempdir().unwrap();
    copy(&home.state(), earlier.path());
    let mut docrow = home.run();
    gate.unwrap().open().await;
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    docrow.kill9().await.quiet();
    change(&place, 2).await;
    fs::remove_dir_all(home.state()).unwrap();
    copy(earlier.path(), &home.state());
    change(&place, 3).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    // Again, now beside changes that are newer than both.
    docrow.kill9().await.quiet();
    fs::remove_dir_all(home.state()).unwrap();
    copy(earlier.path(), &home.state());
    change(&place, 4).await;
    converges(&place, &home, home.run()).await.quiet();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap()) {
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &to)
        } else {
            assert!(fs::copy(file.path(), to).is_ok())
        }
    }
}

/// G7: the state directory of another pipeline, or of this one with another target, is not taken for this
/// one's.
#[tokio::test]
async fn state_of_another_pipeline_during_start() {
    let (place, other) = (Place::shared("state_other").await, Place::shared("state_target").await);
    fill(&place).await;
    let mut home = Home::new(&place);
    let gate = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    change(&place, 1).await;
    docrow.until("something waits in the spool", async || tables_and_logs(&home) > 0).await;
    docrow.kill9().await.quiet();
    gate.open().await;
    // The same source and the same name, but a target in which nothing of it has arrived.
    home.set("target.uri", other.postgres_uri.as_str());
    let elsewhere = Place { postgres_uri: other.postgres_uri.clone(), client: place.client.clone(), ..place };
    let ended = converges(&elsewhere, &home, home.run()).await;
    ended.quiet_but(&["was made for another target"]);
    home.set("name", "other");
    let ended = home.run().ended().await.with_code(2);
    assert!(ended.error().contains("belongs to pipeline"), "{}", ended.log);
}

/// G6: no space for the spool while everything goes into it: docrow reports it, waits, and continues when
/// there is space.
#[tokio::test]
async fn disk_full_in_the_state_directory_during_snapshot() {
    let place = Place::shared("state_full").await;
    let wide = place.collection("wide");
    // Long keys, so that few changes need much space: RocksDB has reserved some for its log.
    let mut rng = Rng::with_seed(3);
    let mut id = || (0..2000).map(|_| rng.alphanumeric()).collect::<String>();
    wide.insert_many((0..1000).map(|_| doc! { "_id": id(), "n": 0 })).await.unwrap();
    let disk = SmallDisk::new(96);
    let mut home = Home::new(&place);
    home.set("state.dir", disk.state().to_str().unwrap());
    let mut scene = Scene::held(place, home, Phase::Snapshot).await;
    scene.docrow.until("the spool is begun", async || disk.state().join("reserve").exists()).await;
    disk.fill();
    for _ in 0..3 {
        wide.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    }
    scene.docrow.logs("waiting until there is space").await;
    scene.docrow.logs(" [DRW-6001] ").await;
    scene.change().await;
    disk.empty();
    scene.docrow.logs("the state directory has space again").await;
    scene.converges(&["waiting until there is space"]).await;
}

/// G7: no other user can read its content.
#[tokio::test]
async fn state_is_its_owners_alone() {
    let place = Place::shared("state_owner").await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    home.backfill().await;
    for folder in [home.state(), home.state().join("db")] {
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
}
