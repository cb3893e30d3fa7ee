//! A MongoDB server.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Instant,
};

use mongodb::{
    Client,
    bson::{Document, doc},
};

use super::tries::{ADMIN, PATIENCE, POLL, TRIES};
use crate::{
    demo::{
        process::{ScratchFolder, ServerProcess, ServerProgram, free_port},
        programs::find_mongod,
    },
    error::{Error, Kind, Result},
};

/// How to start a [`Mongod`].
#[derive(Clone, Debug)]
pub struct MongodOptions {
    /// The program; `None`: the one that is found, see [`Mongod::start`].
    pub program: Option<PathBuf>,
    /// Whether it is a replica set of one member, as change streams require, or a standalone server.
    pub replica_set: bool,
    /// Whether its replica set is initiated, with it alone. Without that it accepts no writes, and is ready
    /// when it accepts connections.
    pub initiated: bool,
    /// WiredTiger's cache, in GB, at least 0.25; `None`: half the memory, the server's default.
    pub cache_gb: Option<f32>,
    /// The oplog's size, in MB; by default 5 % of the free disk. If given, it is enforced within seconds.
    pub oplog_mb: Option<u32>,
    /// If given, clients must log in as `postgres` with this password.
    pub password: Option<String>,
    /// Server parameters, `name=value`.
    pub parameters: Vec<String>,
    /// Further arguments, such as `--tlsMode=requireTLS`.
    pub arguments: Vec<String>,
    /// Options that clients then need in their URI, such as `tls=true&tlsCAFile=…`; may be empty.
    pub uri_options: String,
}

impl Default for MongodOptions {
    fn default() -> Self {
        Self {
            program: None,
            replica_set: true,
            initiated: true,
            cache_gb: Some(0.5),
            oplog_mb: None,
            password: None,
            parameters: Vec::new(),
            arguments: Vec::new(),
            uri_options: String::new(),
        }
    }
}

/// There is no secondary to take over, so a shutdown needs no 15 seconds of grace.
const NO_GRACE: &str = "--setParameter=shutdownTimeoutMillisForSignaledShutdown=100";
/// The same for 4.4, which does not know that.
const NO_GRACE_ON_4_4: &str = "--setParameter=waitForStepDownOnNonCommandShutdown=false";

/// A running mongod.
#[derive(Debug)]
pub struct Mongod {
    server: ServerProcess,
    port: u16,
    options: MongodOptions,
}

