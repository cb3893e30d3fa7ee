//! Crashes at chosen points: whatever is killed, and when, the next start converges (G1, G2), and copies
//! nothing twice (G5).
//!
//! docrow is held at a [`Gate`] exactly where a test wants to kill something. The open transactions of a
//! killed docrow stay open in PostgreSQL behind the gate, as they would behind any lock, until the gate is
//! opened: the next docrow encounters them.

use std::{collections::BTreeMap, fs, sync::atomic::AtomicU64};

use docrow::demo::{
    servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    users,
    writer::Writer,
};
use mongodb::bson::doc;

use crate::support::{Before, Docrow, Gate, Home, Place, RETRIES};

/// Documents of half a megabyte: a chunk holds about 25 of them.
const LARGE: i32 = 150;

/// Chunks from this number on are held before their marker is set.
const HELD: i64 = 2;

/// Fills `large` (some chunks), and the sentinels.
async fn fill(place: &Place) {
    place.add_sentinels().await;
    let padding = "x".repeat(500_000);
    let document = |id: i32| doc! { "_id": id, "n": 0, "x": &padding, "list": [{ "n": id }, { "n": -id }] };
    place.collection("large").insert_many((0..LARGE).map(document)).await.unwrap();
}

async fn change(place: &Place, ids: std::ops::Range<i32>) {
    let filter = doc! { "_id": { "$gte": ids.start, "$lt": ids.end } };
    let change = doc! { "$inc": { "n": 1 }, "$push": { "list": { "n": 1000 } } };
    place.collection("large").update_many(filter, change).await.unwrap();
    place.collection("large").delete_one(doc! { "_id": ids.start }).await.unwrap();
    let document = doc! { "_id": ids.start + 10_000, "n": 1, "x": "new" };
    place.collection("large").insert_one(document).await.unwrap();
}

fn held() -> String {
    format!("NEW.chunk >= {HELD}")
}

/// A pipeline with one copier, so that it is known what is copied when the gate is reached.
fn home_of(place: &Place) -> Home {
    let mut home = Home::new(place);
    home.set("snapshot.parallelism", 1);
    home
}

/// When each copied chunk was copied, and the transaction that wrote each row, which reveals anything that is
/// copied again.
#[derive(Debug, PartialEq)]
struct Copied {
    chunks: BTreeMap<String, String>,
    rows: BTreeMap<String, String>,
}

