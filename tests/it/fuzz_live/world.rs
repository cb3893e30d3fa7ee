//! Executes a plan: a separate database on each server, docrow between them through proxies, and the events.
//!
//! A [`Failure`] is docrow's fault: it ended where it should not, or it neither makes progress nor ends.

use std::{fs, path::PathBuf, process::Command, sync::atomic::Ordering, time::Duration};

use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    failure::{Failure, Kind},
    figures::Figures,
    mappings,
    plan::{BIG, Mapped, Plan, Setup, Step},
};
use crate::support::{Docrow, Ended, Home, Place, Proxy};

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(50);
/// How long a SIGTERM, or a command, may take.
const ENDING: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(20)];
/// How long there may be no progress while something is left to do. When a seed that hung is shrunk, less
/// certainty is needed.
const STILL: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(25)];
/// How long all remaining work may take.
const CATCHING_UP: Duration = Duration::from_secs(300);
/// How long a plan waits for a condition; then it continues without.
const GLIMPSE: Duration = Duration::from_secs(4);
/// docrow's exit codes if a connection was cut while it started.
const AWAY: [i32; 2] = [3, 4];
/// If a killed predecessor's lock is not free yet.
const HELD: i32 = 6;

/// The state of a run.
pub(super) struct World<'a> {
    pub(super) place: Place,
    pub(super) home: Home,
    pub(super) docrow: Option<Docrow>,
    pub(super) setup: &'a Setup,
    figures: &'a Figures,
    to_mongodb: Proxy,
    to_postgres: Proxy,
    version: usize,
    kept: Option<tempfile::TempDir>,
    /// For checking the state.
    session: tokio_postgres::Client,
    background: JoinSet<()>,
    storms: JoinSet<()>,
    /// Whether rows were edited by hand and not repaired since.
    damaged: bool,
    /// Whether an end because of a connection, or a lock, is no fault.
    cut: bool,
    killed: bool,
    round: i64,
    logs: String,
    still: Duration,
    ending: Duration,
}

type Outcome = Result<(), Failure>;

/// The progress of waiting for everything.
enum Reached {
    /// Something must be copied first: a sentinel that is changed before that proves nothing.
    Nothing,
    /// The sentinels are changed.
    Asked,
    /// They were applied at this position.
    At(String),
}

impl<'a> World<'a> {
    pub(super) async fn new(plan: &'a Plan, attempt: u32, figures: &'a Figures) -> Self {
        let place = Place::shared(&format!("fuzz_{}_{attempt}", plan.seed)).await;
        place.add_sentinels().await;
        let (to_mongodb, to_postgres) =
            (Proxy::of(&place.mongodb_uri).await, Proxy::of(&place.postgres_uri).await);
        let mut home = Home::new(&place);
        home.set("source.uri", to_mongodb.mongodb_uri());
        home.set("target.uri", to_postgres.uri(&place.postgres_uri));
        home.serve();
        let setup = &plan.setup;
        home.set("source.on_drop", setup.on_drop);
        home.set("mapping.evolve", setup.evolve);
        home.set("stream.order", setup.order);
        home.set("stream.batch_rows", i64::from(setup.batch_rows));
        home.set("snapshot.parallelism", 2);
        if setup.order == "document" {
            home.set("stream.partitions", i64::from(setup.partitions));
        }
        if let Mapped::Document(json) = setup.mapping {
            home.set("mapping.default", "document");
            home.set("mapping.json", json);
        }
        let session = place.postgres().await;
        let world = Self {
            place,
            home,
            docrow: None,
            setup,
            figures,
            to_mongodb,
            to_postgres,
            version: 0,
            kept: None,
            session,
            background: JoinSet::new(),
            storms: JoinSet::new(),
            damaged: false,
            cut: false,
            killed: false,
            round: 0,
            logs: String::new(),
            still: STILL[usize::from(attempt > 0)],
            ending: ENDING[usize::from(attempt > 0)],
        };
        world.map();
        world
    }

