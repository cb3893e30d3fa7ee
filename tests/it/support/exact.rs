//! The exact judge: rebuilds every document from its rows, and compares it with MongoDB's byte by byte, but for the order
//! of the fields.

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use docrow::{
    mapping::{Encoder, Framing, Mapping, Rebuilder, Rows},
    schema::MappingSpec,
    sink::{
        Keys, Session, Target, dead_letter,
        read::{self, Reader},
        schemas,
    },
};
use mongodb::bson::{RawDocument, RawDocumentBuf, doc};

use super::Place;

/// Documents compared at a time.
const BATCH: usize = 500;

/// All fields in one order, those of one name in their own.
pub(crate) fn sorted(document: &RawDocument) -> Vec<u8> {
    let mut elements: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut at = 4;
    for element in document.iter_elements() {
        let element = element.unwrap();
        let name = element.key().as_str().as_bytes().to_vec();
        let start = at + 1 + name.len() + 1;
        let kind = element.element_type() as u8;
        at = start + element.size();
        let bytes = &document.as_bytes()[start..at];
        let value = match kind {
            3 | 4 => sorted(RawDocument::from_bytes(bytes).unwrap()),
            _ => bytes.to_vec(),
        };
        elements.push((name, [&[kind], &*value].concat()));
    }
    elements.sort_by(|left, right| left.0.cmp(&right.0));
    let parts =
        elements.iter().map(|(name, value)| [&name.len().to_be_bytes(), name.as_slice(), value].concat());
    parts.collect::<Vec<_>>().concat()
}

/// Everything in which the documents that `mapping` rebuilds differ from the collection's.
pub(crate) async fn compare(place: &Place, target: &Target, spec: &MappingSpec) -> Vec<String> {
    let mapping = Arc::new(Mapping::compile(spec));
    let session = target.connect().await.unwrap();
    let dead = dead_letter::keys(&session, target.pipeline()).await.unwrap();
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
                match rebuilt.remove(&key_of(&mapping, &document)) {
                    None => missing += 1,
                    Some(found) if sorted(&found) != sorted(&document) => {
                        differences.push(format!("{namespace}: {found:?} is not {document:?}"));
                    }
                    Some(_) => {}
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
    documents.iter().for_each(|document| keys.push(&key_of(mapping, document)));
    let mut found: HashMap<Vec<u8>, Rows> = HashMap::new();
    for (number, table) in mapping.tables().iter().enumerate() {
        for row in reader.rows(table, &keys).await.unwrap() {
            let key = read::value(&row, 0).unwrap().unwrap().to_vec();
            let rows = found.entry(key).or_insert_with(|| Rows::new(mapping.tables().len()));
            read::tuple(&row, &mut rows.tables[number].bytes).unwrap();
            rows.tables[number].count += 1;
        }
    }
    let rebuilder = Rebuilder::new(mapping);
    found.into_iter().map(|(key, rows)| (key, rebuilder.document(&rows).unwrap())).collect()
}

fn key_of(mapping: &Arc<Mapping>, document: &RawDocument) -> Vec<u8> {
    let mut key = BytesMut::new();
    // A document without a key that fits is a dead letter, and found nowhere.
    let _ = Encoder::new(mapping.clone(), Framing::Copy).encode_key(document, &mut key);
    key.to_vec()
}

/// The mappings in force, once nothing is left to be filled.
pub(crate) async fn in_force(session: &Session, target: &Target) -> Vec<schemas::Mapping> {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let mappings = schemas::load(session, target.pipeline()).await.unwrap();
        if mappings.iter().all(|mapping| mapping.filled) {
            return mappings;
        }
        assert!(tokio::time::Instant::now() < deadline, "new columns are never filled");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
