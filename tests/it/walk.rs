//! Executes the instructions in README and docs/operations.md line by line: README on the servers that
//! `docrow demo --keep` leaves running, with the line that it prints, docs/operations.md on the test's own
//! servers.
//!
//! bash runs every line of their `sh` blocks, with `DOCROW_SOURCE` and `DOCROW_TARGET` in the environment,
//! and it must end with the exit code in its comment (`# exit 1`), or 0. What a line exports stays for the
//! lines below. `docrow run &` continues until it is stopped. A line that is a comment is an event in
//! [`Walk::happens`]; an unknown one is an error in the document.

use std::{path::Path, sync::atomic::AtomicU64};

use docrow::demo::{
    servers::{Mongod, Postgres, PostgresOptions},
    users,
};
use mongodb::{Client, bson::doc};
use tokio::process::Command;

use crate::support::{Docrow, Home, Place, oplog_start, roll_over, small_oplog};

const USERS: i32 = 300;

/// The owner of the servers; they end with it.
enum Servers {
    Own(#[expect(dead_code, reason = "held")] Box<(Mongod, Postgres)>),
    Demonstration(Box<Docrow>),
}

struct Walk {
    place: Place,
    home: Home,
    /// The lines that export something.
    exports: String,
    docrow: Option<Docrow>,
    servers: Servers,
}

impl Walk {
    /// In an empty folder, on the servers that `docrow demo --keep` leaves running, with the line that it
    /// prints.
    async fn on_the_demonstration() -> Self {
        let mut home = Home::empty();
        let mut demo = home.start(&["demo", "--keep", "--users", "300", "--seconds", "2"]);
        let mut line = None;
        demo.until_out("the servers are kept", |out| {
            line = out.lines().find(|line| line.starts_with("export ")).map(str::to_owned);
            line.is_some()
        })
        .await;
        let line = line.unwrap();
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}='")).expect(name);
            rest.split('\'').next().unwrap().to_owned()
        };
        let (source, target) = (value("DOCROW_SOURCE"), value("DOCROW_TARGET"));
        let client = Client::with_uri_str(&source).await.unwrap();
        let name = client.default_database().expect("it names a database").name().to_owned();
        let place = Place { name, mongodb_uri: source.clone(), postgres_uri: target.clone(), client };
        place.add_sentinels().await;
        home.env("DOCROW_SOURCE", &source);
        home.env("DOCROW_TARGET", &target);
        // Tests run concurrently.
        home.set("serve.listen", "");
        Self {
            place,
            home,
            exports: format!("{line}\n"),
            docrow: None,
            servers: Servers::Demonstration(Box::new(demo)),
        }
    }

    async fn begin() -> Self {
        let mongod = Mongod::start(small_oplog()).await.unwrap();
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let client = Client::with_uri_str(mongod.uri()).await.unwrap();
        let (name, mongodb_uri) = ("sample_db".to_owned(), mongod.uri());
        let place = Place { name, mongodb_uri, postgres_uri: postgres.uri("postgres"), client };
        users::load(&place.database().collection("users"), 1, 0..USERS, &AtomicU64::new(0)).await.unwrap();
        place.add_sentinels().await;
        let mut home = Home::new(&place);
        for key in ["source.uri", "source.include", "target.uri"] {
            home.unset(key);
        }
        home.map("users.toml", include_str!("../../schemas/users.toml"));
        let (source, target) = (mongod.database_uri("sample_db"), place.postgres_uri.clone());
        home.env("DOCROW_SOURCE", &source);
        home.env("DOCROW_TARGET", &target);
        let exports = format!("export DOCROW_SOURCE='{source}' DOCROW_TARGET='{target}'\n");
        Self { place, home, exports, docrow: None, servers: Servers::Own(Box::new((mongod, postgres))) }
    }

    /// Executes the document's instructions, and compares at the end.
    async fn follow(mut self, document: &str) {
        for line in lines(document) {
            let (command, comment) = line.split_once('#').unwrap_or((line, ""));
            match (command.trim(), comment.trim()) {
                ("", event) => self.happens(event.split(':').next().unwrap()).await,
                ("docrow run &", _) => self.start().await,
                (command, _) if command.starts_with("export ") => {
                    self.exports.push_str(&format!("{command}\n"));
                }
                (command, comment) => {
                    let code = comment
                        .strip_prefix("exit ")
                        .map_or(0, |code| code.split(':').next().unwrap().parse().unwrap());
                    self.run(command, code).await;
                }
            }
        }
        if self.docrow.is_none() {
            self.start().await;
        }
        self.place.assert_same(&self.home).await;
        self.stop().await;
        if let Servers::Demonstration(demo) = self.servers {
            demo.stop().await;
        }
    }

    async fn happens(&mut self, event: &str) {
        match event {
            "docrow is stopped" => self.stop().await,
            "docrow runs again" => self.start().await,
            "docrow is stopped, and the oplog rolls over" => {
                self.stop().await;
                let all = doc! { "$set": { "username": "somebody else" } };
                self.place.collection("users").update_many(doc! {}, all).await.unwrap();
                let now = oplog_start(&self.place.client).await;
                let reply =
                    self.place.client.database("admin").run_command(doc! { "ping": 1 }).await.unwrap();
                roll_over(&self.place.client, reply.get_timestamp("operationTime").unwrap().max(now)).await;
            }
            "it is live again" => self.live().await,
            other => panic!("the document says that {other:?} happens, which nobody does"),
        }
    }

    /// `docrow run`, until it has everything.
    async fn start(&mut self) {
        let mut docrow = self.home.run();
        self.place.settle(&mut docrow).await;
        self.docrow = Some(docrow);
        self.live().await;
    }

    /// Waits until everything requested is copied, and rows to be replaced are swept.
    async fn live(&mut self) {
        let docrow = self.docrow.as_mut().expect("it runs");
        let left = "SELECT (SELECT count(*) FROM docrow.resyncs) + count(*) FILTER (WHERE copied_at IS NULL OR replaces) \
            FROM docrow.chunks";
        docrow.until("it is live", async || self.place.number(left).await == Some(0)).await;
    }

    async fn stop(&mut self) {
        if let Some(docrow) = self.docrow.take() {
            docrow.stop().await;
        }
    }

    async fn run(&self, command: &str, code: i32) {
        let docrow = Path::new(env!("CARGO_BIN_EXE_docrow")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("{}{command}", self.exports)])
            .current_dir(self.home.path())
            .kill_on_drop(true);
        bash.env("PATH", format!("{}:{path}", docrow.display()));
        let output = bash.output().await.unwrap();
        let [out, log] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(output.status.code(), Some(code), "$ {command}\n{out}{log}");
    }
}

/// The lines of the blocks to execute.
fn lines(document: &str) -> impl Iterator<Item = &str> {
    let blocks = document.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty())
}

/// A new user with only the README, and the connection strings that `docrow demo --keep` prints, reaches a
/// live, verified replica, breaks it, and repairs it.
#[tokio::test]
async fn readme() {
    let readme = include_str!("../../README.md");
    let (_, walk) = readme.split_once("<!-- walked by tests/it/walk.rs -->").unwrap();
    let (walk, _) = walk.split_once("<!-- so far -->").unwrap();
    assert!(lines(walk).count() > 15);
    Walk::on_the_demonstration().await.follow(walk).await;
}

/// G1, G8, G10: docs/operations.md repairs what goes wrong in operation.
#[tokio::test]
async fn operations() {
    let mut walk = Walk::begin().await;
    walk.start().await;
    walk.follow(include_str!("../../docs/operations.md")).await;
}