impl Mongod {
    /// Starts a new mongod: the program of the options, or `$DOCROW_MONGOD`, or the one that `make setup`
    /// unpacks, or the one on the `PATH`. Errors: there is none, or it does not get ready; then with the end
    /// of its log.
    pub async fn start(options: MongodOptions) -> Result<Self> {
        let program = options.program.clone().map_or_else(find_mongod, Ok)?;
        let mut tries = 1;
        loop {
            match Self::try_start(&program, &options).await {
                Err(_) if tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_start(path: &Path, options: &MongodOptions) -> Result<Self> {
        let caused = |e| Error::caused(Kind::SourceAway, "prepare a folder and a port for mongod", e);
        let folder = ScratchFolder::new("mongod", None).map_err(caused)?;
        let port = free_port().map_err(caused)?;
        let data = folder.path().join("data");
        fs::create_dir(&data).map_err(caused)?;
        let key = folder.path().join("key");
        if options.password.is_some() {
            fs::write(&key, "docrow".repeat(6)).map_err(caused)?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).map_err(caused)?;
        }
        let program = ServerProgram {
            name: "mongod",
            kind: Kind::SourceAway,
            path: path.to_owned(),
            arguments: mongod_arguments(options, port, &data, &key),
            account: None,
            end_signal: "KILL",
        };
        let mut mongod = Self { server: ServerProcess::new(program, folder), port, options: options.clone() };
        mongod.run().await?;
        mongod.set_up().await?;
        Ok(mongod)
    }

    /// Starts the process.
    async fn run(&mut self) -> Result<()> {
        match self.server.start(self.port).await {
            Err(unknown) if unknown.to_string().contains("shutdownTimeoutMillis") => {
                self.server.replace_argument(NO_GRACE, NO_GRACE_ON_4_4);
                self.server.start(self.port).await
            }
            outcome => outcome,
        }
    }

    /// The URI to reach it, as its superuser.
    pub fn uri(&self) -> String {
        let login =
            self.options.password.as_ref().map(|password| format!("{ADMIN}:{password}@")).unwrap_or_default();
        self.uri_with(&login, if self.options.replica_set { "replicaSet=docrow" } else { "" })
    }

    /// The same, with the name of a database.
    pub fn database_uri(&self, database: &str) -> String {
        self.uri().replacen("/?", &format!("/{database}?"), 1)
    }

    /// `login` ends in `@`, unless it is empty.
    fn uri_with(&self, login: &str, option: &str) -> String {
        let options = [option, &self.options.uri_options];
        let options: Vec<_> = options.into_iter().filter(|option| !option.is_empty()).collect();
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("mongodb://{login}127.0.0.1:{}/{query}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process's id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Sends `signal` (`STOP`, `CONT`, …) to it.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.server.signal(signal)
    }

    /// Shuts it down cleanly.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.end("TERM").await
    }

    /// Kills it by SIGKILL.
    pub async fn kill9(&mut self) -> Result<()> {
        self.server.end("KILL").await
    }

    /// Starts it again, on its port and its data, and waits until it is ready. Stops it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.run().await?;
        if !self.options.initiated {
            return Ok(());
        }
        self.wait_until_primary(&self.direct_client().await?).await
    }

    /// The same, with another version's program from now on.
    pub async fn restart_as(&mut self, program: PathBuf) -> Result<()> {
        self.stop().await?;
        self.server.replace_argument(NO_GRACE_ON_4_4, NO_GRACE);
        self.server.replace_program(program);
        self.restart().await
    }

    /// Configures a new server according to the options; without a user yet, the localhost exception permits
    /// that.
    async fn set_up(&self) -> Result<()> {
        let client = self.direct_client().await?;
        let admin = client.database("admin");
        if !self.options.initiated {
            return Ok(());
        }
        if self.options.replica_set {
            let member = doc! { "_id": 0, "host": format!("127.0.0.1:{}", self.port) };
            let config = doc! { "_id": "docrow", "members": [member] };
            let initiated = admin.run_command(doc! { "replSetInitiate": config }).await;
            initiated.map_err(|e| Error::caused(Kind::SourceAway, "initiate mongod's replica set", e))?;
        }
        self.wait_until_primary(&client).await?;
        if let Some(password) = &self.options.password {
            let create = doc! { "createUser": ADMIN, "pwd": password, "roles": ["root"] };
            let created = admin.run_command(create).await;
            created.map_err(|e| Error::caused(Kind::SourceAway, "create mongod's user", e))?;
        }
        if self.options.replica_set {
            self.acknowledge_what_is_durable().await?;
        }
        Ok(())
    }

    /// Makes every write wait until a kill can't undo it, as is the default since 5.0.
    async fn acknowledge_what_is_durable(&self) -> Result<()> {
        let majority = || doc! { "w": "majority" };
        let default =
            doc! { "setDefaultRWConcern": 1, "defaultWriteConcern": majority(), "writeConcern": majority() };
        let caused = |e| Error::caused(Kind::SourceAway, "set mongod's write concern", e);
        let client = Client::with_uri_str(self.uri()).await.map_err(caused)?;
        match client.database("admin").run_command(default).await {
            // A shard leaves that to its cluster.
            Err(error) if error.to_string().contains("not supported on shard nodes") => Ok(()),
            set => set.map(drop).map_err(caused),
        }
    }

    async fn wait_until_primary(&self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let admin = client.database("admin");
        loop {
            let answer = admin.run_command(doc! { "hello": 1 }).await;
            if answer.is_ok_and(|hello: Document| hello.get_bool("isWritablePrimary").unwrap_or_default()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let late = format!("start mongod: not primary within {PATIENCE:?}; its log ends with");
                return Err(self.server.error(late));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A client that does not log in and does not require a primary.
    async fn direct_client(&self) -> Result<Client> {
        let connected = Client::with_uri_str(self.uri_with("", "directConnection=true")).await;
        connected.map_err(|e| Error::caused(Kind::SourceAway, "connect to mongod", e))
    }
}

fn mongod_arguments(options: &MongodOptions, port: u16, data: &Path, key: &Path) -> Vec<String> {
    let mut arguments = vec![
        "--bind_ip=127.0.0.1".to_owned(),
        format!("--port={port}"),
        format!("--dbpath={}", data.display()),
        "--nounixsocket".to_owned(),
        "--setParameter=diagnosticDataCollectionEnabled=false".to_owned(),
        // Tests make the server fail on purpose (`configureFailPoint`).
        "--setParameter=enableTestCommands=1".to_owned(),
        // How soon a stream's position passes the last write if nothing more is written; by default 10
        // seconds.
        "--setParameter=periodicNoopIntervalSecs=1".to_owned(),
        NO_GRACE.to_owned(),
    ];
    arguments.extend(options.cache_gb.map(|size| format!("--wiredTigerCacheSizeGB={size}")));
    arguments.extend(options.replica_set.then(|| "--replSet=docrow".to_owned()));
    if let Some(size) = options.oplog_mb {
        // Entries after the last checkpoint are never removed; by default there is one a minute.
        arguments.extend([format!("--oplogSize={size}"), "--syncdelay=1".to_owned()]);
    }
    arguments.extend(options.password.as_ref().map(|_| "--auth".to_owned()));
    if options.replica_set && options.password.is_some() {
        arguments.push(format!("--keyFile={}", key.display()));
    }
    arguments.extend(options.parameters.iter().map(|parameter| format!("--setParameter={parameter}")));
    arguments.extend(options.arguments.iter().cloned());
    arguments
}
