//! Shows how far the copying of a collection is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use indicatif::{HumanCount, ProgressBar};

use crate::{metrics, process_status::Vitals, sink::metadata::dead_letters::DeadLetter};

/// The copy progress of a collection.
pub(super) struct Copying {
    pub(super) name: String,
    pub(super) bar: ProgressBar,
    pub(super) vitals: Arc<Vitals>,
    pub(super) done: ::metrics::Gauge,
    pub(super) chunks_left: AtomicUsize,
    pub(super) rows: AtomicU64,
    /// Whether existing rows are replaced.
    pub(super) replaces: bool,
}

impl Copying {
    /// Starts to show how far a chunk is.
    pub(super) fn chunk(&self) -> ChunkUnderWay<'_> {
        ChunkUnderWay { copying: self, documents: 0, bytes: 0 }
    }
}

/// What a chunk held.
#[derive(Default)]
pub(super) struct CopiedChunk {
    pub(super) documents: u64,
    /// Of BSON.
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) letters: Vec<DeadLetter>,
}

/// How much of a chunk is written, shown as it is written. If dropped without [`committed`](Self::committed),
/// it is taken back from what is shown: the writes themselves are rolled back.
pub(super) struct ChunkUnderWay<'a> {
    pub(super) copying: &'a Copying,
    pub(super) documents: u64,
    pub(super) bytes: u64,
}

impl ChunkUnderWay<'_> {
    /// Shows that this many of its documents are written by now, and this many bytes of BSON.
    pub(super) fn written(&mut self, documents: u64, bytes: u64) {
        let Copying { bar, vitals, name, done, .. } = self.copying;
        let (more, more_bytes) = (documents.saturating_sub(self.documents), bytes.saturating_sub(self.bytes));
        bar.inc(more);
        vitals.copied(name, more, more_bytes);
        done.increment(metrics::figure(more));
        (self.documents, self.bytes) = (documents, bytes);
    }

    /// Shows that the chunk is copied.
    pub(super) fn committed(mut self, copied: &CopiedChunk) {
        self.written(copied.documents, copied.bytes);
        (self.documents, self.bytes) = (0, 0);
        let Copying { bar, name, rows, chunks_left, replaces, .. } = self.copying;
        let rows = rows.fetch_add(copied.rows, Ordering::Relaxed) + copied.rows;
        if chunks_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let (how, which) = if *replaces { ("copied again", " changed") } else { ("copied", "") };
            tracing::info!("{name}: {how}, {} rows{which}, in {:.1?}", HumanCount(rows), bar.elapsed());
            bar.finish_and_clear();
        }
    }
}

impl Drop for ChunkUnderWay<'_> {
    fn drop(&mut self) {
        let Copying { bar, vitals, name, done, .. } = self.copying;
        bar.dec(self.documents);
        vitals.rolled_back(name, self.documents, self.bytes);
        done.decrement(metrics::figure(self.documents));
    }
}
