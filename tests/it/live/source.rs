//! The source against a real replica set: chunks, the change stream under faults, lookups, and what is said when a
//! deployment can't be used.
//!
//! Fail points are set for one test's connections alone, by its application name.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use docrow::{
    change::{Change, CollectionId, Namespace, Op, Position},
    demo::servers::{Mongod, MongodOptions},
    error::Kind,
    source::{Chunk, Event, Lookup, Source, StreamBatch, StreamStart},
};
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, cstr, doc, rawdoc},
    options::{CreateCollectionOptions, TimeseriesOptions},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::support::{Place, ids_of_all_types};

const DEADLINE: Duration = Duration::from_secs(30);

/// A database of its own for each test, and a plain client beside docrow's source.
struct Server {
    uri: String,
    client: Client,
    source: Source,
    database: String,
    /// Also the source's application name.
    test: String,
}

fn with_option(uri: &str, option: &str) -> String {
    let separator = if uri.contains('?') { "&" } else { "/?" };
    format!("{}{separator}{option}", uri.trim_end_matches('/'))
}

impl Server {
    async fn new(test: &str) -> Self {
        let Place { name: database, mongodb_uri: uri, client, .. } =
            Place::shared(&format!("source_{test}")).await;
        let source = Source::connect(&with_option(&uri, &format!("appName={test}"))).await.unwrap();
        Self { uri, client, source, database, test: test.to_owned() }
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.database).collection(name)
    }

    fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(&self.database, name)
    }

    /// Makes the source's next commands fail. The server has one such fail point: it is the caller's until the guard
    /// is dropped.
    async fn fail(&self, times: i32, mut data: Document) -> MutexGuard<'static, ()> {
        static FAIL_POINT: Mutex<()> = Mutex::const_new(());
        let guard = FAIL_POINT.lock().await;
        data.insert("appName", &self.test);
        let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        self.client.database("admin").run_command(command).await.unwrap();
        guard
    }

    /// Reads a collection chunk by chunk. The documents' `_id`s in the order in which they came.
    async fn read(&self, name: &str, chunks: &[Chunk]) -> Vec<RawDocumentBuf> {
        let after = self.source.operation_time().await.unwrap();
        let mut ids = Vec::new();
        for chunk in chunks {
            let mut reader = self.source.read_chunk(&self.namespace(name), chunk, after).await.unwrap();
            while let Some(documents) = reader.next().await.unwrap() {
                ids.extend(documents.iter().unwrap().map(|document| id_of(document.unwrap())));
            }
        }
        ids
    }
}

fn id_of(document: &RawDocument) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(cstr!("_id"), document.get("_id").unwrap().unwrap());
    id
}

async fn load_ids_of_all_types(server: &Server, name: &str) -> Vec<RawDocumentBuf> {
    let padding = "x".repeat(100_000);
    let ids = ids_of_all_types();
    let documents = ids.iter().map(|id| doc! { "_id": id.clone(), "padding": &padding });
    server.collection(name).insert_many(documents).await.unwrap();
    ids.iter().map(|id| RawDocumentBuf::try_from(&doc! { "_id": id.clone() }).unwrap()).collect()
}

fn sorted(mut ids: Vec<RawDocumentBuf>) -> Vec<RawDocumentBuf> {
    ids.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    ids
}

/// Trap: `_id` ranges that follow types lose documents. All come out, each once, whatever cuts the chunks.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_all_types_are_read_once_by_split_vector() {
    let server = Server::new("all_types_split_vector").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let collections = server.source.collections(&[format!("{}.c", server.database)], &[]).await.unwrap();
    let chunks = server.source.split(&collections[0], 100_000).await.unwrap();
    assert!(chunks.len() >= 10, "{} chunks", chunks.len());
    assert_eq!(sorted(server.read("c", &chunks).await), sorted(loaded));
}

