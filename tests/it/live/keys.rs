//! Which `_id`s are equal: MongoDB decides, and an equal one may replace an `_id`.

use std::{collections::HashMap, iter};

use docrow::model::document_key::{DocumentKey, Id};
use mongodb::{
    bson::{
        Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocument, RawDocumentBuf, Regex,
        Timestamp, doc, oid::ObjectId, raw::CString, rawdoc, spec::BinarySubtype,
    },
    error::ErrorKind,
};

use crate::support::{Docrow, Home, Place, ids_of_all_types};

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// Values that are often equal, or almost equal.
fn values() -> Vec<Bson> {
    let nan = |bits: u64| Bson::Double(f64::from_bits(bits));
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let with_scope =
        |scope| Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "f".to_owned(), scope });
    let mut values: Vec<Bson> = vec![
        f64::NAN.into(),
        nan(0xfff8_0000_0000_0001),
        decimal("NaN"),
        decimal("-NaN"),
        f64::INFINITY.into(),
        decimal("Infinity"),
        decimal("-Infinity"),
        f64::NEG_INFINITY.into(),
        0.1.into(),
        decimal("0.1"),
        decimal("0.10"),
        0.5.into(),
        decimal("0.50"),
        9_007_199_254_740_993_i64.into(),
        9_007_199_254_740_992.0.into(),
        i64::MAX.into(),
        9_223_372_036_854_775_807.0.into(),
        decimal("9223372036854775808"),
        decimal("1E+400"),
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::MaxKey,
        true.into(),
        false.into(),
        Bson::DateTime(DateTime::from_millis(1)),
        Bson::Timestamp(Timestamp { time: 0, increment: 1 }),
        "1".into(),
        "".into(),
        Bson::Symbol("1".to_owned()),
        Bson::JavaScriptCode("1".to_owned()),
        Bson::JavaScriptCode("f".to_owned()),
        with_scope(doc! {}),
        with_scope(doc! { "x": 1 }),
        with_scope(doc! { "x": 1.0 }),
        with_scope(doc! { "x": 2 }),
        Bson::RegularExpression(Regex { pattern: "1".try_into().unwrap(), options: "".try_into().unwrap() }),
        Bson::RegularExpression(Regex { pattern: "1".try_into().unwrap(), options: "i".try_into().unwrap() }),
        ObjectId::from_bytes([0x31; 12]).into(),
        binary(BinarySubtype::Generic, b"1"),
        binary(BinarySubtype::BinaryOld, b"1"),
        binary(BinarySubtype::UserDefined(0x80), b"1"),
        binary(BinarySubtype::Generic, b""),
    ];
    for number in [0_i32, 1, -1, 2] {
        let float = f64::from(number);
        let text =
            [number.to_string(), format!("{number}.00"), format!("{number}0E-1"), format!("-{number}")];
        values.extend([number.into(), i64::from(number).into(), float.into(), (-float).into()]);
        values.extend(text.iter().filter(|text| !text.starts_with("--")).map(|text| decimal(text)));
    }
    values
}

/// A document with such values, in any arrangement.
fn any_document(random: &mut fastrand::Rng, values: &[Bson], depth: u32) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for _ in 0..random.usize(0..3) {
        let name = ["a", "b", "0"][random.usize(0..3)];
        let name = CString::try_from(name).unwrap();
        match random.u32(0..5) {
            0 if depth > 0 => document.append(name, any_document(random, values, depth - 1)),
            1 if depth > 0 => {
                // An array whose elements have any names.
                let bytes = any_document(random, values, depth - 1).into_bytes();
                let mut element = vec![0x04];
                element.extend_from_slice(name.as_str().as_bytes());
                element.push(0);
                element.extend(bytes);
                let whole = [&document.as_bytes()[..document.as_bytes().len() - 1], &element, &[0]].concat();
                document = with_length(whole);
            }
            _ => document.append(
                name,
                RawDocumentBuf::try_from(&doc! { "v": values[random.usize(0..values.len())].clone() })
                    .unwrap()
                    .get("v")
                    .unwrap()
                    .unwrap(),
            ),
        }
    }
    document
}

