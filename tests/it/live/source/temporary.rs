//! Trap: collections that the server fills before it renames them look like new ones for that time.

use std::{collections::BTreeSet, time::Duration};

use docrow::{
    demo::servers::{Mongod, MongodOptions},
    source::Source,
};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(30);
/// Enough for a rename to another database to take a while.
const MANY: i32 = 20_000;

/// The contents of the database `there`: initially, and what docrow takes for a collection to be replicated.
async fn watch(client: &Client, source: &Source, name: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut replicated = BTreeSet::new();
    let seen = async {
        loop {
            let names = client.database("there").list_collection_names().await.unwrap();
            let found = source.names(&["there.*".to_owned()], &[]).await.unwrap();
            replicated.extend(found.into_iter().map(|found| found.collection));
            if names.iter().any(|found| name(found)) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, seen).await.expect("the server makes a temporary collection");
    // It still exists, or did until now.
    let found = source.names(&["there.*".to_owned()], &[]).await.unwrap();
    replicated.extend(found.into_iter().map(|found| found.collection));
    replicated
}

#[tokio::test]
async fn temporary_collections_are_not_replicated() {
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    let source = Source::connect(&mongod.uri()).await.unwrap();
    let (admin, here) = (client.database("admin"), client.database("here").collection::<Document>("orders"));
    let padding = "x".repeat(500);
    let documents = (0..MANY).map(|id| doc! { "_id": id, "x": &padding });
    here.insert_many(documents).await.unwrap();
    // A user's own collections with similar names are not left out.
    for own in ["tmp_mine", "tmp.agg_out.mine"] {
        client.database("there").collection(own).insert_one(doc! {}).await.unwrap();
    }

    let wait = |mode: &str| doc! { "configureFailPoint": "outWaitAfterTempCollectionCreation", "mode": mode };
    admin.run_command(wait("alwaysOn")).await.unwrap();
    let out = async {
        here.aggregate([doc! { "$out": { "db": "there", "coll": "out" } }]).await.unwrap();
    };
    let watched = async {
        let found = watch(&client, &source, |name| name.starts_with("tmp.agg_out.") && name.len() > 40).await;
        admin.run_command(wait("off")).await.unwrap();
        found
    };
    let ((), mut replicated) = tokio::join!(out, watched);

    let rename = async {
        let command = doc! { "renameCollection": "here.orders", "to": "there.renamed" };
        admin.run_command(command).await.unwrap();
    };
    let ((), found) =
        tokio::join!(rename, watch(&client, &source, |name| name.ends_with(".renameCollection")));
    replicated.extend(found);

    let cap = async {
        let command = doc! { "convertToCapped": "renamed", "size": 64 << 20 };
        client.database("there").run_command(command).await.unwrap();
    };
    // 4.4 shows it to nobody.
    tokio::select! {
        found = watch(&client, &source, |name| name.contains(".convertToCapped.")) => replicated.extend(found),
        () = cap => {}
    }

    let expected = ["out", "renamed", "tmp.agg_out.mine", "tmp_mine"];
    replicated.retain(|name| !expected.contains(&&**name));
    assert_eq!(replicated, BTreeSet::new());
}
