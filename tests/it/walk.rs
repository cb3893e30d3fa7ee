//! What README and docs/operations.md tell people to do, done as they say it, line by line, on servers with the users of the
//! demonstration.
//!
//! Every line of their `sh` blocks is run by bash, with `DOCROW_SOURCE` and `DOCROW_TARGET` in the environment, and must end
//! with the exit code that its comment names (`# exit 1`), or 0. `docrow run &` goes on until it is stopped. A line that is a
//! comment is what happens meanwhile, out of [`Walk::happens`]; another one is a mistake in the document.

use std::{path::Path, sync::atomic::AtomicU64};

use docrow::demo::{
    servers::{Mongod, Postgres, PostgresOptions},
    users,
};
use mongodb::{Client, bson::doc};
use tokio::process::Command;

use crate::support::{Docrow, Home, Place, oplog_start, roll_over, small_oplog};

const USERS: i32 = 300;

struct Walk {
    place: Place,
    home: Home,
    source: String,
    docrow: Option<Docrow>,
    _servers: (Mongod, Postgres),
}

impl Walk {
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
        let source = mongod.uri().replacen("/?", "/sample_db?", 1);
        home.env("DOCROW_SOURCE", &source);
        home.env("DOCROW_TARGET", &place.postgres_uri);
        Self { place, home, source, docrow: None, _servers: (mongod, postgres) }
    }

    /// Does what the document says, and compares at the end.
    async fn follow(mut self, document: &str) {
        for line in lines(document) {
            match line.split_once('#').map(|(command, comment)| (command.trim(), comment.trim())) {
                Some(("", event)) => self.happens(event.split(':').next().unwrap()).await,
                Some(("docrow run &", _)) => self.start().await,
                Some((command, comment)) => {
                    let code = comment
                        .strip_prefix("exit ")
                        .map_or(0, |code| code.split(':').next().unwrap().parse().unwrap());
                    self.run(command, code).await;
                }
                None => self.run(line, 0).await,
            }
        }
        if self.docrow.is_none() {
            self.start().await;
        }
        self.place.assert_same(&self.home).await;
        self.stop().await;
    }

    async fn happens(&mut self, event: &str) {
        match event {
            "docrow is stopped" | "docrow is stopped, and somebody drops a column" => self.stop().await,
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
            "somebody adds a constraint that a document violates" => {}
            other => panic!("the document says that {other:?} happens, which nobody does"),
        }
    }

    /// `docrow run`, until it has all there is.
    async fn start(&mut self) {
        let mut docrow = self.home.run();
        self.place.settle(&mut docrow).await;
        self.docrow = Some(docrow);
        self.live().await;
    }

    /// Waits until all that is asked for is copied, and what was to be replaced is swept.
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
        bash.args(["-c", command]).current_dir(self.home.path()).kill_on_drop(true);
        bash.env("PATH", format!("{}:{path}", docrow.display()));
        bash.env("DOCROW_SOURCE", &self.source).env("DOCROW_TARGET", &self.place.postgres_uri);
        let output = bash.output().await.unwrap();
        let [out, log] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(output.status.code(), Some(code), "$ {command}\n{out}{log}");
    }
}

/// The lines of the blocks that are to be done.
fn lines(document: &str) -> impl Iterator<Item = &str> {
    let blocks = document.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty())
}

/// A new user with only the README reaches a live, verified replica of the users, breaks it, and mends it.
#[tokio::test]
async fn readme() {
    let readme = include_str!("../../README.md");
    let (_, walk) = readme.split_once("<!-- walked by tests/it/walk.rs -->").unwrap();
    let (walk, _) = walk.split_once("<!-- so far -->").unwrap();
    assert!(lines(walk).count() > 15);
    Walk::begin().await.follow(walk).await;
}

/// G1, G8, G10: what goes wrong in operation is mended by what docs/operations.md says.
#[tokio::test]
async fn operations() {
    let mut walk = Walk::begin().await;
    walk.start().await;
    walk.follow(include_str!("../../docs/operations.md")).await;
}
