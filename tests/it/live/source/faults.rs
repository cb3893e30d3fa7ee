//! The change stream under faults.

use std::time::Duration;

use docrow::{
    demo::servers::Mongod,
    error::Kind,
    model::change::{Namespace, Position},
    source::{Source, StreamStart},
};
use mongodb::{
    Client,
    bson::{doc, rawdoc},
};
use tokio::time::timeout;

use crate::support::{roll_over, small_oplog};

use super::{DEADLINE, Server, change, follow_events, ids};

/// Writes 300 documents while the stream is read, and calls `disturb` after a hundred: all come, in order,
/// once.
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

/// An unknown code is retried, too.
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

/// The caller selects between the stream and other things: dropping `next()` repeatedly loses nothing, and
/// does not keep the stream from being opened.
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

/// G8: detected by code; some codes only when the stream is opened.
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
        assert!(error.to_string().contains("docrow resync '*'"), "{error}");
    }
}

/// G8: the oplog rolls over, for real, past the position of a stream that is not read, with and without an
/// open cursor.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_lost_when_the_oplog_rolls_over() {
    let mongod = Mongod::start(small_oplog()).await.unwrap();
    let client = Client::with_uri_str(&mongod.uri()).await.unwrap();
    let source = Source::connect(&mongod.uri()).await.unwrap();
    let namespaces = [Namespace::new("shop", "orders")];
    let start = source.start_position(&namespaces).await.unwrap();
    let follow = |start| source.change_stream(&namespaces, start);
    let mut idle = follow(StreamStart::After(start.clone()));
    idle.next().await.unwrap();
    let written = source.operation_time().await.unwrap();
    assert!(source.oplog_start().await.unwrap().unwrap() <= written);
    client.database("shop").collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    roll_over(&client, source.operation_time().await.unwrap()).await;
    assert!(source.oplog_start().await.unwrap().unwrap() > written);
    let by_position = follow(StreamStart::After(start));
    let by_time = follow(StreamStart::At(written));
    for (name, mut stream) in [("idle", idle), ("by position", by_position), ("by time", by_time)] {
        let failed = timeout(DEADLINE, async {
            loop {
                if let Err(error) = stream.next().await {
                    return error;
                }
            }
        });
        let error = failed.await.unwrap();
        assert_eq!(error.kind(), Kind::HistoryLost, "{name}: {error}");
        assert!(error.to_string().contains("code 286"), "{name}: {error}");
    }
}

/// A token of an event that never happened: another collection's in all but its time.
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