impl Copied {
    async fn now(place: &Place) -> Self {
        let session = place.postgres().await;
        let pairs = async |question: &str| {
            let rows = session.query(question, &[]).await.unwrap();
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        let chunks =
            "SELECT collection || chunk, copied_at::text FROM docrow.chunks WHERE copied_at IS NOT NULL";
        let rows = "SELECT 'large ' || _id, xmin::text FROM large UNION ALL \
            SELECT 'list ' || _id || ' ' || _ord, xmin::text FROM large_list";
        Self { chunks: pairs(chunks).await, rows: pairs(rows).await }
    }

    /// Asserts that all this still exists, from the same transactions.
    fn assert_kept(&self, later: &Self) {
        for (before, after) in [(&self.chunks, &later.chunks), (&self.rows, &later.rows)] {
            let changed: Vec<_> =
                before.iter().filter(|(key, value)| after.get(*key) != Some(value)).collect();
            assert!(changed.is_empty(), "copied twice: {changed:?}");
        }
    }
}

/// Starts, waits for the gate before a chunk's marker is set, and returns what is copied by then.
async fn run_to_the_gate(place: &Place, home: &Home, gate: &Gate) -> (Docrow, Copied) {
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    let copied = Copied::now(place).await;
    assert!(copied.chunks.len() >= 2 && !copied.rows.is_empty(), "{copied:?}");
    (docrow, copied)
}

/// All faults end the same way: everything is applied, and equal.
async fn assert_converges(place: &Place, home: &Home, mut docrow: Docrow) -> Docrow {
    place.settle(&mut docrow).await;
    place.assert_same(home).await;
    docrow
}

/// G2, G5: the chunks whose marker is set are not read again; the one in progress is, but only once. Changes
/// made meanwhile are applied. The dead process's transaction is still open when the next one starts.
#[tokio::test]
async fn docrow_killed_during_the_snapshot() {
    let place = Place::shared("crash_snapshot").await;
    fill(&place).await;
    let home = home_of(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", &held())).await;
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let (docrow, copied) = run_to_the_gate(&place, &home, &gate).await;
    docrow.kill9().await.quiet();
    // In a chunk that is copied, in the one in progress, and in a later one.
    for start in [0, 60, 140] {
        change(&place, start..start + 5).await;
    }
    let mut docrow = home.run();
    docrow.logs("chunks are left").await;
    gate.open().await;
    keys.reached(&mut docrow, 1).await;
    let all = Copied::now(&place).await;
    copied.assert_kept(&all);
    assert!(all.rows.len() > copied.rows.len());
    keys.open().await;
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.stop().await.quiet();
}

/// G2: all is copied, no collection is followed yet, no key is built.
#[tokio::test]
async fn docrow_killed_between_snapshot_and_stream() {
    let place = Place::shared("crash_between").await;
    fill(&place).await;
    let home = home_of(&place);
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let mut docrow = home.run();
    keys.reached(&mut docrow, 1).await;
    let copied = Copied::now(&place).await;
    assert_eq!(copied.rows.len(), usize::try_from(3 * LARGE).unwrap());
    docrow.kill9().await.quiet();
    change(&place, 0..5).await;
    let mut docrow = home.run();
    // The dead process's session is held there, too.
    keys.reached(&mut docrow, 2).await;
    assert_eq!(Copied::now(&place).await, copied);
    keys.open().await;
    let docrow = assert_converges(&place, &home, docrow).await;
    let ended = docrow.stop().await.quiet();
    assert!(ended.log.contains("stopped: 0 documents copied"), "{}", ended.log);
}

/// G2, G3: a batch is sent, but not committed, when docrow is killed. It commits later, beside the next
/// process, which has read the same changes again.
#[tokio::test]
async fn docrow_killed_during_a_batch_that_commits_later() {
    let place = Place::shared("crash_batch").await;
    fill(&place).await;
    let mut home = home_of(&place);
    home.set("stream.partitions", 2);
    let gate = Gate::close(&place, Before::Update("docrow.progress", "true")).await;
    let mut docrow = home.run();
    place.copied(&mut docrow).await;
    change(&place, 0..20).await;
    gate.reached(&mut docrow, 2).await;
    let killed = docrow.kill9().await.quiet();
    assert!(!killed.log.contains("changes applied"), "{}", killed.log);
    change(&place, 10..30).await;
    let docrow = home.run();
    gate.open().await;
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.stop().await.quiet_but(&[RETRIES]);
}

/// G2: killed repeatedly, at random moments, while a writer never stops.
#[tokio::test]
async fn docrow_killed_during_the_stream_under_live_writes() {
    let place = Place::shared("crash_stream").await;
    place.add_sentinels().await;
    let collection = place.database().collection("users");
    users::load(&collection, 8, 0..500, &AtomicU64::new(0)).await.unwrap();
    let home = Home::new(&place);
    let mut writer = Writer::new(&place.client, &collection, 8, 0..500);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    for round in 0..6 {
        // The writes are the clock: docrow is killed after a number of them each time.
        writer.write_times(40 + 30 * round).await.unwrap();
        docrow.kill9().await.quiet();
        writer.write_times(20).await.unwrap();
        if round == 3 {
            fs::remove_dir_all(home.state()).unwrap();
        }
        docrow = home.run();
    }
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.stop().await.quiet_but(&[RETRIES]);
}

/// G7: the state directory is expendable, in the snapshot and in the stream. Even then, copied chunks are not
/// copied again.
#[tokio::test]
async fn the_state_directory_lost_during_the_snapshot_and_the_stream() {
    let place = Place::shared("crash_state").await;
    fill(&place).await;
    let home = home_of(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", &held())).await;
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let (docrow, copied) = run_to_the_gate(&place, &home, &gate).await;
    docrow.kill9().await.quiet();
    fs::remove_dir_all(home.state()).unwrap();
    change(&place, 0..5).await;
    gate.open().await;
    let mut docrow = home.run();
    keys.reached(&mut docrow, 1).await;
    copied.assert_kept(&Copied::now(&place).await);
    keys.open().await;
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.kill9().await.quiet();
    fs::remove_dir_all(home.state()).unwrap();
    change(&place, 20..25).await;
    let docrow = assert_converges(&place, &home, home.run()).await;
    docrow.stop().await.quiet();
    assert!(home.state().exists());
}

/// G2: PostgreSQL is killed while docrow copies, and while it follows. docrow itself continues.
#[tokio::test]
async fn postgres_killed_during_the_snapshot_and_the_stream() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let shared = Place::shared("crash_postgres").await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), "crash_postgres_own").await;
    fill(&place).await;
    let home = home_of(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", &held())).await;
    let (mut docrow, copied) = run_to_the_gate(&place, &home, &gate).await;
    postgres.kill9().await.unwrap();
    change(&place, 0..5).await;
    docrow.logs(RETRIES).await;
    drop(gate);
    postgres.restart().await.unwrap();
    let mut docrow = assert_converges(&place, &home, docrow).await;
    // Rows of documents that have not changed since belong to the first copy.
    let kept = Copied { chunks: copied.chunks, rows: unchanged(copied.rows) };
    kept.assert_kept(&Copied::now(&place).await);

    let gate = Gate::close_again(&place).await;
    let progress = "CREATE TRIGGER progress BEFORE UPDATE ON docrow.progress FOR EACH ROW EXECUTE FUNCTION docrow.gate_7001()";
    place.postgres().await.batch_execute(progress).await.unwrap();
    change(&place, 30..40).await;
    gate.reached(&mut docrow, 1).await;
    postgres.kill9().await.unwrap();
    change(&place, 40..50).await;
    postgres.restart().await.unwrap();
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.stop().await.quiet_but(&[RETRIES]);
}

/// Rows of documents that `change` was not asked to change before.
fn unchanged(rows: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let id = |key: &str| key.split(' ').nth(1).unwrap().parse::<i32>().unwrap();
    rows.into_iter().filter(|(key, _)| id(key) >= 5).collect()
}

/// G2: mongod is killed while docrow copies, and while it follows. docrow itself continues.
#[tokio::test]
async fn mongod_killed_during_the_snapshot_and_the_stream() {
    let mut mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let shared = Place::shared("crash_mongod").await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, "crash_mongod_own").await;
    fill(&place).await;
    let home = home_of(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", &held())).await;
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let (mut docrow, copied) = run_to_the_gate(&place, &home, &gate).await;
    mongod.kill9().await.unwrap();
    gate.open().await;
    docrow.logs(RETRIES).await;
    mongod.restart().await.unwrap();
    change(&place, 0..5).await;
    keys.reached(&mut docrow, 1).await;
    copied.assert_kept(&Copied::now(&place).await);
    keys.open().await;
    let mut docrow = assert_converges(&place, &home, docrow).await;

    change(&place, 30..40).await;
    let tries = docrow.log().matches(RETRIES).count();
    mongod.kill9().await.unwrap();
    // By the stream alone, or, if a lookup was in progress, by the whole attempt.
    docrow.logs_times(RETRIES, tries + 1).await;
    mongod.restart().await.unwrap();
    change(&place, 40..50).await;
    let docrow = assert_converges(&place, &home, docrow).await;
    docrow.stop().await.quiet_but(&[RETRIES]);
}

/// `^C` during a snapshot leaves a state that resumes, and ends docrow within seconds.
#[tokio::test]
async fn docrow_interrupted_during_the_snapshot() {
    let place = Place::shared("crash_interrupt").await;
    fill(&place).await;
    let home = home_of(&place);
    let gate = Gate::close(&place, Before::Update("docrow.chunks", &held())).await;
    let keys = Gate::close(&place, Before::Statement("ALTER TABLE")).await;
    let version = place.number("SELECT current_setting('server_version_num')::bigint").await;
    // What the first one waits for there is cancelled (`sink::connection::cancellation`); elsewhere it still
    // waits for a while.
    let waiting = if version < Some(140_000) { 1 } else { 2 };
    for (sessions, start, command, code) in [(1, 0, "backfill", 1), (waiting, 5, "run", 0)] {
        let mut docrow = home.start(&[command]);
        gate.reached(&mut docrow, sessions).await;
        let copied = Copied::now(&place).await;
        assert_eq!(copied.chunks.len(), usize::try_from(HELD).unwrap());
        let interrupted = std::time::Instant::now();
        docrow.signal("INT").await;
        docrow.ended().await.with_code(code).quiet_but(&["start it again to resume"]);
        assert!(interrupted.elapsed() < std::time::Duration::from_secs(5), "{:?}", interrupted.elapsed());
        assert_eq!(Copied::now(&place).await.chunks, copied.chunks);
        change(&place, start..start + 5).await;
    }
    let copied = Copied::now(&place).await;
    gate.open().await;
    // While keys are built, too.
    let mut docrow = home.start(&["backfill"]);
    keys.reached(&mut docrow, 1).await;
    copied.assert_kept(&Copied::now(&place).await);
    docrow.signal("INT").await;
    docrow.ended().await.with_code(1).quiet_but(&["start it again to resume"]);
    keys.open().await;
    home.backfill().await;
    place.assert_same(&home).await;
}
