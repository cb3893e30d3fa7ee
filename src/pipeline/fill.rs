//! Takes values out of `extra` for which columns and tables were made since.
//!
//! Each document is rebuilt from its rows by the mapping in force, which reads those written by an earlier version too,
//! and encoded by it again: what had been noted lands in its column. So there is no second way in which a value could
//! get into a column. It is done for some hundred documents at a time while nobody else writes to the collection, so
//! that no row goes backwards (G3); which documents these are is found beforehand, while others write.

use std::sync::Arc;

use indicatif::HumanCount;
use mongodb::bson::RawDocumentBuf;

use super::{Collection, Pipeline, mappings::Unfilled};
use crate::{
    change::CollectionId,
    error::{Error, Kind, Result},
    mapping::{Encoder, Framing, Mapping, Rebuilder, Rows, Tuple},
    schema::FieldPath,
    sink::{
        Keys,
        progress::Partition,
        read::Reader,
        scan::Scan,
        upsert::{Applier, Batch, CollectionBatch},
    },
};

/// Documents that are filled at a time: first a few, then as many as have about so many bytes of rows (G11).
const FIRST_PAGE: u16 = 10;
const LARGEST_PAGE: u16 = 500;
const PAGE_BYTES: usize = 8 << 20;
/// What is read of documents of which one may be much larger than those before: more, and they are taken in halves.
const MOST_BYTES: usize = 2 * PAGE_BYTES;

impl Pipeline<'_> {
    /// Fills the tables of a collection, which must have their keys.
    pub(super) async fn fill(&self, collection: &Collection, unfilled: &Unfilled) -> Result<()> {
        let pattern = match unfilled {
            Unfilled::All => None,
            Unfilled::Fields(fields) => Some(pattern(fields)),
        };
        let mut scanning = self.target.connect().await?;
        let held = collection.hold().await;
        let places =
            held.tables().first().zip(held.extra()).map(|(root, extra)| (root.clone(), extra.clone()));
        drop(held);
        // A mapping without `extra` has nothing in it to be taken out.
        let Some((root, extra)) = places else { return Ok(()) };
        let schema = self.target.schema();
        let mut scan = Scan::of_extra(&mut scanning, schema, (&root, &extra), pattern.as_deref()).await?;
        let mut filler = Filler {
            reader: Reader::new(self.target.connect().await?, &self.target),
            applier: Applier::new(self.target.connect().await?, &self.target, Partition(0), 0).await?,
            filled: 0,
            refused: 0,
        };
        let bar = self.reporter.counter(format!("{}: filling new columns, documents", collection.name()));
        let mut page = FIRST_PAGE;
        loop {
            let keys = scan.next(page).await?;
            if keys.is_empty() {
                break;
            }
            page = filler.fill(collection, keys).await?;
            bar.set_position(filler.filled);
        }
        bar.finish_and_clear();
        let (name, Filler { filled, refused, .. }) = (collection.name(), filler);
        if filled > 0 {
            tracing::info!("{name}: new columns are filled in {} documents", HumanCount(filled));
        }
        if refused > 0 {
            tracing::warn!(
                "{name}: PostgreSQL refuses to have new columns filled in {} documents: their values stay in extra",
                HumanCount(refused)
            );
        }
        Ok(())
    }
}

/// How many documents to take next, after `documents` had `bytes` bytes of rows.
fn next_page(documents: usize, bytes: usize) -> u16 {
    let fitting = PAGE_BYTES * documents.max(1) / bytes.max(1);
    u16::try_from(fitting).unwrap_or(u16::MAX).clamp(1, LARGEST_PAGE)
}

/// Fills some documents at a time.
struct Filler {
    reader: Reader,
    applier: Applier,
    filled: u64,
    refused: u64,
}

/// A document and the bytes of its key column.
type Keyed = (Vec<u8>, RawDocumentBuf);

impl Filler {
    /// Reads the documents with these keys, and writes them anew. How many to take next.
    async fn fill(&mut self, collection: &Collection, keys: Keys) -> Result<u16> {
        let (mut parts, mut page) = (vec![keys], LARGEST_PAGE);
        while let Some(part) = parts.pop() {
            match self.fill_part(collection, &part).await? {
                Some(bytes) => page = next_page(part.count, bytes),
                None => {
                    let [first, rest] = part.halves();
                    parts.extend([rest, first]);
                }
            }
        }
        Ok(page)
    }

