//! A random sample of a collection's documents, for automatic mapping.

use futures_util::StreamExt;
use mongodb::bson::{RawDocument, rawdoc};

use super::{Documents, Source};
use crate::{change::Namespace, error::Result};

/// A sample of large documents has fewer of them: no further reply is read once it has so many bytes.
const BYTES_AT_MOST: usize = 256 << 20;

impl Source {
    /// Shows `observe` about `size` documents, or all there are if they are fewer, and those with the least and the
    /// greatest `_id`: an index is ordered by type, so these tell whether the `_id`s are of several types. One reply at
    /// a time is held in memory.
    pub async fn sample_documents(
        &self,
        namespace: &Namespace,
        size: u32,
        mut observe: impl FnMut(&RawDocument),
    ) -> Result<()> {
        let request = self.request_on("sample", namespace);
        let collection = namespace.collection.as_str();
        let outermost = |order: i32| rawdoc! { "find": collection, "sort": { "_id": order }, "limit": 1 };
        let random = rawdoc! {
            "aggregate": collection,
            "pipeline": [{ "$sample": { "size": i64::from(size) } }],
            "cursor": {},
        };
        let mut read = 0;
        for command in [outermost(1), outermost(-1), random] {
            let cursor = self.cursor(&namespace.database, command).await;
            let mut cursor = cursor.map_err(|e| request.failed(&e))?;
            while read < BYTES_AT_MOST {
                let Some(batch) = cursor.next().await else { break };
                let documents = Documents(batch.map_err(|e| request.failed(&e))?);
                read += documents.byte_len();
                for document in documents.iter()? {
                    observe(document?);
                }
            }
        }
        Ok(())
    }
}
