//! Users' operations on the tables that docrow writes.

use mongodb::bson::doc;

use super::{Phase, Scene, change, converges, fill};
use crate::support::{Before, Code, Docrow, Gate, Home, Place, RETRIES};

/// A migration locks a table exclusively: docrow waits, copies other collections meanwhile, and continues.
#[tokio::test]
async fn lock_held_by_a_migration_during_snapshot() {
    let place = Place::shared("migration_snapshot").await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 2);
    fill(&place).await;
    let first = Before::Update("docrow.chunks", "NEW.collection ~ '(a_first|b_second)$'");
    let gate = Gate::close(&place, first).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 2).await;
    let migration = place.postgres().await;
    migration.batch_execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE").await.unwrap();
    gate.open().await;
    let waits = waits_for("things");
    docrow.until("docrow waits for the lock", async || place.number(&waits).await > Some(0)).await;
    let copied =
        "SELECT count(*) FROM docrow.chunks WHERE copied_at IS NOT NULL AND collection LIKE '%.z_last'";
    docrow.until("others are copied", async || place.number(copied).await == Some(1)).await;
    change(&place, 1).await;
    migration.batch_execute("COMMIT").await.unwrap();
    converges(&place, &home, docrow).await.quiet();
}

#[tokio::test]
async fn lock_held_by_a_migration_during_hand_over() {
    let place = Place::shared("migration_hand_over").await;
    let home = Home::new(&place);
    let mut scene = Scene::held(place, home, Phase::HandOver).await;
    let migration = scene.place.postgres().await;
    migration.batch_execute("BEGIN; LOCK TABLE z_last_list IN ACCESS SHARE MODE").await.unwrap();
    scene.open().await;
    let waits = waits_for("z_last_list");
    let place = &scene.place;
    scene.docrow.until("docrow waits for the lock", async || place.number(&waits).await > Some(0)).await;
    let keys = "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid = ANY(ARRAY['things'::regclass, 'a_first'::regclass])";
    scene.docrow.until("others get their keys", async || place.number(keys).await == Some(2)).await;
    scene.change().await;
    migration.batch_execute("COMMIT").await.unwrap();
    scene.converges(&[]).await;
}

/// Longer than docrow would wait in any one place, if it did not wait indefinitely.
#[tokio::test]
async fn lock_held_by_a_migration_during_stream() {
    let place = Place::shared("migration_stream").await;
    let home = Home::new(&place);
    fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let migration = place.postgres().await;
    migration.batch_execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE").await.unwrap();
    change(&place, 1).await;
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
        WHERE NOT granted AND relation = 'things'::regclass AND now() - query_start > '6s'";
    docrow.until("docrow has waited for long", async || place.number(waits).await > Some(0)).await;
    change(&place, 2).await;
    migration
        .batch_execute("ALTER TABLE things ADD COLUMN by_migration text DEFAULT 'x'; COMMIT")
        .await
        .unwrap();
    converges(&place, &home, docrow).await.quiet_but(&["waits for a lock on"]);
}

fn waits_for(table: &str) -> String {
    format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass")
}

/// docrow ends with an explanation, and so does the next one, until what was dropped is restored.
async fn column_dropped(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    let mut scene = Scene::held(place, home, phase).await;
    if phase == Phase::Stream {
        scene.open().await;
        scene.place.settle(&mut scene.docrow).await;
    }
    let user = scene.place.postgres().await;
    // In the snapshot the one collection that is still to be copied.
    let table = "z_last";
    let drop =
        format!("CREATE TABLE kept AS SELECT _id, name FROM {table}; ALTER TABLE {table} DROP COLUMN name");
    user.batch_execute(&drop).await.unwrap();
    scene.open().await;
    scene.change().await;
    // Unchanged parts of an update are not written, so a column that is missing there is not noticed.
    let rename = doc! { "$set": { "name": "another" } };
    scene.place.collection(table).update_one(doc! { "_id": 3 }, rename).await.unwrap();
    let ended = scene.docrow.ended().await.with_code(4).coded(Code::TableDropped);
    assert!(ended.error().contains("name"), "{}", ended.log);
    let ended = scene.home.finish(&["run"]).await.with_code(4).coded(Code::TableDropped);
    let words = ended.error();
    assert!(words.contains("column public.z_last.name was dropped or renamed"), "{words}");
    let restore = format!(
        "ALTER TABLE {table} ADD COLUMN name text; UPDATE {table} t SET name = kept.name FROM kept WHERE kept._id = t._id"
    );
    user.batch_execute(&restore).await.unwrap();
    change(&scene.place, 5).await;
    let docrow = scene.home.run();
    converges(&scene.place, &scene.home, docrow).await.quiet_but(&[RETRIES]);
}

