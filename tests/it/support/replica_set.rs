//! A replica set of several members: each is reached only through its own proxy, by the others as well.

use std::{path::PathBuf, process::Command, time::Duration};

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
    options::ClientOptions,
};
use tokio::time::timeout;

use super::{Proxy, directly, first, until, waiting::DEADLINE};

/// How long a member that is frozen or cut off is given to answer.
const ANSWER: Duration = Duration::from_secs(1);

pub(crate) struct ReplicaSet {
    pub(crate) members: Vec<Mongod>,
    /// The way to each member.
    pub(crate) ways: Vec<Proxy>,
}

impl ReplicaSet {
    /// Three members, each of which may become the primary.
    pub(crate) async fn of_three() -> Self {
        Self::start(&[doc! {}, doc! {}, doc! {}], None).await
    }

    /// A member for each of these settings, such as `{hidden: true}`, of this program, or of the usual one.
    pub(crate) async fn start(settings: &[Document], program: Option<PathBuf>) -> Self {
        let mut set = Self { members: Vec::new(), ways: Vec::new() };
        for _ in settings {
            set.start_member(program.clone()).await;
        }
        let members: Vec<_> = (0..settings.len()).map(|at| set.configured(at, &settings[at])).collect();
        // Elections within two seconds of a primary's end.
        let timing = doc! { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": "docrow", "members": members, "settings": timing };
        set.command(0, doc! { "replSetInitiate": config }).await;
        let primary = set.primary().await;
        let majority = || doc! { "w": "majority", "wtimeout": 0 };
        let durable = doc! {
            "setDefaultRWConcern": 1,
            "defaultWriteConcern": majority(),
            "writeConcern": majority(),
        };
        set.command(primary, durable).await;
        set
    }

    async fn start_member(&mut self, program: Option<PathBuf>) {
        let options = MongodOptions { program, initiated: false, cache_gb: Some(0.25), ..Default::default() };
        let member = Mongod::start(options).await.unwrap();
        self.ways.push(Proxy::to(member.port()).await);
        self.members.push(member);
    }

    fn configured(&self, at: usize, settings: &Document) -> Document {
        let mut member =
            doc! { "_id": i32::try_from(at).unwrap(), "host": self.ways[at].address().to_string() };
        member.extend(settings.clone());
        member
    }

    /// Adds an empty member, which copies everything from another.
    pub(crate) async fn add_member(&mut self) -> usize {
        self.start_member(None).await;
        let (added, primary) = (self.members.len() - 1, self.primary().await);
        let found = self.command(primary, doc! { "replSetGetConfig": 1 }).await;
        let mut config = found.get_document("config").unwrap().clone();
        let member = self.configured(added, &doc! {});
        config.get_array_mut("members").unwrap().push(Bson::Document(member));
        config.insert("version", config.get_i32("version").unwrap() + 1);
        self.command(primary, doc! { "replSetReconfig": config }).await;
        added
    }

    /// A URI that names all of them.
    pub(crate) fn uri(&self) -> String {
        let addresses: Vec<_> = self.ways.iter().map(|way| way.address().to_string()).collect();
        format!("mongodb://{}/?replicaSet=docrow", addresses.join(","))
    }

    /// The member that the others take for the primary, once there is one.
    pub(crate) async fn primary(&self) -> usize {
        self.primary_but(None).await
    }

    /// The same, once it is not this one.
    pub(crate) async fn primary_but(&self, former: Option<usize>) -> usize {
        let elected = async || {
            for at in (0..self.members.len()).filter(|at| Some(*at) != former) {
                if self.is(at, "isWritablePrimary").await {
                    return Some(at);
                }
            }
            None
        };
        first("a primary is elected", elected).await
    }

    /// Waits until there is no primary.
    pub(crate) async fn leaderless(&self) {
        for at in 0..self.members.len() {
            until("the primary steps down", async || !self.is(at, "isWritablePrimary").await).await;
        }
    }

    /// Enables the features of a version, and waits until all members have noted that.
    pub(crate) async fn enable(&self, version: &str) {
        self.command(self.primary().await, doc! { "setFeatureCompatibilityVersion": version }).await;
        let question = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        for at in 0..self.members.len() {
            let is_noted = async || {
                let found = self.command(at, question.clone()).await;
                *found.get_document("featureCompatibilityVersion").unwrap() == doc! { "version": version }
            };
            until("the member has the version", is_noted).await;
        }
    }

    /// Members that are not the primary.
    pub(crate) async fn secondaries(&self) -> Vec<usize> {
        let primary = self.primary().await;
        (0..self.members.len()).filter(|at| *at != primary).collect()
    }

    /// Makes another member the primary.
    pub(crate) async fn step_down(&self) {
        let primary = self.primary().await;
        let step_down = doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 30 };
        self.command(primary, step_down).await;
        self.primary_but(Some(primary)).await;
    }

    /// Waits until a member follows the primary.
    pub(crate) async fn follows(&self, at: usize) {
        until("the member follows the primary", async || self.is(at, "secondary").await).await;
    }

    /// Starts a member that was killed, or stopped, and waits until it follows the primary.
    pub(crate) async fn revive(&mut self, at: usize) {
        self.members[at].restart().await.unwrap();
        self.follows(at).await;
    }

    /// Turns a member's failpoint on or off.
    pub(crate) async fn fail(&self, at: usize, point: &str, on: bool) {
        let mode = if on { "alwaysOn" } else { "off" };
        self.command(at, doc! { "configureFailPoint": point, "mode": mode }).await;
    }

    /// Runs an administrator's command on one member.
    pub(crate) async fn command(&self, at: usize, command: Document) -> Document {
        direct(&self.members[at]).await.database("admin").run_command(command).await.unwrap()
    }

    /// Writes to one member, without waiting for any other. With `w: 1` alone, a kill could undo it.
    pub(crate) async fn write(&self, at: usize, database: &str, mut command: Document) {
        command.insert("writeConcern", doc! { "w": 1, "j": true });
        direct(&self.members[at]).await.database(database).run_command(command).await.unwrap();
    }

    /// Waits until writes are accepted, and returns a client that no former primary still keeps waiting.
    pub(crate) async fn writable(&self) -> Client {
        let accepted = async || {
            let client = Client::with_uri_str(self.uri()).await.unwrap();
            let probe = client.database("probe").collection::<Document>("probe");
            let answer = timeout(2 * ANSWER, probe.insert_one(doc! {})).await;
            matches!(answer, Ok(Ok(_))).then_some(client)
        };
        first("writes are accepted", accepted).await
    }

    /// What a member says of itself: `isWritablePrimary`, `secondary`.
    async fn is(&self, at: usize, what: &str) -> bool {
        let answer = async {
            let hello = doc! { "hello": 1 };
            direct(&self.members[at]).await.database("admin").run_command(hello).await.ok()
        };
        let hello = timeout(ANSWER, answer).await.ok().flatten();
        hello.is_some_and(|hello| hello.get_bool(what).unwrap_or(false))
    }
}

async fn direct(mongod: &Mongod) -> Client {
    let mut options = ClientOptions::parse(directly(mongod)).await.unwrap();
    options.server_selection_timeout = Some(DEADLINE);
    Client::with_options(options).unwrap()
}

/// The program of a version that only some tests need, fetched unless it is there.
pub(crate) fn mongod_program(version: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/servers");
    let found = Command::new(script).args(["mongod", version]).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end())
}