/// The same where `splitVector` is refused, as on a hosted deployment: then the chunks are cut by a sample.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_all_types_are_read_once_by_sample() {
    let server = Server::new("all_types_sample").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let collections = server.source.collections(&[format!("{}.c", server.database)], &[]).await.unwrap();
    let _guard = server.fail(1, doc! { "failCommands": ["splitVector"], "errorCode": 13 }).await;
    let chunks = server.source.split(&collections[0], 100_000).await.unwrap();
    assert!(chunks.len() >= 20, "{} chunks", chunks.len());
    assert_eq!(sorted(server.read("c", &chunks).await), sorted(loaded));
}

/// Every document is a chunk's bound once.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_any_type_is_a_chunk_bound() {
    let server = Server::new("any_bound").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let is_end = |id: &&RawDocumentBuf| {
        matches!(id.get("_id").unwrap(), Some(RawBsonRef::MinKey | RawBsonRef::MaxKey))
    };
    for bound in loaded.iter().filter(|id| !is_end(id)) {
        let lower = Chunk { min: None, max: Some(bound.clone()) };
        let upper = Chunk { min: Some(bound.clone()), max: None };
        let read = server.read("c", &[lower, upper]).await;
        assert_eq!(sorted(read), sorted(loaded.clone()), "{bound:?}");
    }
}

/// A small collection, one without documents, and one that is not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_collection_is_one_chunk() {
    let server = Server::new("small").await;
    server.collection("empty").insert_one(doc! { "_id": 1 }).await.unwrap();
    server.collection("empty").delete_one(doc! {}).await.unwrap();
    server.collection("one").insert_one(doc! { "_id": Bson::MaxKey }).await.unwrap();
    let collections = server.source.collections(&[format!("{}.*", server.database)], &[]).await.unwrap();
    let names: Vec<_> = collections.iter().map(|c| c.namespace.collection.as_str()).collect();
    assert_eq!(names, ["empty", "one"]);
    for (collection, count) in collections.iter().zip([0, 1]) {
        let chunks = server.source.split(collection, 1).await.unwrap();
        assert_eq!(server.read(&collection.namespace.collection, &chunks).await.len(), count);
    }
    assert_eq!(server.read("absent", &[Chunk::whole()]).await.len(), 0);
}

/// A collection with a collation has index keys that are no values; a clustered one has no `_id` index at all.
#[tokio::test(flavor = "multi_thread")]
async fn unusual_id_indexes_are_read_once() {
    let server = Server::new("unusual").await;
    let database = server.client.database(&server.database);
    let padding = "x".repeat(100_000);
    let collated = doc! { "create": "collated", "collation": { "locale": "en", "strength": 2 } };
    let clustered = doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    for create in [collated, clustered] {
        let name = create.get_str("create").unwrap().to_owned();
        database.run_command(create).await.unwrap();
        let documents =
            (0..60).map(|n| doc! { "_id": format!("{}é{n}", ["A", "b"][n % 2]), "padding": &padding });
        server.collection(&name).insert_many(documents).await.unwrap();
        let collections =
            server.source.collections(&[format!("{}.{name}", server.database)], &[]).await.unwrap();
        let chunks = server.source.split(&collections[0], 500_000).await.unwrap();
        assert!(chunks.len() >= 5, "{name}: {} chunks", chunks.len());
        let read = sorted(server.read(&name, &chunks).await);
        assert_eq!(read.len(), 60, "{name}");
        assert!(read.windows(2).all(|pair| pair[0] != pair[1]), "{name}");
    }
}

/// Views and time-series are left out by a glob, and refused by name with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn views_are_left_out_or_refused_by_name() {
    let server = Server::new("views").await;
    let database = server.client.database(&server.database);
    server.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let view = CreateCollectionOptions::builder().view_on("orders".to_owned()).pipeline(vec![]).build();
    database.create_collection("view").with_options(view).await.unwrap();
    let time_series = TimeseriesOptions::builder().time_field("t").build();
    database.create_collection("series").timeseries(time_series).await.unwrap();
    let all = server.source.collections(&[format!("{}.*", server.database)], &[]).await.unwrap();
    assert_eq!(
        all.iter().map(|c| c.namespace.to_string()).collect::<Vec<_>>(),
        [format!("{}.orders", server.database)]
    );
    for (name, kind) in [("view", "view"), ("series", "time-series collection")] {
        let error =
            server.source.collections(&[format!("{}.{name}", server.database)], &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(
            error.to_string().contains(&format!("it is a {kind}, which has no change stream")),
            "{error}"
        );
    }
    let nothing = [format!("{}.nothing*", server.database), "absent.*".to_owned()];
    let error = server.source.collections(&nothing, &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains(&format!("{}.orders", server.database)), "{error}");
    assert!(error.to_string().contains("absent.*"), "{error}");
    let excluded = [format!("{}.*", server.database)];
    assert_eq!(server.source.collections(&excluded, &excluded).await.unwrap_err().kind(), Kind::Usage);
}

