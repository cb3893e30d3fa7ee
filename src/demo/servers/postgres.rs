//! A PostgreSQL server.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use tokio_postgres::{NoTls, error::SqlState};

use super::tries::{ADMIN, PATIENCE, POLL, TRIES};
use crate::{
    demo::{
        process::{ScratchFolder, ServerProcess, ServerProgram, SystemAccount, free_port, send_signal},
        programs::{find_postgres, run},
    },
    error::{Error, Kind, Result},
};

/// How to start a [`Postgres`].
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// If given, `postgres` must log in with this password.
    pub password: Option<String>,
    /// Settings, `name=value`, which override the harness's own.
    pub settings: Vec<String>,
}

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    server: ServerProcess,
    port: u16,
    options: PostgresOptions,
}

impl Postgres {
    /// Creates a new cluster and starts it. Errors: there is no PostgreSQL, or it does not get ready; then
    /// with the end of its log.
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
        let account = SystemAccount::instead_of_root()?;
        let folder = ScratchFolder::new("postgres", account).map_err(caused)?;
        let port = free_port().map_err(caused)?;
        let mut initdb = vec!["--pgdata=data", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"];
        initdb.push("--no-sync");
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
        let server = ServerProcess::new(program("postgres", binaries, arguments, account), folder);
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

    /// Shuts it down cleanly, terminating sessions.
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
                // It still replays its log, or closes connections while it starts.
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
        // The default since 14.
        "password_encryption=scram-sha-256".to_owned(),
    ];
    settings.extend(options.settings.iter().cloned());
    let settings = settings.into_iter().map(|setting| format!("--{setting}"));
    ["-D".to_owned(), "data".to_owned()].into_iter().chain(settings).collect()
}

fn program(
    name: &'static str,
    folder: &Path,
    arguments: Vec<String>,
    account: Option<SystemAccount>,
) -> ServerProgram {
    ServerProgram {
        name,
        kind: Kind::TargetAway,
        path: folder.join(name),
        arguments,
        account,
        end_signal: "QUIT",
    }
}
