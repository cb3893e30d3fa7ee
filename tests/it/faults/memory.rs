//! G11: memory is bounded by bytes, not by rows, whatever the size of the documents.

use docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use mongodb::bson::{Bson, Document, doc};

use crate::support::{Home, Place};

const MB: u64 = 1_000_000;

/// Separate servers: an oplog of gigabytes would displace what other tests still need.
async fn servers() -> (Mongod, Postgres) {
    let mongod = Mongod::start(MongodOptions { cache_gb: Some(1.0), ..Default::default() }).await.unwrap();
    let settings = ["fsync=off", "full_page_writes=off", "max_wal_size=8GB"].map(str::to_owned).to_vec();
    let postgres = Postgres::start(PostgresOptions { settings, ..Default::default() }).await.unwrap();
    (mongod, postgres)
}

/// Almost the largest document there can be: one long text.
fn large(id: i32) -> Document {
    doc! { "_id": id, "n": 0, "text": "x".repeat(15_900_000) }
}

fn small(id: i32) -> Document {
    doc! { "_id": id, "n": 0, "text": "x".repeat(900), "list": [1, 2, Bson::Null] }
}

/// Copies some documents, updates them all at once, inserts as many, updates those, and returns the memory
/// that it took.
async fn peak(test: &str, documents: i32, document: fn(i32) -> Document) -> u64 {
    let (mongod, postgres) = servers().await;
    let place = Place::on(&mongod.uri(), &postgres.uri("postgres"), test).await;
    place.add_sentinels().await;
    let collection = place.collection("things");
    let insert = async |from: i32| {
        // So many as make a message of at most 16 MB.
        let at_once = documents / 50;
        for first in (from..from + documents).step_by(at_once.try_into().unwrap()) {
            collection.insert_many((first..first + at_once).map(document)).await.unwrap();
        }
    };
    let update = async |from: i32| {
        let all = doc! { "_id": { "$gte": from } };
        collection.update_many(all, doc! { "$inc": { "n": 1 } }).await.unwrap();
    };
    insert(0).await;
    let home = Home::new(&place);
    let mut docrow = home.run();
    let mut peaks = Vec::new();
    for step in 0..4 {
        match step {
            1 => update(0).await,
            2 => insert(documents).await,
            3 => update(documents).await,
            _ => {}
        }
        place.settle(&mut docrow).await;
        peaks.push(docrow.peak_memory() / MB);
    }
    println!("{test}: {peaks:?} MB after copying, updating, inserting and updating");
    let same = format!("SELECT count(*) FROM things WHERE n = 1 AND length(text) = {}", length(&document(0)));
    assert_eq!(place.number(&same).await, Some(i64::from(2 * documents)));
    docrow.stop().await.quiet();
    peaks[3].max(peak_of_verify(&place, &home, documents).await)
}

/// The most memory that `docrow verify` takes: of documents that are equal, and of some that are not, whose
/// rows are read in detail.
async fn peak_of_verify(place: &Place, home: &Home, documents: i32) -> u64 {
    let mut peaks = Vec::new();
    for (different, code) in [(0, 0), (documents.min(20), 1)] {
        let change = format!("UPDATE things SET n = 7 WHERE _id < {different}");
        place.postgres().await.batch_execute(&change).await.unwrap();
        let mut verify = home.start(&["verify"]);
        peaks.push(verify.peak_of_all().await / MB);
        verify.ended().await.with_code(code);
    }
    println!("{}: {peaks:?} MB by verify, of equal documents and of different ones", place.name);
    peaks[0].max(peaks[1])
}

fn length(document: &Document) -> usize {
    document.get_str("text").unwrap().len()
}

/// 200 documents are written, by four partitions.
#[tokio::test]
async fn memory_is_bounded_with_documents_of_16_mb() {
    let peak = peak("memory_large", 50, large).await;
    assert!(peak <= 600, "{peak} MB");
}

#[tokio::test]
async fn memory_is_bounded_with_documents_of_1_kb() {
    let peak = peak("memory_small", 50_000, small).await;
    assert!(peak <= 200, "{peak} MB");
}