/// Reads until `enough`.
async fn follow(
    stream: &mut docrow::source::ChangeStream,
    mut enough: impl FnMut(&StreamBatch) -> bool,
) -> Vec<Event> {
    let mut events = Vec::new();
    let followed = timeout(DEADLINE, async {
        loop {
            let batch = stream.next().await.unwrap();
            let done = enough(&batch);
            events.extend(batch.events);
            if done {
                return;
            }
        }
    });
    followed.await.expect("the stream brings what is expected");
    events
}

/// Reads `count` events.
async fn follow_events(stream: &mut docrow::source::ChangeStream, count: usize) -> Vec<Event> {
    let mut seen = 0;
    follow(stream, |batch| {
        seen += batch.events.len();
        seen >= count
    })
    .await
}

fn change(event: &Event) -> &Change {
    match event {
        Event::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

fn ids(events: &[Event]) -> Vec<i32> {
    events.iter().map(|event| change(event).document_key.get_i32("_id").unwrap()).collect()
}

/// G2: what is written after the start position was taken is in the stream, in order, positions rising.
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
    assert!(matches!(&changes[1].op, Op::Update));
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

/// Collections of several databases share one stream; a foreign collection of the same name is passed over.
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

/// A transaction's events share one cluster time, and are told apart by position.
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

/// Writes 300 documents while the stream is read, and calls `disturb` after a hundred: all come, in order, once.
async fn nothing_is_lost_by<T>(server: &Server, disturb: impl AsyncFn() -> T) {
    let mut held = None;
    let orders = server.collection("orders");
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let mut read = Vec::new();
    for round in 0..3 {
        let written: Vec<i32> = (round * 100..(round + 1) * 100).collect();
        orders.insert_many(written.iter().map(|id| doc! { "_id": id })).await.unwrap();
        if round == 1 {
            held = Some(disturb().await);
        }
        read.extend(follow_events(&mut stream, 100).await);
    }
    assert_eq!(ids(&read), (0..300).collect::<Vec<_>>());
    assert!(stream.times_lost() > 0, "the fault was never met");
    drop(held);
}

/// The change streams that are open over the test's database.
async fn cursors(server: &Server) -> Vec<i64> {
    let filter = doc! { "cursor.tailable": true, "ns": format!("{}.$cmd.aggregate", server.database) };
    let pipeline = [doc! { "$currentOp": { "idleCursors": true } }, doc! { "$match": filter }];
    let mut found = server.client.database("admin").aggregate(pipeline).await.unwrap();
    let mut ids = Vec::new();
    while found.advance().await.unwrap() {
        let operation = found.deserialize_current().unwrap();
        ids.push(operation.get_document("cursor").unwrap().get_i64("cursorId").unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_cursor_is_killed() {
    let server = Server::new("killed").await;
    nothing_is_lost_by(&server, async || {
        let cursors = cursors(&server).await;
        assert!(!cursors.is_empty());
        let command = doc! { "killCursors": "$cmd.aggregate", "cursors": &cursors };
        let killed = server.client.database(&server.database).run_command(command).await.unwrap();
        assert!(!killed.get_array("cursorsKilled").unwrap().is_empty(), "{killed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_connections_are_cut() {
    let server = Server::new("cut").await;
    nothing_is_lost_by(&server, async || {
        let commands = ["getMore", "aggregate"];
        server.fail(3, doc! { "failCommands": &commands[..], "closeConnection": true }).await
    })
    .await;
}

/// A code that docrow knows nothing about is retried too.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_errors_of_the_server() {
    for (test, code) in [("not_primary", 10107), ("shutdown", 91), ("unknown_code", 123_456)] {
        let server = Server::new(test).await;
        nothing_is_lost_by(&server, async || {
            let commands = ["getMore", "aggregate"];
            server.fail(2, doc! { "failCommands": &commands[..], "errorCode": code }).await
        })
        .await;
    }
}

/// The caller selects between the stream and other things: dropping `next()` again and again loses nothing, and does
/// not keep the stream from being opened.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_next_is_dropped() {
    let server = Server::new("dropped").await;
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let writer = async {
        for id in 0..500 {
            server.collection("orders").insert_one(doc! { "_id": id }).await.unwrap();
        }
    };
    let reader = timeout(DEADLINE, async {
        let mut read = Vec::new();
        let mut dropped = 0;
        while read.len() < 500 {
            match timeout(Duration::from_micros(200), stream.next()).await {
                Ok(batch) => read.extend(ids(&batch.unwrap().events)),
                Err(_) => dropped += 1,
            }
        }
        (read, dropped)
    });
    let ((), read) = tokio::join!(writer, reader);
    let (read, dropped) = read.expect("the stream brings what is expected");
    assert_eq!(read, (0..500).collect::<Vec<_>>());
    assert!(dropped > 100, "next() was dropped {dropped} times");
}

/// G8: recognised by code; the rest of the codes only when the stream is opened.
#[tokio::test(flavor = "multi_thread")]
async fn lost_history_is_recognised() {
    for (code, command) in
        [(286, "aggregate"), (280, "aggregate"), (260, "aggregate"), (50811, "aggregate"), (286, "getMore")]
    {
        let server = Server::new(&format!("history_{code}_{command}")).await;
        let namespaces = [server.namespace("orders")];
        let start = server.source.start_position(&namespaces).await.unwrap();
        let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
        let _guard = server.fail(1, doc! { "failCommands": [command], "errorCode": code }).await;
        let failed = timeout(DEADLINE, async {
            loop {
                if let Err(error) = stream.next().await {
                    return error;
                }
            }
        });
        let error = failed.await.unwrap();

        assert_eq!(error.kind(), Kind::HistoryLost, "{error}");
        assert!(error.to_string().contains("take a new snapshot"), "{error}");
    }
}

/// A token of an event that never was: another collection's in all but its time.
#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_another_deployment_is_lost_history() {
    let server = Server::new("foreign_position").await;
    let namespaces = [server.namespace("orders")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    server.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let events = follow_events(&mut stream, 1).await;
    let token = change(&events[0]).position.token().get_str("_data").unwrap();
    let uuid = token.find("5A1004").unwrap() + "5A1004".len();
    let foreign = format!("{}{}{}", &token[..uuid], "0".repeat(32), &token[uuid + 32..]);
    let foreign = Position::from_token(&rawdoc! { "_data": foreign }).unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(foreign));
    let error = stream.next().await.unwrap_err();
    assert_eq!(error.kind(), Kind::HistoryLost, "{error}");
    assert!(!error.to_string().contains("_data"), "{error}");
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

/// All that a lookup finds, and the time it states.
async fn found(lookup: docrow::error::Result<Lookup>) -> (Vec<RawDocumentBuf>, Timestamp) {
    let mut lookup = lookup.unwrap();
    let mut documents = Vec::new();
    while let Some(batch) = lookup.next().await.unwrap() {
        documents.extend(batch.iter().unwrap().map(|document| document.unwrap().to_owned()));
    }
    (documents, lookup.operation_time())
}

/// G3: a lookup after an event shows that event's state or a newer one, and states a time that is no earlier.
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

/// G3: no state that a lookup returns is newer than the time it states. A writer never stops; the time of every
/// write is read off the stream afterwards.
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

/// What is looked up by any `_id` is found, and what is not there is not.
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

async fn refused(uri: &str) -> (Kind, String) {
    let started = std::time::Instant::now();
    let error = Source::connect(uri).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(11), "said after {:?}", started.elapsed());
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("Kind:"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    (error.kind(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_host_is_said_to_be_away() {
    let (kind, text) = refused("mongodb://user:s3cret@127.0.0.1:9/").await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.starts_with("connect to MongoDB at 127.0.0.1:9: Connection refused"), "{text}");
    assert!(text.ends_with("check host and port, and that mongod is running"), "{text}");
    let (kind, text) = refused("mongodb://nowhere.invalid/").await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.starts_with("connect to MongoDB at nowhere.invalid:27017: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_uri_is_a_usage_error() {
    let (kind, text) = refused("postgres://user:s3cret@localhost/").await;
    assert_eq!(kind, Kind::Usage);
    assert!(text.contains("postgres") && text.contains("mongodb://"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_where_there_is_none_is_said_to_be_the_trouble() {
    let server = Server::new("tls").await;
    let (kind, text) = refused(&with_option(&server.uri, "tls=true")).await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.contains("tls=true or tls=false"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_set_is_refused() {
    let server = Server::new("other_set").await;
    let (kind, text) = refused(&server.uri.replace("replicaSet=docrow", "replicaSet=other")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.contains("not other: mend replicaSet in the URI"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_refused() {
    let mongod = Mongod::start(MongodOptions { replica_set: false, ..Default::default() }).await.unwrap();
    let (kind, text) = refused(&mongod.uri()).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(
        text.contains("is not a replica set member: change streams need one; start mongod with --replSet"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_is_not_initiated_is_refused() {
    let mongod = Mongod::start(MongodOptions { initiated: false, ..Default::default() }).await.unwrap();
    let (kind, text) = refused(&mongod.uri().replace("replicaSet=docrow", "")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.ends_with("its replica set is not initiated: run rs.initiate()"), "{text}");
}

/// Against a server with users: the one of the harness, who may do everything, creates the others.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_privileges_are_checked() {
    let options = MongodOptions { password: Some("s3cret-pw".to_owned()), ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let uri = mongod.uri();
    let address = format!("127.0.0.1:{}", mongod.port());
    let root = Client::with_uri_str(&uri).await.unwrap();
    let admin = root.database("admin");
    for name in ["shop", "crm"] {
        root.database(name).collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    for (user, role) in [("reader", Some("read")), ("nobody", None)] {
        let roles: Vec<_> = role.iter().map(|role| doc! { "role": role, "db": "shop" }).collect();
        admin.run_command(doc! { "createUser": user, "pwd": "s3cret", "roles": roles }).await.unwrap();
    }

    let (kind, text) = refused(&uri.replace("s3cret-pw", "s3cret-wrong")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.ends_with("check user, password and authSource in the URI"), "{text}");

    let (kind, text) = refused(&format!("mongodb://{address}/")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(
        text.ends_with("name a user in the URI and grant it the role readAnyDatabase on admin"),
        "{text}"
    );

    let reader =
        Source::connect(&format!("mongodb://reader:s3cret@{address}/?authSource=admin")).await.unwrap();
    let all = reader.collections(&[], &[]).await.unwrap();
    let namespaces: Vec<_> = all.iter().map(|collection| collection.namespace.clone()).collect();
    assert_eq!(namespaces, [Namespace::new("shop", "orders")]);
    reader.start_position(&namespaces).await.unwrap();
    let error = reader.start_position(&[Namespace::new("crm", "orders")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceRefused);
    assert!(error.to_string().ends_with("grant it the role read on the database crm"), "{error}");
    let both = [Namespace::new("crm", "orders"), Namespace::new("shop", "orders")];
    let error = reader.start_position(&both).await.unwrap_err();
    assert!(error.to_string().ends_with("grant it the role readAnyDatabase on admin"), "{error}");

    let nobody =
        Source::connect(&format!("mongodb://nobody:s3cret@{address}/?authSource=admin")).await.unwrap();
    let error = nobody.collections(&["shop.*".to_owned()], &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("there is none that this user may read"), "{error}");
}
