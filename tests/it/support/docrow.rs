//! docrow as people run it: the binary as a child process, with a folder of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use mongodb::bson::{Document, doc};
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

pub(crate) use ::docrow::error::Code;
use ::docrow::{
    config::environment::{OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS},
    schema::MappingSpec,
    sink::Target,
};

use super::{
    Link, Pace, Place,
    compare::{self, Mapping},
    exact, port_of, try_connect,
    waiting::{DEADLINE, POLL},
};

/// What an error that passes says.
pub(crate) const RETRIES: &str = "trying again";

/// A folder with what one pipeline needs: its configuration, mapping files, state directory. docrow is
/// started there.
pub(crate) struct Home {
    folder: TempDir,
    keys: BTreeMap<String, toml::Value>,
    environment: BTreeMap<String, String>,
    hosts: Option<PathBuf>,
}

impl Home {
    /// With nothing in it.
    pub(crate) fn empty() -> Self {
        // Passwords may be in it.
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("docrow-home-").permissions(private).tempdir().unwrap();
        Self { folder, keys: BTreeMap::new(), environment: BTreeMap::new(), hosts: None }
    }

    /// Replicates all of the place's database.
    pub(crate) fn new(place: &Place) -> Self {
        let mut home = Self::empty();
        home.set("source.uri", place.mongodb_uri.as_str());
        home.set("target.uri", place.postgres_uri.as_str());
        home.set("source.include", vec![format!("{}.*", place.name)]);
        // Many run at once.
        home.set("serve.listen", "");
        home
    }

    /// Sets a key of the configuration file, given as `section.key`.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        self.keys.insert(key.to_owned(), value.into());
        self.write();
    }

    /// Takes a key out of it.
    pub(crate) fn unset(&mut self, key: &str) {
        self.keys.remove(key);
        self.write();
    }

    /// Serves the dashboard, on a free port.
    pub(crate) fn serve(&mut self) {
        self.set("serve.listen", "127.0.0.1:0");
    }

    fn write(&self) {
        let lines: String = self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        fs::write(self.folder.path().join("docrow.toml"), lines).unwrap();
    }

    /// Sets an environment variable of docrow.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Takes an environment variable away.
    pub(crate) fn env_remove(&mut self, name: &str) {
        self.environment.remove(name);
    }

    /// Lets docrow see this file as `/etc/hosts`. What is written into it later takes effect.
    pub(crate) fn resolve_by(&mut self, hosts: PathBuf) {
        self.hosts = Some(hosts);
    }

    /// Adds a mapping file.
    pub(crate) fn map(&self, file: &str, text: &str) {
        let dir = self.folder.path().join("schemas");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(file), text).unwrap();
    }

    /// The folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("docrow-state")
    }

    /// Starts docrow with these arguments. It is killed when the value is dropped, or when the test ends.
    pub(crate) fn start(&self, arguments: &[&str]) -> Docrow {
        let (out, log) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        let (to_out, to_log) = (out.reopen().unwrap().into(), log.reopen().unwrap().into());
        Docrow { child: self.spawn(arguments, to_out, to_log), out, log }
    }

    /// The same, with standard output and standard error of the test's own: nothing is known of what it says.
    pub(crate) fn start_into(&self, arguments: &[&str], out: Stdio, err: Stdio) -> Docrow {
        let child = self.spawn(arguments, out, err);
        Docrow { child, out: NamedTempFile::new().unwrap(), log: NamedTempFile::new().unwrap() }
    }

    fn spawn(&self, arguments: &[&str], out: Stdio, err: Stdio) -> Child {
        let mut command = Command::new("setpriv");
        command.env("RUST_BACKTRACE", "1").args(["--pdeathsig", "KILL"]);
        if let Some(hosts) = &self.hosts {
            let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            command.args(["unshare", "--map-root-user", "--mount", "sh", "-c", script]).arg(hosts);
        }
        command.arg(env!("CARGO_BIN_EXE_docrow")).args(arguments);
        for name in ["DOCROW_SOURCE", "DOCROW_TARGET", "DOCROW_MASK_KEY", "DOCROW_NOTIFY_KEY"] {
            for what in ["", "_FILE", "_PASSWORD", "_PASSWORD_FILE"] {
                command.env_remove(format!("{name}{what}"));
            }
        }
        for name in ["RUST_LOG", OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS] {
            command.env_remove(name);
        }
        command.envs(&self.environment);
        command.current_dir(&self.folder).kill_on_drop(true).stdin(Stdio::null());
        command.stdout(out).stderr(err);
        command.spawn().unwrap()
    }

    /// Starts `docrow run`.
    pub(crate) fn run(&self) -> Docrow {
        self.start(&["run"])
    }

    /// Runs docrow to its end.
    pub(crate) async fn finish(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    /// Puts a network between docrow and the servers of `place`.
    pub(crate) fn move_away_from(&mut self, place: &Place, pace: Pace) -> [Link; 2] {
        let links = [&place.mongodb_uri, &place.postgres_uri]
            .map(|uri| Link::to(port_of(uri).parse().unwrap(), pace));
        self.set("source.uri", links[0].mongodb_uri());
        let direct = format!(":{}/", port_of(&place.postgres_uri));
        self.set("target.uri", place.postgres_uri.replace(&direct, &format!(":{}/", links[1].port())));
        links
    }

    /// Runs `docrow backfill`, which must succeed without a warning.
    pub(crate) async fn backfill(&self) -> Ended {
        self.finish(&["backfill"]).await.with_code(0).quiet()
    }
}

