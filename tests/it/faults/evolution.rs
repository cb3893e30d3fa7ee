//! Faults while mappings change: an attempt that ends while columns are filled, and locks of other sessions.

use std::time::Duration;

use mongodb::bson::doc;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{Code, Docrow, Home, Place};

/// So many that filling them takes longer than anything else in the test.
const DOCUMENTS: i32 = 20_000;

/// How long the end of an attempt may take, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// docrow, filling a new column of `people`, while their documents change all the time.
struct Filling {
    place: Place,
    home: Home,
    docrow: Docrow,
    /// Changes documents until it is dropped.
    _writer: JoinSet<()>,
}

const FILLED: &str = "SELECT count(*) FROM people WHERE x IS NOT NULL";
const UNFILLED: &str = "SELECT count(*) FROM docrow.schemas WHERE NOT filled";

impl Filling {
    async fn begin(test: &str) -> Self {
        let place = Place::shared(test).await;
        place.add_sentinels().await;
        let people = place.collection("people");
        people.insert_many((0..DOCUMENTS).map(|id| doc! { "_id": id, "a": 0, "x": "x" })).await.unwrap();
        place.collection("other").insert_one(doc! { "_id": 1, "a": 0 }).await.unwrap();
        let mut home = Home::new(&place);
        home.set("stream.partitions", 2);
        let file = format!(
            "collection = \"{}.people\"\ntable = \"people\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\n\
             type = \"bigint\"\n[columns]\na = {{ path = \"a\", type = \"bigint\" }}\n",
            place.name
        );
        home.map("people.toml", &file);
        home.finish(&["backfill"]).await.with_code(0);
        home.map("people.toml", &format!("{file}x = {{ path = \"x\", type = \"text\" }}\n"));
        // It takes a few minutes in total, and most of a second for each portion.
        let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$; \
            CREATE TRIGGER slow BEFORE UPDATE ON people FOR EACH ROW \
            WHEN (OLD._extra IS NOT NULL AND NEW._extra IS NULL) EXECUTE FUNCTION slow()";
        place.postgres().await.batch_execute(slow).await.unwrap();
        let mut docrow = home.run();
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            for id in (0..DOCUMENTS).cycle() {
                people.update_one(doc! { "_id": id }, doc! { "$inc": { "a": 1 } }).await.unwrap();
                sleep(Duration::from_millis(2)).await;
            }
        });
        docrow.until("filling is under way", async || place.number(FILLED).await > Some(600)).await;
        let applied = "SELECT count(*) FROM people WHERE a > 0";
        docrow.until("changes are applied", async || place.number(applied).await > Some(100)).await;
        Self { place, home, docrow, _writer: writer }
    }

    /// It was interrupted, and the request is executed; now everything converges.
    async fn converges(self, expected: &[&str]) {
        let Self { place, home, mut docrow, _writer: writer } = self;
        drop(writer);
        place.postgres().await.batch_execute("DROP TRIGGER slow ON people").await.unwrap();
        docrow.until("all is filled", async || place.number(UNFILLED).await == Some(0)).await;
        place.settle(&mut docrow).await;
        assert_eq!(place.number("SELECT count(*) FROM people WHERE _extra IS NOT NULL").await, Some(0));
        assert_eq!(place.number(FILLED).await, Some(i64::from(DOCUMENTS)));
        place.assert_same(&home).await;
        // Dropping the trigger waits for a page, and the next page waits for the drop.
        let expected: Vec<_> = expected.iter().copied().chain(["values of new columns wait"]).collect();
        docrow.stop().await.quiet_but(&expected);
        idle_in_no_transaction(&place).await;
    }
}

