//! `docrow demo`: shows docrow on throwaway servers, including kill -9.
//!
//! The replication that it shows is this very program, run as users run it: `docrow run --config …` as a
//! child process, killed and restarted.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::HumanCount;
use mongodb::{
    Client, Collection,
    bson::{RawDocumentBuf, Timestamp},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    outcome::CommandOutcome,
    printable::{say, unprintable},
    verify::print,
};
use crate::{
    config::{Config, Overrides},
    demo::{
        free_port, samples,
        servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
        users,
        writer::Writer,
    },
    error::{Error, Kind, Result},
    shutdown::Shutdown,
    sink::{
        Session, Target,
        metadata::{chunks, positions},
    },
    source::Source,
    telemetry::Reporter,
    verify,
};

const DATABASE: &str = "sample_db";
/// The database for users who keep the servers and replicate into it themselves: the tables of the
/// demonstration's own pipeline are not in the way there.
const OWN_DATABASE: &str = "warehouse";
const PIPELINE: &str = "demo";
const SEED: u64 = 1;
const CHANGES_PER_SECOND: u32 = 500;
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(600);

const QUERY: &str = "SELECT c.region, count(*) AS countries, round(avg(c.area)) AS mean_area, \
    min(c.name_common) FILTER (WHERE c.landlocked) AS a_landlocked_one FROM countries c GROUP BY 1 ORDER BY 2 DESC";

#[derive(Debug, Args)]
pub(super) struct DemoOptions {
    /// How many generated users to copy, each of 6 KB and about 39 rows in 15 tables
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    users: i32,
    /// How long changes are written while docrow follows
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    /// Keep docrow and the servers running at the end, until ^C, and print connection strings to try docrow
    /// with
    #[arg(long)]
    keep: bool,
}

pub(super) async fn execute(
    options: DemoOptions,
    reporter: Reporter,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let (stage, outcome) = tokio::select! {
        biased;
        () = shutdown.requested() => {
            say("stopped: the servers and their folders are gone")?;
            return Ok(CommandOutcome::Finding);
        }
        shown = show(&options, &reporter, &shutdown) => shown?,
    };
    if options.keep {
        stage.keep(&shutdown).await?;
    }
    Ok(outcome)
}

async fn show(
    options: &DemoOptions,
    reporter: &Reporter,
    shutdown: &Shutdown,
) -> Result<(DemoStage, CommandOutcome)> {
    say(
        "docrow demo: its own MongoDB replica set and PostgreSQL, in temporary folders that are removed at \
         the end",
    )?;
    let stage = DemoStage::set().await?;
    let users = stage.load(options.users).await?;
    say("\n$ docrow run")?;
    let mut docrow = stage.docrow()?;
    say(format!("dashboard, while docrow runs: {}", stage.dashboard))?;
    stage.until_copied(2).await?;
    kill(&mut docrow, "in the middle of the snapshot").await?;

    say("\n$ docrow run     # again, while changes are being written")?;
    let mut docrow = stage.docrow()?;
    let mut writer = Writer::new(&stage.client, &users, SEED, 0..options.users);
    let half = Duration::from_secs(options.seconds).div_f64(2.0);
    writer.write().await?;
    let began = stage.source.operation_time().await?;
    tokio::try_join!(writer.write_for(half, CHANGES_PER_SECOND), async {
        stage.until_applied(began).await?;
        kill(&mut docrow, "in the middle of the stream").await
    })?;

    say("\n$ docrow run     # again")?;
    let mut docrow = stage.docrow()?;
    writer.write_for(half, CHANGES_PER_SECOND).await?;
    let written = stage.source.operation_time().await?;
    let waited = stage.until_applied(written).await?;
    let deeds: Vec<_> = writer.deeds().iter().map(|(deed, count)| format!("{count} {deed}")).collect();
    say(format!("written meanwhile: {}", deeds.join(", ")))?;
    say(format!("PostgreSQL has all changes {:.1}s after the last write", waited.as_secs_f64()))?;
    stop(&mut docrow).await?;

    say("\n$ docrow verify")?;
    let report = verify::run(&stage.config, &verify::VerifyOptions::default(), reporter, shutdown).await?;
    print(&report, 20).map_err(unprintable)?;
    let rows: u64 = report.collections.iter().map(|collection| collection.rows).sum();
    say(format!("\n$ psql -c '{QUERY}'"))?;
    stage.psql(QUERY).await?;
    let verdict = if report.is_equal() {
        "verified: every row matches its document, after two kill -9"
    } else {
        "there are differences: this is a bug in docrow"
    };
    say(format!("{verdict}; {} rows", HumanCount(rows)))?;
    Ok((stage, if report.is_equal() { CommandOutcome::Done } else { CommandOutcome::Finding }))
}

/// The servers, and how docrow connects to them. Dropping it stops them and removes their folders.
struct DemoStage {
    mongod: Mongod,
    postgres: Postgres,
    folder: TempDir,
    /// The dashboard that docrow serves while it runs.
    dashboard: String,
    config: Config,
    client: Client,
    source: Source,
    session: Session,
}

