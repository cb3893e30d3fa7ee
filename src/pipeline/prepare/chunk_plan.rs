//! The chunks of a collection, saved before they are used: cutting a large collection takes long.

use mongodb::bson::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};

use super::{Preparation, Purpose};
use crate::{
    error::{Code, Error, Kind, Result},
    failpoint::{self, Failpoint},
    pipeline::collection::Collection,
    sink::metadata::chunks::StoredChunk,
    source::{CHUNK_BYTES, Chunk},
};

impl Preparation<'_> {
    /// Returns the chunks, numbered, as PostgreSQL stores them.
    pub(super) fn stored_form(chunks: &[Chunk]) -> Vec<StoredChunk> {
        let bytes = |bound: &Option<RawDocumentBuf>| bound.as_ref().map(|bound| bound.as_bytes().to_vec());
        let stored = |(number, chunk): (u32, &Chunk)| StoredChunk {
            number,
            min: bytes(&chunk.min),
            max: bytes(&chunk.max),
            copied: None,
            replaces: false,
        };
        (0..).zip(chunks).map(stored).collect()
    }

    /// Returns the chunks of a collection. A first copy uses those that were cut before a crash, because
    /// cutting a large collection takes long. Old chunks are as good as new ones: they cover all possible
    /// keys.
    pub(super) async fn cut(&self, collection: &Collection, purpose: Purpose) -> Result<Vec<Chunk>> {
        let namespace = collection.namespace();
        if purpose == Purpose::Copy
            && let Some(plan) = self.pipeline.ports.spool.open()?.plan(namespace.clone()).await?
            && let Ok(chunks) = decode(&plan)
        {
            return Ok(chunks);
        }
        let chunks = self.source.split(&collection.info, CHUNK_BYTES).await?;
        match self
            .pipeline
            .ports
            .spool
            .open()?
            .save_plan(namespace.clone(), encode(&chunks).into_bytes())
            .await
        {
            // This only spares a restart the cutting, and what continues from here may free space.
            Err(error) if error.kind() == Kind::StateFull => {
                tracing::debug!("{error}: the chunk plan of {namespace} is not saved");
            }
            saved => saved?,
        }
        failpoint::reach(Failpoint::CutSaved);
        Ok(chunks)
    }
}

/// `{bounds: […]}`: where one chunk ends and the next begins.
fn encode(chunks: &[Chunk]) -> RawDocumentBuf {
    let mut bounds = RawArrayBuf::new();
    for bound in chunks.iter().filter_map(|chunk| chunk.max.clone()) {
        bounds.push(bound);
    }
    let mut plan = RawDocumentBuf::new();
    plan.append(cstr!("bounds"), bounds);
    plan
}

fn decode(plan: &[u8]) -> Result<Vec<Chunk>> {
    let corrupt =
        |e: bson::error::Error| Error::caused(Code::StoredUnreadable, "read a stored chunk plan", e);
    let plan = RawDocument::from_bytes(plan).map_err(corrupt)?;
    let bounds = plan.get_array("bounds").map_err(corrupt)?;
    let mut chunks = Vec::new();
    let mut min: Option<Vec<u8>> = None;
    for bound in bounds {
        let bound = bound.map_err(corrupt)?;
        let max = bound.as_document().map(|bound| bound.as_bytes().to_vec());
        chunks.push(Chunk::from_bytes(min.as_deref(), max.as_deref())?);
        min = max;
    }
    chunks.push(Chunk::from_bytes(min.as_deref(), None)?);
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_plan_reads_back() {
        let bound = |id: i32| Some(rawdoc! { "_id": id });
        let chunks = vec![
            Chunk { min: None, max: bound(1) },
            Chunk { min: bound(1), max: bound(5) },
            Chunk { min: bound(5), max: None },
        ];
        assert_eq!(decode(encode(&chunks).as_bytes()).unwrap(), chunks);
        assert_eq!(decode(encode(&[Chunk::whole()]).as_bytes()).unwrap(), [Chunk::whole()]);
    }
}
