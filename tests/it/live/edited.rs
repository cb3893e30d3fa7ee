//! Rows that were edited by hand: each costs its document a repair, and nothing else.

use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::support::{Docrow, Home, Place};

/// docrow's log lines about them.
const SAID: &str = "are not as docrow writes them";

fn thing(id: i32) -> Document {
    doc! {
        "_id": id, "at": DateTime::from_millis(1_700_000_000_000), "n": 1, "ship": { "city": "Lima" },
        "lines": [{ "item": "pen" }, { "item": "ink" }], "odd": if id % 2 == 0 { "x".into() } else { Bson::Int32(1) },
    }
}

/// Edits of the rows of a document, whose number replaces `$`.
const EDITS: &[&str] = &[
    "UPDATE things SET at = at + '1 microsecond' WHERE _id = $",
    "UPDATE things SET at = 'infinity' WHERE _id = $",
    "DELETE FROM things_lines WHERE _id = $ AND _ord = 0",
    "UPDATE things_lines SET _ord = 7 WHERE _id = $ AND _ord = 1",
    "UPDATE things_lines SET _ord = -1 WHERE _id = $ AND _ord = 1",
    "INSERT INTO things_lines VALUES ($, 5, 'cap')",
    "UPDATE things_lines SET _id = -$ WHERE _id = $ AND _ord = 0",
    "DELETE FROM things WHERE _id = $",
    "DELETE FROM things_lines WHERE _id = $",
    "UPDATE things SET _extra = '[]' WHERE _id = $",
    "UPDATE things SET _extra = 'null' WHERE _id = $",
    "UPDATE things SET _extra = '7' WHERE _id = $",
    "UPDATE things SET _extra = '\"x\"' WHERE _id = $",
    "UPDATE things SET _extra = '{}' WHERE _id = $",
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"more": {"$numberInt": "x"}}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"more": {"$what": 1}}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"more": 1e999}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"more\\": 1}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"lines": "none"}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"lines.9.item": 1}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"n.x": 1}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"n\\1": 1}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"_id": {"$numberInt": "77777"}}' WHERE _id = $"#,
    r#"UPDATE things SET _extra = coalesce(_extra, '{}') || '{"_id": "other"}' WHERE _id = $"#,
    "UPDATE things SET _extra = NULL WHERE _id = $",
];

async fn start(test: &str) -> (Place, Home, Docrow) {
    let place = Place::shared(test).await;
    place.add_sentinels().await;
    let count = i32::try_from(EDITS.len()).unwrap();
    place.collection("things").insert_many((1..=count).map(thing)).await.unwrap();
    // It has no effect, and is left alone.
    place.collection("others").insert_one(doc! { "_id": 1 }).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    (place, home, docrow)
}

async fn edit(place: &Place) {
    let session = place.postgres().await;
    for (id, edit) in (1..).zip(EDITS) {
        session
            .batch_execute(&edit.replace('$', &format!("{id}")))
            .await
            .unwrap_or_else(|e| panic!("{edit}: {e:?}"));
    }
    // Without a document.
    let more = "INSERT INTO things (_id, at, _extra) VALUES (-500, now(), '{\"more\": 7}'); INSERT INTO things_lines VALUES (-600, 3, 'x')";
    session.batch_execute(more).await.unwrap();
}

/// Every edited row is repaired.
async fn settled(place: &Place, docrow: &mut Docrow) {
    let left = "SELECT count(*) FROM docrow.repairs";
    docrow.until("all is repaired", async || place.number(left).await == Some(0)).await;
    place.settle(docrow).await;
}

/// A new column is filled from the rows as they are: documents of rows that docrow did not write are looked
/// up and written whole, and nothing stops.
#[tokio::test]
async fn an_edited_row_is_repaired_while_new_columns_are_filled() {
    let (place, mut home, docrow) = start("edited_fill").await;
    docrow.stop().await.quiet();
    // Every document has a new field, which stays in `extra` for now.
    home.set("mapping.evolve", "freeze");
    let mut docrow = home.run();
    let things = place.collection("things");
    things.update_many(doc! {}, doc! { "$set": { "x": 5 } }).await.unwrap();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    edit(&place).await;
    home.set("mapping.evolve", "add");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    things.insert_one(doc! { "_id": 1000, "x": 5 }).await.unwrap();
    let filled = "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('things') AND attname = 'x' \
        AND (SELECT bool_and(filled) FROM docrow.schemas)";
    docrow.until("there is a column", async || place.number(filled).await == Some(1)).await;
    settled(&place, &mut docrow).await;
    let log = docrow.stop().await.quiet_but(&[SAID]).log;
    assert!(log.contains(SAID), "{log}");
    // Documents that the fill did not read, or could not know.
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    place.assert_same(&home).await;
}

/// The same when docrow starts: unfilled columns are then filled.
#[tokio::test]
async fn an_edited_row_is_repaired_after_a_restart() {
    let (place, home, docrow) = start("edited_restart").await;
    docrow.stop().await.quiet();
    edit(&place).await;
    let session = place.postgres().await;
    session
        .batch_execute(
            "UPDATE docrow.schemas SET filled = false; UPDATE things SET _extra = '{}' WHERE _extra IS NULL",
        )
        .await
        .unwrap();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let mended = "SELECT count(*) FROM things WHERE _id = 1 AND at = date_trunc('milliseconds', at) \
        AND (SELECT bool_and(filled) FROM docrow.schemas)";
    docrow.until("the edited rows are repaired", async || place.number(mended).await == Some(1)).await;
    settled(&place, &mut docrow).await;
    docrow.stop().await.quiet_but(&[SAID]);
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    place.assert_same(&home).await;
}

/// Updates of some fields encounter rows that were edited.
#[tokio::test]
async fn an_edited_row_takes_an_update_of_some_fields() {
    let (place, home, mut docrow) = start("edited_patch").await;
    edit(&place).await;
    let things = place.collection("things");
    for change in [
        doc! { "$set": { "n": 2 } },
        doc! { "$set": { "odd": "y", "ship.city": "Quito" } },
        doc! { "$push": { "lines": { "item": "cap" } } },
        doc! { "$unset": { "at": "" } },
    ] {
        things.update_many(doc! {}, change).await.unwrap();
        place.settle(&mut docrow).await;
    }
    docrow.stop().await.quiet();
    home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
    place.assert_same(&home).await;
}

/// `docrow verify --repair` repairs every one of them, whether docrow runs or not.
#[tokio::test]
async fn verify_settles_every_edited_row() {
    let (place, home, docrow) = start("edited_verify").await;
    let repaired = async || {
        edit(&place).await;
        home.finish(&["verify"]).await.with_code(1).quiet();
        let ended = home.finish(&["verify", "--repair"]).await.with_code(0).quiet();
        assert!(ended.out.contains("repaired"), "{}", ended.out);
        place.assert_same(&home).await;
    };
    repaired().await;
    docrow.stop().await.quiet();
    repaired().await;
}