    fn map(&self) {
        if self.setup.mapping == Mapped::Files {
            self.home.map("big.toml", &mappings::big(&self.place.name, self.version));
            self.home.map("people.toml", &mappings::people(&self.place.name, self.setup.key, self.version));
        }
    }

    /// All log output of docrow in this seed.
    pub(super) fn log(&self) -> String {
        let now = self.docrow.as_ref().map_or_else(String::new, Docrow::log);
        format!("{}{now}", self.logs)
    }

    /// Executes a step.
    pub(super) async fn step(&mut self, step: &Step) -> Outcome {
        self.supervise().await?;
        match step {
            Step::Command(command) => self.command(command).await,
            Step::Transaction(commands) => self.transaction(commands).await,
            Step::Many(name, count) => self.many(name, *count).await,
            Step::Rename(from, to) => {
                let place = format!("{}.", self.place.name);
                self.admin(doc! { "renameCollection": format!("{place}{from}"), "to": format!("{place}{to}"), "dropTarget": true }).await;
            }
            Step::MoveIn(to) => self.move_in(to).await,
            Step::Storm(name) => self.storm(name),
            Step::Calm => self.storms.shutdown().await,
            Step::Pause(millis) => sleep(Duration::from_millis(*millis)).await,
            Step::CaughtUp => return self.catch_up().await,
            Step::UntilFilling(column) => {
                // Some rows are, and the version is not.
                let some = format!(
                    "SELECT CASE WHEN (SELECT bool_and(filled) FROM docrow.schemas WHERE collection LIKE '%.{BIG}') THEN 0 \
                     ELSE count(*) END FROM {BIG} t WHERE to_jsonb(t) ->> '{column}' IS NOT NULL"
                );
                return self.glimpse(&some).await;
            }
            Step::UntilCopying => {
                let some = "SELECT least(count(copied_at), count(*) - count(copied_at)) FROM docrow.chunks";
                return self.glimpse(some).await;
            }
            Step::Start => self.start(),
            Step::Stop => return self.stop().await,
            Step::Restart => {
                self.stop().await?;
                self.start();
            }
            Step::Kill => {
                self.kill().await;
                self.start();
            }
            Step::KillAndForget => {
                self.kill().await;
                let _ = fs::remove_dir_all(self.home.state());
                self.start();
            }
            Step::KeepState => {
                let ran = self.docrow.is_some();
                self.stop().await?;
                self.keep_state();
                if ran {
                    self.start();
                }
            }
            Step::OldState => {
                self.kill().await;
                self.put_state_back();
                self.start();
            }
            Step::CutMongodb => self.cut(|world| &world.to_mongodb),
            Step::CutPostgres => self.cut(|world| &world.to_postgres),
            Step::Lock(name, mode, millis) => self.lock(name, mode, *millis),
            Step::Grow(version) if *version > self.version && self.setup.mapping == Mapped::Files => {
                self.version = *version;
                self.stop().await?;
                self.map();
                self.start();
            }
            Step::Grow(_) => {}
            Step::Resync(name) => {
                let name = format!("{}.{name}", self.place.name);
                self.finish(&["resync", &name]).await?;
            }
            Step::Retry => {
                self.finish(&["dead-letters", "retry", "--all"]).await?;
            }
            Step::Damage(name, how, nth) => self.damage(name, how, *nth).await,
            Step::Repair => {
                self.finish(&["verify", "--repair", "--patience", "10"]).await?;
            }
        }
        Ok(())
    }

    // Events in MongoDB. A refused command is not executed, and is no failure.

    async fn command(&self, command: &RawDocument) {
        self.figures.operations.fetch_add(operations(command), Ordering::Relaxed);
        let _ = self.place.database().run_raw_command(command.to_owned()).await;
    }

    async fn admin(&self, command: Document) {
        let _ = self.place.client.database("admin").run_command(command).await;
    }