/// A running docrow.
pub(crate) struct Docrow {
    child: Child,
    out: NamedTempFile,
    log: NamedTempFile,
}

/// A docrow that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None`: killed by a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error: the log.
    pub(crate) log: String,
}

impl Docrow {
    /// What it has written to standard output so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.out.path()).unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until what it has written to standard output is as `condition` wants it.
    pub(crate) async fn until_out(&mut self, what: &str, mut condition: impl FnMut(&str) -> bool) {
        let out = self.out.path().to_owned();
        self.until(what, async || condition(&fs::read_to_string(&out).unwrap())).await;
    }

    /// Waits until `condition` holds; docrow must not end meanwhile.
    pub(crate) async fn until(&mut self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition().await {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "docrow ended before {what}: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "waited {DEADLINE:?} until {what}\n{}", self.log());
            sleep(POLL).await;
        }
    }

    /// The most memory it has had so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_if_running().expect("it runs")
    }

    /// The most memory it had, in bytes, once it has ended.
    pub(crate) async fn peak_of_all(&mut self) -> u64 {
        let mut peak = 0;
        while !self.has_ended() {
            peak = peak.max(self.peak_if_running().unwrap_or(0));
            sleep(POLL).await;
        }
        peak
    }

    fn peak_if_running(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10)
    }

    /// Waits until it has logged `text`.
    pub(crate) async fn logs(&mut self, text: &str) {
        self.logs_times(text, 1).await;
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits until it has logged `text` so many times.
    pub(crate) async fn logs_times(&mut self, text: &str, times: usize) {
        let log = self.log.path().to_owned();
        self.until(text, async || fs::read_to_string(&log).unwrap().matches(text).count() >= times).await;
    }

    /// Sends `signal`, for example `TERM`.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent =
            Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "kill", signal, &pid]).status().await;
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Ended {
        let Ok(status) = timeout(DEADLINE, self.child.wait()).await else {
            panic!("docrow still runs after {DEADLINE:?}\n{}", self.log());
        };
        let out = fs::read_to_string(self.out.path()).unwrap();
        Ended { code: status.unwrap().code(), out, log: self.log() }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it with SIGKILL, and waits for its end.
    pub(crate) async fn kill9(self) -> Ended {
        self.signal("KILL").await;
        self.ended().await.with_code(None)
    }

    /// Asks it to stop by SIGTERM: it must end well.
    pub(crate) async fn stop(self) -> Ended {
        self.signal("TERM").await;
        self.ended().await.with_code(0)
    }
}