    /// The same for some of them: how many bytes their rows had. `None`: too many, nothing was done.
    async fn fill_part(&mut self, collection: &Collection, keys: &Keys) -> Result<Option<usize>> {
        let mapping = collection.change().await;
        let most = if keys.count > 1 { MOST_BYTES } else { usize::MAX };
        let Some(found) = self.reader.documents(mapping.tables(), keys, most).await? else { return Ok(None) };
        let bytes = found.values().map(Rows::byte_len).sum();
        let mut documents = Vec::with_capacity(found.len());
        let rebuilder = Rebuilder::new(&mapping);
        for (key, rows) in found {
            if exists(&mapping, &rows) {
                let doing = || format!("rebuild a document of {} from its rows", collection.name());
                let document = rebuilder.document(&rows).map_err(|e| Error::caused(Kind::Bug, doing(), e))?;
                documents.push((key, document));
            }
        }
        self.write(&mapping, &documents).await?;
        Ok(Some(bytes))
    }

    /// Writes documents; in halves, where one of them is refused, until that is alone.
    async fn write(&mut self, mapping: &Arc<Mapping>, documents: &[Keyed]) -> Result<()> {
        let mut encoder = Encoder::new(mapping.clone(), Framing::Composite);
        let mut rows = Rows::new(mapping.tables().len());
        let mut parts = vec![documents];
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
                Ok(_) => self.filled += count,
                Err(error) if error.kind() == Kind::TargetRefusedRows && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(error) if error.kind() == Kind::TargetRefusedRows => self.refused += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether there is a document to these rows: it may have been deleted meanwhile, or be marked so.
fn exists(mapping: &Mapping, rows: &Rows) -> bool {
    let root = mapping.tables().first().zip(rows.tables.first());
    root.is_some_and(|(table, rows)| {
        let marked = |tuple: Tuple<'_>| table.soft_delete && tuple.columns().last().flatten().is_some();
        rows.tuples().next().is_some_and(|tuple| !marked(tuple))
    })
}

/// A regular expression for the keys of `extra` whose values may belong to one of the fields: the field's own path, or
/// that of something around it, or in it. May find too many, not too few.
fn pattern(fields: &[FieldPath]) -> String {
    let of = |field: &FieldPath| {
        let steps = field.segments().iter().flat_map(|segment| {
            let name = std::iter::once(regex_escape(&segment.name));
            name.chain(std::iter::repeat_n("[0-9]+".to_owned(), segment.arrays))
        });
        let steps: Vec<_> = steps.collect();
        let (open, close) = (steps.join(r"(\."), ")?".repeat(steps.len().saturating_sub(1)));
        format!("{open}{close}")
    };
    let fields: Vec<_> = fields.iter().map(of).collect();
    format!(r"^({})(\.|\\|$)", fields.join("|"))
}

/// A field's name as it stands in a key of `extra`, as part of a regular expression.
fn regex_escape(name: &str) -> String {
    let mut escaped = String::new();
    for char in name.replace('\\', r"\\").replace('.', r"\.").chars() {
        if !char.is_alphanumeric() && char != '_' {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_a_field_and_what_is_around_it() {
        let of = |path: &str| pattern(&[FieldPath::parse(path).unwrap()]);
        assert_eq!(of("a"), r"^(a)(\.|\\|$)");
        assert_eq!(of("a.b"), r"^(a(\.b)?)(\.|\\|$)");
        assert_eq!(of("lines[].x"), r"^(lines(\.[0-9]+(\.x)?)?)(\.|\\|$)");
        // A dot in a name is escaped by a backslash in the key.
        assert_eq!(of(r"a\.b"), r"^(a\\\.b)(\.|\\|$)");
    }

    #[test]
    fn pages_have_about_as_many_bytes() {
        assert_eq!(next_page(10, 10), LARGEST_PAGE);
        assert_eq!(next_page(10, PAGE_BYTES), 10);
        assert_eq!(next_page(10, PAGE_BYTES * 100), 1);
    }
}
