//! docrow, PostgreSQL and mongod are killed, stopped, frozen and cut off from each other, in turn and
//! together, while writers write. After each round the writers pause, and everything must be in PostgreSQL
//! (G1, G2).
//!
//! Every few rounds start with an empty target again, so that faults hit copying as well as following.

mod schedule;

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use docrow::demo::{
    servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    users,
    writer::Writer,
};
use fastrand::Rng;
use mongodb::{
    Client, Collection,
    bson::{Document, RawDocumentBuf, doc},
    options::ClientOptions,
};
use tokio::{process::Command, time::sleep};

use self::schedule::{Blow, Fault, Schedule, Step, Victim};
use crate::support::{Docrow, Home, Place, Proxy, SENTINELS};

/// Rounds with one target.
const LIFE: u32 = 5;
/// How many documents exist at the beginning of a life, in each of the two large collections.
const USERS: i32 = 800;
/// How long everything may take to be applied after the last fault of a round.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// How long a writer pauses after each change.
const REST: Duration = Duration::from_millis(5);
/// docrow's exit codes if a server is down at its start, or the lock of its killed predecessor is not free
/// yet.
const AWAY: [i32; 3] = [3, 4, 6];

/// A short run of what `make chaos` does for longer.
#[tokio::test]
async fn some_rounds_leave_no_row_wrong() {
    run(3, 1).await;
}

/// Runs this many rounds, logs the events, and panics if a row is wrong.
pub(crate) async fn run(rounds: u32, seed: u64) {
    let mut schedule = Schedule::new(seed);
    let mut world = World::new(seed).await;
    let began = Instant::now();
    for round in 1..=rounds {
        if round % LIFE == 1 {
            world.begin_life(round / LIFE).await;
        }
        let steps = schedule.round();
        let shown: Vec<_> = steps.iter().map(ToString::to_string).collect();
        println!("round {round} of {rounds}, seed {seed}: {}", shown.join("; "));
        let writes = world.round(&steps).await;
        let waited = world.settle().await;
        world.compare(round).await;
        println!(
            "    {writes} writes, all applied {:.1}s after the last fault, 0 wrong",
            waited.as_secs_f64()
        );
    }
    world.end_life().await;
    let faults: Vec<_> = world.faults.iter().map(|(fault, times)| format!("{fault} {times}")).collect();
    println!("{}", faults.join(", "));
    for (line, times) in &world.said {
        println!("docrow said {times} times: {line}");
    }
    println!(
        "{rounds} rounds, seed {seed}, in {:.0}s: {} writes, docrow ended {} times because a server was away, wrong rows 0",
        began.elapsed().as_secs_f64(),
        world.writes,
        world.restarts
    );
}

/// The servers, and the state in one life of the target.
struct World {
    seed: u64,
    mongod: Mongod,
    postgres: Postgres,
    to_mongod: Proxy,
    to_postgres: Proxy,
    client: Client,
    life: Option<Life>,
    faults: BTreeMap<Fault, u64>,
    said: BTreeMap<String, u64>,
    writes: u64,
    restarts: u64,
}

