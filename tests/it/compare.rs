//! Tests of the judge itself: rows written by hand, correct ones and ones with every kind of error.

use mongodb::bson::{DateTime, Document, doc};

use crate::support::{
    Place,
    compare::{Mapping, compare},
};

const TABLES: &str = r#"
    CREATE TABLE things (id bigint, name text, tags text[], at timestamptz, size double precision, _extra jsonb);
    CREATE TABLE parts (thing bigint, ord bigint, label text);
    INSERT INTO things VALUES
        (1, 'one', '{a,b}', '2026-01-02T03:04:05.006Z', 1.5, '{"odd.x": {"$numberInt": "7"}, "parts.1.more": null}'),
        (2, 'two', '{}', NULL, 3, '{"at": "never"}');
    INSERT INTO parts VALUES (1, 0, 'first'), (1, 1, NULL), (1, 2, NULL);
"#;

async fn place(test: &str) -> (Place, Mapping) {
    let place = Place::shared(test).await;
    let one = doc! {
        "_id": 1, "name": "one", "tags": ["a", "b"], "at": DateTime::parse_rfc3339_str("2026-01-02T03:04:05.006Z").unwrap(),
        "size": 1.5, "odd": { "x": 7 }, "parts": [{ "label": "first" }, { "more": null }, {}],
    };
    let two = doc! { "_id": 2_i64, "name": "two", "tags": [], "at": "never", "size": 3 };
    place.database().collection::<Document>("things").insert_many([one, two]).await.unwrap();
    place.postgres().await.batch_execute(TABLES).await.unwrap();
    let mapping = format!(
        r#"
        collection = "{}.things"
        table = "things"
        extra = "_extra"
        key = {{ column = "id", type = "bigint" }}
        [columns]
        name = {{ path = "name", type = "text" }}
        tags = {{ path = "tags", type = "text[]" }}
        at = {{ path = "at", type = "timestamptz" }}
        size = {{ path = "size", type = "double precision" }}
        [[tables]]
        table = "parts"
        path = "parts[]"
        parent = "thing"
        ordinals = ["ord"]
        columns = {{ label = {{ path = "label", type = "text" }} }}
        "#,
        place.name
    );
    (place, Mapping::read(&mapping))
}

#[tokio::test]
async fn right_rows_are_found_to_be_right() {
    let (place, mapping) = place("compare_right").await;
    assert_eq!(compare(&place, &mapping).await, (2, vec![]));
}

#[tokio::test]
async fn every_kind_of_fault_is_found() {
    let (place, mapping) = place("compare_faults").await;
    let faults = [
        ("UPDATE things SET name = 'ONE' WHERE id = 1", "name is \"ONE\", not \"one\""),
        ("UPDATE things SET size = NULL WHERE id = 2", "size is lost: 3"),
        ("UPDATE things SET at = at + '1ms' WHERE id = 1", "at is at"),
        ("UPDATE things SET tags = '{b,a}' WHERE id = 1", "tags.0 is \"b\", not \"a\""),
        ("UPDATE things SET tags = NULL WHERE id = 2", "tags is lost: []"),
        ("UPDATE things SET _extra = _extra - 'odd.x'", "odd.x is lost: 7"),
        ("UPDATE things SET _extra = _extra || '{\"new\": true}' WHERE id = 2", "new is too much"),
        (
            "UPDATE things SET _extra = _extra || '{\"name\": \"Two\"}' WHERE id = 2",
            "name has two different values",
        ),
        ("DELETE FROM parts WHERE ord = 2", "parts.2 is lost: {}"),
        ("INSERT INTO parts VALUES (2, 0, 'x')", "parts.0.label is too much"),
        ("INSERT INTO parts VALUES (3, 0, 'x')", "parts: 1 rows too many"),
        ("INSERT INTO parts SELECT * FROM parts WHERE ord = 0", "parts: the same row twice"),
        ("INSERT INTO things VALUES (3)", "rows without a document: 3"),
        ("DELETE FROM things WHERE id = 2", "document without rows: 2"),
    ];
    let mut postgres = place.postgres().await;
    for (fault, message) in faults {
        postgres.batch_execute(&format!("DROP TABLE things, parts; {TABLES}")).await.unwrap();
        postgres.batch_execute(fault).await.unwrap();
        let (_, differences) = compare(&place, &mapping).await;
        assert!(differences.iter().any(|found| found.contains(message)), "{fault}: {differences:?}");
        postgres = place.postgres().await;
    }
}

/// The digits of the judge's own arithmetic.
#[test]
fn times_of_any_year_are_read() {
    for (text, millis) in [
        ("1970-01-01T00:00:00+00:00", 0),
        ("1969-12-31T23:59:59.9+00:00", -100),
        ("2024-02-29T12:30:15.006+00:00", 1_709_209_815_006),
        ("10000-01-01T00:00:00+00:00", 253_402_300_800_000),
        ("0001-12-31T23:59:59.999+00:00 BC", -62_135_596_800_001),
    ] {
        assert_eq!(crate::support::compare::moment(text).timestamp_millis(), millis, "{text}");
    }
}
