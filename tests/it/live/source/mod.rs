//! The source against a real replica set.
//!
//! Fail points apply only to one test's connections, by its application name.

mod chunks;
mod faults;
mod large;
mod lookup;
mod refusals;
mod stream;
mod temporary;

use std::time::Duration;

use docrow::{
    model::change::{Change, Namespace},
    source::{Chunk, Event, Source, StreamBatch},
};
use mongodb::{
    Client, Collection,
    bson::{Document, RawDocument, RawDocumentBuf, cstr, doc},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::timeout,
};

use crate::support::{Place, ids_of_all_types};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A database of its own for each test, and a plain client beside docrow's source.
pub(super) struct Server {
    pub(super) uri: String,
    pub(super) client: Client,
    pub(super) source: Source,
    pub(super) database: String,
    /// Also the source's application name.
    test: String,
}

pub(super) fn with_option(uri: &str, option: &str) -> String {
    let separator = if uri.contains('?') { "&" } else { "/?" };
    format!("{}{separator}{option}", uri.trim_end_matches('/'))
}

impl Server {
    pub(super) async fn new(test: &str) -> Self {
        let Place { name: database, mongodb_uri: uri, client, .. } =
            Place::shared(&format!("source_{test}")).await;
        let source = Source::connect(&with_option(&uri, &format!("appName={test}"))).await.unwrap();
        Self { uri, client, source, database, test: test.to_owned() }
    }

    pub(super) fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.database).collection(name)
    }

    pub(super) fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(&self.database, name)
    }

    /// Makes the source's next commands fail. The server has one such fail point: it belongs to the caller
    /// until the guard is dropped.
    pub(super) async fn fail(&self, times: i32, mut data: Document) -> MutexGuard<'static, ()> {
        static FAIL_POINT: Mutex<()> = Mutex::const_new(());
        let guard = FAIL_POINT.lock().await;
        data.insert("appName", &self.test);
        let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        self.client.database("admin").run_command(command).await.unwrap();
        guard
    }

    /// Reads a collection chunk by chunk. Returns the documents' `_id`s in the order of arrival.
    pub(super) async fn read(&self, name: &str, chunks: &[Chunk]) -> Vec<RawDocumentBuf> {
        let after = self.source.operation_time().await.unwrap();
        let mut ids = Vec::new();
        for chunk in chunks {
            let mut reader = self.source.read_chunk(&self.namespace(name), chunk, after, 1000).await.unwrap();
            while let Some(documents) = reader.next().await.unwrap() {
                ids.extend(documents.iter().unwrap().map(|document| id_of(document.unwrap())));
            }
        }
        ids
    }
}

pub(super) fn id_of(document: &RawDocument) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(cstr!("_id"), document.get("_id").unwrap().unwrap());
    id
}

pub(super) async fn load_ids_of_all_types(server: &Server, name: &str) -> Vec<RawDocumentBuf> {
    let padding = "x".repeat(100_000);
    let ids = ids_of_all_types();
    let documents = ids.iter().map(|id| doc! { "_id": id.clone(), "padding": &padding });
    server.collection(name).insert_many(documents).await.unwrap();
    ids.iter().map(|id| RawDocumentBuf::try_from(&doc! { "_id": id.clone() }).unwrap()).collect()
}

pub(super) fn sorted(mut ids: Vec<RawDocumentBuf>) -> Vec<RawDocumentBuf> {
    ids.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    ids
}

/// Reads until `enough`.
pub(super) async fn follow(
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
pub(super) async fn follow_events(stream: &mut docrow::source::ChangeStream, count: usize) -> Vec<Event> {
    let mut seen = 0;
    follow(stream, |batch| {
        seen += batch.events.len();
        seen >= count
    })
    .await
}

pub(super) fn change(event: &Event) -> &Change {
    match event {
        Event::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

pub(super) fn ids(events: &[Event]) -> Vec<i32> {
    events.iter().map(|event| change(event).document_key.get_i32("_id").unwrap()).collect()
}