struct Life {
    place: Place,
    home: Home,
    docrow: Option<Docrow>,
    writers: [Writer; 2],
    churn: Churn,
    sentinel: i64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let (to_mongod, to_postgres) = (Proxy::to(mongod.port()).await, Proxy::to(postgres.port()).await);
        // A writer must not wait long for a dead server.
        let mut options = ClientOptions::parse(mongod.uri()).await.unwrap();
        options.server_selection_timeout = Some(Duration::from_secs(1));
        options.heartbeat_freq = Some(Duration::from_millis(500));
        let client = Client::with_options(options).unwrap();
        let (faults, said) = (BTreeMap::new(), BTreeMap::new());
        Self {
            seed,
            mongod,
            postgres,
            to_mongod,
            to_postgres,
            client,
            life: None,
            faults,
            said,
            writes: 0,
            restarts: 0,
        }
    }

    /// New databases on both sides, full and empty collections, and a new docrow.
    async fn begin_life(&mut self, number: u32) {
        self.end_life().await;
        let name = format!("chaos_{number}");
        let place = Place::on(&self.mongod.uri(), &self.postgres.uri("postgres"), &name).await;
        place.add_sentinels().await;
        let seed = self.seed + u64::from(number);
        let mut writers = Vec::new();
        for (name, seed) in [("users", seed), ("people", seed + 1000)] {
            let collection: Collection<RawDocumentBuf> = self.client.database(&place.name).collection(name);
            users::load(&collection, seed, 0..USERS, &AtomicU64::new(0)).await.unwrap();
            writers.push(Writer::new(&self.client, &collection, seed, 0..USERS));
        }
        let churn = Churn {
            things: self.client.database(&place.name).collection("churn"),
            rng: Rng::with_seed(seed),
        };
        churn.things.insert_one(doc! { "_id": -1 }).await.unwrap();
        let mut home = Home::new(&place);
        home.set("source.uri", self.to_mongod.mongodb_uri());
        home.set("target.uri", self.to_postgres.uri(&place.postgres_uri));
        home.set("source.include", vec![format!("{}.*", place.name)]);
        let mapping = include_str!("../../../schemas/users.toml").replace("sample_db", &place.name);
        home.map("users.toml", &mapping);
        let docrow = Some(home.run());
        let writers = writers.try_into().unwrap_or_else(|_| unreachable!("there are two"));
        self.life = Some(Life { place, home, docrow, writers, churn, sentinel: 0 });
    }

    async fn end_life(&mut self) {
        let Some(life) = self.life.take() else { return };
        if let Some(docrow) = life.docrow {
            self.note(&docrow.stop().await.log);
        }
    }

    /// Performs all steps, under writes. Returns the number of writes.
    async fn round(&mut self, steps: &[Step]) -> u64 {
        let mut life = self.life.take().expect("begun");
        let over = Cell::new(false);
        let Life { docrow, home, writers: [first, second], churn, .. } = &mut life;
        let before = written(first) + written(second);
        let mut churned = 0;
        tokio::join!(
            async {
                for step in steps {
                    self.step(step, docrow, home).await;
                }
                over.set(true);
            },
            write(&over, async || first.write().await.is_ok()),
            write(&over, async || second.write().await.is_ok()),
            write(&over, async || {
                let done = churn.write().await.is_ok();
                churned += u64::from(done);
                done
            }),
        );
        let writes = written(first) + written(second) - before + churned;
        self.writes += writes;
        self.life = Some(life);
        writes
    }

    async fn step(&mut self, step: &Step, docrow: &mut Option<Docrow>, home: &Home) {
        self.rest(step.after, docrow, home).await;
        for fault in &step.faults {
            *self.faults.entry(*fault).or_default() += 1;
            self.strike(*fault, docrow, home).await;
        }
        let dead = step.faults.iter().any(|fault| fault.victim == Victim::Docrow);
        if dead {
            sleep(step.lasts).await;
        } else {
            self.rest(step.lasts, docrow, home).await;
        }
        for fault in &step.faults {
            self.mend(*fault, docrow, home).await;
        }
    }

    /// Lets time pass. A docrow that ended because a server was down is started again.
    async fn rest(&mut self, time: Duration, docrow: &mut Option<Docrow>, home: &Home) {
        let end = Instant::now() + time;
        loop {
            self.supervise(docrow, home).await;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(POLL)).await;
        }
    }

    async fn supervise(&mut self, docrow: &mut Option<Docrow>, home: &Home) {
        if docrow.as_mut().is_some_and(Docrow::has_ended) {
            let ended = docrow.take().expect("it was there").ended().await;
            self.note(&ended.log);
            let away = ended.code.is_some_and(|code| AWAY.contains(&code));
            assert!(away, "docrow ended with {:?}\n{}", ended.code, ended.log);
            self.restarts += 1;
        }
        if docrow.is_none() {
            *docrow = Some(home.run());
        }
    }

    async fn strike(&mut self, Fault { victim, blow }: Fault, docrow: &mut Option<Docrow>, home: &Home) {
        match (victim, blow) {
            (Victim::Docrow, Blow::Freeze) => self.signal(docrow, "STOP").await,
            (Victim::Docrow, _) => {
                self.signal(docrow, if blow == Blow::Stop { "TERM" } else { "KILL" }).await;
                if let Some(docrow) = docrow.take() {
                    let ended = docrow.ended().await;
                    self.note(&ended.log);
                    let expected = ended.code.is_none_or(|code| code == 0 || AWAY.contains(&code));
                    assert!(expected, "docrow ended with {:?}\n{}", ended.code, ended.log);
                }
                if blow == Blow::KillAndForget {
                    // It may not have been created yet.
                    let _ = fs::remove_dir_all(home.state());
                }
            }
            (Victim::Postgres, Blow::Freeze) => signal_family(self.postgres.pid(), "STOP").await,
            (Victim::Postgres, Blow::Stop) => self.postgres.signal("QUIT").unwrap(),
            (Victim::Postgres, _) => self.postgres.kill9().await.unwrap(),
            (Victim::Mongod, Blow::Freeze) => self.mongod.signal("STOP").unwrap(),
            (Victim::Mongod, Blow::Stop) => self.mongod.stop().await.unwrap(),
            (Victim::Mongod, _) => self.mongod.kill9().await.unwrap(),
            (Victim::ToPostgres | Victim::ToMongod, Blow::Stall) => self.way(victim).stall(true),
            (Victim::ToPostgres | Victim::ToMongod, _) => {
                self.way(victim).refuse(true);
                self.way(victim).cut();
            }
        }
    }

    async fn mend(&mut self, Fault { victim, blow }: Fault, docrow: &mut Option<Docrow>, home: &Home) {
        match (victim, blow) {
            (Victim::Docrow, Blow::Freeze) => self.signal(docrow, "CONT").await,
            (Victim::Docrow, _) => self.supervise(docrow, home).await,
            (Victim::Postgres, Blow::Freeze) => signal_family(self.postgres.pid(), "CONT").await,
            (Victim::Postgres, _) => self.postgres.restart().await.unwrap(),
            (Victim::Mongod, Blow::Freeze) => self.mongod.signal("CONT").unwrap(),
            (Victim::Mongod, _) => self.mongod.restart().await.unwrap(),
            (Victim::ToPostgres | Victim::ToMongod, Blow::Stall) => self.way(victim).stall(false),
            (Victim::ToPostgres | Victim::ToMongod, _) => self.way(victim).refuse(false),
        }
    }

    fn way(&self, victim: Victim) -> &Proxy {
        if victim == Victim::ToMongod { &self.to_mongod } else { &self.to_postgres }
    }

    async fn signal(&self, docrow: &mut Option<Docrow>, signal: &str) {
        if let Some(docrow) = docrow
            && !docrow.has_ended()
        {
            docrow.signal(signal).await;
        }
    }

    /// Waits until everything is copied, and everything that was written is applied.
    async fn settle(&mut self) -> Duration {
        let mut life = self.life.take().expect("begun");
        let began = Instant::now();
        let left = "SELECT CASE WHEN count(*) > 0 THEN count(*) - count(copied_at) END FROM docrow.chunks";
        self.until("everything is copied", &mut life, left, 0).await;
        life.sentinel += 1;
        let sentinels = life.place.database().collection::<Document>("sentinels");
        sentinels.update_many(doc! {}, doc! { "$set": { "round": life.sentinel } }).await.unwrap();
        let question = format!("SELECT count(*) FROM sentinels WHERE round = {}", life.sentinel);
        self.until("everything is applied", &mut life, &question, SENTINELS).await;
        self.life = Some(life);
        began.elapsed()
    }

    async fn until(&mut self, what: &str, life: &mut Life, question: &str, answer: i64) {
        let deadline = Instant::now() + PATIENCE;
        while life.place.number(question).await != Some(answer) {
            self.rest(POLL, &mut life.docrow, &life.home).await;
            let log = || life.docrow.as_ref().map_or_else(String::new, Docrow::log);
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}\n{}", log());
        }
    }

    /// Everything in PostgreSQL is as in MongoDB.
    async fn compare(&mut self, round: u32) {
        let Some(Life { place, home, .. }) = &self.life else { return };
        let differences = place.differences().await;
        for difference in differences.iter().take(20) {
            println!("    {difference}");
        }
        assert_eq!(differences.len(), 0, "wrong after round {round} of seed {}", self.seed);
        home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet();
    }

    /// Counts the warnings of a log, each without its numbers.
    fn note(&mut self, log: &str) {
        assert!(!log.contains("panicked"), "{log}");
        for line in log.lines() {
            let mut words = line.split_whitespace().skip(1);
            if matches!(words.next(), Some("WARN" | "ERROR")) {
                let line: String = words.collect::<Vec<_>>().join(" ");
                let line = line.split(|c: char| c.is_ascii_digit()).collect::<Vec<_>>().join("");
                *self.said.entry(line).or_default() += 1;
            }
        }
    }
}

