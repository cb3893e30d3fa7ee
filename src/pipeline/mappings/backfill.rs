//! Takes values out of `extra` for which columns and tables have been made since, and out of columns for
//! which wider ones have been made.
//!
//! Each document is rebuilt from its rows with the mapping in force, which also reads rows written by an
//! earlier version, and is encoded with it again: values that had been noted land in their columns. So there
//! is no second way for a value to get into a column. This is done for some hundred documents at a time,
//! while nothing else writes to the collection, so that no row goes backwards (G3); which documents these are
//! is found beforehand, while others write. If another session has locked a row or a table, the mapping is
//! released, and the documents are taken again later. Rows that make no document are not docrow's: see
//! [`foreign_rows`](super::foreign_rows).

use std::collections::BTreeSet;

use bytes::BytesMut;
use indicatif::HumanCount;
use mongodb::bson::RawDocumentBuf;

use tokio::sync::Mutex;

use super::{
    active::Unfilled,
    foreign_rows::Foreign,
    keeper_context::{FILLING, KeeperContext},
};
use crate::{
    error::{Code, Kind, Result},
    mapping::{Encoder, Framing, Mapping, Rebuilder, Rows, Tuple},
    model::change::CollectionId,
    pipeline::{
        collection::Collection,
        planted::{self, Bug},
        ports::{RowApplier, RowReader, RowTarget, TargetSession},
        tries::Tries,
    },
    schema::{FieldPath, Segment},
    sink::{
        Keys,
        rows::{
            scan_extra::WantedDocuments,
            upsert::{Batch, CollectionBatch},
        },
    },
};

/// How many documents are filled at a time: first a few, then as many as have about this many bytes of rows
/// (G11).
const FIRST_PAGE: u16 = 10;
const LARGEST_PAGE: u16 = 500;
const PAGE_BYTES: usize = (8 << 20) / FILLING;
/// The most that is read of several documents, because one may be much larger than those before; if there is
/// more, they are taken in halves.
const MOST_BYTES: usize = 2 * PAGE_BYTES;

/// How far a collection was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Complete.
    All,
    /// All but documents that PostgreSQL refuses, or whose rows docrow did not write.
    ButSome,
    /// Not all: the turn ends.
    CutOff,
}

impl KeeperContext {
    /// Fills the tables of a collection, which must be complete. `session` finds the documents to fill.
    pub(super) async fn fill(
        &self,
        collection: &Collection,
        unfilled: &Unfilled,
        session: &mut dyn TargetSession,
        tries: &mut Tries,
    ) -> Result<Filled> {
        let steps = match unfilled {
            Unfilled::All => None,
            Unfilled::Fields(fields) => Some(first_steps(fields)),
        };
        let (target, reporter) = (&self.pipeline.ports.target, &self.pipeline.monitor.reporter);
        let mapping = collection.mapping().await;
        let wanted = WantedDocuments {
            root: mapping.tables().first().cloned(),
            extra: mapping.extra().map(|extra| extra.name.clone()),
            steps,
            replacements: mapping.replacements(),
        };
        let begun = tries.unless_stopped(async {
            let scan = session.scan(&wanted).await?;
            Ok((scan, Filler::start(&**target, &self.alone).await?))
        });
        let Some((mut scan, mut filler)) = begun.await.transpose()? else { return Ok(Filled::CutOff) };
        let bar = reporter.counter(format!("{}: filling new columns, documents", collection.name()));
        let mut page = FIRST_PAGE;
        let filled = loop {
            let keys = tries.unless_stopped(scan.next(page)).await.transpose()?;
            let Some(keys) = keys else { break Filled::CutOff };
            if keys.is_empty() {
                break Filled::All;
            }
            let Some(next) = filler.fill(collection, keys, tries).await? else { break Filled::CutOff };
            page = next;
            filler.foreign.ask_for_many(&**target, collection).await?;
            bar.set_position(filler.filled);
        };
        bar.finish_and_clear();
        let (name, Filler { filled: count, refused, foreign, .. }) = (collection.name(), filler);
        let is_foreign = foreign.finish(&**target, collection).await?;
        if filled == Filled::All && count > 0 {
            tracing::info!("{name}: new columns are filled in {} documents", HumanCount(count));
        }
        if refused > 0 {
            tracing::warn!(
                "{name}: PostgreSQL refuses to fill new columns in {} documents: their values stay in extra",
                HumanCount(refused)
            );
        }
        Ok(if filled == Filled::All && (refused > 0 || is_foreign) { Filled::ButSome } else { filled })
    }
}

