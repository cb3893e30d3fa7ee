//! Least privilege: the main path with users that were created by the statements of docs/roles.md, without
//! any other privilege.

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde_json::Value;

use super::{
    check, of,
    statements::{documented, run_in_mongosh},
};
use crate::support::{Docrow, Home, Place};

/// Servers that require a login, a place on them, and docrow's users.
pub(super) struct Guarded {
    pub(super) place: Place,
    pub(super) home: Home,
    pub(super) mongod: Mongod,
    _postgres: Postgres,
}

impl Guarded {
    /// With the users of docs/roles.md, MongoDB's as under `heading`, and no privileges for the public.
    pub(super) async fn new(test: &str, heading: &str) -> Self {
        let password = Some("of-the-admin".to_owned());
        let mongod = MongodOptions { password: password.clone(), ..Default::default() };
        let mongod = Mongod::start(mongod).await.unwrap();
        let postgres = Postgres::start(PostgresOptions { password, ..Default::default() }).await.unwrap();
        let place = Place::on(&mongod.uri(), &postgres.uri("postgres"), test).await;
        place.add_sentinels().await;
        let orders = (0..40).map(|id| doc! { "_id": id, "n": id, "lines": [{ "sku": "a" }, { "sku": "b" }] });
        place.collection("orders").insert_many(orders).await.unwrap();
        let mut home = Home::new(&place);
        home.set("source.uri", as_docrow(&mongod.uri(), "docrow:a-long-password"));
        home.set("target.uri", as_docrow(&place.postgres_uri, "docrow:a-long-password"));
        let guarded = Self { place, home, mongod, _postgres: postgres };
        let name = &guarded.place.name;
        let public =
            format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC");
        guarded.in_psql(&public).await;
        guarded.in_psql(&documented("## PostgreSQL")).await;
        guarded.in_mongosh(&documented(heading)).await;
        guarded
    }

    /// Runs documented or recommended statements as an administrator.
    pub(super) async fn in_psql(&self, statements: &str) {
        let statements = statements.replace("warehouse", &self.place.name);
        self.place
            .postgres()
            .await
            .batch_execute(&statements)
            .await
            .unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    }

    /// The same in MongoDB.
    pub(super) async fn in_mongosh(&self, statements: &str) {
        let own = format!("\"{}\"", self.place.name);
        run_in_mongosh(&self.place.client, &statements.replace("\"shop\"", &own)).await;
    }

    /// Writes of all kinds, with a new field, until they are in PostgreSQL.
    async fn write(&self, docrow: &mut Docrow, round: i32) {
        let orders = self.place.collection("orders");
        let field = format!("new_{round}");
        orders.insert_one(doc! { "_id": 1000 + round, "n": 1, field: "x" }).await.unwrap();
        let pushed = doc! { "$inc": { "n": 100 }, "$push": { "lines": { "sku": "c" } } };
        orders.update_many(doc! { "_id": { "$lt": 10 } }, pushed).await.unwrap();
        orders.delete_one(doc! { "_id": 20 + round }).await.unwrap();
        self.place.settle(docrow).await;
        let column = format!("SELECT count(*) FROM orders WHERE new_{round} = 'x'");
        docrow.until("the new column is filled", async || self.place.number(&column).await == Some(1)).await;
    }
}

fn as_docrow(uri: &str, login: &str) -> String {
    uri.replace("postgres:of-the-admin@", &format!("{login}@"))
}

/// G1, G2, under "least-privilege roles for both servers … tested by running the suite's main path under
/// exactly those roles".
#[tokio::test]
async fn the_main_path_with_the_least_privileges() {
    let guarded = Guarded::new("roles", "## MongoDB").await;
    let Guarded { place, home, .. } = &guarded;
    let report = check(home, 0).await;
    assert_eq!(of(&report, "note"), [&Value::Null; 0], "{report:#}");
    assert_eq!(
        place.number("SELECT count(*) FROM pg_tables WHERE schemaname IN ('docrow', 'public')").await,
        Some(0)
    );

    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    guarded.write(&mut docrow, 1).await;
    docrow.kill9().await;
    place.collection("orders").insert_one(doc! { "_id": 2000 }).await.unwrap();
    let mut docrow = home.run();
    guarded.write(&mut docrow, 2).await;
    place.assert_same(home).await;

    // A new collection, dead letters, a resync; plan and check beside the running process.
    place.collection("later").insert_one(doc! { "_id": "x", "a": 1 }).await.unwrap();
    docrow
        .until("it is taken in", async || place.number("SELECT count(*) FROM later").await == Some(1))
        .await;
    guarded.in_psql("ALTER TABLE orders ADD CONSTRAINT good CHECK (n <> 7777)").await;
    place.collection("orders").insert_one(doc! { "_id": 3000, "n": 7777 }).await.unwrap();
    place.settle(&mut docrow).await;
    let listed = home.finish(&["dead-letters", "list"]).await.with_code(0).quiet();
    assert!(listed.out.contains("good"), "{}", listed.out);
    guarded.in_psql("ALTER TABLE orders DROP CONSTRAINT good").await;
    home.finish(&["dead-letters", "retry", "--all"]).await.with_code(0).quiet();
    let orders = format!("{}.orders", place.name);
    home.finish(&["resync", &orders]).await.with_code(0).quiet();
    let done = "SELECT count(*) FROM docrow.chunks WHERE replaces AND copied_at IS NOT NULL";
    docrow.until("it is copied again", async || place.number(done).await == Some(1)).await;
    place.settle(&mut docrow).await;
    home.finish(&["plan"]).await.with_code(0).quiet();
    let report = check(home, 0).await;
    super::about(&report, "note", "pipeline", "is running");
    place.assert_same(home).await;
    docrow.stop().await.quiet_but(&["a document becomes a dead letter"]);
}

