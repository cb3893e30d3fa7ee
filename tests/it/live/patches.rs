//! Updates of some fields: they write only these, or else the whole document.

use mongodb::bson::{Bson, DateTime, Document, RawArrayBuf, RawBson, RawDocumentBuf, doc, raw::CString};

use crate::support::{Capability, Docrow, Home, Place, lacks};

fn order(id: i32) -> Document {
    doc! {
        "_id": id, "status": "new", "total": 1.5, "ship": { "city": "Lima", "zip": "01" },
        "tags": ["a", "b"], "lines": [{ "item": "pen", "parts": [{ "n": 1 }] }, { "item": "ink" }],
    }
}

async fn start(test: &str, documents: i32) -> (Place, Home, Docrow) {
    let place = Place::shared(test).await;
    place.add_sentinels().await;
    place.collection("orders").insert_many((0..documents).map(order)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    (place, home, docrow)
}

/// Columns and tables of other fields are not even looked at: values planted there stay.
#[tokio::test]
async fn an_update_writes_what_it_changed_and_nothing_else() {
    let (place, home, mut docrow) = start("patches", 10).await;
    let (postgres, orders) = (place.postgres().await, place.collection("orders"));
    let plant = "UPDATE orders SET total = -1; UPDATE orders_lines_parts SET n = -1";
    postgres.batch_execute(plant).await.unwrap();
    let planted = "SELECT (SELECT count(*) FROM orders WHERE total = -1) + (SELECT count(*) FROM orders_lines_parts WHERE n = -1)";
    for (change, seen) in [
        (doc! { "$set": { "status": "paid" } }, "SELECT count(*) FROM orders WHERE status = 'paid'"),
        (doc! { "$unset": { "status": "" } }, "SELECT count(*) FROM orders WHERE status IS NULL"),
        (doc! { "$set": { "ship.city": "Quito" } }, "SELECT count(*) FROM orders WHERE ship_city = 'Quito'"),
        (doc! { "$push": { "tags": "c" } }, "SELECT count(*) FROM orders WHERE tags = '{a,b,c}'"),
        (doc! { "$pop": { "tags": 1 } }, "SELECT count(*) FROM orders WHERE tags = '{a,b}'"),
        (doc! { "$set": { "ship": { "zip": "02" } } }, "SELECT count(*) FROM orders WHERE ship_zip = '02'"),
    ] {
        orders.update_many(doc! {}, change).await.unwrap();
        docrow.until("the change is seen", async || place.number(seen).await == Some(10)).await;
        assert_eq!(place.number(planted).await, Some(20), "{seen}");
    }
    // The lines, with their parts, and nothing else.
    orders.update_many(doc! {}, doc! { "$push": { "lines": { "item": "cap" } } }).await.unwrap();
    let lines = "SELECT count(*) FROM orders_lines WHERE item = 'cap'";
    docrow.until("the lines are seen", async || place.number(lines).await == Some(10)).await;
    assert_eq!(place.number(planted).await, Some(10));
    orders.update_many(doc! {}, doc! { "$set": { "total": 3.5 } }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// Trap: an update of a document without a row, a value that was in `_extra`.
#[tokio::test]
async fn what_no_part_can_mend_is_written_whole() {
    let (place, home, mut docrow) = start("patches_whole", 10).await;
    let (postgres, orders) = (place.postgres().await, place.collection("orders"));
    // No row: it was removed.
    let remove = "DELETE FROM orders WHERE _id < 3; DELETE FROM orders_lines WHERE _id < 3";
    postgres.batch_execute(remove).await.unwrap();
    orders.update_many(doc! {}, doc! { "$set": { "status": "paid" } }).await.unwrap();
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    // In `_extra`, and out of it again.
    for value in [Bson::from(vec![1]), "text".into(), Bson::from(doc! { "x": 1 }), Bson::Null, "text".into()]
    {
        let change = doc! { "$set": { "status": value, "total": 2.5 } };
        orders.update_many(doc! { "_id": { "$lt": 5 } }, change).await.unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet();
}

/// The same of names with dots: beside the path that they look like, changed, and removed.
#[tokio::test]
async fn names_with_dots_are_no_paths() {
    if lacks(Capability::SetField).await {
        return;
    }
    let (place, home, mut docrow) = start("patches_dots", 10).await;
    let orders = place.collection("orders");
    let set = |name: &str, value: Bson| {
        let field =
            doc! { "$setField": { "field": { "$literal": name }, "input": "$$ROOT", "value": value } };
        vec![doc! { "$replaceWith": field }]
    };
    for value in [Bson::from(1), "two".into(), Bson::from("$$REMOVE"), 3.into()] {
        orders.update_many(doc! {}, set("ship.city", value.clone())).await.unwrap();
        orders.update_many(doc! {}, set("lines.0", value)).await.unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
        orders
            .update_many(doc! {}, doc! { "$set": { "ship.city": "Quito" }, "$push": { "tags": "c" } })
            .await
            .unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet();
}

/// G4: once a mapping has changed, statements prepared for one field are not used for another. Neither field
/// here has a column, because only nulls are known, so both are written to the same place.
#[tokio::test]
async fn a_field_is_not_taken_for_another_after_the_mapping_changed() {
    let (place, home, mut docrow) = start("patches_evolved", 1).await;
    let orders = place.collection("orders");
    for (id, field, column) in [(1, "left", "first"), (2, "right", "second"), (3, "left", "third")] {
        orders.update_one(doc! { "_id": 0 }, doc! { "$set": { field: Bson::Null } }).await.unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
        orders.insert_one(doc! { "_id": id, column: 1 }).await.unwrap();
        let column = format!(
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'orders' AND column_name = '{column}'"
        );
        docrow.until("there is a column", async || place.number(&column).await == Some(1)).await;
        orders.update_one(doc! { "_id": 0 }, doc! { "$unset": { field: "" } }).await.unwrap();
        orders.update_one(doc! { "_id": 0 }, doc! { "$set": { field: Bson::Null } }).await.unwrap();
    }
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// G1: updates of all kinds, in any order, many of one document at a time; replayed after a kill, too.
#[tokio::test]
async fn any_updates_are_followed() {
    let (place, home, mut docrow) = start("patches_any", 40).await;
    let orders = place.collection("orders");
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..3 {
        for _ in 0..400 {
            let id = random.i32(0..40);
            let n = random.i32(0..5);
            let changes = [
                doc! { "$set": { "status": format!("s{n}") } },
                doc! { "$set": { "total": f64::from(n) + 0.5, "status": "both" } },
                doc! { "$set": { "total": "much" } },
                doc! { "$unset": { "total": "", "ship.zip": "" } },
                doc! { "$set": { "ship": { "city": format!("c{n}") } } },
                doc! { "$set": { "ship.city": n, "note": n } },
                doc! { "$push": { "lines": { "$each": [{ "item": "x", "parts": [{ "n": n }] }], "$slice": -4 } } },
                doc! { "$set": { "lines": [{ "item": "y" }] } },
                doc! { "$push": { "tags": { "$each": [format!("t{n}")], "$slice": -3 } } },
                doc! { "$set": { "tags": ["z", format!("{n}")] } },
            ];
            let change = changes[random.usize(0..changes.len())].clone();
            // A path through what is no object is refused by the server.
            let _ = orders.update_one(doc! { "_id": id }, change).await;
            match random.i32(0..40) {
                0 => drop(orders.delete_one(doc! { "_id": id }).await.unwrap()),
                1 => drop(orders.replace_one(doc! { "_id": id }, order(id)).upsert(true).await.unwrap()),
                _ => {}
            }
        }
        if round == 1 {
            docrow.kill9().await.quiet();
            docrow = home.run();
        }
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet();
}

/// Changes made while docrow was stopped are applied as they arrive: how far rows may be ahead of them is
/// stored, and if an event contains everything that it changed, nothing is looked up. A change does not wait
/// for others if none arrive.
#[tokio::test]
async fn what_events_say_is_not_looked_up() {
    let (place, mut home, docrow) = start("patches_by_value", 10).await;
    docrow.stop().await.quiet();
    let orders = place.collection("orders");
    place.database().run_command(doc! { "profile": 2 }).await.unwrap();
    orders.update_many(doc! {}, doc! { "$set": { "status": "paid" } }).await.unwrap();
    orders
        .update_many(doc! {}, doc! { "$set": { "total": 7.5, "ship": { "city": "Quito" } } })
        .await
        .unwrap();
    orders.replace_one(doc! { "_id": 1 }, order(1)).await.unwrap();
    orders.insert_one(order(10)).await.unwrap();
    orders.delete_one(doc! { "_id": 2 }).await.unwrap();
    home.set("stream.batch_age", "1min");
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let looked_up = doc! { "command.find": "orders", "command.filter._id.$in": { "$exists": true } };
    let profile = place.collection("system.profile");
    let first = profile.find_one(looked_up.clone()).await.unwrap();
    assert!(first.is_none(), "{first:?}");
    place.assert_same(&home).await;
    // A path with dots says less.
    let looked_up = async || profile.count_documents(looked_up.clone()).await.unwrap();
    let before = looked_up().await;
    orders.update_one(doc! { "_id": 3 }, doc! { "$set": { "ship.city": "Lima" } }).await.unwrap();
    docrow.until("it is looked up", async || looked_up().await > before).await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    docrow.stop().await.quiet();
}

/// A document that may have several fields of one name.
fn raw(fields: &[(&str, Bson)]) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in fields {
        document.append(CString::try_from(*name).unwrap(), RawBson::try_from(value.clone()).unwrap());
    }
    document
}

/// Trap: two fields of one name. An update changes the first of them, a column holds the last, `_extra` the
/// others: so an update alone does not suffice to write its columns.
#[tokio::test]
async fn a_field_that_is_there_twice_is_written_whole() {
    let changes = [
        vec![doc! { "$set": { "a": 7 } }],
        vec![doc! { "$unset": { "a": 1 } }],
        vec![doc! { "$set": { "b": 7 } }],
        vec![doc! { "$set": { "a": 7, "b": 8 } }],
        vec![doc! { "$inc": { "a": 1 } }],
        vec![doc! { "$rename": { "b": "a" } }],
        vec![doc! { "$rename": { "a": "c" } }],
        vec![doc! { "$rename": { "a": "b" } }],
        vec![doc! { "$set": { "o": { "a": 9 } } }],
        vec![doc! { "$set": { "o.a": 7 } }],
        vec![doc! { "$unset": { "o.a": 1 } }],
        vec![doc! { "$unset": { "o": 1 } }],
        vec![doc! { "$set": { "lines.0.a": 7 } }],
        vec![doc! { "$unset": { "lines.0.a": 1 } }],
        vec![doc! { "$push": { "lines": { "a": 1 } } }],
        vec![doc! { "$set": { "lines": [{ "a": 9 }] } }],
        vec![doc! { "$set": { "twice": [{ "a": 9 }] } }],
        vec![doc! { "$unset": { "twice": 1 } }],
        vec![doc! { "$push": { "twice": { "a": 9 } } }],
        vec![doc! { "$set": { "new": 1 } }],
        vec![doc! { "$set": { "a": 7 } }, doc! { "$set": { "b": 8 } }],
        vec![doc! { "$unset": { "a": 1 } }, doc! { "$unset": { "a": 1 } }],
    ];
    // No updates by pipelines: of such a document they end mongod 6.0.5, which compares it by the names of
    // its fields.
    let place = Place::shared("patches_twice").await;
    place.add_sentinels().await;
    let twice = || raw(&[("a", 1.into()), ("a", 2.into())]);
    let inside = RawBson::from(twice());
    let count = i32::try_from(changes.len()).unwrap();
    let document = |id: i32| {
        let mut document = raw(&[("_id", id.into()), ("a", 1.into()), ("a", 2.into()), ("b", 3.into())]);
        document.append(CString::try_from("o").unwrap(), inside.clone());
        let lines = RawArrayBuf::from_iter([inside.clone(), inside.clone()]);
        let _ = ["lines", "twice", "twice"]
            .map(|name| document.append(CString::try_from(name).unwrap(), lines.clone()));
        document
    };
    let things = place.database().collection::<RawDocumentBuf>("things");
    things.insert_many((0..count).map(document)).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    place.assert_exact().await;
    for (id, changes) in (0..).zip(changes) {
        for change in changes {
            things.update_one(doc! { "_id": id }, change).await.unwrap();
        }
    }
    place.settle(&mut docrow).await;
    for (id, extra) in [(0, r#"{"a\\1": {"$numberInt": "7"}}"#), (1, "{}")] {
        let question = format!(
            r"SELECT count(*) FROM things WHERE _id = {id} AND a = 2 AND _extra @> '{extra}' AND (_id = 0 OR NOT _extra ? 'a\1')"
        );
        assert_eq!(place.number(&question).await, Some(1), "{id}");
    }
    place.assert_exact().await;
    home.finish(&["verify"]).await.with_code(0).quiet();
    docrow.stop().await.quiet();
}

/// The same if the column masks its values.
#[tokio::test]
async fn a_masked_field_that_is_there_twice_is_written_whole() {
    let place = Place::shared("patches_masked").await;
    place.add_sentinels().await;
    let things = place.database().collection::<RawDocumentBuf>("things");
    let thing = |id: i32| raw(&[("_id", id.into()), ("a", "x".into()), ("a", "y".into()), ("b", 1.into())]);
    things.insert_many((0..3).map(thing)).await.unwrap();
    let home = Home::new(&place);
    let mapping = format!(
        "collection = '{}.things'\ntable = 'things'\nextra = '_extra'\nkey = {{ column = '_id', type = 'bigint' }}\n\
         [columns]\na = {{ path = 'a', type = 'text', mask = 'redact' }}\nb = {{ path = 'b', type = 'bigint' }}\n",
        place.name
    );
    home.map("things.toml", &mapping);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    things.update_one(doc! { "_id": 0 }, doc! { "$unset": { "a": 1 } }).await.unwrap();
    things.update_one(doc! { "_id": 1 }, doc! { "$set": { "a": null } }).await.unwrap();
    things.update_one(doc! { "_id": 2 }, doc! { "$set": { "b": 2 } }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things WHERE a = '***'").await, Some(3));
    home.finish(&["verify"]).await.with_code(0).quiet();
    docrow.stop().await.quiet();
}

/// Fields with the names of docrow's own columns are ordinary fields.
#[tokio::test]
async fn fields_with_the_names_of_docrows_columns_are_updated() {
    let place = Place::shared("patches_names").await;
    place.add_sentinels().await;
    let named = |n: i32| {
        let at = DateTime::from_millis(1_700_000_000_000 + i64::from(n));
        doc! { "_deleted_at": at, "_extra": n, "_ord": n, "id": n, "doc": n, "k": n, "v": n, "found": n }
    };
    let thing = |id: i32| {
        let mut thing = doc! { "_id": id, "o": named(0), "lines": [named(0)] };
        thing.extend(named(0));
        thing
    };
    let things = place.collection("things");
    things.insert_many((0..3).map(thing)).await.unwrap();
    let written = "marked = { path = \"k\", type = \"bigint\" }\n_deleted_at = { path = \"_deleted_at\", type = \"timestamptz\" }";
    for mapping in [
        String::new(),
        format!(
            "collection = '{}.things'\ntable = 'things'\nextra = 'rest'\nkey = {{ column = 'k', type = 'bigint' }}\n[columns]\n{written}\n",
            place.name
        ),
    ] {
        place
            .postgres()
            .await
            .batch_execute(
                "DROP TABLE IF EXISTS things, things_lines, sentinels; DROP SCHEMA IF EXISTS docrow CASCADE",
            )
            .await
            .unwrap();
        let home = Home::new(&place);
        if !mapping.is_empty() {
            home.map("things.toml", &mapping);
        }
        let mut docrow = home.run();
        place.settle(&mut docrow).await;
        for n in 1..4 {
            for (name, value) in named(n) {
                things.update_many(doc! {}, doc! { "$set": { &name: &value } }).await.unwrap();
                things
                    .update_many(
                        doc! {},
                        doc! { "$set": { format!("o.{name}"): &value, format!("lines.0.{name}"): &value } },
                    )
                    .await
                    .unwrap();
            }
            place.settle(&mut docrow).await;
            place.assert_same(&home).await;
        }
        let unset: Document = named(0).into_iter().map(|(name, _)| (name, Bson::from(1))).collect();
        things.update_one(doc! { "_id": 1 }, doc! { "$unset": unset }).await.unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
        docrow.stop().await.quiet();
    }
}

/// An update may change something that an event does not show: the order of the fields, for example.
#[tokio::test]
async fn an_update_that_tells_of_no_field_is_followed() {
    let place = Place::shared("patches_nothing").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    things.insert_many((0..3).map(|id| doc! { "_id": id, "a": 1, "b": { "c": 1, "d": 2 } })).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    for change in [
        vec![doc! { "$replaceWith": { "_id": "$_id", "b": "$b", "a": "$a" } }],
        vec![doc! { "$set": { "b": { "d": "$b.d", "c": "$b.c" } } }],
        vec![doc! { "$replaceWith": { "b": "$b", "_id": "$_id", "a": "$a" } }],
        vec![doc! { "$set": { "a": 1.0 } }],
    ] {
        things.update_many(doc! {}, change).await.unwrap();
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet();
}