/// Returns how many documents to take next, after `documents` had `bytes` bytes of rows.
fn next_page(documents: usize, bytes: usize) -> u16 {
    let fitting = PAGE_BYTES * documents.max(1) / bytes.max(1);
    u16::try_from(fitting).unwrap_or(u16::MAX).clamp(1, LARGEST_PAGE)
}

/// Fills documents, some at a time.
struct Filler<'a> {
    reader: Box<dyn RowReader>,
    applier: Box<dyn RowApplier>,
    /// Held while a single document is filled, which may be large.
    alone: &'a Mutex<()>,
    filled: u64,
    refused: u64,
    foreign: Foreign,
}

/// The result for some documents.
enum PageOutcome {
    /// They are filled; their rows had this many bytes.
    Done(usize),
    /// They are too large to be read at once: nothing was done.
    TooMuch,
    /// Writers hold the mapping: nothing was done.
    NotNow,
}

/// A document and the bytes of its key column.
type Keyed = (Vec<u8>, RawDocumentBuf);

impl<'a> Filler<'a> {
    /// Opens sessions that wait for a lock no longer than a moment, because workers wait for them meanwhile.
    async fn start(target: &dyn RowTarget, alone: &'a Mutex<()>) -> Result<Self> {
        let (reader, applier) = (target.reader_in_haste().await?, target.applier_in_haste().await?);
        Ok(Self { reader, applier, alone, filled: 0, refused: 0, foreign: Foreign::default() })
    }

