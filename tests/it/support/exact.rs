//! The exact judge: rebuilds every document from its rows, and compares it with MongoDB's byte by byte,
//! except for the order of the fields.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use docrow::{
    mapping::{Encoder, Framing, Mapping, Rebuilder},
    schema::MappingSpec,
    sink::{
        Keys, Session, Target,
        metadata::{dead_letters, mapping_versions, resync_requests},
        rows::read::Reader,
    },
};
use mongodb::bson::{RawDocument, RawDocumentBuf, doc};

use super::{Place, same};

/// Documents compared at a time.
const BATCH: usize = 500;

/// All differences of the documents that `mapping` rebuilds from the collection's.
pub(crate) async fn compare(place: &Place, target: &Target, spec: &MappingSpec) -> Vec<String> {
    let mapping = Arc::new(Mapping::compile(spec));
    let session = target.connect().await.unwrap();
    let dead = dead_letters::keys(&session, target.pipeline()).await.unwrap();
    let dead = dead.count(&spec.collection().to_string());
    let mut reader = Reader::new(session, target);
    let namespace = spec.collection();
    let database = place.client.database(&namespace.database);
    let collection = database.collection::<RawDocumentBuf>(&namespace.collection);
    let mut cursor = collection.find(doc! {}).await.unwrap();
    let (mut documents, mut differences, mut missing): (Vec<RawDocumentBuf>, _, _) =
        (Vec::new(), Vec::new(), 0);
    loop {
        let more = cursor.advance().await.unwrap();
        if more {
            documents.push(cursor.current().to_owned());
        }
        if documents.len() >= BATCH || !more {
            let mut rebuilt = rebuild_all(&mapping, &mut reader, &documents).await;
            for document in documents.drain(..) {
                match key_of(&mapping, &document).and_then(|key| rebuilt.remove(&key)) {
                    None => missing += 1,
                    Some(found) => {
                        let difference = same::difference(found.as_bytes(), document.as_bytes());
                        differences.extend(difference.map(|text| format!("{namespace}: {text}")));
                    }
                }
            }
        }
        if !more {
            break;
        }
    }
    if missing > dead {
        differences.push(format!("{namespace}: {missing} documents have no rows, {dead} are dead letters"));
    }
    differences
}

async fn rebuild_all(
    mapping: &Arc<Mapping>,
    reader: &mut Reader,
    documents: &[RawDocumentBuf],
) -> HashMap<Vec<u8>, RawDocumentBuf> {
    let mut keys = Keys::default();
    documents.iter().filter_map(|document| key_of(mapping, document)).for_each(|key| keys.push(&key));
    let found = reader.documents(mapping.tables(), &keys, usize::MAX).await.unwrap().unwrap();
    let rebuilder = Rebuilder::new(mapping);
    found.into_iter().map(|(key, rows)| (key, rebuilder.document(&rows).unwrap())).collect()
}

/// The key column's bytes; `None` for a document whose `_id` does not fit, which is a dead letter.
fn key_of(mapping: &Arc<Mapping>, document: &RawDocument) -> Option<Vec<u8>> {
    let mut key = BytesMut::new();
    Encoder::new(mapping.clone(), Framing::Copy).encode_key(document, &mut key).ok()?;
    Some(key.to_vec())
}

/// The mappings in force, once nothing is left to be filled, except those of dropped collections whose rows
/// are kept.
pub(crate) async fn in_force(session: &Session, target: &Target) -> Vec<mapping_versions::Mapping> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let mappings = mapping_versions::load(session, target.pipeline()).await.unwrap();
        if mappings.iter().all(|mapping| mapping.filled) {
            let gone = resync_requests::asked(session, target.pipeline()).await.unwrap();
            let is_there = |name: &String| !gone.iter().any(|(gone, _)| gone == name);
            return mappings.into_iter().filter(|mapping| is_there(&mapping.collection)).collect();
        }
        assert!(tokio::time::Instant::now() < deadline, "new columns are never filled");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
