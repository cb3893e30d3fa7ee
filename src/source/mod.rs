//! Everything that is read from MongoDB: the existing collections, their documents in chunks, their changes,
//! and the current state of single documents.
//!
//! Reads are `majority` reads, so that nothing is read that a failover could roll back, and, where it
//! matters, causally after a point in time that the caller names. Documents are passed on as the raw BSON
//! that the server sent. Only `error.rs` decides what an error means. Only the change stream retries by
//! itself; everything else returns errors to its caller.

mod ask;
mod change_stream;
mod chosen;
mod clock;
mod collections;
mod connect;
mod deployment;
mod diagnosis;
mod error;
pub mod event;
mod lookup;
mod oplog;
mod patterns;
mod privileges;
mod reply;
mod sample;
mod scope;
mod secondaries;
mod server;
mod silence;
mod snapshot;
mod split;
mod survey;
mod tls;

pub use self::{
    change_stream::{ChangeStream, StreamBatch},
    chosen::chosen,
    clock::ClockLook,
    collections::{CollectionChoice, CollectionInfo},
    connect::name,
    deployment::{Deployment, Kinship},
    error::ANEW,
    event::Event,
    lookup::Lookup,
    oplog::{Oplog, OplogSize},
    privileges::{MissingPrivilege, NeededPrivileges, UserAccess},
    reply::Documents,
    sample::SAMPLE_SIZE,
    scope::StreamStart,
    server::Source,
    snapshot::ChunkReader,
    split::{CHUNK_BYTES, Chunk},
    survey::{Excluded, SourceSurvey},
};