fn written(writer: &Writer) -> u64 {
    writer.deeds().values().sum()
}

/// Writes until the end. A write that fails because mongod is down is retried in another way.
async fn write(over: &Cell<bool>, mut write: impl AsyncFnMut() -> bool) {
    while !over.get() {
        let done = write().await;
        sleep(if done { REST } else { POLL }).await;
    }
}

/// Inserts, deletes and inserts again the same few documents, sometimes with a new field.
struct Churn {
    things: Collection<Document>,
    rng: Rng,
}

impl Churn {
    async fn write(&mut self) -> mongodb::error::Result<()> {
        let (id, n) = (self.rng.i32(0..40), self.rng.i32(..));
        let one = doc! { "_id": id };
        match self.rng.u8(0..10) {
            0..3 => self.things.delete_one(one).await.map(drop),
            3..7 => self
                .things
                .replace_one(one, doc! { "n": n, "list": [{ "n": n }] })
                .upsert(true)
                .await
                .map(drop),
            7..9 => self.things.update_one(one, doc! { "$push": { "list": { "n": n } } }).await.map(drop),
            _ => {
                let field = format!("grown{}", self.rng.u8(0..30));
                self.things.update_one(one, doc! { "$set": { field: n } }).await.map(drop)
            }
        }
    }
}

/// Sends a signal to a process and its children.
async fn signal_family(pid: Option<u32>, signal: &str) {
    let Some(pid) = pid else { return };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let script = format!("kill -s {signal} {pid} {children} 2>/dev/null; true");
    assert!(Command::new("sh").args(["-c", &script]).status().await.unwrap().success());
}
