//! Throwaway MongoDB and PostgreSQL servers: real ones, on free ports of the loopback interface, in temporary folders.
//!
//! A started server is ready: primary, taking logins. It is gone, with its folder, when its value is dropped or the
//! process ends, by SIGKILL too (see [`super::process`]). Servers can be stopped, killed and restarted on the same port
//! and data, since crashes are what docrow is tested against.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use tokio_postgres::{NoTls, error::SqlState};

use super::process::{Account, Program, Scratch, Server, free_port, send_signal, spawn};
use crate::error::{Code, Error, Kind, Result};

/// How often a start is tried before its error is believed: between choosing a free port and the server's taking it,
/// someone else may.
const TRIES: u32 = 3;
/// How long a server that takes connections may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often readiness is looked at.
const POLL: Duration = Duration::from_millis(10);
/// The user that both servers know, with every privilege.
const ADMIN: &str = "postgres";

/// How to start a [`Mongod`].
#[derive(Clone, Debug)]
pub struct MongodOptions {
    /// Whether it is a replica set of one, as change streams require, or a standalone server.
    pub replica_set: bool,
    /// Whether its replica set is initiated; without that it is no primary, and takes no writes.
    pub initiated: bool,
    /// WiredTiger's cache, in GB, at least 0.25; `None`: half the memory, as the server takes by itself.
    pub cache_gb: Option<f32>,
    /// The oplog's size, in MB; by default 5 % of the free disk. If given, it is kept to that within seconds.
    pub oplog_mb: Option<u32>,
    /// If given, clients must log in as `postgres` with this password.
    pub password: Option<String>,
    /// Server parameters, `name=value`.
    pub parameters: Vec<String>,
    /// Further arguments, as `--tlsMode=requireTLS`.
    pub arguments: Vec<String>,
    /// What clients need in their URI with them, as `tls=true&tlsCAFile=…`; may be empty.
    pub uri_options: String,
}

impl Default for MongodOptions {
    fn default() -> Self {
        Self {
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

/// A running mongod.
#[derive(Debug)]
pub struct Mongod {
    server: Server,
    port: u16,
    options: MongodOptions,
}

impl Mongod {
    /// Starts a mongod of its own. Errors: there is none to start, or it does not get ready; then with the end of its log.
    pub async fn start(options: MongodOptions) -> Result<Self> {
        let program = find_mongod()?;
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
        let folder = Scratch::new("mongod", None).map_err(caused)?;
        let port = free_port().map_err(caused)?;
        let data = folder.path().join("data");
        fs::create_dir(&data).map_err(caused)?;
        let key = folder.path().join("key");
        if options.password.is_some() {
            fs::write(&key, "docrow".repeat(6)).map_err(caused)?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).map_err(caused)?;
        }
        let program = Program {
            name: "mongod",
            kind: Kind::SourceAway,
            path: path.to_owned(),
            arguments: mongod_arguments(options, port, &data, &key),
            account: None,
            end_signal: "KILL",
        };
        let mut mongod = Self { server: Server::new(program, folder), port, options: options.clone() };
        mongod.server.start(port).await?;
        mongod.set_up().await?;
        Ok(mongod)
    }

    /// The URI to reach it with, as its all-powerful user.
    pub fn uri(&self) -> String {
        let login =
            self.options.password.as_ref().map(|password| format!("{ADMIN}:{password}@")).unwrap_or_default();
        self.uri_with(&login, if self.options.replica_set { "replicaSet=docrow" } else { "" })
    }

    /// The same, with the name of a database.
    pub fn database_uri(&self, database: &str) -> String {
        self.uri().replacen("/?", &format!("/{database}?"), 1)
    }

    /// `login` ends in `@`, if there is one.
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

    /// Shuts it down in order.
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
        self.server.start(self.port).await?;
        self.wait_until_primary(&self.direct_client().await?).await
    }

    /// Makes a fresh server what the options say; without a user yet, the localhost exception lets us.
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
        Ok(())
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

    /// A client that does not log in and does not ask for a primary.
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
        // No secondary is there to take over, so a shutdown needs no 15 seconds of grace.
        "--setParameter=shutdownTimeoutMillisForSignaledShutdown=100".to_owned(),
        // How soon a stream's position passes the last write when nothing more is written; by default 10 seconds.
        "--setParameter=periodicNoopIntervalSecs=1".to_owned(),
    ];
    arguments.extend(options.cache_gb.map(|size| format!("--wiredTigerCacheSizeGB={size}")));
    arguments.extend(options.replica_set.then(|| "--replSet=docrow".to_owned()));
    if let Some(size) = options.oplog_mb {
        // What is newer than the last checkpoint is never removed; by default there is one a minute.
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

/// How to start a [`Postgres`].
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// If given, `postgres` must log in with this password.
    pub password: Option<String>,
    /// Settings, `name=value`, stronger than the harness's own.
    pub settings: Vec<String>,
}

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    options: PostgresOptions,
}

