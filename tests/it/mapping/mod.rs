//! Documents to rows and back: what G4 promises, for any document and through a real PostgreSQL.

mod allocations;
mod any_bytes;
mod corpus;
mod damaged;
mod documents;
mod round_trip;
pub(crate) mod stored;
mod through_postgres;
mod types;

use std::sync::Arc;

use docrow::{
    mapping::{EncodeError, Encoder, Framing, Mapping, Rebuilder, Rows},
    schema::MappingSpec,
};
use mongodb::bson::{RawDocument, RawDocumentBuf};

pub(crate) fn compile(text: &str) -> Arc<Mapping> {
    let spec = MappingSpec::parse(text, "mapping.toml").unwrap_or_else(|e| panic!("{e}:\n{text}"));
    Arc::new(Mapping::compile(&spec))
}

pub(crate) fn encode(mapping: &Arc<Mapping>, document: &RawDocument) -> Result<Rows, EncodeError> {
    let mut rows = Rows::new(mapping.tables().len());
    Encoder::new(Arc::clone(mapping), Framing::Copy).encode(document, &mut rows)?;
    Ok(rows)
}

#[track_caller]
fn rebuild(mapping: &Mapping, rows: &Rows) -> RawDocumentBuf {
    Rebuilder::new(mapping).document(rows).unwrap_or_else(|e| panic!("{e}"))
}
