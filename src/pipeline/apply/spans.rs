//! The contents of the spans of batches and lookups.

use std::collections::BTreeSet;

use super::document_write::DocumentWrite;
use crate::{
    model::{change::CollectionId, partition::Partition},
    pipeline::collection::Collection,
    trace::Span,
};

/// Begins the span of a batch. Positions alone are not traced.
pub(crate) fn batch(partition: Partition, events: u64) -> Span {
    let mut span = if events > 0 { Span::root("batch") } else { Span::default() };
    span.count("docrow.partition", partition.0);
    span.count("docrow.events", events);
    span
}

/// Records what a batch writes.
pub(crate) fn writes(span: &mut Span, writes: &[DocumentWrite], collections: &[Collection]) {
    if !span.is_on() {
        return;
    }
    let concerned: BTreeSet<_> = writes.iter().map(|write| write.collection).collect();
    span.names("docrow.collections", concerned.into_iter().map(|id| name(collections, id)));
    span.count("docrow.documents", writes.len());
    span.count("docrow.bytes", writes.iter().map(DocumentWrite::byte_len).sum::<usize>());
}

/// Begins the span of a lookup for a batch.
pub(crate) fn lookup(batch: &Span, collections: &[Collection], id: CollectionId, documents: usize) -> Span {
    let mut span = batch.child("lookup");
    span.name("docrow.collection", name(collections, id));
    span.count("docrow.documents", documents);
    span
}

fn name(collections: &[Collection], id: CollectionId) -> &str {
    collections.get(id.0).map_or("", Collection::name)
}