impl Postgres {
    /// Makes a cluster of its own and starts it. Errors: there is no PostgreSQL, or it does not get ready; then with the
    /// end of its log.
    pub async fn start(options: PostgresOptions) -> Result<Self> {
        let binaries = find_postgres()?;
        let mut tries = 1;
        loop {
            match Self::try_start(&binaries, &options).await {
                Err(_) if tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_start(binaries: &Path, options: &PostgresOptions) -> Result<Self> {
        let caused = |e| Error::caused(Kind::TargetAway, "prepare a folder and a port for PostgreSQL", e);
        let account = Account::instead_of_root()?;
        let folder = Scratch::new("postgres", account).map_err(caused)?;
        let port = free_port().map_err(caused)?;
        let mut initdb = vec!["--pgdata=data", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"];
        initdb.extend(["--no-sync", "--no-instructions"]);
        if let Some(password) = &options.password {
            let file = folder.path().join("password");
            fs::write(&file, password).map_err(caused)?;
            // The server's user reads it, and removes it with the folder.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(caused)?;
            initdb.extend(["--auth=scram-sha-256", "--pwfile=password"]);
        } else {
            initdb.push("--auth=trust");
        }
        let arguments = initdb.into_iter().map(str::to_owned).collect();
        run(program("initdb", binaries, arguments, account), folder.path())?;
        let arguments = postgres_arguments(options, port, folder.path());
        let server = Server::new(program("postgres", binaries, arguments, account), folder);
        let mut postgres = Self { server, port, options: options.clone() };
        postgres.server.start(port).await?;
        postgres.wait_until_ready().await?;
        Ok(postgres)
    }

    /// The URI to reach `database` with, as the superuser. A fresh server has the database `postgres`.
    pub fn uri(&self, database: &str) -> String {
        let password =
            self.options.password.as_ref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgresql://{ADMIN}{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix-domain socket.
    pub fn socket_folder(&self) -> &Path {
        self.server.folder()
    }

    /// The first process's id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Sends `signal` to its first process.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.server.signal(signal)
    }

    /// Shuts it down in order, breaking off sessions.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.end("INT").await
    }

    /// Kills all its processes by SIGKILL.
    pub async fn kill9(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let backends = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.server.end("KILL").await?;
        let backends: Vec<u32> = backends.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        send_signal("KILL", &backends)
            .map_err(|e| Error::caused(Kind::TargetAway, "kill PostgreSQL's sessions", e))
    }

    /// Starts it again, on its port and its data, and waits until it is ready. Stops it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.server.start(self.port).await {
                // A killed server's last session is not quite dead yet.
                Err(e) if e.to_string().contains("shared memory block") && Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                Err(e) => return Err(e),
                Ok(()) => return self.wait_until_ready().await,
            }
        }
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match tokio_postgres::connect(&self.uri("postgres"), NoTls).await {
                Ok(_) => return Ok(()),
                // It still replays its log, or breaks connections off while it starts.
                Err(e)
                    if (e.code().is_none() || e.code() == Some(&SqlState::CANNOT_CONNECT_NOW))
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Err(e) => {
                    let log = self.server.error("its log ends with".to_owned());
                    return Err(
                        Error::caused(Kind::TargetAway, "log in to the fresh PostgreSQL", e).within(log)
                    );
                }
            }
        }
    }
}

fn postgres_arguments(options: &PostgresOptions, port: u16, folder: &Path) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        format!("unix_socket_directories={}", folder.display()),
        "max_connections=200".to_owned(),
        "max_wal_size=4GB".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
    ];
    settings.extend(options.settings.iter().cloned());
    let settings = settings.into_iter().map(|setting| format!("--{setting}"));
    ["-D".to_owned(), "data".to_owned()].into_iter().chain(settings).collect()
}

fn program(name: &'static str, folder: &Path, arguments: Vec<String>, account: Option<Account>) -> Program {
    Program { name, kind: Kind::TargetAway, path: folder.join(name), arguments, account, end_signal: "QUIT" }
}

/// Runs a program to its end; its output is part of the error.
fn run(program: Program, folder: &Path) -> Result<()> {
    let running = format!("run {}", program.path.display());
    let mut command = program.command(folder);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = spawn(command).and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|e| Error::caused(Kind::TargetAway, running.clone(), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::new(Kind::TargetAway, format!("{running}: {said}")))
}

/// `$DOCROW_MONGOD`, else the one that `make setup` unpacks, else the one on the `PATH`.
fn find_mongod() -> Result<PathBuf> {
    let given = env::var_os("DOCROW_MONGOD").map(PathBuf::from);
    let cache = env::var_os("DOCROW_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache/docrow")));
    let unpacked = cache.map(|folder| folder.join("mongod-6.0.5/mongod"));
    let found = given.or(unpacked.filter(|path| path.exists())).or_else(|| on_path("mongod"));
    let remedy = "find mongod: run `make setup`, or set DOCROW_MONGOD to the program's path";
    found.filter(|path| path.exists()).ok_or_else(|| Error::new(Code::DemoMongod, remedy))
}

/// `$DOCROW_POSTGRES_BIN`, else the folder of the `postgres` on the `PATH`, else Debian's newest.
fn find_postgres() -> Result<PathBuf> {
    let given = env::var_os("DOCROW_POSTGRES_BIN").map(PathBuf::from);
    let on_path = || on_path("postgres").and_then(|path| Some(path.parent()?.to_owned()));
    let found = given.or_else(on_path).or_else(newest_of_debian);
    let remedy =
        "find PostgreSQL: run `make setup`, or set DOCROW_POSTGRES_BIN to the folder that holds `initdb`";
    found.filter(|path| path.join("initdb").exists()).ok_or_else(|| Error::new(Code::DemoPostgres, remedy))
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter(|path| path.join("bin/initdb").exists()).max_by_key(|path| number(path))?;
    Some(newest.join("bin"))
}