    async fn transaction(&self, commands: &[RawDocumentBuf]) {
        let mut session = self.place.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for command in commands {
            self.figures.operations.fetch_add(operations(command), Ordering::Relaxed);
            let done = self.place.database().run_raw_command(command.clone()).session(&mut session).await;
            if done.is_err() {
                let _ = session.abort_transaction().await;
                return;
            }
        }
        let _ = session.commit_transaction().await;
    }

    async fn many(&self, name: &str, count: i32) {
        let documents =
            (1000..1000 + count).map(|n| doc! { "_id": n, "a": n, "x": format!("x {n}"), "n": 0 });
        self.figures.operations.fetch_add(count as u64, Ordering::Relaxed);
        let _ = self.place.collection(name).insert_many(documents).ordered(false).await;
    }

    async fn move_in(&self, to: &str) {
        let aside = format!("{}_aside", self.place.name);
        let documents = (0..50).map(|n| doc! { "_id": n, "n": n, "name": "moved in" });
        let _ = self.place.client.database(&aside).collection::<Document>(to).insert_many(documents).await;
        let to_name = format!("{}.{to}", self.place.name);
        self.admin(doc! { "renameCollection": format!("{aside}.{to}"), "to": to_name, "dropTarget": true })
            .await;
    }

    fn storm(&mut self, name: &'static str) {
        let collection = self.place.collection(name);
        let first = if name == BIG { 1000 } else { 0 };
        self.storms.spawn(async move {
            for n in (0..).map(|n: i32| first + (n * 37) % 6000) {
                let some = doc! { "_id": { "$gte": n, "$lt": n + 40 } };
                let _ = collection.update_many(some, doc! { "$inc": { "n": 1 } }).await;
                sleep(Duration::from_millis(2)).await;
            }
        });
    }

    // Events of docrow, and of what it uses.

    fn start(&mut self) {
        if self.docrow.is_none() {
            self.figures.restarts.fetch_add(1, Ordering::Relaxed);
            self.docrow = Some(self.home.run());
        }
    }

    async fn stop(&mut self) -> Outcome {
        let Some(docrow) = &mut self.docrow else { return Ok(()) };
        if !docrow.has_ended() {
            docrow.signal("TERM").await;
        }
        let deadline = Instant::now() + self.ending;
        while !self.docrow.as_mut().is_some_and(Docrow::has_ended) {
            if Instant::now() > deadline {
                return Err(self.hang("docrow does not end after SIGTERM").await);
            }
            sleep(POLL).await;
        }
        self.ended(&[0]).await
    }

    async fn kill(&mut self) {
        let Some(mut docrow) = self.docrow.take() else { return };
        self.figures.kills.fetch_add(1, Ordering::Relaxed);
        if !docrow.has_ended() {
            docrow.signal("KILL").await;
        }
        self.killed = true;
        self.logs += &docrow.ended().await.log;
    }

    /// A docrow that ended by itself is started again, if it was allowed to end.
    async fn supervise(&mut self) -> Outcome {
        if self.docrow.as_mut().is_some_and(Docrow::has_ended) {
            self.ended(&[]).await?;
            self.start();
        }
        Ok(())
    }

    /// It has ended: was that allowed?
    async fn ended(&mut self, expected: &[i32]) -> Outcome {
        let Some(docrow) = self.docrow.take() else { return Ok(()) };
        let Ended { code, log, .. } = docrow.ended().await;
        self.logs += &log;
        let is_expected = code.is_some_and(|code| {
            expected.contains(&code) || (self.cut && AWAY.contains(&code)) || (self.killed && code == HELD)
        });
        // A signal that arrived before it did anything ended it like any program.
        let is_expected = is_expected || (code.is_none() && !expected.is_empty() && log.is_empty());
        if is_expected && !log.contains("panicked") {
            return Ok(());
        }
        let error = log.lines().rfind(|line| line.contains(" ERROR ")).unwrap_or("no error is logged");
        let error = error.split_once(" ERROR ").map_or(error, |(_, error)| error);
        Err(Failure::new(Kind::Ended, format!("docrow ended with {code:?}: {error}"), self.report().await))
    }

