//! The harness itself: servers start ready, keep their data over a crash, and leave nothing behind.

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::{
    Client,
    bson::{Document, doc},
};

use crate::support::{Place, connect};

#[tokio::test]
async fn each_test_has_a_place_of_its_own() {
    let place = Place::shared("own_place").await;
    assert_eq!(place.database().list_collection_names().await.unwrap(), [""; 0]);
    let row = place.postgres().await.query_one("SELECT current_database()", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), place.name);
}

#[tokio::test]
async fn mongod_keeps_its_data_over_sigkill() {
    let mut mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    let things = client.database("a").collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();
    // A checkpoint: under load, 4.4.2 loses even what it acknowledged as journaled.
    client.database("admin").run_command(doc! { "fsync": 1 }).await.unwrap();
    mongod.kill9().await.unwrap();
    assert_eq!(mongod.pid(), None);
    mongod.restart().await.unwrap();
    assert_eq!(things.find_one(doc! {}).await.unwrap(), Some(doc! { "_id": 1 }));
}

#[tokio::test]
async fn postgres_keeps_committed_rows_over_sigkill() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let uri = postgres.uri("postgres");
    let session = connect(&uri).await;
    session.batch_execute("CREATE TABLE things AS SELECT 1 AS id").await.unwrap();
    postgres.kill9().await.unwrap();
    session.batch_execute("SELECT 1").await.unwrap_err();
    postgres.restart().await.unwrap();
    let row = connect(&uri).await.query_one("SELECT id FROM things", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
}

#[tokio::test]
async fn passwords_are_asked_for() {
    let password = Some("open sesame".replace(' ', "-"));
    let mongod =
        Mongod::start(MongodOptions { password: password.clone(), ..Default::default() }).await.unwrap();
    let ping = async |uri: String| {
        let client = Client::with_uri_str(uri).await.unwrap();
        client.database("a").collection::<Document>("b").find_one(doc! {}).await
    };
    ping(mongod.uri()).await.unwrap();
    ping(mongod.uri().replace("sesame", "barley")).await.unwrap_err();

    let postgres = Postgres::start(PostgresOptions { password, ..Default::default() }).await.unwrap();
    let uri = postgres.uri("postgres");
    connect(&uri).await;
    assert!(tokio_postgres::connect(&uri.replace("sesame", "barley"), tokio_postgres::NoTls).await.is_err());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let options =
        PostgresOptions { settings: vec!["shared_buffers=nonsense".to_owned()], ..Default::default() };
    let error = Postgres::start(options).await.unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
    let options = MongodOptions { parameters: vec!["nonsense=1".to_owned()], ..Default::default() };
    let error = Mongod::start(options).await.unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server() {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let (pid, folder) = (postgres.pid().unwrap(), postgres.socket_folder().to_owned());
    postgres.kill9().await.unwrap();
    postgres.restart().await.unwrap();
    let second = postgres.pid().unwrap();
    drop(postgres);
    assert!(!folder.exists());
    for pid in [pid, second] {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