/// docs/roles.md: "A read-only user".
#[tokio::test]
async fn looking_takes_less() {
    let guarded = Guarded::new("roles_reader", "### With built-in roles").await;
    let Guarded { place, home, mongod, .. } = &guarded;
    home.backfill().await;
    guarded.in_psql(&documented("### A read-only user")).await;
    let mut reader = Home::new(place);
    reader.set("source.uri", as_docrow(&mongod.uri(), "docrow:a-long-password"));
    reader.set("target.uri", as_docrow(&place.postgres_uri, "docrow_reader:another-password"));
    reader.finish(&["verify"]).await.with_code(0).quiet();
    let listed = reader.finish(&["dead-letters", "list"]).await.with_code(0).quiet();
    assert_eq!(listed.out, "no dead letters\n");
    // Also later tables.
    place.collection("later").insert_one(doc! { "_id": "x", "a": 1 }).await.unwrap();
    home.backfill().await;
    reader.finish(&["verify"]).await.with_code(0).quiet();
    // The plan of a run is for the user who runs it: it requires no write privilege, only reading.
    let planned = reader.finish(&["plan"]).await.with_code(0).quiet().out;
    assert_eq!(planned.matches("nothing to do").count(), 3, "{planned}");
    place.collection("latest").insert_one(doc! { "_id": 1 }).await.unwrap();
    let planned = reader.finish(&["plan"]).await.with_code(0).quiet().out;
    assert!(planned.contains("CREATE TABLE \"public\".\"latest\"") && !planned.contains('!'), "{planned}");
    for arguments in [&["plan", "--apply"][..], &["run"]] {
        reader.finish(arguments).await.with_code(4);
    }
    // It sees whether a process runs the pipeline.
    let report: Value = serde_json::from_str(&reader.finish(&["check", "--json"]).await.out).unwrap();
    super::about(&report, "ok", "pipeline", "no process runs docrow");
    let mut docrow = home.run();
    docrow.logs("live: ").await;
    let report: Value = serde_json::from_str(&reader.finish(&["check", "--json"]).await.out).unwrap();
    super::about(&report, "note", "pipeline", "is running");
    docrow.stop().await.quiet();
}

/// docs/roles.md: "Collections in several databases".
#[tokio::test]
async fn several_databases() {
    let guarded = Guarded::new("roles_several", "## MongoDB").await;
    let Guarded { place, home, mongod, .. } = &guarded;
    place.client.database("crm").collection("customers").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home_of_both = Home::new(place);
    home_of_both.set("source.uri", as_docrow(&mongod.uri(), "docrow:a-long-password"));
    home_of_both.set("target.uri", as_docrow(&place.postgres_uri, "docrow:a-long-password"));
    home_of_both.set("source.include", vec![format!("{}.*", place.name), "crm.*".to_owned()]);
    let report = check(&home_of_both, 1).await;
    assert!(report.to_string().contains("reading and following all databases"), "{report:#}");
    let admin = place.client.database("admin");
    admin.run_command(doc! { "dropUser": "docrow" }).await.unwrap();
    admin.run_command(doc! { "dropRole": "docrow" }).await.unwrap();
    guarded.in_mongosh(&documented("### Collections in several databases")).await;
    let report = check(&home_of_both, 0).await;
    assert_eq!(of(&report, "note").len(), 0, "{report:#}");
    let mut docrow = home_of_both.run();
    guarded.write(&mut docrow, 1).await;
    assert_eq!(place.number("SELECT count(*) FROM customers").await, Some(1));
    docrow.stop().await.quiet();
    home.finish(&["verify"]).await.with_code(0).quiet();
    home_of_both.finish(&["verify"]).await.with_code(0).quiet();
}

/// Privileges that `check` only reads are confirmed: the role may use `splitVector`, and read the oplog; and
/// the members of the replica set once that is granted, too.
#[tokio::test]
async fn what_is_optional_is_granted() {
    let guarded = Guarded::new("roles_optional", "## MongoDB").await;
    let name = &guarded.place.name;
    let uri = as_docrow(&guarded.mongod.uri(), "docrow:a-long-password");
    let client = Client::with_uri_str(format!("{uri}&authSource=admin")).await.unwrap();
    let split = doc! { "splitVector": format!("{name}.orders"), "keyPattern": { "_id": 1 }, "maxChunkSizeBytes": 1 << 20 };
    client.database(name).run_command(split).await.unwrap();
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    assert!(oplog.find_one(doc! {}).await.unwrap().is_some());
    // And nothing beside it.
    client.database("local").collection::<Document>("startup_log").find_one(doc! {}).await.unwrap_err();
    client.database(name).collection("orders").insert_one(doc! {}).await.unwrap_err();
    let admin = client.database("admin");
    admin.run_command(doc! { "replSetGetStatus": 1 }).await.unwrap_err();
    guarded.in_mongosh(&documented("### On the cluster")).await;
    for command in ["replSetGetStatus", "replSetGetConfig"] {
        admin.run_command(doc! { command: 1 }).await.unwrap();
    }
}
