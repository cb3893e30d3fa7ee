//! The events of the change stream.

use docrow::{
    model::change::{CollectionId, Namespace, Op},
    source::{Event, StreamStart},
};
use mongodb::bson::doc;

use super::{Server, change, follow, follow_events, ids};

/// G2: writes after the start position are in the stream, in order, with increasing positions.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_begins_at_the_start_position() {
    let server = Server::new("start").await;
    let orders = server.collection("orders");
    orders.insert_one(doc! { "_id": 0 }).await.unwrap();
    let namespaces = [server.namespace("users"), server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    orders.insert_one(doc! { "_id": 1, "a": 1 }).await.unwrap();
    server.collection("ignored").insert_one(doc! { "_id": 2 }).await.unwrap();
    orders.update_one(doc! { "_id": 0 }, doc! { "$set": { "a": 2 } }).await.unwrap();
    orders.replace_one(doc! { "_id": 1 }, doc! { "a": 3 }).await.unwrap();
    orders.delete_one(doc! { "_id": 0 }).await.unwrap();
    server.collection("users").insert_one(doc! { "_id": 3 }).await.unwrap();

    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start.clone()));
    let events = follow_events(&mut stream, 5).await;
    assert_eq!(ids(&events), [1, 0, 1, 0, 3]);
    let changes: Vec<_> = events.iter().map(change).collect();
    assert!(matches!(&changes[0].op, Op::Whole(whole) if whole.get_i32("a").unwrap() == 1));
    assert!(matches!(&changes[1].op, Op::Patch(_)));
    assert!(matches!(&changes[2].op, Op::Whole(whole) if whole.get_i32("a").unwrap() == 3));
    assert!(matches!(&changes[3].op, Op::Delete));
    let collections: Vec<_> = changes.iter().map(|change| change.collection.0).collect();
    assert_eq!(collections, [1, 1, 1, 1, 0]);
    assert!(start < changes[0].position);
    assert!(changes.windows(2).all(|pair| pair[0].position < pair[1].position));

    let mut again = server.source.change_stream(&namespaces, StreamStart::After(changes[2].position.clone()));
    assert_eq!(ids(&follow_events(&mut again, 2).await), [0, 3]);
    let at = changes[3].position.cluster_time();
    let mut again = server.source.change_stream(&namespaces, StreamStart::At(at));
    assert_eq!(ids(&follow_events(&mut again, 2).await), [0, 3]);
}

/// Collections of several databases share one stream; another collection of the same name is skipped.
#[tokio::test(flavor = "multi_thread")]
async fn collections_of_several_databases_are_followed() {
    let server = Server::new("several").await;
    let second = format!("{}_2", server.database);
    server.client.database(&second).drop().await.unwrap();
    let namespaces = [server.namespace("orders"), Namespace::new(&second, "users")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    server.collection("users").insert_one(doc! { "_id": 1 }).await.unwrap();
    server.client.database(&second).collection("users").insert_one(doc! { "_id": 2 }).await.unwrap();
    server.collection("orders").insert_one(doc! { "_id": 3 }).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let events = follow_events(&mut stream, 2).await;
    assert_eq!(ids(&events), [2, 3]);
    assert_eq!(change(&events[0]).collection, CollectionId(1));
    assert_eq!(change(&events[1]).collection, CollectionId(0));
    server.client.database(&second).drop().await.unwrap();
}

/// A transaction's events share one cluster time, and are distinguished by position.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_transaction_have_rising_positions() {
    let server = Server::new("transaction").await;
    let orders = server.collection("orders");
    orders.insert_one(doc! { "_id": 0 }).await.unwrap();
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    let mut session = server.client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for id in 1..=50 {
        orders.insert_one(doc! { "_id": id }).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let events = follow_events(&mut stream, 50).await;
    let changes: Vec<_> = events.iter().map(change).collect();
    assert!(
        changes.windows(2).all(|pair| pair[0].position.cluster_time() == pair[1].position.cluster_time())
    );
    assert!(changes.windows(2).all(|pair| pair[0].position < pair[1].position));
    let mut again =
        server.source.change_stream(&namespaces, StreamStart::After(changes[29].position.clone()));
    assert_eq!(ids(&follow_events(&mut again, 20).await), (31..=50).collect::<Vec<_>>());
}

/// Trap: the saved token of an idle stream ages out of the oplog.
#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_while_nothing_happens() {
    let server = Server::new("idle").await;
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start.clone()));
    server.collection("ignored").insert_one(doc! { "_id": 1 }).await.unwrap();
    let events = follow(&mut stream, |batch| batch.position > start).await;
    assert!(events.is_empty());
}

/// Trap: drop, rename and dropDatabase ignored, or the end of the stream.
#[tokio::test(flavor = "multi_thread")]
async fn drops_and_renames_are_seen_and_survived() {
    let server = Server::new("ddl").await;
    let namespaces = [server.namespace("orders"), server.namespace("users")];
    let database = server.client.database(&server.database);
    let start = server.source.start_position(&namespaces).await.unwrap();
    for name in ["orders", "users", "tmp", "other"] {
        server.collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let rename = |from: &str, to: &str, drop: bool| {
        let full = |name| format!("{}.{name}", server.database);
        doc! { "renameCollection": full(from), "to": full(to), "dropTarget": drop }
    };
    let admin = server.client.database("admin");
    server.collection("orders").drop().await.unwrap();
    admin.run_command(rename("users", "elsewhere", false)).await.unwrap();
    admin.run_command(rename("tmp", "users", false)).await.unwrap();
    admin.run_command(rename("other", "users", true)).await.unwrap();
    database.drop().await.unwrap();
    server.collection("orders").insert_one(doc! { "_id": 2 }).await.unwrap();

    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let mut last = false;
    let events = follow(&mut stream, |batch| {
        last |= batch
            .events
            .iter()
            .any(|e| matches!(e, Event::Change(c) if c.document_key.get_i32("_id").unwrap() == 2));
        last
    })
    .await;
    let told: Vec<String> = events.iter().map(tell).collect();
    let expected = [
        "change 0",
        "change 1",
        "dropped 0",
        "renamed Some(1) None",
        "renamed None Some(1)",
        "renamed None Some(1)",
        "dropped 1",
        "database dropped",
        "invalidated",
        "change 0",
    ];
    assert_eq!(told, expected);
}

fn tell(event: &Event) -> String {
    match event {
        Event::Change(change) => format!("change {}", change.collection.0),
        Event::Dropped { collection, .. } => format!("dropped {}", collection.0),
        Event::Renamed { from, to, .. } => format!("renamed {:?} {:?}", from.map(|c| c.0), to.map(|c| c.0)),
        Event::DatabaseDropped { .. } => "database dropped".to_owned(),
        Event::Invalidated { .. } => "invalidated".to_owned(),
    }
}
