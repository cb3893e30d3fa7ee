//! The rules of a mapping file or the configuration: values that do not fit, deleted documents, foreign keys,
//! masks, omitted fields, document mode.

use mongodb::bson::{
    Bson, DateTime, Decimal128, Document, RawArrayBuf, RawDocumentBuf, Timestamp, doc, rawdoc,
};

use crate::support::{Code, Ended, Home, Place, RETRIES, ids_of_all_types};

/// A mapping file of a collection in `place`, with the parts before and after its columns.
fn file(place: &Place, collection: &str, head: &str, rest: &str) -> String {
    format!(
        "collection = \"{}.{collection}\"\ntable = \"{collection}\"\nextra = \"_extra\"\n{head}\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n\
         [columns]\nname = {{ path = \"name\", type = \"text\" }}\n{rest}",
        place.name
    )
}

const AGE: &str = "age = { path = \"age\", type = \"integer\" }\n";

/// Equal by rebuilding every document, and by `docrow verify`.
async fn assert_rebuilt(place: &Place, home: &Home) -> Ended {
    place.assert_exact().await;
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet()
}

async fn text(place: &Place, question: &str) -> String {
    let row = place.postgres().await.query_one(question, &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// G10: `on_unfit = "dead_letter"`: the document goes whole to the dead letters, with the path, and has rows
/// again once it fits.
#[tokio::test]
async fn a_misfit_may_make_a_dead_letter() {
    let place = Place::shared("rules_dead_letter").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    people.insert_many((0..20).map(|id| doc! { "_id": id, "name": "n", "age": id })).await.unwrap();
    people.insert_one(doc! { "_id": 20, "name": "n", "age": "old" }).await.unwrap();
    let home = Home::new(&place);
    home.map("people.toml", &file(&place, "people", "on_unfit = \"dead_letter\"", AGE));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    people.update_one(doc! { "_id": 3 }, doc! { "$set": { "age": 1.5, "more": 1 } }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_rebuilt(&place, &home).await;
    let letters = "SELECT string_agg(key || ' ' || path, ', ' ORDER BY id) FROM docrow.dead_letters";
    assert_eq!(text(&place, letters).await, "{\"$numberInt\":\"20\"} age, {\"$numberInt\":\"3\"} age");
    assert_eq!(place.number("SELECT count(*) FROM people").await, Some(19));
    people.update_many(doc! { "_id": { "$in": [3, 20] } }, doc! { "$set": { "age": 7 } }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(0));
    assert_rebuilt(&place, &home).await;
    docrow.stop().await.quiet();
}

/// `on_unfit = "fail"` stops the collection, in the stream and in the snapshot, and no other. Its position
/// stays, so with a corrected mapping it resumes from there.
#[tokio::test]
async fn a_misfit_may_stop_the_collection() {
    let place = Place::shared("rules_fail").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    people.insert_many((0..20).map(|id| doc! { "_id": id, "name": "n", "age": id })).await.unwrap();
    let home = Home::new(&place);
    let strict = |ty: &str| {
        let columns = format!("age = {{ path = \"age\", type = \"{ty}\" }}\n");
        file(&place, "people", "on_unfit = \"fail\"", &columns)
    };
    home.map("people.toml", &strict("integer"));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    people.update_one(doc! { "_id": 3 }, doc! { "$set": { "age": 1_i64 << 40 } }).await.unwrap();
    docrow.logs("people is stopped").await;
    docrow.logs(" [DRW-1305] ").await;
    // The sentinels' collection continues, the other one's changes wait.
    people.update_many(doc! {}, doc! { "$set": { "name": "later" } }).await.unwrap();
    place.settle(&mut docrow).await;
    let stopped = "SELECT count(*) FROM docrow.schemas WHERE stopped LIKE '%age: %'";
    docrow.until("the reason is stored", async || place.number(stopped).await == Some(1)).await;
    assert_eq!(place.number("SELECT count(*) FROM people WHERE name = 'later' AND id = 3").await, Some(0));
    docrow.stop().await.quiet_but(&["people is stopped"]);

    home.map("people.toml", &strict("bigint"));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    assert_rebuilt(&place, &home).await;
    assert_eq!(place.number("SELECT count(*) FROM people WHERE name = 'later'").await, Some(20));
    assert_eq!(place.number("SELECT age FROM people WHERE id = 3").await, Some(1 << 40));
    let stopped = "SELECT count(*) FROM docrow.schemas WHERE stopped IS NOT NULL";
    assert_eq!(place.number(stopped).await, Some(0), "of no version");
    docrow.stop().await.quiet();
}

/// Trap: a bad mapping loses every row one by one. Too many dead letters stop their collection, here in the
/// snapshot; others are copied, and a backfill reports by its exit code that not everything is done.
#[tokio::test]
async fn too_many_dead_letters_stop_their_collection() {
    let place = Place::shared("rules_threshold").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    people.insert_many((0..50).map(|id| doc! { "_id": format!("p{id}"), "name": "n" })).await.unwrap();
    let mut home = Home::new(&place);
    home.set("mapping.max_dead_letters", 5);
    home.map("people.toml", &file(&place, "people", "", ""));
    let ended = home.finish(&["backfill"]).await.with_code(1).quiet_but(&["people is stopped"]);
    assert!(ended.log.contains("more than 5 documents can't be written"), "{}", ended.log);
    assert!(ended.log.contains("_id"), "{}", ended.log);
    assert_eq!(place.number("SELECT count(*) FROM sentinels").await, Some(64));
    assert_eq!(place.number("SELECT count(*) FROM people").await, Some(0));
    let stopped = "SELECT count(*) FROM docrow.schemas WHERE stopped LIKE 'more than 5 documents%'";
    assert_eq!(place.number(stopped).await, Some(1));

    let verified = home.finish(&["verify"]).await.with_code(1);
    assert!(verified.out.contains("people, key \"p1\": can't have rows"), "{}", verified.out);

    // With a limit slightly above their number it completes, with all of them dead letters.
    home.set("mapping.max_dead_letters", 50);
    let ended = home.finish(&["backfill", "--allow-dead-letters"]).await.with_code(0);
    assert!(ended.log.contains("50 documents could not be written"), "{}", ended.log);
    assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(50));
}

/// `on_delete = "soft"`: deleted documents stay, marked; they are restored when they are inserted again.
#[tokio::test]
async fn deleted_documents_may_stay() {
    let place = Place::shared("rules_soft").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    let person = |id: i32| doc! { "_id": id, "name": "n", "pets": [{ "kind": "cat" }] };
    people.insert_many((0..20).map(person)).await.unwrap();
    let home = Home::new(&place);
    let pets = "[[tables]]\ntable = \"pets\"\npath = \"pets[]\"\nparent = \"person\"\nordinals = [\"n\"]\n\
        columns = { kind = { path = \"kind\", type = \"text\" } }\n";
    home.map("people.toml", &file(&place, "people", "on_delete = \"soft\"\nforeign_keys = true", pets));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    people.delete_many(doc! { "_id": { "$lt": 5 } }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_rebuilt(&place, &home).await;
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _deleted_at IS NOT NULL").await, Some(5));
    assert_eq!(place.number("SELECT count(*) FROM pets").await, Some(20));
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'pets'::regclass \
        AND confrelid = 'people'::regclass";
    assert_eq!(place.number(keys).await, Some(1));
    people.insert_many((0..3).map(person)).await.unwrap();
    place.settle(&mut docrow).await;
    assert_rebuilt(&place, &home).await;
    assert_eq!(place.number("SELECT count(*) FROM people WHERE _deleted_at IS NOT NULL").await, Some(2));
    docrow.stop().await.quiet();
}

/// Every text of every table of the database, including docrow's metadata.
async fn dump(place: &Place) -> String {
    let session = place.postgres().await;
    let tables = "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
        WHERE relkind = 'r' AND nspname IN ('public', 'docrow')";
    let mut all = String::new();
    for table in session.query(tables, &[]).await.unwrap() {
        let name: String = table.get(0);
        // `escape` shows the bytes of a dead letter's document as text.
        let rows = format!("SET bytea_output = 'escape'; SELECT t::text FROM {name} t");
        for message in session.simple_query(&rows).await.unwrap() {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                all.push_str(row.get(0).unwrap_or_default());
                all.push('\n');
            }
        }
    }
    all
}

/// G12: masked and omitted values reach no table, no `_extra`, no dead letter and no log, in whatever form
/// they arrive, in the snapshot and in the stream.
#[tokio::test]
async fn masked_and_omitted_values_leave_no_trace() {
    let place = Place::shared("rules_mask").await;
    place.add_sentinels().await;
    let people = place.collection("people");
    let person = |id: i32| {
        doc! {
            "_id": id, "name": "n", "mail": "SECRET-mail", "card": { "number": "SECRET-card", "type": "visa" },
            "notes": "SECRET-notes", "cards": [{ "pin": "SECRET-pin", "n": 1 }], "pet": { "name": "SECRET-pet", "age": 1 },
        }
    };
    let odd = |id: i32| {
        doc! {
            "_id": id, "name": 7, "mail": ["SECRET-a"], "card": "SECRET-b", "cards": { "pin": "SECRET-c" },
            "pet": [{ "name": "SECRET-d" }], "notes": { "x": "SECRET-e" },
        }
    };
    // A dead letter: an `_id` that the key can't hold.
    let mut dead = person(0);
    dead.insert("_id", "dead");
    people.insert_many((0..10).map(person).chain((10..20).map(odd)).chain([dead])).await.unwrap();
    let mut home = Home::new(&place);
    home.env("DOCROW_MASK_KEY", "pepper, and more of it");
    let columns = "mail = { path = \"mail\", type = \"text\", mask = \"sha256\" }\n\
        number = { path = \"card.number\", type = \"text\", mask = \"redact\" }\n\
        [[tables]]\ntable = \"cards\"\npath = \"cards[]\"\nparent = \"person\"\nordinals = [\"i\"]\n\
        columns = { pin = { path = \"pin\", type = \"bigint\", mask = \"redact\" } }\n";
    home.map("people.toml", &file(&place, "people", "omit = [\"notes\", \"pet.name\"]", columns));
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    people.insert_many((30..35).map(person).chain((35..40).map(odd))).await.unwrap();
    people
        .update_many(doc! { "_id": { "$lt": 3 } }, doc! { "$set": { "card": ["SECRET-f"] } })
        .await
        .unwrap();
    people.update_one(doc! { "_id": "dead" }, doc! { "$set": { "mail": "SECRET-g" } }).await.unwrap();
    place.settle(&mut docrow).await;
    home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
    let log = docrow.stop().await.quiet().log;

    let all = dump(&place).await;
    assert!(all.contains("visa") && all.contains("$numberInt") && !all.contains("SECRET"), "{all}");
    assert!(!log.contains("SECRET"), "{log}");
    assert_eq!(
        place.number("SELECT count(*) FROM docrow.dead_letters WHERE key LIKE '%dead%'").await,
        Some(1)
    );
    // printf SECRET-mail | openssl dgst -sha256 -hmac "pepper, and more of it"
    let hashed = "SELECT mail FROM people WHERE id = 1";
    assert_eq!(
        text(&place, hashed).await,
        "176a2a816475958981dc9a87e2f1066cb71e137a1e55a1be6cd1a7dff82b5cc1"
    );
    assert_eq!(text(&place, "SELECT number FROM people WHERE id = 5").await, "***");

    // Equal values have equal hashes only under one key: another key is detected.
    let masked_by =
        "SELECT max(masked_by) || ' ' || count(*) FROM docrow.schemas WHERE masked_by IS NOT NULL";
    let fingerprint = text(&place, masked_by).await;
    assert!(fingerprint.len() == 34 && fingerprint.ends_with(" 1"), "{fingerprint}");
    home.env("DOCROW_MASK_KEY", "salt, and much more of it");
    for command in ["run", "verify", "plan", "backfill"] {
        let ended = home.finish(&[command]).await.with_code(2);
        assert!(
            ended.error().contains("people are masked with another key than DOCROW_MASK_KEY"),
            "{}",
            ended.log
        );
        assert!(!ended.log.contains("salt") && !ended.log.contains(&fingerprint[..32]), "{}", ended.log);
    }
    // An earlier docrow did not record it: then the current one is assumed.
    place.postgres().await.batch_execute("UPDATE docrow.schemas SET masked_by = NULL").await.unwrap();
    home.env("DOCROW_MASK_KEY", "pepper, and more of it");
    home.finish(&["backfill", "--allow-dead-letters"]).await.with_code(0).quiet();
    assert_eq!(text(&place, masked_by).await, fingerprint);

    let mut keyless = Home::new(&place);
    keyless.set("name", "other");
    keyless.map("people.toml", &file(&place, "people", "", columns));
    let ended = keyless.finish(&["run"]).await.with_code(2).coded(Code::MissingMaskKey);
    assert!(ended.error().contains("DOCROW_MASK_KEY"), "{}", ended.log);
}

/// Documents of every type, and of such values as a form of JSON could change.
fn of_all_types() -> Vec<Document> {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    let ids = ids_of_all_types().into_iter().map(|id| doc! { "_id": id.clone(), "again": id, "n": 1 });
    let numbers = doc! {
        "_id": "numbers", "int": 5, "long": 5_i64, "large": 1_i64 << 60, "double": 5.0, "tenth": 0.1, "zero": -0.0, "huge": 1e300,
        "ten": 1e16, "nan": f64::NAN, "decimals": [decimal("1.50"), decimal("1E+3"), decimal("-0")],
    };
    let others = doc! {
        "_id": "others", "dates": [DateTime::from_millis(0), DateTime::from_millis(-1), DateTime::MAX], "nul": "a\0b",
        "time": Timestamp { time: 1, increment: 2 }, "null": null, "empty": [{}, []], "$odd.name": { "$x": 1, "": 2 },
    };
    ids.chain([numbers, others]).collect()
}

/// Document mode, both forms: every document whole and exact, in the snapshot and in the stream.
#[tokio::test]
async fn documents_may_stay_whole() {
    for json in ["relaxed", "canonical"] {
        let place = Place::shared(&format!("rules_{json}")).await;
        place.add_sentinels().await;
        let c = place.collection("c");
        c.insert_many(of_all_types()).await.unwrap();
        let mut home = Home::new(&place);
        home.set("mapping.default", "document");
        home.set("mapping.json", json);
        let mut docrow = home.run();
        place.settle(&mut docrow).await;
        assert_rebuilt(&place, &home).await;
        c.update_many(doc! {}, doc! { "$set": { "n": 2.5, "deep": { "er": [1, { "x": 1_i64 }] } } })
            .await
            .unwrap();
        c.delete_one(doc! { "_id": "numbers" }).await.unwrap();
        place.settle(&mut docrow).await;
        assert_rebuilt(&place, &home).await;
        let n = "SELECT count(*) FROM c WHERE doc->>'n' = '2.5'";
        // Without the deleted document, and the one with a name that has a special form in JSON.
        let expected = if json == "relaxed" { Some(of_all_types().len() as i64 - 2) } else { Some(0) };
        assert_eq!(place.number(n).await, expected);
        assert_eq!(place.number("SELECT count(*) FROM docrow.dead_letters").await, Some(0));
        docrow.stop().await.quiet();
    }
}

/// A document with an `_id` that is no valid UTF-8.
fn old(byte: u8, n: i32) -> RawDocumentBuf {
    let id = [&[2][..], b"_id\0", &[4, 0, 0, 0, b'a', byte, 0xff, 0]].concat();
    let rest = rawdoc! { "n": n };
    let elements = [&id, &rest.as_bytes()[4..]].concat();
    let length = i32::try_from(elements.len() + 4).unwrap().to_le_bytes();
    RawDocumentBuf::from_bytes([&length[..], &elements].concat()).unwrap()
}

/// Trap: invalid UTF-8 in old data, even as an `_id`: copied, updated, deleted, verified.
#[tokio::test]
async fn ids_in_invalid_utf8_are_followed() {
    let place = Place::shared("rules_utf8").await;
    place.add_sentinels().await;
    let insert = async |documents: Vec<RawDocumentBuf>| {
        let mut array = RawArrayBuf::new();
        documents.iter().for_each(|document| array.push(document.clone()));
        let command = rawdoc! { "insert": "old", "documents": array };
        place.database().run_raw_command(command).await.unwrap();
    };
    insert((0..5).map(|n| old(0x80 + n, 1)).collect()).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    insert((5..10).map(|n| old(0x80 + n, 1)).collect()).await;
    place.collection("old").update_many(doc! {}, doc! { "$set": { "n": 2 } }).await.unwrap();
    place.settle(&mut docrow).await;
    let filled = "SELECT count(*) FROM \"old\" WHERE n = 2";
    assert_eq!(place.number(filled).await, Some(10));
    home.finish(&["verify"]).await.with_code(0).quiet();
    place.collection("old").delete_many(doc! {}).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM \"old\"").await, Some(0));
    docrow.stop().await.quiet_but(&[RETRIES]);
}
