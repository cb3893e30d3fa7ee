//! Documents through a real PostgreSQL: copied as by a snapshot, applied as by a batch of the change stream,
//! read back and rebuilt.

use std::sync::Arc;

use docrow::{
    mapping::{Encoder, Framing, Mapping, Rows},
    model::{change::CollectionId, partition::Partition},
    sink::{
        Keys, Target,
        metadata::{
            chunks::{self, Marker, SnapshotPlan, StoredChunk},
            fence::{Fence, Holder, OnHeld},
        },
        rows::{
            copy::Copier,
            read::Reader,
            upsert::{Applier, Batch, CollectionBatch},
        },
        tables::{ddl, ddl_sql},
    },
};
use mongodb::bson::{RawDocument, RawDocumentBuf};

use super::rebuild;
use crate::support::Place;

/// A test's database; every mapping has its own schema in it.
pub(crate) struct Store {
    uri: String,
    schemas: usize,
}

/// The result for the documents.
pub(crate) struct Stored {
    /// Each rebuilt from its rows; none for a document that can't have any, or whose key an earlier one has.
    pub(crate) documents: Vec<Option<RawDocumentBuf>>,
    /// The schema of the tables.
    pub(crate) schema: String,
}

impl Store {
    pub(crate) async fn new(test: &str) -> Self {
        Self { uri: Place::shared(&format!("mapping_{test}")).await.postgres_uri, schemas: 0 }
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// Writes documents and reads them back.
    pub(crate) async fn pass(&mut self, mapping: &Arc<Mapping>, documents: &[RawDocumentBuf]) -> Stored {
        self.schemas += 1;
        let schema = format!("s{}", self.schemas);
        let target = Target::parse(&self.uri, &schema, "p").unwrap();
        let fence = Fence::acquire(&target, &Holder::new(), OnHeld::Refuse).await.unwrap();
        let target = fence.target().clone();
        let mut session = target.connect().await.unwrap();
        create(&self.uri, &schema, mapping).await;
        let (keys, of) = keys(mapping, documents);
        let kept =
            documents.iter().zip(&of).filter(|(_, key)| key.is_some()).map(|(document, _)| &**document);
        let kept: Vec<_> = kept.collect();
        copy(&target, &schema, mapping, &kept).await;
        for table in mapping.tables() {
            ddl::build_key(&mut session, &schema, table).await.unwrap();
        }
        apply(&target, mapping, &kept, &keys).await;
        let rows = Reader::new(session, &target)
            .documents(mapping.tables(), &keys, usize::MAX)
            .await
            .unwrap()
            .unwrap();
        let documents = of.iter().map(|key| Some(rebuild(mapping, rows.get(key.as_ref()?).unwrap())));
        Stored { documents: documents.collect(), schema }
    }
}

async fn create(uri: &str, schema: &str, mapping: &Mapping) {
    let client = crate::support::connect(uri).await;
    for table in mapping.tables() {
        client.batch_execute(&ddl_sql::create_table(schema, table, false)).await.unwrap();
    }
}

/// The keys of the documents that can have rows, without duplicates, and for each document its own.
fn keys(mapping: &Arc<Mapping>, documents: &[RawDocumentBuf]) -> (Keys, Vec<Option<Vec<u8>>>) {
    let mut encoder = Encoder::new(Arc::clone(mapping), Framing::Copy);
    let mut keys = Keys::default();
    let mut seen = std::collections::HashSet::new();
    let key = |document: &RawDocumentBuf| {
        let mut rows = Rows::new(mapping.tables().len());
        encoder.encode(document, &mut rows).ok()?;
        let key = rows.tables[0].tuples().next()?.columns().next()??.to_vec();
        seen.insert(key.clone()).then(|| {
            keys.push(&key);
            key
        })
    };
    let of = documents.iter().map(key).collect();
    (keys, of)
}

fn encode(mapping: &Arc<Mapping>, framing: Framing, documents: &[&RawDocument]) -> Rows {
    let mut rows = Rows::new(mapping.tables().len());
    let mut encoder = Encoder::new(Arc::clone(mapping), framing);
    documents.iter().for_each(|document| encoder.encode(document, &mut rows).unwrap());
    rows
}

async fn copy(target: &Target, schema: &str, mapping: &Arc<Mapping>, documents: &[&RawDocument]) {
    let mut session = target.connect().await.unwrap();
    let chunk = StoredChunk { number: 0, min: None, max: None, copied: None, replaces: false };
    chunks::store(&mut session, "p", &[SnapshotPlan::new(schema, vec![chunk])], &[]).await.unwrap();
    let mut copier = Copier::new(session, target);
    let mut writer = copier.begin(CollectionId(0), mapping.tables()).await.unwrap();
    writer.write(&mut encode(mapping, Framing::Copy, documents)).await.unwrap();
    let documents = documents.len().try_into().unwrap();
    writer.commit(Marker { collection: schema, number: 0, documents }).await.unwrap();
}

/// Applies the same documents once more, which must not change a bit.
async fn apply(target: &Target, mapping: &Arc<Mapping>, documents: &[&RawDocument], keys: &Keys) {
    let session = target.connect().await.unwrap();
    let mut applier = Applier::new(session, target, Partition(0), 0).await.unwrap();
    let rows = encode(mapping, Framing::Composite, documents);
    let batch = CollectionBatch {
        collection: CollectionId(0),
        tables: mapping.tables(),
        rows: &rows,
        upserted: keys,
        deleted: &Keys::default(),
    };
    let applied = applier.apply(&Batch { collections: vec![batch], ..Batch::default() }).await.unwrap();
    assert_eq!((applied.written, applied.deleted), (0, 0), "COPY and upsert write different rows");
}
