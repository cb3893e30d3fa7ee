//! Splits a collection into chunks of its `_id` index.
//!
//! A chunk is a range of index keys, not of values: it is read by `min` and `max` with a hint, which follow
//! the order of the index across all BSON types. (`$gt` and `$lt` compare only within one type, and miss
//! documents if `_id`s have several types.) So the bounds must be keys in the order of the index, and only
//! the server knows that order: bounds come from it, sorted, and are never compared here.
//!
//! `splitVector` walks the index and splits it evenly. If that takes too long, because documents are many and
//! small, if it is refused (privileges, mongos, hosted deployments), or if index keys are not the values (a
//! collation), the bounds are a sorted sample of the `_id`s.

use std::ops::RangeInclusive;

use mongodb::bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::{collections::CollectionInfo, reply::Documents, server::Source};
use crate::error::{Code, Error, Result};

/// The maximum number of chunks; beyond it, they become larger.
const CHUNKS_AT_MOST: u64 = 100_000;
/// The chunk sizes that `splitVector` accepts.
const SPLIT_VECTOR_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;
/// Sampled `_id`s per bound, so that chunks differ less in size; fewer if there are many bounds.
const SAMPLES_PER_CHUNK: u64 = 20;
const SAMPLES_AT_MOST: u64 = 100_000;
/// With more documents per sampled one, sampling takes less time than walking the index (0.3 s for a
/// million).
const WALKED_PER_SAMPLE: u64 = 1000;

/// A chunk size that copies well: 2,000 documents of 6 KB, which measurements showed to copy fastest.
pub const CHUNK_BYTES: u64 = 12 << 20;

/// A range of the `_id` index: the documents from `min` (inclusive) to `max` (exclusive).
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// `{_id: …}`; `None`: from the first on.
    pub min: Option<RawDocumentBuf>,
    /// `{_id: …}`; `None`: to the last, MaxKey included.
    pub max: Option<RawDocumentBuf>,
}

impl Chunk {
    /// The whole collection.
    pub fn whole() -> Self {
        Self { min: None, max: None }
    }

    /// Reads bounds that were stored in the form of [`RawDocument::as_bytes`].
    pub fn from_bytes(min: Option<&[u8]>, max: Option<&[u8]>) -> Result<Self> {
        let bound = |bytes: Option<&[u8]>| {
            let read = |bytes| RawDocument::from_bytes(bytes).map(ToOwned::to_owned);
            bytes
                .map(read)
                .transpose()
                .map_err(|e| Error::caused(Code::StoredUnreadable, "read a stored chunk", e))
        };
        Ok(Self { min: bound(min)?, max: bound(max)? })
    }

    /// The chunks between `bounds`, before the first and after the last.
    ///
    /// MinKey and MaxKey are no bounds: nothing is before the one or after the other, and the server refuses
    /// an empty range (error 51175).
    fn between(mut bounds: Vec<RawDocumentBuf>) -> Vec<Self> {
        bounds.retain(|bound| !matches!(bound.get("_id"), Ok(Some(RawBsonRef::MinKey | RawBsonRef::MaxKey))));
        let mut chunks = Vec::with_capacity(bounds.len() + 1);
        let mut min = None;
        for bound in bounds {
            chunks.push(Self { min: min.replace(bound.clone()), max: Some(bound) });
        }
        chunks.push(Self { min, max: None });
        chunks
    }
}

impl Source {
    /// Splits a collection into chunks of about `chunk_bytes` of BSON, in the order of its `_id` index.
    /// Together they contain every document, also ones written meanwhile. A small or empty collection is one
    /// chunk.
    pub async fn split(&self, collection: &CollectionInfo, chunk_bytes: u64) -> Result<Vec<Chunk>> {
        let count = collection.bytes.div_ceil(chunk_bytes.max(1)).min(CHUNKS_AT_MOST);
        if count <= 1 {
            return Ok(vec![Chunk::whole()]);
        }
        let samples = (count * SAMPLES_PER_CHUNK).min(SAMPLES_AT_MOST).max(count);
        let walked = if collection.documents / samples < WALKED_PER_SAMPLE {
            self.split_vector(collection, collection.bytes.div_ceil(count)).await?
        } else {
            None
        };
        let bounds = match walked {
            Some(bounds) => bounds,
            None => self.sample(collection, samples).await?,
        };
        Ok(Chunk::between(thinned(bounds, count)))
    }

