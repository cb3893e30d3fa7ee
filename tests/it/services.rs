//! What managed PostgreSQL services set for their roles and databases.

use docrow::error::Code;
use mongodb::bson::doc;

use crate::support::{Home, Place};

/// A place with a role that is no superuser, and what its pipeline needs.
async fn place(test: &str) -> (Place, Home, String) {
    let place = Place::shared(&format!("services_{test}")).await;
    place.add_sentinels().await;
    let thing = |id: i32| doc! { "_id": format!("Ä{id}"), "n": id, "list": [{ "a": id }, { "a": "x" }] };
    place.collection("things").insert_many((0..500).map(thing)).await.unwrap();
    let role = place.name.clone();
    let postgres = place.postgres().await;
    for statement in [
        format!("DROP ROLE IF EXISTS {role}"),
        format!("CREATE ROLE {role} LOGIN PASSWORD 'x'"),
        format!("GRANT CREATE, TEMPORARY ON DATABASE {role} TO {role}"),
        format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}"),
    ] {
        postgres.batch_execute(&statement).await.unwrap();
    }
    let mut home = Home::new(&place);
    home.set("target.uri", as_role(&place.postgres_uri, &role));
    (place, home, role)
}

fn as_role(uri: &str, role: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap();
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}://{role}:x@{rest}")
}

async fn set(place: &Place, role: &str, setting: &str) {
    place.postgres().await.batch_execute(&format!("ALTER ROLE {role} SET {setting}")).await.unwrap();
}

/// Limits that suit an application's short statements, and defaults that change what statements mean.
#[tokio::test]
async fn settings_of_the_role_change_nothing() {
    let (place, home, role) = place("settings").await;
    for setting in [
        "statement_timeout = '20ms'",
        "lock_timeout = '20ms'",
        "idle_in_transaction_session_timeout = '20ms'",
        "search_path = nowhere",
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
        "DateStyle = 'German'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Asia/Kathmandu'",
        "standard_conforming_strings = off",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "client_encoding = 'LATIN1'",
    ] {
        set(&place, &role, setting).await;
    }
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    let things = place.collection("things");
    things
        .update_many(doc! {}, doc! { "$inc": { "n": 1 }, "$push": { "list": { "a": 2.5 } } })
        .await
        .unwrap();
    things.delete_one(doc! { "_id": "Ä7" }).await.unwrap();
    place.settle(&mut docrow).await;
    docrow.stop().await.with_code(0).quiet();
    place.assert_same(&home).await;
}

#[tokio::test]
async fn a_role_that_may_only_read_by_default_is_refused_with_words() {
    let (place, home, role) = place("read_only").await;
    set(&place, &role, "default_transaction_read_only = on").await;
    let refused = home.finish(&["backfill"]).await.with_code(4).coded(Code::TargetReadOnly);
    assert!(refused.error().contains("read-only by default"), "{}", refused.log);
    set(&place, &role, "default_transaction_read_only = off").await;
    home.backfill().await;
    place.assert_same(&home).await;
}

/// Keys are compared by the database's collation; documents are told apart by their bytes.
#[tokio::test]
async fn databases_with_other_collations() {
    let (place, _, role) = place("collations").await;
    let keys = ["a", "A", "ä", "Ä", "ß", "ss", "a ", "á"].map(|key| doc! { "_id": key });
    place.collection("keys").insert_many(keys).await.unwrap();
    let postgres = place.postgres().await;
    let version: i32 =
        postgres.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    let mut collations = vec!["LOCALE 'C'"];
    // A database can have an ICU collation since version 15.
    collations.extend(
        (version >= 150_000).then_some("LOCALE_PROVIDER icu ICU_LOCALE 'de-u-ks-level1' LOCALE 'C.UTF-8'"),
    );
    for (number, collation) in collations.into_iter().enumerate() {
        let name = format!("{}_{number}", place.name);
        postgres.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        let create =
            format!("CREATE DATABASE {name} OWNER {role} ENCODING 'UTF8' TEMPLATE template0 {collation}");
        postgres.batch_execute(&create).await.unwrap();
        let there = Place {
            postgres_uri: place.postgres_uri.replace(&format!("/{}", place.name), &format!("/{name}")),
            ..place.clone()
        };
        let mut home = Home::new(&there);
        home.set("target.uri", as_role(&there.postgres_uri, &role));
        home.backfill().await;
        there.assert_same(&home).await;
        postgres.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }
}