    /// Reads the documents with these keys, and writes them again. Returns how many to take next; `None`: the
    /// turn ends.
    async fn fill(&mut self, collection: &Collection, keys: Keys, tries: &mut Tries) -> Result<Option<u16>> {
        let (mut parts, mut page) = (vec![keys], LARGEST_PAGE);
        while let Some(part) = parts.pop() {
            match self.fill_part(collection, &part, tries).await {
                Ok(PageOutcome::Done(bytes)) => {
                    tries.succeeded();
                    page = next_page(part.count, bytes);
                }
                Ok(PageOutcome::TooMuch) => {
                    let [first, rest] = part.halves();
                    parts.extend([rest, first]);
                }
                Ok(PageOutcome::NotNow) if tries.again().await => parts.push(part),
                Err(error) if error.code() == Code::TargetLocked => {
                    tries.warn_once(&format!("{}: values of new columns", collection.name()), &error);
                    parts.push(part);
                    if !tries.again().await {
                        return Ok(None);
                    }
                }
                Ok(PageOutcome::NotNow) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(page))
    }

    /// Does the same for some of these keys.
    async fn fill_part(
        &mut self,
        collection: &Collection,
        keys: &Keys,
        tries: &Tries,
    ) -> Result<PageOutcome> {
        let (_alone, most) = match keys.count {
            0 | 1 => (Some(self.alone.lock().await), usize::MAX),
            _ => (None, MOST_BYTES),
        };
        let Some(held) = tries.grasp(collection).await else { return Ok(PageOutcome::NotNow) };
        let mapping = held.clone();
        let _held = (!planted::has(Bug::FillOvertakes)).then_some(held);
        let Some(found) = self.reader.documents(mapping.tables(), keys, most).await? else {
            return Ok(PageOutcome::TooMuch);
        };
        let bytes = found.values().map(Rows::byte_len).sum();
        let mut documents = Vec::with_capacity(found.len());
        let (rebuilder, mut encoder) =
            (Rebuilder::new(&mapping), Encoder::new(mapping.clone(), Framing::Composite));
        for (key, rows) in found.into_iter().filter(|(_, rows)| exists(&mapping, rows)) {
            let mut again = BytesMut::new();
            match rebuilder.document(&rows) {
                Ok(document) if encoder.encode_key(&document, &mut again).is_ok() && *again == *key => {
                    documents.push((key, document));
                }
                Ok(_) => self.foreign.note(&mapping, &key, "they have another _id than their key"),
                Err(corrupt) => self.foreign.note(&mapping, &key, corrupt),
            }
        }
        let (filled, refused) = self.write(&mapping, &mut encoder, &documents).await?;
        self.filled += filled;
        self.refused += refused;
        Ok(PageOutcome::Done(bytes))
    }

    /// Writes documents; if one is refused, in halves, until it is alone. Returns how many are filled, and
    /// how many refused.
    async fn write(
        &mut self,
        mapping: &Mapping,
        encoder: &mut Encoder,
        documents: &[Keyed],
    ) -> Result<(u64, u64)> {
        let mut rows = Rows::new(mapping.tables().len());
        let (mut parts, mut filled, mut refused) = (vec![documents], 0, 0);
        while let Some(part) = parts.pop() {
            rows.clear();
            let mut upserted = Keys::default();
            for (key, document) in part {
                if encoder.encode(document, &mut rows).is_ok() {
                    upserted.push(key);
                }
            }
            let (count, deleted) = (u64::try_from(upserted.count).unwrap_or(0), Keys::default());
            let batch = CollectionBatch {
                collection: CollectionId(0),
                tables: mapping.tables(),
                rows: &rows,
                upserted: &upserted,
                deleted: &deleted,
            };
            let batch = Batch { collections: vec![batch], ..Batch::default() };
            match self.applier.apply(&batch).await {
                Ok(_) => filled += count,
                Err(error) if error.kind() == Kind::TargetRefusedRows && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) if error.kind() == Kind::TargetRefusedRows => refused += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((filled, refused))
    }
}

/// Whether these rows have a document: it may have been deleted meanwhile, or be marked as deleted.
fn exists(mapping: &Mapping, rows: &Rows) -> bool {
    let root = mapping.tables().first().zip(rows.tables.first());
    root.is_some_and(|(table, rows)| {
        let marked = |tuple: Tuple<'_>| table.soft_delete && tuple.columns().last().flatten().is_some();
        rows.tuples().next().is_some_and(|tuple| !marked(tuple))
    })
}

/// The first steps of the keys of `extra` whose values may belong to one of these fields: to the field
/// itself, to something around it, or to something in it. They find too many documents, but never too few,
/// and it does not matter to PostgreSQL how many names there are and what is in them.
fn first_steps(fields: &[FieldPath]) -> Vec<String> {
    let names = fields.iter().filter_map(|field| field.segments().first());
    let names: BTreeSet<_> = names.map(Segment::in_extra).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_first_step() {
        let paths = ["lines[].x", "a.b", "a.c[].d", r"a\.b", r"c\\"];
        let paths: Vec<_> = paths.iter().map(|path| FieldPath::parse(path).unwrap()).collect();
        // A dot in a name is escaped by a backslash in the key.
        assert_eq!(first_steps(&paths), ["a", r"a\.b", r"c\\", "lines"]);
    }

    #[test]
    fn pages_have_about_as_many_bytes() {
        assert_eq!(next_page(10, 10), LARGEST_PAGE);
        assert_eq!(next_page(10, PAGE_BYTES), 10);
        assert_eq!(next_page(10, PAGE_BYTES * 100), 1);
    }
}