    fn keep_state(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        if self.home.state().exists() {
            copy(&self.home.state(), &folder.path().join("state"));
            self.kept = Some(folder);
        }
    }

    fn put_state_back(&mut self) {
        let Some(kept) = &self.kept else { return };
        let _ = fs::remove_dir_all(self.home.state());
        copy(&kept.path().join("state"), &self.home.state());
    }

    fn cut(&mut self, way: impl Fn(&Self) -> &Proxy) {
        self.cut = true;
        way(self).cut();
    }

    fn lock(&mut self, name: &'static str, mode: &'static str, millis: u64) {
        let uri = self.place.postgres_uri.clone();
        self.background.spawn(async move {
            let session = crate::support::connect(&uri).await;
            let statement = format!(
                "BEGIN; LOCK TABLE {name} IN {mode} MODE; SELECT pg_sleep({}); COMMIT",
                millis as f64 / 1000.0
            );
            let _ = session.batch_execute(&statement).await;
        });
    }

    async fn damage(&mut self, name: &str, how: &str, nth: u8) {
        let session = self.place.postgres().await;
        let question = "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
            WHERE i.indisprimary AND i.indrelid = to_regclass($1)";
        let Ok(Some(row)) = session.query_opt(question, &[&name]).await else { return };
        let key: String = row.get(0);
        let question = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped \
            AND format_type(atttypid, atttypmod) LIKE $2 AND attname NOT IN ('_extra', $3) ORDER BY attname LIMIT 1";
        let kind = if how.contains("now()") { "timestamp with time zone" } else { "%" };
        let column = session.query_opt(question, &[&name, &kind, &key]).await.unwrap();
        let column: String = column.map_or_else(|| "_extra".to_owned(), |row| row.get(0));
        let words = how.split_inclusive([' ', ')', '(']).map(|word| {
            let bare = word.trim_end_matches([' ', ')', '(']);
            let rest = &word[bare.len()..];
            match bare {
                "t" => format!("\"{name}\"{rest}"),
                "t_lines" => format!("\"{name}_lines\"{rest}"),
                "k" => format!("\"{key}\"{rest}"),
                "c" => format!("\"{column}\"{rest}"),
                "n" => format!("{nth}{rest}"),
                _ => word.to_owned(),
            }
        });
        if session.batch_execute(&words.collect::<String>()).await.is_ok() {
            self.damaged = true;
        }
    }

    /// Runs a command of docrow's to its end.
    pub(super) async fn finish(&mut self, arguments: &[&str]) -> Result<Ended, Failure> {
        let mut command = self.home.start(arguments);
        let deadline = Instant::now() + ENDING[0] * 2;
        while !command.has_ended() {
            if Instant::now() > deadline {
                self.logs += &command.log();
                return Err(self.hang(&format!("docrow {} does not end", arguments[0])).await);
            }
            sleep(POLL).await;
        }
        let ended = command.ended().await;
        if ended.log.contains("panicked") || ended.code == Some(70) {
            let title = format!("docrow {} has a bug", arguments.join(" "));
            return Err(Failure::new(Kind::Ended, title, format!("{}{}", ended.out, ended.log)));
        }
        Ok(ended)
    }

    // Waiting.

    /// Waits a moment until there is something.
    async fn glimpse(&mut self, question: &str) -> Outcome {
        let deadline = Instant::now() + GLIMPSE;
        while Instant::now() < deadline && self.number(question).await.is_none_or(|count| count == 0) {
            self.supervise().await?;
            sleep(POLL / 5).await;
        }
        Ok(())
    }

    /// All operations are over: waits until everything is applied, and repaired.
    pub(super) async fn settle(&mut self) -> Outcome {
        self.storms.shutdown().await;
        self.start();
        self.catch_up().await?;
        while self.background.join_next().await.is_some() {}
        if self.damaged {
            let ended = self.finish(&["verify", "--repair", "--allow-dead-letters"]).await?;
            if ended.code != Some(0) {
                let title = "verify --repair does not mend what was changed by hand";
                return Err(Failure::new(
                    Kind::Difference,
                    title,
                    format!("{}{}\n{}", ended.out, ended.log, self.report().await),
                ));
            }
            self.damaged = false;
            self.catch_up().await?;
        }
        Ok(())
    }