    /// `None`: the server refuses, or its answer would be useless.
    async fn split_vector(
        &self,
        collection: &CollectionInfo,
        bytes: u64,
    ) -> Result<Option<Vec<RawDocumentBuf>>> {
        if collection.collated || self.sharded {
            return Ok(None);
        }
        let namespace = &collection.namespace;
        let bytes = bytes.clamp(*SPLIT_VECTOR_BYTES.start(), *SPLIT_VECTOR_BYTES.end());
        let command = doc! {
            "splitVector": namespace.to_string(),
            "keyPattern": { "_id": 1 },
            "maxChunkSizeBytes": i64::try_from(bytes).unwrap_or(i64::MAX),
        };
        let request = self.request_on("split", namespace);
        match self.long_command(&request, &namespace.database, command).await {
            Ok(reply) => Ok(split_keys(&reply)),
            Err(error) => match super::error::code_of(&error) {
                Some(code) => {
                    tracing::debug!(
                        "splitVector of {namespace} is refused with code {code}: sampling instead"
                    );
                    Ok(None)
                }
                None => Err(request.failed(&error)),
            },
        }
    }

    async fn sample(&self, collection: &CollectionInfo, size: u64) -> Result<Vec<RawDocumentBuf>> {
        let namespace = &collection.namespace;
        let command = rawdoc! {
            "aggregate": namespace.collection.as_str(),
            "pipeline": [
                { "$sample": { "size": i64::try_from(size).unwrap_or(i64::MAX) } },
                { "$project": { "_id": 1 } },
                { "$sort": { "_id": 1 } },
            ],
            "cursor": {},
        };
        let request = self.request_on("sample", namespace);
        let cursor = self.cursor(&request, &namespace.database, command).await;
        let mut cursor = cursor.map_err(|e| request.failed(&e))?;
        let mut bounds = Vec::new();
        while let Some(batch) = cursor.next().await {
            let documents = Documents::of(batch.map_err(|e| request.failed(&e))?);
            for id in documents.iter()? {
                bounds.push(id?.to_owned());
            }
        }
        bounds.dedup();
        Ok(bounds)
    }
}

/// The keys in a reply of `splitVector`. `None`: there are none, although more than one chunk was requested.
fn split_keys(reply: &Document) -> Option<Vec<RawDocumentBuf>> {
    let keys = reply.get_array("splitKeys").ok().filter(|keys| !keys.is_empty())?;
    keys.iter().map(|key| RawDocumentBuf::try_from(key.as_document()?).ok()).collect()
}

/// Every nth of `bounds`, so that they make about `count` chunks, all of the same size if they were before.
///
/// A sample is larger than needed, and `splitVector` splits at half of the given size (observed on 6.0.5).
fn thinned(bounds: Vec<RawDocumentBuf>, count: u64) -> Vec<RawDocumentBuf> {
    let count = usize::try_from(count).unwrap_or(usize::MAX).max(1);
    let step = (bounds.len() + 1).saturating_add(count / 2) / count;
    bounds.into_iter().skip(step.saturating_sub(1)).step_by(step.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::RawBson;

    use super::*;

    fn bounds(count: i32) -> Vec<RawDocumentBuf> {
        (1..=count).map(|id| rawdoc! { "_id": id }).collect()
    }

    #[test]
    fn chunks_meet_without_gap_or_overlap() {
        let chunks = Chunk::between(bounds(3));
        assert_eq!(chunks.len(), 4);
        assert_eq!(chunks.first().unwrap().min, None);
        assert_eq!(chunks.last().unwrap().max, None);
        assert!(chunks.windows(2).all(|pair| pair[0].max.is_some() && pair[0].max == pair[1].min));
        assert_eq!(Chunk::between(Vec::new()), [Chunk::whole()]);
        let ends = [RawBson::MinKey, RawBson::MaxKey].map(|end| rawdoc! { "_id": end });
        assert_eq!(Chunk::between(ends.into()), [Chunk::whole()]);
    }

    #[test]
    fn thins_evenly_to_about_the_wanted_number() {
        let ids = |of, count| {
            thinned(bounds(of), count).iter().map(|b| b.get_i32("_id").unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(ids(3, 4), [1, 2, 3]);
        assert_eq!(ids(3, 9), [1, 2, 3]);
        assert_eq!(ids(99, 4), [25, 50, 75]);
        assert_eq!(ids(7, 4), [2, 4, 6]);
        assert_eq!(ids(4, 4), [1, 2, 3, 4]);
        assert!(ids(6, 1).is_empty());
        assert!(ids(0, 5).is_empty());
    }

    #[test]
    fn bounds_survive_storage() {
        let chunk = Chunk { min: Some(rawdoc! { "_id": f64::NAN }), max: None };
        let bytes = chunk.min.as_ref().map(|min| min.as_bytes());
        assert_eq!(Chunk::from_bytes(bytes, None).unwrap(), chunk);
        assert_eq!(Chunk::from_bytes(Some(b"no"), None).unwrap_err().code(), Code::StoredUnreadable);
    }
}
