//! The workloads that other tests rely on.

use std::sync::atomic::AtomicU64;

use docrow::demo::{
    users,
    writer::{WriteKind, Writer},
};
use mongodb::{
    Collection,
    bson::{Document, RawDocumentBuf, doc},
};

use crate::support::Place;

async fn documents(collection: &Collection<RawDocumentBuf>) -> Vec<Document> {
    let sorted = collection.clone_with_type::<Document>().find(doc! {}).sort(doc! { "_id": 1 }).await;
    let mut cursor = sorted.unwrap();
    let mut documents = Vec::new();
    while cursor.advance().await.unwrap() {
        documents.push(cursor.deserialize_current().unwrap());
    }
    documents
}

#[tokio::test]
async fn the_writer_makes_every_kind_of_change_and_repeats_itself() {
    let place = Place::shared("writer").await;
    let mut results = Vec::new();
    for name in ["one", "two"] {
        let collection = place.database().collection(name);
        let loaded = AtomicU64::new(0);
        users::load(&collection, 5, 0..1500, &loaded).await.unwrap();
        assert_eq!(loaded.into_inner(), 1500);
        let mut writer = Writer::new(&place.client, &collection, 5, 0..1500);
        writer.write_times(300).await.unwrap();
        assert_eq!(writer.deeds().values().sum::<u64>(), 300);
        for deed in [
            WriteKind::Push,
            WriteKind::Pull,
            WriteKind::Replace,
            WriteKind::Unset,
            WriteKind::Rename,
            WriteKind::Transaction,
        ] {
            assert!(writer.deeds().contains_key(&deed), "no {deed}");
        }
        results.push(documents(&collection).await);
    }
    assert_eq!(results[0].len(), results[1].len());
    for (one, two) in results[0].iter().zip(&results[1]) {
        assert_eq!(one, two);
    }
}