impl Ended {
    /// Asserts how it ended.
    #[track_caller]
    pub(crate) fn with_code(self, code: impl Into<Option<i32>>) -> Self {
        assert_eq!(self.code, code.into(), "{}{}", self.out, self.log);
        self
    }

    /// Asserts that it logged no warning and no error.
    #[track_caller]
    pub(crate) fn quiet(self) -> Self {
        self.quiet_but(&[])
    }

    /// Asserts that it logged no warning and no error but those that hold one of these texts.
    #[track_caller]
    pub(crate) fn quiet_but(self, expected: &[&str]) -> Self {
        let is_expected = |line: &str| expected.iter().any(|text| line.contains(text));
        let unexpected = self.log.lines().find(|line| is_alarming(line) && !is_expected(line));
        assert_eq!(unexpected, None, "{}", self.log);
        assert!(!self.log.contains("panicked"), "{}", self.log);
        self
    }

    /// Asserts that it logged something by this code.
    #[track_caller]
    pub(crate) fn coded(self, code: Code) -> Self {
        assert!(self.log.contains(&format!(" [{code}] ")), "{code}: {}", self.log);
        self
    }

    /// The message of its only error, with its code. It must be the last line but for the way to its
    /// explanation, and of the exit code that it ended with.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let mut lines = self.log.lines().filter(|line| is_alarming(line));
        let line = lines.next().unwrap_or_else(|| panic!("no error is logged\n{}", self.log));
        assert_eq!(lines.next(), None, "{}", self.log);
        let (_, message) = line.split_once(" ERROR ").unwrap_or_else(|| panic!("no error: {line}"));
        let code = message.split(['[', ']']).nth(1).and_then(|code| Code::parse(code).ok());
        let code = code.unwrap_or_else(|| panic!("no code: {line}"));
        assert_eq!(self.code, Some(i32::from(code.kind().exit_code())), "{}", self.log);
        let more = format!("  more: docrow explain {code}");
        assert!(self.log.ends_with(&format!("{line}\n{more}\n")), "{}", self.log);
        message
    }
}

/// Whether a line of the log is a warning or an error: its level is the second word.
fn is_alarming(line: &str) -> bool {
    matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"))
}

/// How many sentinels there are: enough for every partition to have some.
pub(crate) const SENTINELS: i64 = 64;

/// What [`Place::number`] asks over, by URI: of a whole run of the tests, a third was spent on connecting for
/// each question. They are closed with their test's runtime.
static ASKING: Mutex<BTreeMap<String, tokio_postgres::Client>> = Mutex::new(BTreeMap::new());

impl Place {
    /// Adds the collection of sentinels, documents that are all changed by [`Self::settle`].
    pub(crate) async fn add_sentinels(&self) {
        let sentinels = (0..SENTINELS).map(|id| doc! { "_id": id, "round": 0_i64 });
        self.database().collection::<Document>("sentinels").insert_many(sentinels).await.unwrap();
    }

    /// Waits until everything is copied, and everything that was written before is applied: changes all
    /// sentinels, and waits for them. Every partition applies its changes in order, over all collections, and
    /// every partition has sentinels.
    pub(crate) async fn settle(&self, docrow: &mut Docrow) {
        static ROUND: AtomicI64 = AtomicI64::new(1);
        // A sentinel that is changed before it is copied proves nothing.
        self.copied(docrow).await;
        let round = ROUND.fetch_add(1, Ordering::Relaxed);
        let sentinels = self.database().collection::<Document>("sentinels");
        sentinels.update_many(doc! {}, doc! { "$set": { "round": round } }).await.unwrap();
        // In document mode they are in `doc`, relaxed or canonical.
        let question = format!(
            "SELECT count(*) FROM sentinels t WHERE to_jsonb(t) @> '{{\"round\": {round}}}' \
             OR to_jsonb(t)->'doc'->>'round' IN ('{round}', '{{\"$numberLong\": \"{round}\"}}')"
        );
        docrow
            .until("all changes are applied", async || self.number(&question).await == Some(SENTINELS))
            .await;
        // They may have been copied again, as part of what was not finished yet.
        self.copied(docrow).await;
    }

