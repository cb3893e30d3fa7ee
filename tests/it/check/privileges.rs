//! Each privilege is revoked in turn: `check` reports it with the statement that grants it, and that
//! statement fixes it.

use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::{about, check, of, roles::Guarded};

/// The statements of all findings about privileges, those of problems first.
fn statements(report: &Value) -> Vec<String> {
    let found = [of(report, "problem"), of(report, "note")].concat();
    found.iter().filter_map(|finding| finding["statement"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn of_mongodb() {
    let guarded = Guarded::new("privileges_mongodb", "## MongoDB").await;
    let Guarded { place, home, .. } = &guarded;
    let (own, oplog) = ((&*place.name, ""), ("local", "oplog.rs"));
    for ((db, collection), action, required) in [
        (own, "changeStream", true),
        (own, "collStats", true),
        (own, "find", true),
        (own, "listCollections", true),
        (own, "splitVector", false),
        (oplog, "collStats", false),
        (oplog, "find", false),
    ] {
        let privilege = doc! { "resource": { "db": db, "collection": collection }, "actions": [action] };
        let revoke = doc! { "revokePrivilegesFromRole": "docrow", "privileges": [privilege] };
        place.client.database("admin").run_command(revoke).await.unwrap();
        let report = check(home, i32::from(required)).await;
        let severity = if required { "problem" } else { "note" };
        about(&report, severity, "privileges", &format!("{action} is not granted"));
        let advised = statements(&report);
        assert_eq!(advised.len(), 1, "{report:#}");
        if required {
            // The run fails, and so check is right.
            home.finish(&["backfill"]).await.with_code(3);
        }
        guarded.in_mongosh(&advised[0]).await;
        let report = check(home, 0).await;
        assert_eq!(statements(&report), [""; 0], "{report:#}");
    }
    let shown: Document = guarded
        .place
        .client
        .database("admin")
        .run_command(doc! { "rolesInfo": "docrow", "showPrivileges": true })
        .await
        .unwrap();
    let privileges =
        shown.get_array("roles").unwrap()[0].as_document().unwrap().get_array("privileges").unwrap();
    assert_eq!(privileges.len(), 2, "mended to what it was: {privileges:?}");
    home.backfill().await;
    place.assert_same(home).await;
}

/// Without a custom role, a built-in one is granted.
#[tokio::test]
async fn of_mongodb_by_built_in_roles() {
    let guarded = Guarded::new("privileges_built_in", "### With built-in roles").await;
    let Guarded { place, home, .. } = &guarded;
    let report = check(home, 0).await;
    assert_eq!(statements(&report), [""; 0], "{report:#}");
    // Privileges that only far more powerful roles have are left out, as docs/roles.md says.
    let split = about(&report, "note", "privileges", "splitVector is not granted");
    assert!(split["advice"].as_str().unwrap().starts_with("leave it as it is"), "{split:#}");
    assert!(!report.to_string().contains("clusterManager"), "{report:#}");
    let roles = [doc! { "role": "read", "db": &place.name }, doc! { "role": "read", "db": "local" }];
    let revoke = doc! { "revokeRolesFromUser": "docrow", "roles": roles.to_vec() };
    place.client.database("admin").run_command(revoke).await.unwrap();
    let advised = statements(&check(home, 1).await);
    assert_eq!(advised.len(), 2, "{advised:?}");
    for statement in &advised {
        guarded.in_mongosh(statement).await;
    }
    assert_eq!(statements(&check(home, 0).await), [""; 0]);
    home.backfill().await;
    place.assert_same(home).await;
}

#[tokio::test]
async fn of_postgres() {
    let guarded = Guarded::new("privileges_postgres", "## MongoDB").await;
    let Guarded { place, home, .. } = &guarded;
    let turn = async |revoke: &str, what: &str, code: i32| {
        guarded.in_psql(revoke).await;
        let report = check(home, 1).await;
        assert!(
            of(&report, "problem").iter().any(|problem| problem["what"].as_str().unwrap().contains(what)),
            "{report:#}"
        );
        let advised = statements(&report);
        assert_eq!(advised.len(), 1, "{report:#}");
        home.finish(&["backfill"]).await.with_code(code);
        guarded.in_psql(&advised[0]).await;
        let report = check(home, 0).await;
        assert_eq!(statements(&report), [""; 0], "{report:#}");
    };
    turn("REVOKE CONNECT ON DATABASE warehouse FROM docrow", "permission denied for database", 4).await;
    turn("REVOKE TEMPORARY ON DATABASE warehouse FROM docrow", "temporary types", 4).await;
    turn("REVOKE CREATE ON SCHEMA public FROM docrow", "schema \"public\"", 4).await;
    turn("REVOKE USAGE ON SCHEMA public FROM docrow", "schema \"public\"", 4).await;
    turn("REVOKE ALL ON SCHEMA docrow FROM docrow", "schema \"docrow\"", 4).await;
    turn("DROP SCHEMA docrow CASCADE", "may not create schema \"docrow\"", 4).await;
    home.backfill().await;
    turn("REVOKE UPDATE ON ALL TABLES IN SCHEMA docrow FROM docrow", "tables of schema \"docrow\"", 4).await;
    turn("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA docrow FROM PUBLIC, docrow", "functions of schema", 4)
        .await;
    // That is an obstacle for one collection alone.
    turn("REVOKE DELETE ON orders FROM docrow", "no privilege to read and write it", 1).await;
    home.backfill().await;
    place.assert_same(home).await;

    // Several at once are all reported, and so are errors of the source.
    guarded
        .in_psql(
            "REVOKE TEMPORARY ON DATABASE warehouse FROM docrow; REVOKE CREATE ON SCHEMA public FROM docrow",
        )
        .await;
    let revoke = doc! { "revokePrivilegesFromRole": "docrow", "privileges": [
        { "resource": { "db": &place.name, "collection": "" }, "actions": ["find", "changeStream"] },
    ] };
    place.client.database("admin").run_command(revoke).await.unwrap();
    let report = check(home, 1).await;
    assert_eq!(of(&report, "problem").len(), 3, "{report:#}");
    about(&report, "problem", "privileges", "changeStream, find is not granted");
}
