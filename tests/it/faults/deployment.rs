//! The source URI leads elsewhere: to another deployment, or to the same one after it has changed.

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};

use super::converges;
use crate::support::{Code, Docrow, Home, Place, until};

const PASSWORD: &str = "s3cret-root";

/// What identifies a deployment for docrow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Its user may ask for its id.
    ById,
    /// Its user may only read.
    ByCollections,
}

/// A deployment, and docrow's user on it.
struct Deployment {
    mongod: Mongod,
    known: Known,
}

impl Deployment {
    async fn start(known: Known) -> Self {
        let password = (known == Known::ByCollections).then(|| PASSWORD.to_owned());
        Self { mongod: Mongod::start(MongodOptions { password, ..Default::default() }).await.unwrap(), known }
    }

    /// With docrow's user.
    async fn place(&self, test: &str) -> Place {
        let shared = Place::shared(test).await;
        let place = Place::on(&self.mongod.uri(), &shared.postgres_uri, &format!("{test}_own")).await;
        self.let_in(&place.name).await;
        place
    }

    async fn let_in(&self, database: &str) {
        if self.known == Known::ByCollections {
            let create = doc! {
                "createUser": "reader", "pwd": "s3cret-reader", "roles": [{ "role": "read", "db": database }],
            };
            self.client().await.database("admin").run_command(create).await.unwrap();
        }
    }

    fn uri(&self) -> String {
        let login = match self.known {
            Known::ById => "",
            Known::ByCollections => "reader:s3cret-reader@",
        };
        format!("mongodb://{login}127.0.0.1:{}/?replicaSet=docrow&authSource=admin", self.mongod.port())
    }

    async fn client(&self) -> Client {
        Client::with_uri_str(self.mongod.uri()).await.unwrap()
    }

    /// Its collections, with their sentinels.
    async fn fill(&self, database: &str, collections: &[&str], from: i32) {
        let database = self.client().await.database(database);
        for name in collections {
            let collection: Collection<Document> = database.collection(name);
            collection.insert_many((from..from + 50).map(|id| doc! { "_id": id, "n": id })).await.unwrap();
        }
    }
}

/// Copied, followed, and stopped.
async fn stopped(deployment: &Deployment, test: &str) -> (Place, Home) {
    let place = deployment.place(test).await;
    place.add_sentinels().await;
    deployment.fill(&place.name, &["orders", "users"], 0).await;
    let mut home = Home::new(&place);
    home.set("source.uri", deployment.uri());
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    (place, home)
}

/// "Another cluster with the same database and one more collection": two histories are never mixed.
async fn another_deployment_is_refused(test: &str, known: Known) {
    let first = Deployment::start(known).await;
    let (place, mut home) = stopped(&first, test).await;
    let other = Deployment::start(known).await;
    other.let_in(&place.name).await;
    other.fill(&place.name, &["orders", "users", "more"], 1_000).await;
    home.set("source.uri", other.uri());
    // Not even if the setting is to drop the rows of missing collections.
    home.set("source.on_drop", "drop");
    for _ in 0..2 {
        let ended = home.finish(&["run"]).await.with_code(5);
        assert!(ended.error().contains("is not the deployment that was copied"), "{}", ended.log);
        ended.coded(Code::HistoryUnknown);
    }
    let rows = "SELECT count(*) FROM orders WHERE _id < 1000 AND to_regclass('more') IS NULL \
        AND to_regclass('sentinels') IS NOT NULL AND NOT EXISTS (SELECT FROM users WHERE _id >= 1000)";
    assert_eq!(place.number(rows).await, Some(50));
    // The way back.
    home.set("source.uri", first.uri());
    converges(&place, &home, home.run()).await.quiet();
    // And to the other one, if that is intended.
    home.set("source.uri", other.uri());
    home.set("source.on_drop", "keep");
    home.set("source.on_history_lost", "resync");
    let mut there = place_on(&other, &place).await;
    there.add_sentinels().await;
    there.mongodb_uri = other.uri();
    let ended = converges(&there, &home, home.run()).await;
    ended
        .quiet_but(&["is not the deployment", "state directory was made for another"])
        .coded(Code::HistoryUnknown);
}

/// The same databases, of another deployment.
async fn place_on(deployment: &Deployment, place: &Place) -> Place {
    Place {
        name: place.name.clone(),
        mongodb_uri: deployment.uri(),
        postgres_uri: place.postgres_uri.clone(),
        client: deployment.client().await,
    }
}

#[tokio::test]
async fn another_deployment_is_refused_by_its_id() {
    another_deployment_is_refused("deployment_id", Known::ById).await;
}

#[tokio::test]
async fn another_deployment_is_refused_by_its_collections() {
    another_deployment_is_refused("deployment_uuids", Known::ByCollections).await;
}

/// An empty one: nothing was dropped there, whatever it looks like.
#[tokio::test]
async fn an_empty_deployment_is_refused() {
    let first = Deployment::start(Known::ByCollections).await;
    let (place, mut home) = stopped(&first, "deployment_empty").await;
    let other = Deployment::start(Known::ByCollections).await;
    other.let_in(&place.name).await;
    home.set("source.uri", other.uri());
    home.set("source.on_drop", "drop");
    home.finish(&["run"]).await.with_code(5).coded(Code::HistoryUnknown);
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(50));
}

/// Events that do not make it another deployment: a restart, an election; and every collection replaced, or
/// dropped, while docrow was stopped.
#[tokio::test]
async fn the_same_deployment_is_known_again() {
    for (test, known) in
        [("deployment_same_id", Known::ById), ("deployment_same_uuids", Known::ByCollections)]
    {
        let mut deployment = Deployment::start(known).await;
        let (place, home) = stopped(&deployment, test).await;
        deployment.mongod.restart().await.unwrap();
        // MongoDB 4.4 takes a moment to find the key of the time that a client brings along.
        let answers = async || place.collection("orders").find_one(doc! {}).await.is_ok();
        until("the server has its keys", answers).await;
        let again = |docrow: Docrow| converges(&place, &home, docrow);
        again(home.run()).await.quiet();
        for name in ["orders", "users", "sentinels"] {
            let out = [doc! { "$match": {} }, doc! { "$out": name }];
            place.collection(name).aggregate(out).await.unwrap();
        }
        again(home.run()).await.quiet();
        for name in ["orders", "users", "sentinels"] {
            place.collection(name).drop().await.unwrap();
        }
        place.add_sentinels().await;
        deployment.fill(&place.name, &["orders"], 100).await;
        again(home.run()).await.quiet_but(&["is gone from MongoDB"]);
        place.database().drop().await.unwrap();
        deployment.fill(&place.name, &["orders"], 200).await;
        place.add_sentinels().await;
        again(home.run()).await.quiet_but(&["is gone from MongoDB"]);
    }
}