impl DemoStage {
    async fn set() -> Result<Self> {
        let started = Instant::now();
        let mongod = Mongod::start(MongodOptions { cache_gb: Some(1.0), ..MongodOptions::default() }).await?;
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let folder =
            TempDir::with_prefix("docrow-demo-").map_err(|e| caused("make a temporary folder", e))?;
        let port = free_port().map_err(|e| caused("find a free port", e))?;
        let config = write_config(&folder, &mongod, &postgres, port)
            .map_err(|e| caused("write the configuration", e))?;
        let dashboard = format!("http://127.0.0.1:{port}/");
        let config = Config::load(Overrides { file: Some(config), ..Overrides::default() })?;
        let client = Client::with_uri_str(mongod.uri()).await.map_err(|e| caused("connect to mongod", e))?;
        let source = Source::connect(config.source.expose()).await?;
        let session = Target::parse(config.target.expose(), &config.schema, &config.name)?.connect().await?;
        say(format!("mongod and PostgreSQL are up after {:.1}s", started.elapsed().as_secs_f64()))?;
        Ok(Self { mongod, postgres, folder, dashboard, config, client, source, session })
    }

    /// Keeps everything running until stopped, with an empty database beside the replica, to try docrow with.
    async fn keep(&self, shutdown: &Shutdown) -> Result<()> {
        let _docrow = self.docrow()?;
        self.psql(&format!("CREATE DATABASE {OWN_DATABASE}")).await?;
        say(format!(
            "\nto try docrow yourself, with the same MongoDB and an empty database of that PostgreSQL:\n\n\
             export DOCROW_SOURCE='{}' DOCROW_TARGET='{}'\n\n\
             the dashboard of this demonstration: {}\n^C stops all of it",
            self.mongod.database_uri(DATABASE),
            self.postgres.uri(OWN_DATABASE),
            self.dashboard
        ))?;
        shutdown.requested().await;
        Ok(())
    }

    /// Loads the real documents and `count` generated users.
    async fn load(&self, count: i32) -> Result<Collection<RawDocumentBuf>> {
        let started = Instant::now();
        let database = self.client.database(DATABASE);
        samples::load(&database).await?;
        let users = database.collection("users");
        users::load(&users, SEED, 0..count, &AtomicU64::new(0)).await?;
        let took = started.elapsed().as_secs_f64();
        say(format!("loaded movies, countries and {count} users of about 6 KB in {took:.1}s"))?;
        Ok(users)
    }

    /// `docrow run`, as a separate process.
    fn docrow(&self) -> Result<Child> {
        let program = env::current_exe().map_err(|e| caused("find this program", e))?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(self.folder.path().join("docrow.toml"));
        command.stdin(Stdio::null()).kill_on_drop(true).spawn().map_err(|e| caused("start docrow run", e))
    }

    /// Waits until `count` chunks of the users are copied.
    async fn until_copied(&self, count: usize) -> Result<()> {
        let namespace = format!("{DATABASE}.users");
        until("copy chunks", async || {
            // Until docrow has created its tables, the query fails.
            let plan = chunks::load(&self.session, PIPELINE, &namespace).await.unwrap_or_default();
            let copied = plan.iter().filter(|chunk| chunk.copied.is_some()).count();
            Ok(!plan.is_empty() && copied >= count.min(plan.len()))
        })
        .await
        .map(drop)
    }

    /// Waits until everything written up to `time` is applied.
    async fn until_applied(&self, time: Timestamp) -> Result<Duration> {
        until("apply the changes", async || {
            let positions = positions::load(&self.session, PIPELINE).await?;
            Ok(positions.iter().all(|stored| stored.position.is_past(time)))
        })
        .await
    }

    async fn psql(&self, query: &str) -> Result<()> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-c", query]).arg(self.postgres.uri("postgres"));
        succeeded("psql", psql.status().await.map_err(|e| caused("run psql", e))?)
    }
}

/// The configuration that the demo's `docrow run` reads, in the folder that also holds its state.
fn write_config(folder: &TempDir, mongod: &Mongod, postgres: &Postgres, port: u16) -> io::Result<PathBuf> {
    let schemas = folder.path().join("schemas");
    fs::create_dir(&schemas)?;
    fs::write(schemas.join("users.toml"), include_str!("../../schemas/users.toml"))?;
    let (schemas, state) = (schemas.display(), folder.path().join("state"));
    let config = format!(
        "name = \"{PIPELINE}\"\n\n[source]\nuri = \"{}\"\ninclude = [\"{DATABASE}.*\"]\n\n\
         [target]\nuri = \"{}\"\n\n[mapping]\ndir = \"{schemas}\"\n\n[state]\ndir = \"{}\"\n\n\
         [serve]\nlisten = \"127.0.0.1:{port}\"\n",
        mongod.uri(),
        postgres.uri("postgres"),
        state.display()
    );
    let file = folder.path().join("docrow.toml");
    fs::write(&file, config)?;
    Ok(file)
}

/// Asks repeatedly until the answer is yes.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<Duration> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if is_so().await? {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Error::bug(format!("{what}: not done after {} minutes", PATIENCE.as_secs() / 60)))
}

async fn kill(docrow: &mut Child, when: &str) -> Result<()> {
    docrow.kill().await.map_err(|e| caused("kill docrow", e))?;
    say(format!("kill -9 of docrow, {when}"))
}

/// SIGTERM, and waits for a clean end.
async fn stop(docrow: &mut Child) -> Result<()> {
    if let Some(pid) = docrow.id() {
        let sent = Command::new("kill").arg(pid.to_string()).status().await;
        succeeded("kill", sent.map_err(|e| caused("stop docrow", e))?)?;
    }
    succeeded("docrow run", docrow.wait().await.map_err(|e| caused("wait for docrow", e))?)
}

fn succeeded(program: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::bug(format!("{program} ended with {status}")))
}

fn caused(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::caused(Kind::Bug, doing, error)
}
