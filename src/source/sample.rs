//! A random sample of a collection's documents, for its mapping.

use futures_util::try_join;
use mongodb::bson::{RawDocument, RawDocumentBuf, rawdoc};

use super::{reply::Documents, server::Source};
use crate::{error::Result, model::change::Namespace};

/// A sample of large documents has fewer of them: no further reply is read after this many bytes.
const BYTES_AT_MOST: usize = 256 << 20;

/// How many documents are sampled for a mapping by default.
pub const SAMPLE_SIZE: u32 = 2_000;

impl Source {
    /// Passes `size` documents to `observe`, or all if there are fewer. The first are those with the least
    /// and the greatest `_id`: an index is ordered by type, so they show whether the `_id`s are of several
    /// types. Two of them, and one reply at a time, are held in memory.
    pub async fn sample_documents(
        &self,
        namespace: &Namespace,
        size: u32,
        mut observe: impl FnMut(&RawDocument),
    ) -> Result<()> {
        let request = self.request_on("sample", namespace);
        let collection = namespace.collection.as_str();
        // As the copies, without what is rolled back, and without what a shard no longer owns.
        let majority = || rawdoc! { "level": "majority" };
        let outermost = |order: i32| {
            rawdoc! {
                "find": collection, "sort": { "_id": order }, "limit": 1, "readConcern": majority(),
            }
        };
        let random = rawdoc! {
            "aggregate": collection,
            "pipeline": [{ "$sample": { "size": i64::from(size) } }],
            "cursor": {},
            // A sample of more than a twentieth of the collection is sorted, which takes memory.
            "allowDiskUse": true,
            "readConcern": majority(),
        };
        let open = |command| self.cursor(&request, &namespace.database, command);
        let opened = try_join!(open(outermost(1)), open(outermost(-1)), open(random));
        let (least, greatest, random) = opened.map_err(|e| request.failed(&e))?;
        let (mut read, mut left) = (0, size);
        let mut first: Vec<RawDocumentBuf> = Vec::new();
        for (mut cursor, few) in [(least, true), (greatest, true), (random, false)] {
            while read < BYTES_AT_MOST {
                let Some(batch) = cursor.next().await else { break };
                let documents = Documents::of(batch.map_err(|e| request.failed(&e))?);
                read += documents.byte_len();
                for document in documents.iter()? {
                    let document = document?;
                    if left == 0 || first.iter().any(|shown| shown.as_bytes() == document.as_bytes()) {
                        continue;
                    }
                    observe(document);
                    left -= 1;
                    first.extend(few.then(|| document.to_owned()));
                }
            }
        }
        Ok(())
    }
}