    /// Waits until all chunks are copied, and replaced rows are swept. Whatever is written later comes by the
    /// stream.
    pub(crate) async fn copied(&self, docrow: &mut Docrow) {
        let left = "SELECT CASE WHEN count(*) > 0 THEN count(*) FILTER (WHERE copied_at IS NULL OR replaces) END \
            FROM docrow.chunks";
        docrow.until("all chunks are copied", async || self.number(left).await == Some(0)).await;
    }

    /// The number that `question` asks for; `None` if it can't be asked, because a table or the server is not
    /// there yet.
    pub(crate) async fn number(&self, question: &str) -> Option<i64> {
        let kept = ASKING.lock().unwrap().remove(&self.postgres_uri).filter(|client| !client.is_closed());
        let client = match kept {
            Some(client) => client,
            None => try_connect(&self.postgres_uri).await.ok()?,
        };
        let found = client.query_one(question, &[]).await;
        ASKING.lock().unwrap().insert(self.postgres_uri.clone(), client);
        found.ok()?.try_get(0).ok()
    }

    /// Asserts that every collection equals its tables, three times: by an independent comparison of what is
    /// said, by rebuilding every document, and by `docrow verify`. Dead letters are documents without rows.
    pub(crate) async fn assert_same(&self, home: &Home) -> Ended {
        none(&self.differences().await);
        home.finish(&["verify", "--allow-dead-letters"]).await.with_code(0).quiet()
    }

    /// Asserts that every document is rebuilt from its rows as it is, byte by byte but for the order of its
    /// fields.
    pub(crate) async fn assert_exact(&self) {
        none(&self.steady(async || self.rebuilt().await).await);
    }

    /// Everything that the independent comparison finds, and everything in which rebuilt documents differ.
    pub(crate) async fn differences(&self) -> Vec<String> {
        let mut found = self.steady(async || self.told().await).await;
        found.extend(self.steady(async || self.rebuilt().await).await);
        found
    }

    /// What is found wrong. Mappings may evolve meanwhile, and a collection whose changes had to wait may be
    /// behind the others: then it is looked again, for a while.
    async fn steady(&self, differences: impl AsyncFn() -> Vec<String>) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE / 3;
        loop {
            let found = differences().await;
            if found.is_empty() || Instant::now() > deadline {
                return found;
            }
            sleep(POLL).await;
        }
    }

    /// What is different about rebuilt documents.
    async fn rebuilt(&self) -> Vec<String> {
        let target = Target::parse(&self.postgres_uri, "public", "docrow").unwrap();
        let session = target.connect().await.unwrap();
        let mut differences = Vec::new();
        for stored in exact::in_force(&session, &target).await {
            let spec = MappingSpec::parse(&stored.text, "stored").unwrap();
            differences.extend(exact::compare(self, &target, &spec).await);
        }
        differences
    }

    /// What the independent comparison finds.
    async fn told(&self) -> Vec<String> {
        let mut dead = self.number("SELECT count(*) FROM docrow.dead_letters").await.unwrap();
        let mut found = Vec::new();
        for mapping in Mapping::in_force(self).await {
            let (_, mut differences) = compare::compare(self, &mapping).await;
            // A dead letter is a document without rows.
            differences.retain(|difference| {
                let is_dead = dead > 0 && difference.starts_with("document without rows");
                dead -= i64::from(is_dead);
                !is_dead
            });
            found.extend(differences);
        }
        if dead != 0 {
            found.push("dead letters of documents that have rows, or are gone".to_owned());
        }
        found
    }
}

#[track_caller]
fn none(differences: &[String]) {
    let shown: Vec<_> = differences.iter().take(10).collect();
    assert!(shown.is_empty(), "{} differences: {shown:#?}", differences.len());
}
