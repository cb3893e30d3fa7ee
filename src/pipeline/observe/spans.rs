//! What the spans of batches, lookups and chunks say.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    model::{change::CollectionId, partition::Partition},
    pipeline::{
        apply::document_write::Write,
        collection::Collection,
        snapshot::{Copied, Work},
    },
    trace::Span,
};

/// Begins that of a batch. Positions alone are not traced.
pub(crate) fn batch(partition: Partition, events: u64) -> Span {
    let mut span = if events > 0 { Span::root("batch") } else { Span::default() };
    span.count("docrow.partition", partition.0);
    span.count("docrow.events", events);
    span
}

/// Says what a batch writes.
pub(crate) fn writes(span: &mut Span, writes: &[Write], collections: &[Collection]) {
    if !span.is_on() {
        return;
    }
    let concerned: BTreeSet<_> = writes.iter().map(|write| write.collection).collect();
    span.names("docrow.collections", concerned.into_iter().map(|id| name(collections, id)));
    span.count("docrow.documents", writes.len());
    span.count("docrow.bytes", writes.iter().map(Write::byte_len).sum::<usize>());
}

/// Begins that of a lookup for a batch.
pub(crate) fn lookup(batch: &Span, collections: &[Collection], id: CollectionId, documents: usize) -> Span {
    let mut span = batch.child("lookup");
    span.name("docrow.collection", name(collections, id));
    span.count("docrow.documents", documents);
    span
}

/// Begins that of a chunk.
pub(crate) fn chunk(work: &Work, collection: &Collection) -> Span {
    let mut span = Span::root("chunk");
    span.name("docrow.collection", collection.name());
    span.count("docrow.chunk", work.number);
    span
}

/// Ends that of a chunk with what it held. `None`: its collection is stopped.
pub(crate) fn end_chunk(mut span: Span, copied: &Result<Option<Copied>>) {
    let outcome = if let Ok(Some(Copied { documents, bytes, rows, .. })) = copied {
        span.count("docrow.documents", *documents);
        span.count("docrow.bytes", *bytes);
        span.count("docrow.rows", *rows);
        "committed"
    } else {
        "rolled_back"
    };
    span.end(copied, outcome);
}

fn name(collections: &[Collection], id: CollectionId) -> &str {
    collections.get(id.0).map_or("", Collection::name)
}
