//! What some servers lack that docrow can use. A test that needs such a thing says so, and does not apply to
//! a server without it; `.ci/matrix` counts these.

use std::{fs::OpenOptions, io::Write};

use mongodb::{
    Client, Database,
    bson::{Document, doc},
    error::ErrorKind,
};

use super::servers;

/// What a test may need of MongoDB. The server itself is asked, since a version says little about compatible
/// services.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Capability {
    /// Reads at a point in time outside of transactions, for `order = "commit"`.
    StatesOfThePast,
    PostImages,
    TimeSeries,
    Clustered,
    /// The operator `$setField`.
    SetField,
    /// Deletes in the oplog for what a capped collection loses.
    CappedDeletes,
}

impl Capability {
    /// What a server without it refuses, except for the last: it is in the oplog, or not.
    fn command(self) -> Document {
        match self {
            Self::CappedDeletes => doc! { "create": "c", "capped": true, "size": 4096, "max": 1 },
            Self::StatesOfThePast => doc! { "find": "c", "readConcern": { "level": "snapshot" } },
            Self::PostImages => doc! { "create": "c", "changeStreamPreAndPostImages": { "enabled": true } },
            Self::TimeSeries => doc! { "create": "c", "timeseries": { "timeField": "t" } },
            Self::Clustered => {
                doc! { "create": "c", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } }
            }
            Self::SetField => {
                let set = doc! { "$setField": { "field": "a", "input": "$$ROOT", "value": 1 } };
                doc! { "aggregate": "c", "pipeline": [{ "$replaceWith": set }], "cursor": {} }
            }
        }
    }
}

/// What the server says that lacks this.
pub(crate) async fn lack(capability: Capability) -> Option<String> {
    let client = Client::with_uri_str(&servers().await.mongodb_uri).await.unwrap();
    // Of each call its own.
    let database = client.database(&format!("docrow_needs_{}", fastrand::u64(..)));
    let lack = match database.run_command(capability.command()).await.map_err(|e| *e.kind) {
        Ok(_) if matches!(capability, Capability::CappedDeletes) => removes_in_silence(&database).await,
        Ok(_) => None,
        Err(ErrorKind::Command(error)) => Some(error.message),
        Err(other) => panic!("{other}"),
    };
    database.drop().await.unwrap();
    lack
}

async fn removes_in_silence(database: &Database) -> Option<String> {
    database.collection("c").insert_many([doc! {}, doc! {}]).await.unwrap();
    let removed = doc! { "op": "d", "ns": format!("{}.c", database.name()) };
    let oplog = database.client().database("local").collection::<Document>("oplog.rs");
    let said = oplog.find_one(removed).await.unwrap();
    said.is_none().then(|| "the oplog does not have what it removed".to_owned())
}

/// Whether the server lacks what this test needs: then the test has nothing to show, and ends.
pub(crate) async fn lacks(capability: Capability) -> bool {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    lacks_for(&test, capability).await
}

/// The same for a test's part. What is not applicable is written down for the matrix to count. Outside of it,
/// the server is one that has everything.
pub(crate) async fn lacks_for(part: &str, capability: Capability) -> bool {
    let Some(said) = lack(capability).await else { return false };
    let Ok(file) = std::env::var("DOCROW_NOT_APPLICABLE") else {
        panic!(
            "{part}: MongoDB lacks {capability:?}: {said}; `make matrix` counts that, and does not call it a failure"
        )
    };
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    // In one write, so that lines of several tests do not mix.
    file.write_all(format!("{capability:?} {part}\n").as_bytes()).unwrap();
    true
}