/// docrow has left nothing behind: none of its sessions keeps a transaction open, and with it locks.
async fn idle_in_no_transaction(place: &Place) {
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE 'docrow%' AND state LIKE 'idle in transaction%'";
    let deadline = Instant::now() + SOON;
    while place.number(left).await != Some(0) {
        assert!(Instant::now() < deadline, "a transaction is left open");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Interrupted work is rolled back, and done by the next start.
#[tokio::test]
async fn sigterm_during_a_fill() {
    let mut filling = Filling::begin("fill_sigterm").await;
    let asked = Instant::now();
    let ended = filling.docrow.stop().await;
    assert!(asked.elapsed() < SOON, "{:?}\n{}", asked.elapsed(), ended.log);
    idle_in_no_transaction(&filling.place).await;
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    filling.docrow = filling.home.run();
    filling.converges(&[]).await;
}

#[tokio::test]
async fn resync_asked_for_during_a_fill() {
    let mut filling = Filling::begin("fill_resync").await;
    let asked = Instant::now();
    filling.home.finish(&["resync", "*.other"]).await.with_code(0);
    filling.docrow.logs("to copy again, in place").await;
    assert!(asked.elapsed() < SOON, "{:?}\n{}", asked.elapsed(), filling.docrow.log());
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    filling.converges(&[]).await;
}

#[tokio::test]
async fn collection_created_during_a_fill() {
    let mut filling = Filling::begin("fill_created").await;
    let asked = Instant::now();
    filling.place.collection("newcomers").insert_one(doc! { "_id": 1 }).await.unwrap();
    let copied = "SELECT count(*) FROM newcomers";
    let place = &filling.place;
    filling.docrow.until("it is copied", async || place.number(copied).await == Some(1)).await;
    assert!(asked.elapsed() < 2 * SOON, "{:?}\n{}", asked.elapsed(), filling.docrow.log());
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    filling.converges(&[]).await;
}

#[tokio::test]
async fn collection_dropped_during_a_fill() {
    let mut filling = Filling::begin("fill_dropped").await;
    let asked = Instant::now();
    filling.place.collection("other").drop().await.unwrap();
    filling.docrow.logs("other is gone from MongoDB").await;
    assert!(asked.elapsed() < SOON, "{:?}\n{}", asked.elapsed(), filling.docrow.log());
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    // Its rows are kept, and differ.
    filling.place.collection("other").insert_one(doc! { "_id": 1, "a": 0 }).await.unwrap();
    filling.converges(&["is gone from MongoDB"]).await;
}

#[tokio::test]
async fn collection_renamed_during_a_fill() {
    let mut filling = Filling::begin("fill_renamed").await;
    let asked = Instant::now();
    let [from, to] = ["other", "another"].map(|name| format!("{}.{name}", filling.place.name));
    let rename = doc! { "renameCollection": from, "to": to };
    filling.place.client.database("admin").run_command(rename).await.unwrap();
    let copied = "SELECT count(*) FROM another";
    let place = &filling.place;
    filling.docrow.until("it is copied", async || place.number(copied).await == Some(1)).await;
    assert!(asked.elapsed() < 2 * SOON, "{:?}\n{}", asked.elapsed(), filling.docrow.log());
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    filling.place.postgres().await.batch_execute("DELETE FROM other").await.unwrap();
    filling.converges(&["is gone from MongoDB"]).await;
}

/// Retries go to the workers while these wait for the portion that is being filled.
#[tokio::test]
async fn dead_letters_retried_during_a_fill() {
    let mut filling = Filling::begin("fill_retried").await;
    let place = &filling.place;
    let demand = "ALTER TABLE people ADD CONSTRAINT a_is_natural CHECK (a >= 0)";
    place.postgres().await.batch_execute(demand).await.unwrap();
    let odd = (0..9).map(|n| doc! { "_id": DOCUMENTS + n, "a": -1 });
    place.collection("people").insert_many(odd).await.unwrap();
    let letters = "SELECT count(*) FROM docrow.dead_letters";
    filling.docrow.until("they are dead letters", async || place.number(letters).await == Some(9)).await;
    for _ in 0..5 {
        let ask = "UPDATE docrow.dead_letters SET retry_at = now()";
        place.postgres().await.batch_execute(ask).await.unwrap();
        let waiting = "SELECT count(*) FROM docrow.dead_letters WHERE retry_at IS NOT NULL";
        filling.docrow.until("they are tried", async || place.number(waiting).await == Some(0)).await;
    }
    assert_eq!(place.number(UNFILLED).await, Some(1));
    filling.converges(&["dead letter"]).await;
}

/// A user's own change of the table waits for the portion that is being filled, not for all of it; and the
/// next portion waits for the change.
#[tokio::test]
async fn table_altered_by_a_user_during_a_fill() {
    let filling = Filling::begin("fill_altered").await;
    let asked = Instant::now();
    let alter = "ALTER TABLE people ADD COLUMN mine text";
    filling.place.postgres().await.batch_execute(alter).await.unwrap();
    assert!(asked.elapsed() < SOON, "{:?}\n{}", asked.elapsed(), filling.docrow.log());
    assert_eq!(filling.place.number(UNFILLED).await, Some(1));
    filling.converges(&[]).await;
}

/// A fill that takes minutes does not affect other collections.
#[tokio::test]
async fn new_field_elsewhere_during_a_fill() {
    let mut filling = Filling::begin("fill_elsewhere").await;
    let place = &filling.place;
    let field = doc! { "$set": { "late": "x" } };
    place.collection("other").update_many(doc! {}, field).await.unwrap();
    let there = "SELECT count(*) FROM other WHERE late = 'x' AND _extra IS NULL";
    filling.docrow.until("it has a column", async || place.number(there).await == Some(1)).await;
    let unfilled = format!("{UNFILLED} AND collection LIKE '%.people'");
    assert_eq!(filling.place.number(&unfilled).await, Some(1));
    filling.converges(&[]).await;
}

/// Each gets its column without waiting for the others' pauses: filling one alone takes most of a second.
#[tokio::test]
async fn many_collections_gain_a_field_at_once() {
    const MANY: i64 = 60;
    let place = Place::shared("evolve_many").await;
    place.add_sentinels().await;
    let name = |number| format!("c{number:02}");
    for number in 0..MANY {
        place.collection(&name(number)).insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    }
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let began = Instant::now();
    for number in 0..MANY {
        let field = doc! { "$set": { "late": "x" } };
        place.collection(&name(number)).update_one(doc! { "_id": 1 }, field).await.unwrap();
    }
    let there = "SELECT count(*) FROM pg_attribute WHERE attname = 'late' AND attrelid IN \
        (SELECT oid FROM pg_class WHERE relkind = 'r')";
    docrow.until("all have it", async || place.number(there).await == Some(MANY)).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    docrow.until("all are filled", async || place.number(UNFILLED).await == Some(0)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Changes of `table` and of `other`, and a reader of `table`, continue while another session holds a lock
/// that docrow needs: none of them takes long.
async fn goes_on(place: &Place, docrow: &mut Docrow, table: &str) {
    /// More than a try takes on a busy machine; less than docrow would make everyone wait.
    const AT_ONCE: Duration = Duration::from_secs(3);
    let reader = place.postgres().await;
    for round in 1_i64..=40 {
        let began = Instant::now();
        for collection in [table, "other"] {
            let change = doc! { "$set": { "n": round } };
            place.collection(collection).update_one(doc! { "_id": 1 }, change).await.unwrap();
        }
        let applied = format!(
            "SELECT count(*) FROM {table} a, other b WHERE a._id = 1 AND b._id = 1 AND a.n = {round} AND b.n = {round}"
        );
        docrow.until("both are applied", async || place.number(&applied).await == Some(1)).await;
        reader.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        assert!(began.elapsed() < AT_ONCE, "round {round}: {:?}\n{}", began.elapsed(), docrow.log());
    }
}

/// `things` and `other`, which are live.
async fn live(test: &str) -> (Place, Home, Docrow) {
    let place = Place::shared(test).await;
    let home = Home::new(&place);
    let docrow = follow(&place, &home).await;
    (place, home, docrow)
}

async fn follow(place: &Place, home: &Home) -> Docrow {
    place.add_sentinels().await;
    for collection in ["things", "other"] {
        let documents = (0..50).map(|id| doc! { "_id": id, "n": 0_i64 });
        place.collection(collection).insert_many(documents).await.unwrap();
    }
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow
}

/// One idle transaction that has read a table delays the table's new columns, and nothing else: no other
/// collection, no change of this one, no reader.
#[tokio::test]
async fn readers_lock_while_a_field_is_new() {
    let (place, home, mut docrow) = live("lock_reader").await;
    let holder = place.postgres().await;
    holder.batch_execute("BEGIN; SELECT count(*) FROM things").await.unwrap();
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let field = doc! { "$set": { "late": "x" } };
    place.collection("things").update_many(doc! {}, field).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'things'::regclass";
    docrow.until("docrow wants the lock", async || place.number(waits).await > Some(0)).await;
    goes_on(&place, &mut docrow, "things").await;
    docrow.logs("new columns wait").await;
    holder.batch_execute("COMMIT").await.unwrap();
    let filled = "SELECT count(*) FROM things WHERE late = 'x' AND NOT coalesce(_extra ? 'late', false)";
    docrow.until("the column is filled", async || place.number(filled).await == Some(50)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let ended = docrow.stop().await.quiet_but(&["new columns wait"]).coded(Code::TargetLocked);
    assert_eq!(ended.log.matches("new columns wait").count(), 1, "{}", ended.log);
    assert!(ended.log.contains(&format!("things is locked by PostgreSQL process {pid} (")), "{}", ended.log);
}

/// The same for a session with a lock on a row that must be filled.
#[tokio::test]
async fn lock_that_a_fill_waits_for() {
    let (place, home, mut docrow) = live("lock_row").await;
    let holder = place.postgres().await;
    let slow = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$; \
        CREATE TRIGGER hold BEFORE UPDATE ON things FOR EACH ROW \
        WHEN (OLD._extra IS NOT NULL AND NEW._extra IS NULL) EXECUTE FUNCTION hold()";
    holder.batch_execute(slow).await.unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let field = doc! { "$set": { "late": "x" } };
    place.collection("things").update_many(doc! { "_id": { "$gt": 1 } }, field).await.unwrap();
    docrow.logs("values of new columns wait").await;
    goes_on(&place, &mut docrow, "things").await;
    holder.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    docrow.until("all is filled", async || place.number(UNFILLED).await == Some(0)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["values of new columns wait"]);
}

/// A mapping file gets a column, another session reads the table, and docrow starts: it follows with the
/// existing columns, and adds the column when it can.
#[tokio::test]
async fn readers_lock_during_a_start_with_a_new_column() {
    let place = Place::shared("lock_start").await;
    let home = Home::new(&place);
    let file = format!(
        "collection = \"{}.things\"\ntable = \"things\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\n\
         type = \"bigint\"\n[columns]\nn = {{ path = \"n\", type = \"bigint\" }}\n",
        place.name
    );
    home.map("things.toml", &file);
    follow(&place, &home).await.stop().await.quiet();
    let late = doc! { "$set": { "late": "x" } };
    place.collection("things").update_many(doc! {}, late).await.unwrap();
    home.map("things.toml", &format!("{file}late = {{ path = \"late\", type = \"text\" }}\n"));
    let holder = place.postgres().await;
    holder.batch_execute("BEGIN; SELECT count(*) FROM things").await.unwrap();
    let mut docrow = home.run();
    docrow.logs("things is locked by").await;
    goes_on(&place, &mut docrow, "things").await;
    place.settle(&mut docrow).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let filled = "SELECT count(*) FROM things WHERE late = 'x' AND NOT coalesce(_extra ? 'late', false)";
    docrow.until("the column is filled", async || place.number(filled).await == Some(50)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["is locked by"]);
}

/// The same for emptying the table of a dropped collection.
#[tokio::test]
async fn readers_lock_while_a_collection_is_dropped() {
    let (place, mut home, docrow) = live("lock_dropped").await;
    docrow.stop().await.quiet();
    home.set("source.on_drop", "truncate");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let holder = place.postgres().await;
    holder.batch_execute("BEGIN; SELECT count(*) FROM things").await.unwrap();
    place.collection("things").drop().await.unwrap();
    docrow.logs("things is gone from MongoDB, but its tables are locked").await;
    goes_on(&place, &mut docrow, "other").await;
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(50));
    holder.batch_execute("COMMIT").await.unwrap();
    docrow
        .until("they are empty", async || place.number("SELECT count(*) FROM things").await == Some(0))
        .await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["is gone from MongoDB"]);
}