#[tokio::test]
async fn column_dropped_by_a_user_during_snapshot() {
    column_dropped("column_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn column_dropped_by_a_user_during_stream() {
    column_dropped("column_stream", Phase::Stream).await;
}

/// A resync creates again what a user dropped, with its content.
#[tokio::test]
async fn columns_and_tables_dropped_are_made_again_by_a_resync() {
    let place = Place::shared("made_again").await;
    let home = Home::new(&place);
    fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    let drop = "ALTER TABLE things DROP COLUMN name; DROP TABLE z_last_list";
    place.postgres().await.batch_execute(drop).await.unwrap();
    change(&place, 1).await;
    let refused = home.finish(&["run"]).await.with_code(4);
    assert!(refused.error().contains("docrow resync '"), "{}", refused.error());
    home.finish(&["resync", "*.things", "*.z_last"]).await.with_code(0);
    let docrow = home.run();
    change(&place, 2).await;
    converges(&place, &home, docrow).await.quiet();
}

/// G10: a document that violates a user's own index or constraint is a dead letter that names it, and is
/// written once that is fixed.
async fn constraint_violated(test: &str, phase: Phase) {
    let (place, home, mut docrow) = violating(Place::shared(test).await, phase).await;
    let letters = async |constraint: &str| {
        let named =
            format!("SELECT count(*) FROM docrow.dead_letters WHERE reason LIKE '%\"{constraint}\"%'");
        place.number(&named).await
    };
    docrow.until("a check makes a dead letter", async || letters("n_is_small").await == Some(1)).await;
    docrow.until("an index makes a dead letter", async || letters("one_name_each").await == Some(1)).await;
    // The comparison takes them for what they are.
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;

    // One is fixed in the documents, the other in the tables.
    let mend = doc! { "$set": { "n": 1 } };
    place.collection("z_last").update_one(doc! { "_id": 3 }, mend).await.unwrap();
    place.postgres().await.batch_execute("DROP INDEX one_name_each").await.unwrap();
    docrow.until("the corrected document is written", async || letters("n_is_small").await == Some(0)).await;
    home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0);
    docrow.until("the other is tried again", async || letters("one_name_each").await == Some(0)).await;
    change(&place, 4).await;
    let ended = converges(&place, &home, docrow).await.quiet_but(&["dead letter", "document by document"]);
    ended.coded(Code::RowConstraint);
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(0));
}

/// Two documents of `z_last` violate a user's constraint, and docrow encounters them.
async fn violating(place: Place, phase: Phase) -> (Place, Home, Docrow) {
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    let mut scene = Scene::held(place, home, phase).await;
    if phase == Phase::Stream {
        scene.open().await;
        scene.place.settle(&mut scene.docrow).await;
    }
    let demands = "ALTER TABLE z_last ADD CONSTRAINT n_is_small CHECK (n < 1000); \
        CREATE UNIQUE INDEX one_name_each ON z_last (name)";
    scene.place.postgres().await.batch_execute(demands).await.unwrap();
    for (id, violation) in [(3, doc! { "n": 5000 }), (4, doc! { "name": "thing 1" })] {
        let z_last = scene.place.collection("z_last");
        z_last.update_one(doc! { "_id": id }, doc! { "$set": violation }).await.unwrap();
    }
    scene.open().await;
    let Scene { place, home, docrow, .. } = scene;
    (place, home, docrow)
}

#[tokio::test]
async fn constraint_violated_during_snapshot() {
    constraint_violated("constraint_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn constraint_violated_during_stream() {
    constraint_violated("constraint_stream", Phase::Stream).await;
}

/// "Deletes silently skip rows that forced row-level security hides, positions move on": docrow stops
/// instead, and resumes from there once it sees them again.
#[tokio::test]
async fn row_level_security_forced_during_stream() {
    let place = Place::shared("row_security").await;
    let owner = format!("{}_owner", place.name);
    let admin = place.postgres().await;
    let make = format!(
        "DROP ROLE IF EXISTS {owner}; CREATE ROLE {owner} LOGIN; GRANT CREATE ON DATABASE {} TO {owner}; \
         GRANT CREATE ON SCHEMA public TO {owner}",
        place.name
    );
    admin.batch_execute(&make).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", place.postgres_uri.replacen("postgres@", &format!("{owner}@"), 1));
    fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let hide = "ALTER TABLE things ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
        CREATE POLICY few ON things USING (_id < 5)";
    admin.batch_execute(hide).await.unwrap();
    place.collection("things").delete_one(doc! { "_id": 7 }).await.unwrap();
    let ended = docrow.ended().await.with_code(4);
    assert!(ended.error().starts_with("[DRW-3210]") && ended.log.contains("BYPASSRLS"), "{}", ended.log);
    assert_eq!(place.number("SELECT count(*) FROM things WHERE _id = 7").await, Some(1));
    // Not before it starts, either: it must see what it copies and verifies. Other collections continue.
    let mut refused = home.run();
    refused.logs("things is stopped, other collections continue").await;
    let refused = refused.stop().await;
    assert!(refused.log.contains("row-level security"), "{}", refused.log);
    assert!(home.finish(&["verify"]).await.with_code(4).error().starts_with("[DRW-3210]"));
    admin.batch_execute("ALTER TABLE things NO FORCE ROW LEVEL SECURITY").await.unwrap();
    converges(&place, &home, home.run()).await.quiet();
    let gone = "SELECT count(*) FROM things WHERE _id = 7";
    assert_eq!(place.number(gone).await, Some(0));
    drop(admin);
}
