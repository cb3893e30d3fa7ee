//! `make bench`: how fast a backfill is, beside the least it could cost on the same machine in the same run.
//!
//! The floor is `psql` reloading exactly the rows that docrow wrote: each table's binary dump is copied into bare tables
//! over two connections, then the primary keys are built over two connections. Floor and docrow take turns; the figure
//! that counts is the median of their ratios. Servers are throwaway ones; N users come from `DOCROW_BENCH_USERS`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark may fail loudly"
)]

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use docrow::demo::{
    servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    users,
};
use futures_util::StreamExt;
use mongodb::{
    Client,
    bson::{RawDocumentBuf, doc},
};
use tokio::{process::Command, task::JoinSet};

const ROUNDS: usize = 3;
const CONNECTIONS: usize = 2;

#[tokio::main]
async fn main() {
    let count = std::env::var("DOCROW_BENCH_USERS").map_or(100_000, |count| count.parse().unwrap());
    let mongod = Mongod::start(MongodOptions { cache_gb: 2.0, ..MongodOptions::default() }).await.unwrap();
    let settings = vec!["shared_buffers=1GB".to_owned(), "max_wal_size=8GB".to_owned()];
    let postgres = Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The PostgreSQL server writes and reads the dumps, perhaps as another user.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let bench = Bench { mongod, postgres, folder };

    let client = Client::with_uri_str(bench.mongod.uri()).await.unwrap();
    let collection = client.database("sample_db").collection::<RawDocumentBuf>("users");
    users::load(&collection, 1, 0..count, &AtomicU64::new(0)).await.unwrap();
    let (read, bytes) = read_raw(&collection).await;
    println!(
        "{count} users, {} MB of BSON; {} cores",
        bytes >> 20,
        std::thread::available_parallelism().unwrap()
    );
    println!("raw read          {:>6.2}s", read.as_secs_f64());

    bench.backfill("warmup").await;
    let tables = bench.dump("warmup").await;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let floor = bench.reload("warmup", &tables).await;
        let docrow = bench.backfill(&format!("round{round}")).await;
        let ratio = docrow.wall.as_secs_f64() / floor.as_secs_f64();
        println!(
            "round {round}: reload {:>6.2}s   docrow backfill {:>6.2}s   ratio {ratio:.2}   docrow's CPU {:.2}s, peak memory {} MB",
            floor.as_secs_f64(),
            docrow.wall.as_secs_f64(),
            docrow.cpu.as_secs_f64(),
            docrow.peak_kb >> 10
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "backfill / reload: median {:.2} (from {:.2} to {:.2})",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1]
    );
}

/// The time to read a collection over one cursor, and its size.
async fn read_raw(collection: &mongodb::Collection<RawDocumentBuf>) -> (Duration, usize) {
    let started = Instant::now();
    let mut batches = collection.find(doc! {}).batch_size(100_000).batch().await.unwrap();
    let mut bytes = 0;
    while let Some(batch) = batches.next().await {
        bytes += batch.unwrap().as_raw_document().as_bytes().len();
    }
    (started.elapsed(), bytes)
}

struct Bench {
    mongod: Mongod,
    postgres: Postgres,
    folder: tempfile::TempDir,
}

struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_kb: u64,
}

