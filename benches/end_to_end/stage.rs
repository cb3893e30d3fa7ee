//! The environment of a workload: its own MongoDB and PostgreSQL, and a folder. All are removed when it is
//! dropped.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use docrow::demo::{
    servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    users,
};
use mongodb::{
    Client, Collection, Database,
    bson::{RawDocumentBuf, doc},
    options::{ClientOptions, WriteConcern},
};
use tokio::process::Command;

use super::{
    cost::Servers,
    link::{Link, Pace},
    process::{Cost, Docrow},
};

/// The database in MongoDB.
pub(crate) const DATABASE: &str = "sample_db";
/// Of the users.
pub(crate) const SEED: u64 = 1;
/// Connections of a client, if needed: the limit of concurrent writes.
const CONNECTIONS: u32 = 100;

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// By this repository's mapping files.
    Files,
    /// By a sample.
    Auto,
    /// The whole document as `jsonb`.
    Document,
}

pub(crate) struct Stage {
    mongod: Mongod,
    postgres: Postgres,
    folder: tempfile::TempDir,
    /// Between docrow and the servers, if there is one.
    links: Option<[Link; 2]>,
    pub(crate) client: Client,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        // Its default: with less, random writes make it evict pages all the time, in threads that take a
        // third of its CPU.
        let mongod =
            Mongod::start(MongodOptions { cache_gb: None, ..MongodOptions::default() }).await.unwrap();
        let settings = vec!["shared_buffers=1GB".to_owned(), "max_wal_size=8GB".to_owned()];
        let postgres =
            Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
        let folder = tempfile::Builder::new().prefix("docrow-bench-").tempdir().unwrap();
        // The PostgreSQL server writes the dumps, perhaps as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut options = ClientOptions::parse(mongod.uri()).await.unwrap();
        options.max_pool_size = Some(CONNECTIONS);
        let client = Client::with_options(options).unwrap();
        Self { mongod, postgres, folder, links: None, client }
    }

    /// From now on, docrow reaches both servers over a network. Everything else reaches them directly.
    pub(crate) fn put_apart(&mut self, pace: Pace) {
        self.links = Some([self.mongod.port(), self.postgres.port()].map(|port| Link::to(port, pace)));
    }

    pub(crate) fn database(&self) -> Database {
        self.client.database(DATABASE)
    }

    pub(crate) fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database().collection(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn uri(&self, target: &str) -> String {
        self.postgres.uri(target)
    }

    fn source_uri(&self) -> String {
        let Some([link, _]) = &self.links else { return self.mongod.uri() };
        link.mongodb_uri()
    }

    fn target_uri(&self, target: &str) -> String {
        let direct = self.postgres.uri(target);
        let Some([_, link]) = &self.links else { return direct };
        direct.replace(&format!(":{}/", self.postgres.port()), &format!(":{}/", link.port()))
    }

    /// Inserts users.
    pub(crate) async fn load_users(&self, ids: std::ops::Range<i32>) {
        users::load(&self.collection("users"), SEED, ids, &AtomicU64::new(0)).await.unwrap();
        self.until_majority().await;
    }

    /// Waits until all writes have reached a majority: docrow reads nothing else.
    pub(crate) async fn until_majority(&self) {
        let barrier = self.client.database("bench").collection("barrier");
        barrier.insert_one(doc! {}).write_concern(WriteConcern::majority()).await.unwrap();
    }

    /// Creates a new, empty target database.
    pub(crate) async fn create(&self, target: &str) {
        self.psql("postgres", &format!("CREATE DATABASE {target}")).await;
    }

    /// Removes it, and docrow's state.
    pub(crate) async fn drop(&self, target: &str) {
        self.psql("postgres", &format!("DROP DATABASE {target} WITH (FORCE)")).await;
        fs::remove_dir_all(self.folder().join(target)).unwrap();
    }

    /// Earlier work must not count in the next measurement: both servers write out everything that they have
    /// deferred.
    pub(crate) async fn settle(&self) {
        self.client.database("admin").run_command(doc! { "fsync": 1 }).await.unwrap();
        self.psql("postgres", "CHECKPOINT").await;
    }

    /// A configuration with only the required settings: the defaults are measured.
    pub(crate) fn config(&self, target: &str, collection: &str, mapping: Mapping) -> PathBuf {
        let file = self.folder().join(format!("{target}.toml"));
        let mapping = match mapping {
            Mapping::Files => format!("dir = '{}/schemas'", env!("CARGO_MANIFEST_DIR")),
            Mapping::Auto => String::new(),
            Mapping::Document => "default = 'document'".to_owned(),
        };
        let config = format!(
            "source = {{ uri = '{}', include = ['{DATABASE}.{collection}'] }}\ntarget.uri = '{}'\n\
             mapping = {{ {mapping} }}\nstate.dir = '{}'\n",
            self.source_uri(),
            self.target_uri(target),
            self.folder().join(target).display()
        );
        fs::write(&file, config).unwrap();
        file
    }

    /// `docrow backfill` into a new database, and its cost for the servers meanwhile.
    pub(crate) async fn backfill(&self, target: &str, collection: &str, mapping: Mapping) -> (Cost, Servers) {
        self.create(target).await;
        let config = self.config(target, collection, mapping);
        self.finish(&config, "backfill").await
    }

    /// The same once more, when there is nothing left to do.
    pub(crate) async fn again(&self, target: &str) -> (Cost, Servers) {
        self.finish(&self.folder().join(format!("{target}.toml")), "backfill").await
    }

    /// The same for `docrow verify` of the copied documents, which must be equal.
    pub(crate) async fn verify(&self, target: &str) -> (Cost, Servers) {
        self.finish(&self.folder().join(format!("{target}.toml")), "verify").await
    }

    async fn finish(&self, config: &Path, command: &str) -> (Cost, Servers) {
        self.settle().await;
        let before = self.servers();
        let cost = Docrow::start(config, command).ended().await;
        (cost, self.servers() - before)
    }

    /// The CPU time of both servers so far.
    pub(crate) fn servers(&self) -> Servers {
        Servers::now(self.mongod.pid().unwrap(), self.postgres.pid().unwrap())
    }

    pub(crate) async fn psql(&self, target: &str, command: &str) -> String {
        psql(&self.uri(target), command).await
    }
}

pub(crate) async fn psql(uri: &str, command: &str) -> String {
    let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", command, uri];
    let output = Command::new("psql").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
