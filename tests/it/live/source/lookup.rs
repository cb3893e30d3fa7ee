//! Lookups, and the time of the states that they find.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use docrow::{
    demo::servers::{Mongod, MongodOptions},
    error::Kind,
    model::change::{Namespace, Op},
    source::{Lookup, Source, StreamStart},
};
use mongodb::{
    Client,
    bson::{Document, RawDocumentBuf, Timestamp, doc},
    options::CreateCollectionOptions,
};
use tokio::time::timeout;

use super::{DEADLINE, Server, change, follow_events, id_of, load_ids_of_all_types, sorted};
use crate::support::{Capability, lacks};

/// Everything that a lookup finds, and the time that it reports.
async fn found(lookup: docrow::error::Result<Lookup>) -> (Vec<RawDocumentBuf>, Timestamp) {
    let mut lookup = lookup.unwrap();
    let mut documents = Vec::new();
    while let Some(batch) = lookup.next().await.unwrap() {
        documents.extend(batch.iter().unwrap().map(|document| document.unwrap().to_owned()));
    }
    (documents, lookup.operation_time())
}

/// G3: a lookup after an event shows that event's state or a newer one, and reports a time that is no
/// earlier.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_is_not_behind_the_event() {
    let server = Server::new("lookup").await;
    let orders = server.collection("orders");
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    orders.insert_many((0..100).map(|id| doc! { "_id": id, "n": 0 })).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    follow_events(&mut stream, 100).await;
    for n in 1..=30 {
        let update = doc! { "update": "orders", "updates": [{ "q": { "_id": n % 10 }, "u": { "$set": { "n": n } } }],
        "writeConcern": { "w": 1 } };
        server.client.database(&server.database).run_command(update).await.unwrap();
        let events = follow_events(&mut stream, 1).await;
        let change = change(&events[0]);
        let after = change.position.cluster_time();
        let lookup = server.source.lookup(&namespaces[0], [&*change.document_key], after).await;
        let (documents, time) = found(lookup).await;
        assert!(time >= after);
        assert_eq!(documents.iter().map(|d| d.get_i32("n").unwrap()).collect::<Vec<_>>(), [n]);
    }
}

/// G3: no state that a lookup returns is newer than the time that it reports. A writer never stops; the time
/// of every write is read from the stream afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_states_a_time_that_bounds_what_it_read() {
    let server = Server::new("lookup_time").await;
    let orders = server.collection("orders");
    orders.insert_one(doc! { "_id": 0, "n": 0 }).await.unwrap();
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    let after = start.cluster_time();
    let database = server.client.database(&server.database);
    let done = AtomicBool::new(false);
    let writer = async {
        let mut n = 0_i32;
        while !done.load(Ordering::Relaxed) {
            n += 1;
            let replace = doc! { "update": "orders", "updates": [{ "q": { "_id": 0 }, "u": { "n": n } }],
            "writeConcern": { "w": 1 } };
            database.run_command(replace).await.unwrap();
        }
        usize::try_from(n).unwrap()
    };
    let key = RawDocumentBuf::try_from(&doc! { "_id": 0 }).unwrap();
    let reader = async {
        let mut reads = BTreeMap::new();
        while reads.len() < 100 {
            let (documents, time) = found(server.source.lookup(&namespaces[0], [&*key], after).await).await;
            reads.entry(documents[0].get_i32("n").unwrap()).or_insert(time);
        }
        done.store(true, Ordering::Relaxed);
        reads
    };
    let (count, reads) = tokio::join!(writer, reader);
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let events = follow_events(&mut stream, count).await;
    let written: BTreeMap<i32, Timestamp> = events
        .iter()
        .map(change)
        .filter_map(|change| match &change.op {
            Op::Whole(whole) => Some((whole.get_i32("n").unwrap(), change.position.cluster_time())),
            _ => None,
        })
        .collect();
    assert_eq!(written.len(), count);
    for (n, time) in reads.iter().filter(|(n, _)| **n > 0) {
        assert!(written[n] <= *time, "state {n} of {:?} was read at {time:?}", written[n]);
    }
}

/// Existing documents are found by any `_id`, missing ones are not.
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_looked_up_by_ids_of_all_types() {
    let server = Server::new("lookup_types").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let after = server.source.operation_time().await.unwrap();
    let absent = RawDocumentBuf::try_from(&doc! { "_id": "absent" }).unwrap();
    let keys = loaded.iter().chain([&absent]).map(|key| &**key);
    let (read, _) = found(server.source.lookup(&server.namespace("c"), keys, after).await).await;
    assert_eq!(sorted(read.iter().map(|document| id_of(document)).collect()), sorted(loaded));
}

/// Keys that exceed the size of a command are looked up all the same.
#[tokio::test(flavor = "multi_thread")]
async fn documents_with_long_ids_are_looked_up() {
    let server = Server::new("lookup_long").await;
    let ids = (0..1_000).map(|n| doc! { "_id": format!("{n:0>20000}") });
    server.collection("c").insert_many(ids.clone()).await.unwrap();
    let keys: Vec<_> = ids.map(|id| RawDocumentBuf::try_from(&id).unwrap()).collect();
    let (namespace, now) = (server.namespace("c"), server.source.operation_time().await.unwrap());
    let keys_again = || keys.iter().map(|key| &**key);
    let (read, time) = found(server.source.lookup(&namespace, keys_again(), now).await).await;
    assert!(time >= now);
    assert_eq!(sorted(read), sorted(keys.clone()));
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let lookup = server.source.lookup_at(&namespace, keys_again(), now).await;
    let (read, time) = found(lookup.map(Option::unwrap)).await;
    assert_eq!(time, now);
    assert_eq!(sorted(read), sorted(keys.clone()));
}

