//! The base of the tests: servers shared by the whole binary, and a separate place for each test.

#[allow(dead_code, reason = "the pictures need more of it than the tests")]
pub(crate) mod browser;
pub(crate) mod compare;
mod compatible_service;
mod docrow;
pub(crate) mod exact;
mod gate;
pub(crate) mod http;
mod ids;
mod link;
mod members;
mod needs;
mod oplog;
mod proxy;
mod replica_set;
pub(crate) mod same;
pub(crate) mod status;
mod waiting;

use ::docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::{Client, Collection, bson::Document};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

pub(crate) use self::{
    compatible_service::*,
    docrow::*,
    gate::*,
    ids::*,
    link::*,
    members::*,
    needs::*,
    oplog::*,
    proxy::*,
    replica_set::*,
    waiting::{first, until},
};

/// The servers that tests share unless they stop or break them: those of `DOCROW_TEST_MONGODB_URI` and
/// `DOCROW_TEST_POSTGRES_URI` (a user who may create databases), or ones that are started here once and end
/// with the process.
struct Servers {
    mongodb_uri: String,
    postgres_uri: String,
    _own: (Option<Mongod>, Option<Postgres>),
}

async fn servers() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS.get_or_init(start).await
}

async fn start() -> Servers {
    let given = |name| std::env::var(name).ok();
    let (mongodb_uri, mongod) = match given("DOCROW_TEST_MONGODB_URI") {
        Some(uri) => (uri, None),
        None => {
            let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
            (mongod.uri(), Some(mongod))
        }
    };
    let (postgres_uri, postgres) = match given("DOCROW_TEST_POSTGRES_URI") {
        Some(uri) => (uri, None),
        None => {
            let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
            (postgres.uri("postgres"), Some(postgres))
        }
    };
    Servers { mongodb_uri, postgres_uri, _own: (mongod, postgres) }
}

/// A test's own empty database on each of two servers.
#[derive(Clone)]
pub(crate) struct Place {
    /// The name of both databases.
    pub(crate) name: String,
    /// The MongoDB server.
    pub(crate) mongodb_uri: String,
    /// The database in PostgreSQL.
    pub(crate) postgres_uri: String,
    /// A client of the MongoDB server.
    pub(crate) client: Client,
}

impl Place {
    /// On the shared servers, for the test called `test`.
    pub(crate) async fn shared(test: &str) -> Self {
        let servers = servers().await;
        Self::on(&servers.mongodb_uri, &servers.postgres_uri, test).await
    }

    /// On any servers. `postgres_uri` may name any database.
    pub(crate) async fn on(mongodb_uri: &str, postgres_uri: &str, test: &str) -> Self {
        let name = format!("docrow_test_{test}");
        let client = Client::with_uri_str(mongodb_uri).await.unwrap();
        client.database(&name).drop().await.unwrap();
        let postgres = connect(postgres_uri).await;
        // Not one batch: neither statement may run in a transaction.
        postgres.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        postgres.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let postgres_uri = with_database(postgres_uri, &name);
        Self { name, mongodb_uri: mongodb_uri.to_owned(), postgres_uri, client }
    }

    /// The database in MongoDB.
    pub(crate) fn database(&self) -> mongodb::Database {
        self.client.database(&self.name)
    }

    /// A collection of the database.
    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        self.database().collection(name)
    }

    /// A new connection to the database in PostgreSQL.
    pub(crate) async fn postgres(&self) -> tokio_postgres::Client {
        connect(&self.postgres_uri).await
    }
}

/// A new connection to PostgreSQL.
pub(crate) async fn connect(uri: &str) -> tokio_postgres::Client {
    try_connect(uri).await.unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "ends with its client, whose calls report the connection's errors"
)]
pub(crate) async fn try_connect(uri: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn with_database(uri: &str, database: &str) -> String {
    let (address, query) = uri.split_once('?').map_or((uri, String::new()), |(a, q)| (a, format!("?{q}")));
    let (server, _) =
        address.rsplit_once('/').filter(|(server, _)| !server.ends_with('/')).unwrap_or((address, ""));
    format!("{server}/{database}{query}")
}

/// Compares with a file of `testdata`, or writes it if `DOCROW_GOLDEN` is `rewrite`.
#[track_caller]
pub(crate) fn golden(file: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    if std::env::var("DOCROW_GOLDEN").is_ok_and(|mode| mode == "rewrite") {
        return std::fs::write(path, found).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = expected.lines().zip(found.lines()).enumerate();
    if let Some((at, (expected, found))) = lines.find(|(_, (expected, found))| expected != found) {
        panic!(
            "testdata/{file}:{}:\nexpected: {expected}\n   found: {found}\n`make golden` rewrites it",
            at + 1
        );
    }
    assert!(expected == found, "testdata/{file} has another number of lines; `make golden` rewrites it");
}