fn with_length(mut bytes: Vec<u8>) -> RawDocumentBuf {
    let length = i32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

fn key(document: &RawDocument) -> DocumentKey {
    DocumentKey::of(Id::of(document).unwrap())
}

/// Trap: the server decides which `_id`s are equal. Of all inserted ones, it refuses exactly those that are
/// equal to an existing one; docrow's keys must agree.
#[tokio::test]
async fn the_server_and_docrow_agree_on_which_ids_are_one() {
    let place = Place::shared("keys_equal").await;
    let ids = place.database().collection::<RawDocumentBuf>("ids");
    let values = values();
    let mut random = fastrand::Rng::with_seed(1);
    let alone = values.iter().filter(|value| !matches!(value, Bson::Undefined | Bson::RegularExpression(_)));
    let alone = alone
        .cloned()
        .chain(ids_of_all_types())
        .map(|id| RawDocumentBuf::try_from(&doc! { "_id": id }).unwrap());
    let inside =
        values.iter().map(|value| RawDocumentBuf::try_from(&doc! { "_id": { "v": value.clone() } }).unwrap());
    let random = iter::repeat_with(|| rawdoc! { "_id": any_document(&mut random, &values, 2) }).take(3000);
    let documents: Vec<_> = alone.chain(inside).chain(random).collect();
    let refused = match ids.insert_many(&documents).ordered(false).await.map_err(|e| *e.kind) {
        Err(ErrorKind::InsertMany(errors)) => errors.write_errors.unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    let refused: HashMap<usize, i32> = refused.into_iter().map(|error| (error.index, error.code)).collect();
    let (mut known, mut twice) = (HashMap::new(), 0);
    for (number, document) in documents.iter().enumerate() {
        let earlier = known.insert(key(document), document);
        match (earlier, refused.get(&number)) {
            (None, None) => {}
            (Some(_), Some(11_000)) => twice += 1,
            (earlier, refused) => panic!("{document:?} after {earlier:?}: {refused:?}"),
        }
    }
    assert!(twice > 500, "{twice}");
}

async fn start(place: &Place, home: &Home) -> Docrow {
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow
}

/// The number of rows in `things` and their lines.
async fn rows(place: &Place) -> Option<i64> {
    place.number("SELECT (SELECT count(*) FROM things) * 100 + (SELECT count(*) FROM things_lines)").await
}

/// The forms that one embedded `_id` may take over time.
fn forms() -> Vec<Bson> {
    let of = |t: Bson, name: Bson| doc! { "t": t, "name": name, "in": [{ "n": -0.0 }] }.into();
    vec![
        of(1_i64.into(), "x".into()),
        of(1.into(), "x".into()),
        of(1.0.into(), Bson::Symbol("x".to_owned())),
        of(decimal("1.00"), "x".into()),
        of(1_i64.into(), Bson::Symbol("x".to_owned())),
    ]
}

/// Trap: an embedded `_id` may be replaced by an equal one with other bytes. It stays one document with one
/// row, which has the current bytes, whether docrow runs meanwhile or not.
async fn an_id_changes_its_bytes(test: &str, mode: &str) {
    let place = Place::shared(test).await;
    place.add_sentinels().await;
    let things = place.collection("things");
    let forms = forms();
    let thing = |id: &Bson, n: i32| doc! { "_id": id.clone(), "n": n, "lines": [{ "n": n }, { "n": n }] };
    things.insert_one(thing(&forms[0], 0)).await.unwrap();
    things.insert_one(thing(&doc! { "t": 2 }.into(), 0)).await.unwrap();
    let mut home = Home::new(&place);
    if !mode.is_empty() {
        home.set("mapping.default", "document");
        home.set("mapping.json", mode);
    }
    home.set("stream.partitions", 4);
    let mut docrow = start(&place, &home).await;
    let compared = async || {
        if mode.is_empty() {
            assert_eq!(rows(&place).await, Some(204));
            place.assert_same(&home).await;
        } else {
            assert_eq!(place.number("SELECT count(*) FROM things").await, Some(2));
            place.assert_exact().await;
            home.finish(&["verify"]).await.with_code(0).quiet();
        }
    };
    for (n, (before, after)) in (1..).zip(forms.iter().zip(forms.iter().cycle().skip(1))) {
        things.update_one(doc! { "_id": before }, doc! { "$set": { "lines.0.n": n } }).await.unwrap();
        things.replace_one(doc! { "_id": before }, thing(after, n)).await.unwrap();
        place.settle(&mut docrow).await;
        compared().await;
        things.update_one(doc! { "_id": before }, doc! { "$set": { "n": -n } }).await.unwrap();
        things.update_one(doc! { "_id": after }, doc! { "$set": { "lines.1.n": -n } }).await.unwrap();
        place.settle(&mut docrow).await;
        compared().await;
        // And while docrow does not run; it first reads older bytes.
        docrow.kill9().await.quiet();
        things.update_one(doc! { "_id": after }, doc! { "$set": { "lines.0.n": n } }).await.unwrap();
        things.replace_one(doc! { "_id": after }, thing(before, n)).await.unwrap();
        things.update_one(doc! { "_id": after }, doc! { "$push": { "lines": { "n": n } } }).await.unwrap();
        things.update_one(doc! { "_id": after }, doc! { "$pop": { "lines": 1 } }).await.unwrap();
        things.replace_one(doc! { "_id": before }, thing(after, n)).await.unwrap();
        docrow = start(&place, &home).await;
        compared().await;
    }
    home.finish(&["resync", &format!("{}.things", place.name)]).await.with_code(0);
    docrow.logs("copied again").await;
    place.settle(&mut docrow).await;
    compared().await;
    things.delete_one(doc! { "_id": &forms[3] }).await.unwrap();
    place.settle(&mut docrow).await;
    assert_eq!(place.number("SELECT count(*) FROM things").await, Some(1));
    home.finish(&["verify"]).await.with_code(0).quiet();
    docrow.stop().await.quiet();
}

#[tokio::test]
async fn an_embedded_id_that_changes_its_bytes_is_one_row() {
    an_id_changes_its_bytes("keys_bytes", "").await;
}

#[tokio::test]
async fn an_embedded_id_that_changes_its_bytes_is_one_row_of_a_whole_document() {
    an_id_changes_its_bytes("keys_bytes_relaxed", "relaxed").await;
    an_id_changes_its_bytes("keys_bytes_canonical", "canonical").await;
}

/// An update may name the `_id`, if its new value is equal to the old one.
#[tokio::test]
async fn an_update_that_sets_an_equal_id_is_followed() {
    let place = Place::shared("keys_set").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    things.insert_one(doc! { "_id": 1_i64, "n": 0 }).await.unwrap();
    things.insert_one(doc! { "_id": { "t": 1_i64 }, "n": 0 }).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = start(&place, &home).await;
    for (n, number) in (1..).zip([Bson::Int32(1), 1.0.into(), 1_i64.into(), decimal("1.0"), 1.into()]) {
        for id in [number.clone(), doc! { "t": number }.into()] {
            let update = doc! { "$set": { "_id": &id, "n": n } };
            let _ = things.update_one(doc! { "_id": &id }, update).await;
            let update = vec![doc! { "$set": { "_id": id.clone() } }];
            let _ = things.update_one(doc! { "_id": id }, update).await;
        }
        place.settle(&mut docrow).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet();
}

/// G10: a dead letter is removed, whatever numeric types its `_id` has had since it was written.
#[tokio::test]
async fn a_dead_letter_heals_whatever_type_its_id_has_become() {
    let place = Place::shared("keys_dead").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    // Of two types, so that the key accepts both.
    things.insert_many([doc! { "_id": 5, "n": 1 }, doc! { "_id": "x", "n": 1 }]).await.unwrap();
    let home = Home::new(&place);
    let mut docrow = start(&place, &home).await;
    let letters = async |docrow: &mut Docrow, wanted: i64| {
        place.settle(docrow).await;
        let found = place.number("SELECT count(*) FROM docrow.dead_letters").await;
        assert_eq!(found, Some(wanted), "{}", docrow.log());
    };
    let no_sevens = "ALTER TABLE things ADD CONSTRAINT no_sevens CHECK (n <> 7)";
    place.postgres().await.batch_execute(no_sevens).await.unwrap();
    let ids: [[Bson; 3]; 2] = [
        [1.into(), 1_i64.into(), 1.0.into()],
        [doc! { "t": 1 }.into(), doc! { "t": 1_i64 }.into(), doc! { "t": 1.0 }.into()],
    ];
    for ids in &ids {
        things.insert_one(doc! { "_id": &ids[0], "n": 7 }).await.unwrap();
        letters(&mut docrow, 1).await;
        for id in ids.iter().cycle().skip(1).take(4) {
            things.replace_one(doc! { "_id": id }, doc! { "_id": id, "n": 7 }).await.unwrap();
            letters(&mut docrow, 1).await;
        }
        // Already known, or only read at the start.
        docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);
        docrow = start(&place, &home).await;
        things.replace_one(doc! { "_id": &ids[0] }, doc! { "_id": &ids[2], "n": 1 }).await.unwrap();
        letters(&mut docrow, 0).await;
        place.assert_same(&home).await;
    }
    docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);
}

/// Rows and dead letters of an earlier docrow, which had several keys for equal `_id`s: they are found, and
/// none remain.
#[tokio::test]
async fn keys_of_an_earlier_docrow_are_renewed() {
    let place = Place::shared("keys_earlier").await;
    place.add_sentinels().await;
    let things = place.collection("things");
    let thing = |id: Bson| doc! { "_id": id, "n": 1, "lines": [{ "n": 1 }] };
    things
        .insert_many([thing(1.into()), thing(doc! { "t": 5_i64 }.into()), thing(doc! { "t": 6 }.into())])
        .await
        .unwrap();
    place.collection("others").insert_one(doc! { "_id": { "t": 1 } }).await.unwrap();
    let home = Home::new(&place);
    let docrow = start(&place, &home).await;
    docrow.stop().await.quiet();
    let session = place.postgres().await;
    let letter = |key: &str, hash: u32| {
        let id = rawdoc! { "_id": 7_i64 };
        format!(
            "INSERT INTO docrow.dead_letters (pipeline, collection, key, key_hash, document_key, reason) \
             VALUES ('docrow', '{}.things', '{key}', '{hash:032}', '\\x{}', 'of old')",
            place.name,
            id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        )
    };
    for statement in [
        "UPDATE things SET _id = '{\"t\":{\"$numberLong\":\"5\"}}', _extra = NULL WHERE _id LIKE '%5%'",
        "UPDATE things_lines SET _id = '{\"t\":{\"$numberLong\":\"5\"}}' WHERE _id LIKE '%5%'",
        "UPDATE docrow.schemas SET key_form = 0",
        &letter(r#"{"$numberLong":"7"}"#, 1),
        &letter(r#"{"$numberDouble":"7.0"}"#, 2),
    ] {
        session.batch_execute(statement).await.unwrap();
    }
    things.insert_one(thing(7_i64.into())).await.unwrap();
    let mut docrow = home.run();
    docrow.logs("copied again").await;
    place.settle(&mut docrow).await;
    place.assert_same(&home).await;
    let log = docrow.stop().await.quiet().log;
    assert!(!log.contains("others: an earlier docrow"), "{log}");
    // Only once.
    let docrow = start(&place, &home).await;
    let log = docrow.stop().await.quiet().log;
    assert!(!log.contains("copied again"), "{log}");
}
