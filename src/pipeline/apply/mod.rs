//! From changes to transactions: what a partition's worker does with its share of the stream.
//!
//! A `worker` folds changes into a `batch`, looks documents up where an event may be stale (`staleness`), and
//! hands each `document_write` to its `writer`. The writer has a `collection_encoder` for each collection,
//! with a `partial_encoder` for documents of which only some fields are known. The worker reports what is
//! durable to `acknowledge`.

pub(super) mod acknowledge;
pub mod batch;
mod collection_encoder;
pub(super) mod document_write;
mod lookup;
mod partial_encoder;
mod spans;
pub(super) mod staleness;
pub(super) mod worker;
pub(super) mod writer;