impl Bench {
    /// `docrow backfill` of the users into a new database.
    async fn backfill(&self, database: &str) -> Cost {
        self.psql("postgres", &format!("CREATE DATABASE {database}")).await;
        self.psql("postgres", "CHECKPOINT").await;
        let file = self.folder.path().join(format!("{database}.toml"));
        let config = format!(
            "source = {{ uri = '{}', include = ['sample_db.users'] }}\ntarget.uri = '{}'\nmapping.dir = '{}/schemas'\nstate.dir = '{}'\n",
            self.mongod.uri(),
            self.postgres.uri(database),
            env!("CARGO_MANIFEST_DIR"),
            self.folder.path().join(database).display()
        );
        fs::write(&file, config).unwrap();
        let started = Instant::now();
        let mut docrow = Command::new(env!("CARGO_BIN_EXE_docrow"));
        let mut docrow =
            docrow.args(["backfill", "--config"]).arg(&file).env("RUST_LOG", "warn").spawn().unwrap();
        let process = format!("/proc/{}", docrow.id().unwrap());
        let mut cost = Cost { wall: Duration::ZERO, cpu: Duration::ZERO, peak_kb: 0 };
        while docrow.try_wait().unwrap().is_none() {
            cost.look_at(Path::new(&process));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(docrow.wait().await.unwrap().success());
        cost.wall = started.elapsed();
        cost
    }

    /// Writes each table of a database to a file. Tables by size, the largest first, with their primary keys.
    async fn dump(&self, database: &str) -> Vec<(String, String)> {
        let tables = "SELECT relname, pg_get_constraintdef(k.oid) FROM pg_class c JOIN pg_constraint k ON conrelid = c.oid \
            WHERE relnamespace = 'public'::regnamespace AND contype = 'p' ORDER BY pg_relation_size(c.oid) DESC";
        let listed = self.psql(database, tables).await;
        let tables: Vec<_> = listed.lines().filter_map(|line| line.split_once('|')).collect();
        for (table, _) in &tables {
            let file = self.folder.path().join(table);
            self.psql(database, &format!("COPY {table} TO '{}' (FORMAT binary)", file.display())).await;
        }
        tables.into_iter().map(|(table, key)| (table.to_owned(), key.to_owned())).collect()
    }

    /// The floor: the dumps into bare tables, then the keys.
    async fn reload(&self, like: &str, tables: &[(String, String)]) -> Duration {
        let create: String =
            tables.iter().map(|(t, _)| format!("CREATE TABLE again.{t} (LIKE public.{t});")).collect();
        self.psql(like, &format!("DROP SCHEMA IF EXISTS again CASCADE; CREATE SCHEMA again; {create}")).await;
        self.psql("postgres", "CHECKPOINT").await;
        let started = Instant::now();
        let copy = |(table, _): &(String, String)| {
            let file = self.folder.path().join(table);
            format!("\\copy again.{table} FROM '{}' (FORMAT binary)", file.display())
        };
        self.side_by_side(like, tables.iter().map(copy).collect()).await;
        let key = |(table, key): &(String, String)| {
            format!(
                "SET maintenance_work_mem = '256MB'; ALTER TABLE again.{table} ADD {key}; ANALYZE again.{table}"
            )
        };
        self.side_by_side(like, tables.iter().map(key).collect()).await;
        started.elapsed()
    }

    async fn side_by_side(&self, database: &str, commands: VecDeque<String>) {
        let commands = Arc::new(Mutex::new(commands));
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (commands, uri) = (commands.clone(), self.postgres.uri(database));
            connections.spawn(async move {
                loop {
                    let command = commands.lock().unwrap().pop_front();
                    let Some(command) = command else { break };
                    psql(&uri, &command).await;
                }
            });
        }
        while let Some(ended) = connections.join_next().await {
            ended.unwrap();
        }
    }

    async fn psql(&self, database: &str, command: &str) -> String {
        psql(&self.postgres.uri(database), command).await
    }
}

async fn psql(uri: &str, command: &str) -> String {
    let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", command, uri];
    let output = Command::new("psql").args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Cost {
    /// Notes what the process has cost so far; when it has ended the last look counts.
    fn look_at(&mut self, process: &Path) {
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        let status = read("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        self.peak_kb = peak.and_then(|kb| kb.trim().parse().ok()).unwrap_or(self.peak_kb);
        // The fields after the program's name; the 12th and 13th are user and system time in hundredths of a second.
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        if let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) {
            let ticks: u64 = user.parse::<u64>().unwrap() + system.parse::<u64>().unwrap();
            self.cpu = Duration::from_millis(ticks * 10);
        }
    }
}