    /// Waits until everything is copied, filled, and applied.
    pub(super) async fn catch_up(&mut self) -> Outcome {
        self.start();
        self.round += 1;
        let (began, mut moved) = (Instant::now(), Instant::now());
        let (mut reached, mut before) = (Reached::Nothing, None);
        loop {
            self.supervise().await?;
            let Some(left) = self.left(&reached).await else { return Ok(()) };
            match (left, &reached) {
                ("changes", Reached::Nothing) => {
                    let sentinels = self.place.collection("sentinels");
                    sentinels.update_many(doc! {}, doc! { "$set": { "round": self.round } }).await.unwrap();
                    reached = Reached::Asked;
                }
                ("positions", Reached::Asked) => reached = Reached::At(self.position().await),
                _ => {}
            }
            let now = Some((timeout(self.still, self.fingerprint()).await.unwrap_or_default(), self.said()));
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            if moved.elapsed() > self.still || began.elapsed() > CATCHING_UP {
                let how = if moved.elapsed() > self.still { "nothing moves" } else { "it never catches up" };
                return Err(self.hang(&format!("{how}, and is left: {left}")).await);
            }
            sleep(POLL * 3).await;
        }
    }

    /// The unfinished work, if any.
    async fn left(&self, reached: &Reached) -> Option<&'static str> {
        let names = self.place.database().list_collection_names().await.unwrap_or_default();
        let is_own = |name: &String| !name.starts_with("system.") && !name.starts_with("tmp");
        let names = names.into_iter().filter(is_own);
        let names: Vec<_> = names.map(|name| format!("'{}.{name}'", self.place.name)).collect();
        let names = format!("unnest(ARRAY[{}]::text[]) AS n (name)", names.join(", "));
        let copies = format!(
            "SELECT count(*) FROM {names} WHERE NOT EXISTS (SELECT FROM docrow.chunks WHERE collection = name) \
             OR EXISTS (SELECT FROM docrow.chunks WHERE collection = name AND (copied_at IS NULL OR replaces))"
        );
        let resyncs =
            format!("SELECT count(*) FROM {names} WHERE name IN (SELECT collection FROM docrow.resyncs)");
        let fills = format!(
            "SELECT count(*) FROM {names} WHERE NOT (SELECT filled FROM docrow.schemas WHERE collection = name \
             ORDER BY version DESC LIMIT 1)"
        );
        let round = self.round;
        // In document mode they are in `doc`, relaxed or canonical.
        let changes = format!(
            "SELECT {} - count(*) FROM sentinels t WHERE to_jsonb(t) @> '{{\"round\": {round}}}' \
             OR to_jsonb(t)->'doc'->>'round' IN ('{round}', '{{\"$numberLong\": \"{round}\"}}')",
            crate::support::SENTINELS
        );
        for (what, question) in
            [("copies", copies), ("resyncs", resyncs), ("fills", fills), ("changes", changes)]
        {
            let is_asked = what != "changes" || !matches!(reached, Reached::Nothing);
            if !is_asked || self.number(&question).await != Some(0) {
                return Some(what);
            }
        }
        // A collection whose changes had to wait may be behind the others.
        let Reached::At(position) = reached else { return Some("positions") };
        let behind = format!(
            "SELECT count(*) FROM {names} WHERE coalesce((SELECT min(position) FROM docrow.progress \
             WHERE collection = name), '') < '{position}' COLLATE \"C\""
        );
        (self.number(&behind).await != Some(0)).then_some("positions")
    }

    /// How far the sentinels are.
    async fn position(&self) -> String {
        let question = "SELECT max(position) FROM docrow.progress WHERE collection LIKE '%.sentinels'";
        self.session.query_one(question, &[]).await.unwrap().get(0)
    }

    /// The number that `question` returns; `None` while its tables do not exist.
    async fn number(&self, question: &str) -> Option<i64> {
        self.session.query_one(question, &[]).await.ok()?.try_get(0).ok()
    }

    /// What changes in PostgreSQL while docrow makes progress.
    async fn fingerprint(&self) -> Option<String> {
        let question = "SELECT (SELECT string_agg(position, ' ' ORDER BY collection, partition) FROM docrow.progress) \
            || (SELECT count(copied_at)::text FROM docrow.chunks) || (SELECT count(*)::text FROM docrow.schemas)";
        self.session.query_one(question, &[]).await.ok()?.try_get(0).ok()
    }

    /// How many different messages docrow has logged, regardless of times and rates.
    fn said(&self) -> usize {
        let log = self.log();
        let said = log.lines().filter_map(|line| {
            let (_, text) = line.split_once(' ')?;
            Some(text.rsplit_once(", ").map_or(text, |(text, _)| text))
        });
        said.collect::<std::collections::HashSet<_>>().len()
    }

    // Reporting.

    async fn hang(&mut self, what: &str) -> Failure {
        let report = self.report().await;
        // So that nothing waits for it.
        self.kill().await;
        Failure::new(Kind::Hang, format!("hang: {what}"), report)
    }

    /// docrow's state: the end of its log, its status, where its threads and sessions wait.
    pub(super) async fn report(&mut self) -> String {
        let log = self.log();
        let mut report = vec!["docrow's log ends with:".to_owned()];
        let lines: Vec<_> = log.lines().collect();
        report.extend(
            lines[lines.len().saturating_sub(25)..].iter().map(|line| line.chars().take(400).collect()),
        );
        if let Some(docrow) = &mut self.docrow
            && !docrow.has_ended()
        {
            report.push(threads(docrow.pid()));
            if let Some((_, rest)) = docrow.log().rsplit_once("dashboard: http://") {
                let address = rest.split('/').next().unwrap_or_default().to_owned();
                let status =
                    timeout(Duration::from_secs(3), crate::support::http::ask(&address, "/status", &[]))
                        .await;
                let status =
                    status.ok().flatten().map_or_else(|| "no answer".to_owned(), |answer| answer.body);
                report.push(format!("/status: {}", status.chars().take(3000).collect::<String>()));
            }
        }
        let question = "SELECT concat_ws(' ', pid, state, wait_event_type, wait_event, 'blocked by', pg_blocking_pids(pid)::text, \
            now() - state_change, left(query, 150)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        for row in self.session.query(question, &[]).await.unwrap_or_default() {
            report.push(format!("session {}", row.get::<_, String>(0)));
        }
        report.join("\n")
    }

    /// Removes everything.
    pub(super) async fn clear(mut self) {
        self.storms.shutdown().await;
        self.background.shutdown().await;
        self.kill().await;
        let _ = self.place.database().drop().await;
        let _ = self.place.client.database(&format!("{}_aside", self.place.name)).drop().await;
        let name = &self.place.name;
        let elsewhere = self.place.postgres_uri.replacen(&format!("/{name}"), "/postgres", 1);
        let session = crate::support::connect(&elsewhere).await;
        for name in [name.clone(), format!("{name}_fresh")] {
            let _ = session.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

/// The number of writes in a command.
fn operations(command: &RawDocument) -> u64 {
    let lists = ["documents", "updates", "deletes"].into_iter();
    let count = lists.filter_map(|list| Some(command.get_array(list).ok()?.into_iter().count() as u64)).sum();
    u64::max(count, 1)
}

fn copy(from: &PathBuf, to: &PathBuf) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Where the threads of a process wait.
fn threads(pid: u32) -> String {
    let mut waits: Vec<String> = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        waits.push(format!("{} {}", read("comm").trim(), read("wchan").trim()));
    }
    waits.sort();
    format!("threads: {}", waits.join(", "))
}
