//! What is reported as durable is durable.

use docrow::{
    demo::servers::{Postgres, PostgresOptions},
    mapping::Framing,
    sink::{
        metadata::positions::{self, Reached},
        rows::upsert::{Batch, CollectionBatch},
        tables::ddl,
    },
};

use super::sink::{NS, Place, USERS, documents, keys, mapping, position, users};

/// Whatever the settings of the server, the database or the role: the spool is trimmed based on it.
#[tokio::test]
async fn a_durable_batch_survives_a_crash_where_synchronous_commit_is_off() {
    let settings = ["synchronous_commit=off", "wal_writer_delay=10s"].map(str::to_owned).to_vec();
    let mut postgres =
        Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
    let mut place = Place::at(postgres.uri("postgres"));
    let off = "ALTER DATABASE postgres SET synchronous_commit = off; ALTER ROLE postgres SET synchronous_commit = off";
    place.query(off).await;
    place.hold().await;
    let mut session = place.session().await;
    ddl::change_tables(&mut session, &place.target, &mapping(), &users()).await.unwrap();
    place.build_keys(&users()).await;
    let mut applier = place.applier().await;
    let rows = documents(Framing::Composite, &[1], "n", 1);
    let (tables, reached, upserted, deleted) = (users(), position(1), keys([1]), keys([]));
    let changes = CollectionBatch {
        collection: USERS,
        tables: &tables,
        rows: &rows,
        upserted: &upserted,
        deleted: &deleted,
    };
    let reached = [Reached { collection: NS, position: &reached }];
    let batch = Batch { collections: vec![changes], reached: &reached, is_durable: true, ..Batch::default() };
    applier.apply(&batch).await.unwrap();
    postgres.kill9().await.unwrap();
    postgres.restart().await.unwrap();
    assert_eq!(place.query("SELECT name FROM users").await, ["n"]);
    let stored = positions::load(&place.plain().connect().await.unwrap(), "p").await.unwrap();
    assert_eq!(stored[0].position, position(1));
}
