//! Lookups of documents whose events do not carry them, or may be older than the row.

use std::{collections::HashMap, time::Instant};

use mongodb::bson::{RawDocumentBuf, Timestamp};

use super::{
    document_write::DocumentWrite,
    worker::{HELD_BYTES, PART_BYTES, PendingLookup, Worker, byte_len},
};
use crate::{
    config::Order,
    error::Result,
    metrics,
    model::{
        change::CollectionId,
        document_key::{DocumentKey, Id},
        partial_update::Patch,
    },
    pipeline::{
        planted::{self, Bug},
        ports::LookupCursor,
    },
    trace::Span,
};

impl Worker {
    /// Adds the current documents to `writes`; a document that is gone is added as a deletion. Documents
    /// beyond what may be held are written on the way, without a position: whatever happens afterwards, a
    /// replay would only write them again.
    pub(super) async fn look_up(
        &mut self,
        collection: CollectionId,
        wanted: Vec<PendingLookup>,
        writes: &mut Vec<DocumentWrite>,
        span: &mut Span,
    ) -> Result<()> {
        let began = Instant::now();
        metrics::LOOKUPS.add(u64::try_from(wanted.len()).unwrap_or(0));
        self.post.at("looks documents up in MongoDB");
        let (mut lookup, is_past) = self.begin_to_look_up(collection, &wanted).await?;
        let mut missing: HashMap<DocumentKey, (RawDocumentBuf, Timestamp, Option<Patch>)> = wanted
            .into_iter()
            .map(|wanted| (wanted.key, (wanted.document_key, wanted.at, wanted.patch)))
            .collect();
        let mut found = Vec::new();
        while let Some(documents) = lookup.next().await? {
            self.post.at("looks documents up in MongoDB");
            for document in documents.iter()? {
                let document = document?;
                let key = DocumentKey::of(Id::of(document)?);
                let Some((document_key, at, patch)) = missing.remove(&key) else { continue };
                self.ahead.looked_up(&key, lookup.operation_time());
                let part = patch.and_then(|patch| {
                    let part = patch.of_document(document)?;
                    (part.as_bytes().len() <= PART_BYTES).then_some((part, patch.fields))
                });
                let (document, fields) = match part {
                    Some((part, fields)) => (part, Some(fields)),
                    None => (document.to_owned(), None),
                };
                found.push(DocumentWrite { collection, document_key, document: Some(document), fields, at });
            }
            drop(documents);
            // A reply has up to 16 MB, so this is checked often enough.
            if self.order == Order::Document && byte_len(&found) >= HELD_BYTES {
                self.write_whole(&mut found).await?;
            }
        }
        metrics::LOOKUP_DURATION.record(began.elapsed().as_secs_f64());
        metrics::LOOKUPS_MISSING.add(u64::try_from(missing.len()).unwrap_or(0));
        span.count("docrow.missing", missing.len());
        if self.order == Order::Commit && !is_past {
            // Stored before it becomes true.
            self.writer.note_ahead(lookup.operation_time()).await?;
            self.ahead.raise(lookup.operation_time());
        }
        for (key, (document_key, at, _)) in missing {
            self.ahead.looked_up(&key, lookup.operation_time());
            found.push(DocumentWrite { collection, document_key, document: None, fields: None, at });
        }
        if self.order == Order::Document && byte_len(&found) + byte_len(writes) >= 2 * HELD_BYTES {
            self.write_whole(&mut found).await?;
        }
        writes.append(&mut found);
        Ok(())
    }

    /// Begins to look documents up, as they are now. In the order of commits: as they were at the last of
    /// their collection's changes, so that all documents written together are of one time, and retried ones
    /// are not of the past. (Another collection may have another such time: it has no change between that and
    /// the batch's end, unless this collection comes out of the spool, and is behind.) Where rows may be
    /// ahead of that time: as they were at the time up to which all rows may be ahead, so that no row goes
    /// back (G3), and none gets further ahead; once the stream has reached that time, all rows are of one
    /// time. If the server no longer reaches back that far: as they are now, and `false` is returned, because
    /// rows are then ahead up to the present.
    async fn begin_to_look_up(
        &mut self,
        collection: CollectionId,
        wanted: &[PendingLookup],
    ) -> Result<(Box<dyn LookupCursor>, bool)> {
        let times = wanted.iter().map(|wanted| wanted.at);
        let until = times.max().unwrap_or(Timestamp { time: 0, increment: 0 });
        let namespace = self.collection(collection)?.namespace().clone();
        let keys: Vec<_> = wanted.iter().map(|wanted| &*wanted.document_key).collect();
        if self.order == Order::Commit {
            let changed = self.changed.get(&collection).filter(|_| !planted::has(Bug::TriedAgainAsItWas));
            let at = changed.map_or(until, |changed| until.max(*changed));
            let at = self.ahead.noted().max(at);
            if let Some(lookup) = self.source.lookup_at(&namespace, &keys, at).await? {
                return Ok((lookup, true));
            }
        }
        Ok((self.source.lookup(&namespace, &keys, until).await?, false))
    }
}
