//! Documents of 16 MB, and events that exceed the size of a reply.

use docrow::{
    error::Kind,
    model::change::{Change, Namespace, Op},
    source::{Source, StreamStart},
};
use mongodb::bson::{Document, RawDocument, doc};
use tokio::time::timeout;

use super::{DEADLINE, Server, change, follow_events};

/// The largest possible document.
const MAX: usize = 16 << 20;

/// A document of that many bytes.
fn document(mut document: Document, size: usize) -> Document {
    document.insert("padding", "");
    let rest = size - document.to_vec().unwrap().len();
    document.insert("padding", "x".repeat(rest));
    document
}

/// The document's size now, by lookup. `None`: it is not there.
async fn looked_up(source: &Source, namespace: &Namespace, key: &RawDocument) -> Option<usize> {
    let now = source.operation_time().await.unwrap();
    let mut lookup = source.lookup(namespace, [key], now).await.unwrap();
    let mut size = None;
    while let Some(documents) = lookup.next().await.unwrap() {
        size = documents.iter().unwrap().map(|document| document.unwrap().as_bytes().len()).last().or(size);
    }
    size
}

/// A document's operation, and the size of its event.
fn told(change: &Change) -> String {
    match &change.op {
        Op::Whole(whole) => format!("whole {}", whole.as_bytes().len()),
        Op::Patch(_) | Op::Update => "update".to_owned(),
        Op::Delete => "delete".to_owned(),
    }
}

/// A document of the maximum size is inserted, updated, replaced, deleted: nothing need fail.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_16_mb_are_followed() {
    let server = Server::new("16_mb").await;
    let namespaces = [server.namespace("large")];
    let large = server.collection("large");
    let start = server.source.start_position(&namespaces).await.unwrap();
    large.insert_one(document(doc! { "_id": 1 }, MAX)).await.unwrap();
    large.replace_one(doc! { "_id": 1 }, document(doc! { "_id": 1, "a": 1 }, MAX)).await.unwrap();
    let all = document(doc! { "_id": 1, "a": 1 }, MAX).get_str("padding").unwrap().replace('x', "y");
    large.update_one(doc! { "_id": 1 }, doc! { "$set": { "padding": all } }).await.unwrap();
    large.delete_one(doc! { "_id": 1 }).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let events = follow_events(&mut stream, 4).await;
    let whole = format!("whole {MAX}");
    let told: Vec<_> = events.iter().map(|event| told(change(event))).collect();
    assert_eq!(told, [&whole, &whole, "update", "delete"]);
    assert_eq!(stream.times_lost(), 0);

    large.insert_one(document(doc! { "_id": 2 }, MAX)).await.unwrap();
    let events = follow_events(&mut stream, 1).await;
    let key = &change(&events[0]).document_key;
    assert_eq!(looked_up(&server.source, &namespaces[0], key).await, Some(MAX));
    large.drop().await.unwrap();
}

/// Trap: events over 16 MB kill the stream. With an `_id` of this length, the event of a document is too
/// large (BSONObjectTooLarge), or just the reply that it is in (the server cuts the connection). It is passed
/// without its document, which is looked up; the events around it come as ever. Returns how often the stream
/// was lost.
async fn is_passed(test: &str, id: usize, size: usize) -> u64 {
    let server = Server::new(test).await;
    let namespaces = [server.namespace("large")];
    let large = server.collection("large");
    let start = server.source.start_position(&namespaces).await.unwrap();
    let id = "k".repeat(id);
    large.insert_one(doc! { "_id": 1 }).await.unwrap();
    large.insert_one(document(doc! { "_id": &id }, size)).await.unwrap();
    large.insert_one(doc! { "_id": 2 }).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let mut events = follow_events(&mut stream, 3).await;
    let lost = stream.times_lost();
    let key = change(&events[1]).document_key.clone();
    assert_eq!(looked_up(&server.source, &namespaces[0], &key).await, Some(size));

    large.insert_one(doc! { "_id": 3 }).await.unwrap();
    events.extend(follow_events(&mut stream, 1).await);
    // While a cursor is open: with documents, then it is lost once more, or still without, if nothing came
    // since.
    large.replace_one(doc! { "_id": &id }, document(doc! { "_id": &id, "a": 1 }, size)).await.unwrap();
    events.extend(follow_events(&mut stream, 1).await);
    large.update_one(doc! { "_id": &id }, doc! { "$set": { "a": 2 } }).await.unwrap();
    large.delete_one(doc! { "_id": &id }).await.unwrap();
    large.insert_one(doc! { "_id": 4 }).await.unwrap();
    events.extend(follow_events(&mut stream, 3).await);

    let changes: Vec<_> = events.iter().map(change).collect();
    let told: Vec<_> = changes.iter().map(|change| told(change)).collect();
    let passed = ["update".to_owned(), format!("whole {size}")];
    assert!(passed.contains(&told[1]) && passed.contains(&told[4]), "{told:?}");
    assert_eq!(told[3], "whole 14");
    assert_eq!(told[5..], ["update", "delete", "whole 14"]);
    assert!(changes.windows(2).all(|pair| pair[0].position < pair[1].position));
    // A position that was returned meanwhile belongs to the usual stream.
    let mut again = server.source.change_stream(&namespaces, StreamStart::After(changes[1].position.clone()));
    assert_eq!(follow_events(&mut again, 6).await.len(), 6);
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_passed() {
    assert!(is_passed("event_too_large", 1_000_000, 14_000_000).await > 0);
}

/// The reply holds two tokens: the event's, and its own. That is the event's, too, unless the server has seen
/// something later by then, which is no event of this stream: then it is short, and the reply fits.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_reply_is_too_large_is_passed() {
    is_passed("reply_too_large", 5_000, MAX - 1_000).await;
}

/// An event that can't be passed is reported, and not retried forever.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_fits_into_no_event_is_refused() {
    let server = Server::new("id_too_large").await;
    let namespaces = [server.namespace("large")];
    let start = server.source.start_position(&namespaces).await.unwrap();
    server.collection("large").insert_one(doc! { "_id": "k".repeat(6_000_000) }).await.unwrap();
    let mut stream = server.source.change_stream(&namespaces, StreamStart::After(start));
    let refused = timeout(DEADLINE, async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    });
    let error = refused.await.unwrap();
    assert_eq!(error.kind(), Kind::SourceRefused);
    assert!(
        error.to_string().contains("_id has more than 3 MB") && !error.to_string().contains("kk"),
        "{error}"
    );
}