/// Commit order: the documents of a transaction are seen together or not at all, at the time of any event,
/// although transactions never stop, and at no other time.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_at_one_time_shows_whole_transactions() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    const ACCOUNTS: i32 = 20;
    let server = Server::new("lookup_at").await;
    let namespaces = [server.namespace("a"), server.namespace("b")];
    for name in ["a", "b"] {
        server
            .collection(name)
            .insert_many((0..ACCOUNTS).map(|id| doc! { "_id": id, "n": 0 }))
            .await
            .unwrap();
    }
    let start = server.source.start_position(&namespaces).await.unwrap();
    let done = AtomicBool::new(false);
    let writer = async {
        let mut session = server.client.start_session().await.unwrap();
        while !done.load(Ordering::Relaxed) {
            session.start_transaction().await.unwrap();
            for name in ["a", "b"] {
                let update = doc! { "$inc": { "n": 1 } };
                server.collection(name).update_many(doc! {}, update).session(&mut session).await.unwrap();
            }
            session.commit_transaction().await.unwrap();
        }
    };
    let keys: Vec<_> =
        (0..ACCOUNTS).map(|id| RawDocumentBuf::try_from(&doc! { "_id": id }).unwrap()).collect();
    let reader = async {
        let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
        let (mut last, mut rounds) = (0, 0);
        while rounds < 50 {
            let batch = stream.next().await.unwrap();
            let Some(event) = batch.events.last() else { continue };
            rounds += 1;
            let at = event.position().cluster_time();
            let mut seen = Vec::new();
            for namespace in &namespaces {
                let lookup = server.source.lookup_at(namespace, keys.iter().map(|key| &**key), at).await;
                let (documents, time) = found(lookup.map(Option::unwrap)).await;
                assert_eq!(time, at);
                seen.extend(documents.iter().map(|document| document.get_i32("n").unwrap()));
            }
            assert_eq!(seen.len(), 40);
            assert!(seen.iter().all(|n| *n == seen[0]), "{seen:?}");
            assert!(seen[0] > last || (batch.events.len() < 40 && seen[0] == last), "{seen:?} after {last}");
            last = seen[0];
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writer, reader);
}

/// What breaks off is no end.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_at_one_time_that_breaks_off_is_no_end() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let server = Server::new("lookup_at_breaks_off").await;
    let namespace = server.namespace("c");
    // More than fits into a request, and into a reply.
    let ids = (0..3_500).map(|n| doc! { "_id": format!("{n:0>6000}") });
    server.collection("c").insert_many(ids.clone()).await.unwrap();
    let keys: Vec<_> = ids.map(|id| RawDocumentBuf::try_from(&id).unwrap()).collect();
    let now = server.source.operation_time().await.unwrap();
    let lookup = server.source.lookup_at(&namespace, keys.iter().map(|key| &**key), now).await;
    let mut lookup = lookup.unwrap().unwrap();
    assert!(lookup.next().await.unwrap().is_some());
    let fail =
        doc! { "failCommands": ["find", "getMore"], "namespace": namespace.to_string(), "errorCode": 43 };
    let _guard = server.fail(1, fail).await;
    assert_eq!(lookup.next().await.unwrap_err().kind(), Kind::SourceAway);
}

/// A state that the server no longer has is no error: the caller then uses the current one.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_gone_is_told_apart() {
    if lacks(Capability::StatesOfThePast).await {
        return;
    }
    let options = MongodOptions {
        parameters: vec!["minSnapshotHistoryWindowInSeconds=1".to_owned()],
        ..Default::default()
    };
    let mongod = Mongod::start(options).await.unwrap();
    let source = Source::connect(&mongod.uri()).await.unwrap();
    let client = Client::with_uri_str(&mongod.uri()).await.unwrap();
    let database = client.database("shop");
    let orders = database.collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1, "n": 0 }).await.unwrap();
    let key = RawDocumentBuf::try_from(&doc! { "_id": 1 }).unwrap();
    let orders_namespace = Namespace::new("shop", "orders");
    let at = source.operation_time().await.unwrap();
    let read =
        async |name: &str, at| source.lookup_at(&Namespace::new("shop", name), [&*key], at).await.unwrap();
    orders.update_one(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
    let (documents, _) = found(Ok(read("orders", at).await.unwrap())).await;
    assert_eq!(documents[0].get_i32("n").unwrap(), 0);

    // Old.
    let gone = async {
        while read("orders", at).await.is_some() {
            orders.update_one(doc! {}, doc! { "$inc": { "n": 1 } }).await.unwrap();
        }
    };
    timeout(DEADLINE, gone).await.expect("the server forgets");
    // Of a collection that did not exist then.
    let at = source.operation_time().await.unwrap();
    database.collection("new").insert_one(doc! { "_id": 1 }).await.unwrap();
    assert!(read("new", at).await.is_none());
    // Of a capped collection.
    let capped = CreateCollectionOptions::builder().capped(true).size(10_000).build();
    database.create_collection("capped").with_options(capped).await.unwrap();
    assert!(read("capped", source.operation_time().await.unwrap()).await.is_none());
    // A future time is the caller's mistake.
    let later = Timestamp { time: at.time + 1000, increment: 0 };
    let error = source.lookup_at(&orders_namespace, [&*key], later).await.err().unwrap();
    assert!(error.to_string().contains("InvalidOptions"), "{error}");
}
