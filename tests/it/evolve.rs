//! Automatic mappings that follow their documents, and mapping files with additions.
//!
//! Every test ends by comparing every document with the one rebuilt from its rows.

use mongodb::bson::{Bson, Document, doc};

use crate::support::{Before, Code, Docrow, Gate, Home, Place};

/// The columns of a table, as `name type`, without `_id` and `_extra`.
async fn columns(place: &Place, table: &str) -> Vec<String> {
    let question = "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute \
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND attname NOT IN ('_id', '_extra') ORDER BY attnum";
    let rows = place.postgres().await.query(question, &[&table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until a table has a column, and all columns are filled.
async fn until_there(place: &Place, docrow: &mut Docrow, table: &str, column: &str) {
    let question = format!(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('{table}') AND attname = '{column}' \
         AND (SELECT bool_and(filled) FROM docrow.schemas)"
    );
    let what = format!("{table} has {column}");
    docrow.until(&what, async || place.number(&question).await == Some(1)).await;
}

/// Two partitions, both of which encounter new fields.
fn home_of(place: &Place) -> Home {
    let mut home = Home::new(place);
    home.set("stream.partitions", 2);
    home
}

/// Fifty people with few fields, and the sentinels.
async fn fill(place: &Place) {
    place.add_sentinels().await;
    let people = (0..50).map(|id| doc! { "_id": id, "name": format!("p{id}"), "age": id, "tag": "x" });
    place.collection("people").insert_many(people).await.unwrap();
}

/// Acceptance 2, during the stream: fields, objects, arrays of scalars and of objects appear, nested ones in
/// them later; earlier values are filled into new columns. A restart infers nothing again.
#[tokio::test]
async fn fields_that_appear_become_columns_and_tables() {
    let place = Place::shared("evolve_appear").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    assert_eq!(columns(&place, "people").await, ["name text", "age bigint", "tag text"]);

    let people = place.collection("people");
    let new = doc! { "nick": "n", "home": { "city": "Lima", "zip": 1 }, "tags": ["a", null], "pets": [{ "kind": "cat" }] };
    people.update_many(doc! { "_id": { "$lt": 40 } }, doc! { "$set": new }).await.unwrap();
    until_there(&place, &mut docrow, "people_pets", "kind").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(
        columns(&place, "people").await,
        [
            "name text",
            "age bigint",
            "tag text",
            "home_city text",
            "home_zip bigint",
            "nick text",
            "tags text[]"
        ]
    );
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _extra IS NOT NULL").await, Some(0));
    assert_eq!(place.number("SELECT count(*) FROM people_pets WHERE kind = 'cat'").await, Some(40));

    // Deeper: in the new object, in the elements of the new array, an array in them.
    let deeper = doc! { "home.geo": { "lat": 1.5 }, "pets.0.age": 3, "pets.0.toys": [{ "name": "ball" }] };
    people.update_many(doc! { "_id": { "$lt": 20 } }, doc! { "$set": deeper }).await.unwrap();
    until_there(&place, &mut docrow, "people_pets_toys", "name").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT count(*) FROM people_pets_toys").await, Some(20));
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _extra IS NOT NULL").await, Some(0));
    docrow.stop().await.quiet();

    let versions = place.number("SELECT max(version)::bigint FROM docrow.schemas").await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT max(version)::bigint FROM docrow.schemas").await, versions);
    docrow.stop().await.quiet();
}

/// Acceptance 2: a field's kind changes back and forth; it vanishes. Whole numbers become fractions, and
/// their column changes with them; any other value that does not fit is a misfit.
#[tokio::test]
async fn types_that_change_are_followed() {
    let place = Place::shared("evolve_types").await;
    fill(&place).await;
    let people = place.collection("people");
    let more = doc! { "list": [{ "n": 1 }], "words": ["a"], "where": { "x": 1 } };
    people.update_many(doc! {}, doc! { "$set": more }).await.unwrap();
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;

    people.update_many(doc! { "_id": { "$lt": 3 } }, doc! { "$set": { "age": 1.5 } }).await.unwrap();
    let wide = "SELECT count(*) FROM people WHERE age = 1.5";
    docrow.until("age is wide", async || place.number(wide).await == Some(3)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;

    let values: [Bson; 9] = [
        Bson::Double(1.5),
        Bson::Int64(1 << 40),
        Bson::String("ten".into()),
        Bson::Null,
        Bson::Array(vec![]),
        Bson::Array(vec![doc! { "n": 2, "m": "new" }.into(), 7.into()]),
        Bson::Array(vec!["b".into(), 8.into()]),
        Bson::Document(doc! { "x": "other", "y": 2 }),
        Bson::Boolean(true),
    ];
    for (id, field) in (0..).zip(["age", "tag", "list", "words", "where"]) {
        for (i, value) in (0..).zip(&values) {
            let ids = doc! { "_id": { "$in": [i * 5 + id, 45 + id % 5] } };
            people.update_many(ids, doc! { "$set": { field: value } }).await.unwrap();
        }
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    until_there(&place, &mut docrow, "people_list", "m").await;
    assert_eq!(columns(&place, "people").await[..3], ["name text", "age double precision", "tag text"]);

    people
        .update_many(doc! {}, doc! { "$unset": { "age": "", "list": "", "where": "", "words": "" } })
        .await
        .unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT count(*) FROM people_list").await, Some(0));
    docrow.stop().await.quiet();
}

/// Acceptance 2, during the snapshot: documents copied after the mapping was made have unknown fields and
/// other types; fields became arrays, and arrays became fields; fields are missing.
#[tokio::test]
async fn documents_that_change_during_the_snapshot() {
    let place = Place::shared("evolve_snapshot").await;
    place.add_sentinels().await;
    let pad = "x".repeat(300_000);
    // Enough for several chunks, but few for a sample.
    let documents: Vec<_> = (0..600)
        .map(
            |id| doc! { "_id": id, "pad": &pad, "v": id, "w": [1, 2], "parts": [{ "n": 1 }], "gone": "soon" },
        )
        .collect();
    place.collection("large").insert_many(documents).await.unwrap();
    let mut home = home_of(&place);
    home.set("snapshot.parallelism", 1);
    let condition = "NEW.collection LIKE '%.large' AND NEW.chunk = 0";
    let gate = Gate::close(&place, Before::Update("docrow.chunks", condition)).await;
    let mut docrow = home.run();
    gate.reached(&mut docrow, 1).await;
    let large = place.collection("large");
    for (remainder, change) in (0..).zip([
        doc! { "$set": { "late": "yes", "v": 0.5, "lines": [{ "n": 1 }, { "n": 2 }], "parts.0.m": "x" } },
        doc! { "$unset": { "gone": "", "w": "", "parts": "" } },
        doc! { "$set": { "v": [1, { "a": 2 }], "gone": ["x"], "parts": 7 } },
        doc! { "$set": { "w": "scalar", "v": "text", "parts": { "n": 1 } } },
        doc! { "$set": { "w": [{ "x": 1 }], "gone": { "x": 1 }, "parts": [1, { "n": "y" }] } },
    ]) {
        let ids = doc! { "_id": { "$gte": 10, "$mod": [10, remainder] } };
        large.update_many(ids, change).await.unwrap();
    }
    gate.open().await;
    until_there(&place, &mut docrow, "large_lines", "n").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let expected = ["pad text", "v double precision", "w bigint[]", "gone text", "late text"];
    assert_eq!(columns(&place, "large").await, expected);
    let late = "SELECT count(*) FROM large WHERE late = 'yes' AND v = 0.5 AND _extra IS NULL";
    assert_eq!(place.number(late).await, Some(59));
    assert_eq!(place.number("SELECT count(*) FROM large_lines").await, Some(2 * 59));
    assert_eq!(place.number("SELECT count(*) FROM large_parts WHERE m = 'x'").await, Some(59));
    docrow.stop().await.quiet();
}

/// A backfill ends with all columns created and filled.
#[tokio::test]
async fn a_backfill_leaves_nothing_unfilled() {
    let place = Place::shared("evolve_backfill").await;
    let usual = (0..4000).map(|id| doc! { "_id": id, "a": 1 });
    place.collection("c").insert_many(usual).await.unwrap();
    // Too rare to be certainly in the sample.
    let rare = (4000..4010).map(|id| doc! { "_id": id, "a": 1, "rare": { "b": ["x"] } });
    place.collection("c").insert_many(rare).await.unwrap();
    let home = home_of(&place);
    home.backfill().await;
    assert_eq!(columns(&place, "c").await, ["a bigint", "rare_b text[]"]);
    assert_eq!(
        place.number("SELECT count(*) FROM c WHERE rare_b = '{x}' AND _extra IS NULL").await,
        Some(10)
    );
    place.assert_same(&home).await;
}

/// `evolve = "freeze"`: new fields stay in `_extra`.
#[tokio::test]
async fn a_frozen_mapping_stays() {
    let place = Place::shared("evolve_freeze").await;
    fill(&place).await;
    let mut home = home_of(&place);
    home.set("mapping.evolve", "freeze");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let people = place.collection("people");
    people.update_many(doc! {}, doc! { "$set": { "nick": "n", "age": 0.5 } }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
    assert_eq!(columns(&place, "people").await, ["name text", "age bigint", "tag text"]);
}

/// A version that is stored, but not filled because docrow was killed, is filled by the next start.
#[tokio::test]
async fn docrow_killed_between_a_new_column_and_its_filling() {
    let place = Place::shared("evolve_killed").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    let gate =
        Gate::close(&place, Before::Update("people", "OLD._extra IS NOT NULL AND NEW._extra IS NULL")).await;
    let mut docrow = home.run();
    let people = place.collection("people");
    people.update_many(doc! {}, doc! { "$set": { "nick": "n" } }).await.unwrap();
    gate.reached(&mut docrow, 1).await;
    docrow.kill9().await.quiet();
    gate.open().await;
    assert_eq!(place.number("SELECT count(*) FROM docrow.schemas WHERE NOT filled").await, Some(1));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    until_there(&place, &mut docrow, "people", "nick").await;
    assert_eq!(
        place.number("SELECT count(*) FROM people WHERE nick = 'n' AND _extra IS NULL").await,
        Some(50)
    );
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// A user's table with the name of a new one is left alone.
#[tokio::test]
async fn a_name_that_is_taken_is_not_taken_again() {
    let place = Place::shared("evolve_taken").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.postgres().await.batch_execute("CREATE TABLE people_pets (mine text)").await.unwrap();
    let new = doc! { "nick": "n", "pets": [{ "kind": "cat" }] };
    place.collection("people").update_many(doc! {}, doc! { "$set": new }).await.unwrap();
    until_there(&place, &mut docrow, "people", "nick").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(columns(&place, "people_pets").await, ["mine text"]);
    let other = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'people_pets_%'";
    assert_eq!(place.number(other).await, Some(1));
    docrow.stop().await.quiet();
}

/// So is a user's column in docrow's table, of whatever type: a new field gets another name.
#[tokio::test]
async fn a_column_that_is_taken_is_not_taken_again() {
    let place = Place::shared("evolve_column_taken").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let mine = "ALTER TABLE people ADD COLUMN color text, ADD COLUMN size integer; UPDATE people SET color = 'mine', size = 7";
    place.postgres().await.batch_execute(mine).await.unwrap();
    let new = doc! { "color": "red", "size": "big", "nick": "n" };
    place.collection("people").update_many(doc! { "_id": { "$lt": 5 } }, doc! { "$set": new }).await.unwrap();
    until_there(&place, &mut docrow, "people", "nick").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let kept = "SELECT count(*) FROM people WHERE color = 'mine' AND size = 7";
    assert_eq!(place.number(kept).await, place.number("SELECT count(*) FROM people").await);
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _extra IS NOT NULL").await, Some(0));
    docrow.stop().await.quiet();
}

/// Another session's lock on a table only keeps it from getting new columns: changes are applied meanwhile.
#[tokio::test]
async fn a_lock_on_a_table_delays_its_columns_only() {
    let place = Place::shared("evolve_locked").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let reader = place.postgres().await;
    reader.batch_execute("BEGIN; LOCK TABLE people IN ACCESS SHARE MODE").await.unwrap();
    let people = place.collection("people");
    people.update_many(doc! {}, doc! { "$set": { "nick": "n" } }).await.unwrap();
    docrow.logs("new columns wait").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    reader.batch_execute("COMMIT").await.unwrap();
    until_there(&place, &mut docrow, "people", "nick").await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet_but(&["new columns wait"]);
}

const FILE: &str = "collection = \"docrow_test_evolve_file.people\"\ntable = \"people\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\n\
    type = \"bigint\"\n[columns]\nname = { path = \"name\", type = \"text\" }\n";

/// A mapping file that adds columns, tables and width is applied; one that removes something is refused with
/// the differences.
#[tokio::test]
async fn a_mapping_file_may_be_added_to() {
    let place = Place::shared("evolve_file").await;
    fill(&place).await;
    let people = place.collection("people");
    people.update_many(doc! {}, doc! { "$set": { "pets": [{ "kind": "cat" }] } }).await.unwrap();
    let home = home_of(&place);
    let narrow = format!("{FILE}age = {{ path = \"age\", type = \"integer\" }}\n");
    home.map("people.toml", &narrow);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    people.update_many(doc! { "_id": 7 }, doc! { "$set": { "age": 1_i64 << 40 } }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();

    let wide = format!(
        "{FILE}age = {{ path = \"age\", type = \"bigint\" }}\ntag = {{ path = \"tag\", type = \"text\" }}\n[[tables]]\n\
         table = \"pets\"\npath = \"pets[]\"\nparent = \"person\"\nordinals = [\"n\"]\n\
         columns = {{ kind = {{ path = \"kind\", type = \"text\" }} }}\n"
    );
    home.map("people.toml", &wide);
    let mut docrow = home.run();
    until_there(&place, &mut docrow, "pets", "kind").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _extra IS NOT NULL").await, Some(0));
    assert_eq!(place.number("SELECT age FROM people WHERE _id = 7").await, Some(1 << 40));
    assert_eq!(place.number("SELECT count(*) FROM pets").await, Some(50));
    docrow.stop().await.quiet();

    home.map("people.toml", &narrow);
    let ended = home.finish(&["run"]).await.with_code(2).coded(Code::MappingChanged);
    for difference in
        ["column people.age: its type was bigint", "column people.tag is gone", "table pets is gone"]
    {
        assert!(ended.log.contains(difference), "{}", ended.log);
    }
}

/// A mapping without `_extra`, whose last column is any `jsonb`, may grow as well: there is nothing to fill
/// from.
#[tokio::test]
async fn a_mapping_file_without_extra_may_be_added_to() {
    let place = Place::shared("evolve_bare").await;
    place.add_sentinels().await;
    let list = doc! { "_id": 1, "list": [1, 2] };
    place.collection("people").insert_one(list).await.unwrap();
    let home = home_of(&place);
    let file = |columns: &str| {
        format!(
            "collection = \"{}.people\"\ntable = \"people\"\non_unfit = \"fail\"\n[key]\ncolumn = \"_id\"\n\
             type = \"bigint\"\n[columns]\n{columns}list = {{ path = \"list\", type = \"jsonb\" }}\n",
            place.name
        )
    };
    home.map("people.toml", &file(""));
    home.finish(&["backfill"]).await.with_code(0);
    home.map("people.toml", &file("age = { path = \"age\", type = \"bigint\" }\n"));
    let mut docrow = home.run();
    until_there(&place, &mut docrow, "people", "age").await;
    let update = doc! { "$set": { "age": 5 } };
    place.collection("people").update_one(doc! { "_id": 1 }, update).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT age FROM people").await, Some(5));
    docrow.stop().await.quiet();
}

/// G11: memory is bounded by bytes. Columns are filled first for many small documents, then for large ones:
/// as many large ones at once as small ones would take more than a gigabyte.
#[tokio::test]
async fn large_documents_among_small_ones_are_filled() {
    let place = Place::shared("evolve_large").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    people.insert_many((0..2000).map(|id| doc! { "_id": id, "tag": "x" })).await.unwrap();
    for id in 0..20 {
        let large =
            (0..10).map(|n| doc! { "_id": 5000 + 10 * id + n, "tag": "x", "text": "y".repeat(1 << 20) });
        people.insert_many(large).await.unwrap();
    }
    let mut home = home_of(&place);
    home.set("snapshot.parallelism", 1);
    let file = FILE.replace("docrow_test_evolve_file", &place.name);
    home.map("people.toml", &file);
    home.finish(&["backfill"]).await.with_code(0);
    home.map("people.toml", &format!("{file}tag = {{ path = \"tag\", type = \"text\" }}\n"));
    let mut docrow = home.run();
    docrow.logs("filled in 2,200 documents").await;
    assert!(docrow.peak_memory() < 400 << 20, "{} bytes", docrow.peak_memory());
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Both partitions, and the copiers, encounter the same new fields at once: there is one version, not one for
/// each.
#[tokio::test]
async fn a_field_met_by_several_workers_is_one_version() {
    let place = Place::shared("evolve_race").await;
    fill(&place).await;
    let mut home = home_of(&place);
    home.set("stream.partitions", 8);
    home.set("stream.batch_rows", 3);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let new: Document = (0..20).map(|n| (format!("f{n}"), Bson::Int32(n))).collect();
    place.collection("people").update_many(doc! {}, doc! { "$set": new }).await.unwrap();
    until_there(&place, &mut docrow, "people", "f19").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    assert_eq!(place.number("SELECT max(version)::bigint FROM docrow.schemas").await, Some(2));
    docrow.stop().await.quiet();
}

/// A field's name is data: whatever its length, and however many such fields there are, they get columns, and
/// the log stays readable. MongoDB accepts a name of 16 MB.
#[tokio::test]
async fn field_names_of_any_length_and_number_become_columns() {
    let place = Place::shared("evolve_long_names").await;
    fill(&place).await;
    let home = home_of(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let people = place.collection("people");
    let long = "é".repeat(44_000);
    let of = |id: i32| doc! { "_id": id, &long: 7, "deep": { &long: { "x": true } }, "late": 1 };
    people.insert_many([of(1000), of(1001)]).await.unwrap();
    until_there(&place, &mut docrow, "people", "late").await;
    // An update of such a field can't be a statement that contains the name.
    people.update_one(doc! { "_id": 1001 }, doc! { "$set": { &long: 8 } }).await.unwrap();
    let many =
        (0..290).map(|n| (format!("o{n}"), Bson::Document(doc! { format!("{n}{}", "n".repeat(177)): n })));
    let mut many: Document = many.collect();
    many.insert("_id", 2000);
    people.insert_one(many).await.unwrap();
    docrow.logs("remapped (version 3)").await;
    let filled = "SELECT count(*) FROM docrow.schemas WHERE NOT filled";
    docrow.until("all is filled", async || place.number(filled).await == Some(0)).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let in_extra = "SELECT count(*) FROM people WHERE _id < 2000 AND _extra IS NOT NULL";
    assert_eq!(place.number(in_extra).await, Some(0));
    let ended = docrow.stop().await.quiet();
    let longest = ended.log.lines().map(|line| line.chars().count()).max();
    assert!(longest < Some(4000), "a line of {longest:?} characters");
    assert!(ended.log.contains("ééé…"), "{}", ended.log);
}
