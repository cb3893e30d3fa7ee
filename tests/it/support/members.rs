//! A replica set of two members, of which the second can be kept from applying the first one's writes.

use std::time::Duration;

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use tokio::time::sleep;

use super::until;

/// The set. The first member is the primary.
pub(crate) struct Pair {
    pub(crate) first: Mongod,
    pub(crate) second: Mongod,
}

impl Pair {
    /// Whether the second one votes decides whether there is a majority without it.
    pub(crate) async fn start(second_votes: bool) -> Self {
        let first = Mongod::start(MongodOptions::default()).await.unwrap();
        let second = Mongod::start(MongodOptions { initiated: false, ..Default::default() }).await.unwrap();
        let admin = direct(&first).await.database("admin");
        let found = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
        let mut config = found.get_document("config").unwrap().clone();
        let votes = i32::from(second_votes);
        let host = format!("127.0.0.1:{}", second.port());
        let member = doc! { "_id": 1, "host": host, "priority": 0, "votes": votes };
        config.get_array_mut("members").unwrap().push(Bson::Document(member));
        config.insert("version", config.get_i32("version").unwrap() + 1);
        admin.run_command(doc! { "replSetReconfig": config }).await.unwrap();
        let pair = Self { first, second };
        let client = direct(&pair.second).await;
        let follows = async || hello(&client).await.get_bool("secondary").unwrap_or(false);
        until("the second member follows the first", follows).await;
        pair
    }

    /// Keeps the second member from applying, and from confirming, the first one's writes. It still receives
    /// them.
    pub(crate) async fn hold_back(&self) {
        let admin = direct(&self.second).await.database("admin");
        for point in ["rsSyncApplyStop", "stopReplProducer"] {
            admin.run_command(doc! { "configureFailPoint": point, "mode": "alwaysOn" }).await.unwrap();
        }
    }

    /// Lets it apply again.
    pub(crate) async fn let_go(&self) {
        let admin = direct(&self.second).await.database("admin");
        for point in ["rsSyncApplyStop", "stopReplProducer"] {
            admin.run_command(doc! { "configureFailPoint": point, "mode": "off" }).await.unwrap();
        }
    }

    /// Inserts, without waiting for a majority.
    pub(crate) async fn insert(&self, database: &str, collection: &str, documents: Vec<Document>) {
        let insert = doc! { "insert": collection, "documents": documents, "writeConcern": { "w": 1 } };
        direct(&self.first).await.database(database).run_command(insert).await.unwrap();
    }
}

impl Pair {
    /// Inserts documents until one is confirmed by no majority: one that is on its way when the second member
    /// is held back still may be.
    pub(crate) async fn insert_unconfirmed(&self, database: &str, collection: &str) {
        for id in 0.. {
            self.insert(database, collection, vec![doc! { "_id": id }]).await;
            sleep(Duration::from_millis(500)).await;
            let hello = hello(&direct(&self.first).await).await;
            let written = hello.get_document("lastWrite").unwrap();
            let time = |of: &str| written.get_document(of).unwrap().get_timestamp("ts").unwrap();
            if time("majorityOpTime") < time("opTime") {
                return;
            }
        }
    }
}

/// A URI that leads only to this member.
pub(crate) fn directly(mongod: &Mongod) -> String {
    format!("mongodb://127.0.0.1:{}/?directConnection=true", mongod.port())
}

async fn direct(mongod: &Mongod) -> Client {
    Client::with_uri_str(directly(mongod)).await.unwrap()
}

async fn hello(client: &Client) -> Document {
    client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap()
}
