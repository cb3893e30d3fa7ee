//! The events of the stream workload: how they are written, and how fast they can be read at all.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mongodb::{
    Database,
    bson::{DateTime, RawArrayBuf, RawDocument, RawDocumentBuf, cstr, doc, raw::CStr, rawdoc},
    raw_batch_cursor::RawBatch,
};
use tokio::task::JoinSet;

use super::stage::{SEED, Stage};

/// Statements in one command, and commands at a time.
const BATCH: usize = 1000;
const PARALLEL: usize = 4;
/// What a reply of the drain is limited to.
const EVENTS_PER_REPLY: u32 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `$set` of one top-level field that has a column.
    Scalar,
    /// `$push` of one element to an array that has a table.
    Push,
    /// A whole document written back with one field changed.
    Replace,
    Insert,
    Delete,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Push => "push",
            Self::Replace => "replace",
            Self::Insert => "insert",
            Self::Delete => "delete",
        }
    }

    /// One statement of a command. `value` is one that the field has never had.
    fn statement(self, id: i32, value: i32, document: Option<&RawDocument>) -> RawDocumentBuf {
        let q = rawdoc! { "_id": id };
        match self {
            Self::Scalar => rawdoc! { "q": q, "u": { "$set": { "age": value } } },
            Self::Push => {
                let entry = rawdoc! {
                    "key": format!("key_{value}"),
                    "value": "amber lantern harbor",
                    "timestamp": DateTime::now(),
                    "metadata": "velvet otter prairie",
                };
                rawdoc! { "q": q, "u": { "$push": { "activityLog": entry } } }
            }
            Self::Replace => rawdoc! { "q": q, "u": with_age(document.unwrap(), value) },
            Self::Delete => rawdoc! { "q": q, "limit": 1 },
            Self::Insert => docrow::demo::users::user(SEED, id),
        }
    }

    /// The command's name, and what it calls its statements.
    fn command(self) -> (&'static CStr, &'static CStr) {
        match self {
            Self::Scalar | Self::Push | Self::Replace => (cstr!("update"), cstr!("updates")),
            Self::Insert => (cstr!("insert"), cstr!("documents")),
            Self::Delete => (cstr!("delete"), cstr!("deletes")),
        }
    }
}

/// The document as an application would write it back.
fn with_age(document: &RawDocument, age: i32) -> RawDocumentBuf {
    let mut changed = RawDocumentBuf::new();
    for field in document {
        let (key, value) = field.unwrap();
        if key == "age" {
            changed.append(key, age);
        } else {
            changed.append(key, value);
        }
    }
    changed
}

/// Writes one event to each of the documents `ids`, in no order, and waits until all have reached a majority.
pub(crate) async fn write(stage: &Stage, kind: Kind, ids: std::ops::Range<i32>, value: i32) -> Duration {
    let started = Instant::now();
    let mut ids: Vec<i32> = ids.collect();
    if kind != Kind::Insert {
        fastrand::Rng::with_seed(SEED).shuffle(&mut ids);
    }
    let mut commands = JoinSet::new();
    for batch in ids.chunks(BATCH) {
        if commands.len() >= PARALLEL {
            commands.join_next().await.unwrap().unwrap();
        }
        commands.spawn(write_batch(stage.database(), kind, batch.to_vec(), value));
    }
    while let Some(done) = commands.join_next().await {
        done.unwrap();
    }
    stage.until_majority().await;
    started.elapsed()
}

async fn write_batch(database: Database, kind: Kind, ids: Vec<i32>, value: i32) {
    let mut statements = RawArrayBuf::new();
    if kind == Kind::Replace {
        let filter = doc! { "_id": { "$in": &ids } };
        let mut documents = database.collection::<RawDocumentBuf>("users").find(filter).await.unwrap();
        while let Some(document) = documents.next().await {
            let document = document.unwrap();
            let id = document.get_i32("_id").unwrap();
            statements.push(kind.statement(id, value, Some(&document)));
        }
    } else {
        ids.iter().for_each(|id| statements.push(kind.statement(*id, value, None)));
    }
    let (name, name_of_statements) = kind.command();
    let mut command = RawDocumentBuf::new();
    command.append(name, "users");
    command.append(cstr!("ordered"), false);
    command.append(cstr!("writeConcern"), rawdoc! { "w": 1 });
    command.append(name_of_statements, statements);
    let reply = database.run_raw_command(command).await.unwrap();
    assert!(reply.get_i32("n").is_ok_and(|n| n as usize == ids.len()), "{}: {reply}", kind.name());
    let modified = reply.get_i32("nModified");
    assert!(modified.is_err() || modified.is_ok_and(|n| n as usize == ids.len()), "{}: {reply}", kind.name());
}

/// What a drain gave.
pub(crate) struct Drained {
    pub(crate) wall: Duration,
    /// The keystring of the last event's token.
    pub(crate) last: String,
}

/// The present end of the change stream.
pub(crate) async fn end_of_stream(stage: &Stage) -> RawDocumentBuf {
    let mut stream = open(stage, None).await;
    token_after(&stream.next().await.unwrap().unwrap())
}

/// The bare drain: reads `count` events after `token`, and does nothing with them.
pub(crate) async fn drain(stage: &Stage, token: RawDocumentBuf, count: i32) -> Drained {
    let started = Instant::now();
    let mut stream = open(stage, Some(token)).await;
    let (mut seen, mut last) = (0, None);
    while seen < count {
        let reply = stream.next().await.unwrap().unwrap();
        let events = reply.doc_slices().unwrap();
        if let Some(event) = events.into_iter().inspect(|_| seen += 1).last() {
            let token = event.unwrap().as_document().unwrap().get_document("_id").unwrap();
            last = Some(token.get_str("_data").unwrap().to_owned());
        }
    }
    assert_eq!(seen, count, "events that were never written");
    Drained { wall: started.elapsed(), last: last.unwrap() }
}

/// The stream that docrow follows. Not docrow's own command, so that the ceiling stays where it is if that
/// changes.
async fn open(stage: &Stage, after: Option<RawDocumentBuf>) -> mongodb::raw_batch_cursor::RawBatchCursor {
    let mut stream = RawDocumentBuf::new();
    if let Some(token) = after {
        stream.append(cstr!("startAfter"), token);
    }
    let of_all = rawdoc! { "operationType": { "$in": ["dropDatabase", "invalidate"] } };
    let command = rawdoc! {
        "aggregate": 1,
        "pipeline": [
            { "$changeStream": stream },
            { "$match": { "$or": [{ "ns.coll": { "$in": ["users"] } }, { "to.coll": { "$in": ["users"] } }, of_all] } },
            { "$project": { "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "fullDocument": 1 } },
        ],
        "cursor": { "batchSize": i64::from(EVENTS_PER_REPLY) },
        "readConcern": { "level": "majority" },
    };
    let database = stage.database();
    let cursor = database.run_raw_cursor_command(command).batch_size(EVENTS_PER_REPLY);
    cursor.max_time(Duration::from_millis(500)).batch().await.unwrap()
}

fn token_after(reply: &RawBatch) -> RawDocumentBuf {
    let cursor = reply.as_raw_document().get_document("cursor").unwrap();
    cursor.get_document("postBatchResumeToken").unwrap().to_owned()
}
