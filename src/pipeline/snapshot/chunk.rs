//! A chunk that must still be copied, and its trace.

use std::sync::Arc;

use super::progress::{CopiedChunk, Copying};
use crate::{
    error::Result, model::change::CollectionId, pipeline::collection::Collection, source::Chunk, trace::Span,
};

/// A chunk that must be copied.
pub(super) struct ChunkWork {
    pub(super) collection: CollectionId,
    pub(super) number: u32,
    pub(super) chunk: Chunk,
    /// Whether its documents may already have rows.
    pub(super) replaces: bool,
    pub(super) copying: Arc<Copying>,
}

/// Begins the trace span of a chunk.
pub(super) fn begin_span(work: &ChunkWork, collection: &Collection) -> Span {
    let mut span = Span::root("chunk");
    span.name("docrow.collection", collection.name());
    span.count("docrow.chunk", work.number);
    span
}

/// Ends the trace span of a chunk with what the chunk held. `None`: its collection is stopped.
pub(super) fn end_span(mut span: Span, copied: &Result<Option<CopiedChunk>>) {
    let outcome = if let Ok(Some(CopiedChunk { documents, bytes, rows, .. })) = copied {
        span.count("docrow.documents", *documents);
        span.count("docrow.bytes", *bytes);
        span.count("docrow.rows", *rows);
        "committed"
    } else {
        "rolled_back"
    };
    span.end(copied, outcome);
}
