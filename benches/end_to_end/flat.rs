//! Flat documents of about 300 B: an ObjectId and eight typed fields, as in an application's event or order
//! log.

use mongodb::{
    Collection,
    bson::{DateTime, Decimal128, RawDocumentBuf, oid::ObjectId, rawdoc},
    options::WriteConcern,
};
use tokio::task::JoinSet;

/// Documents in one insert, and inserts at a time.
const BATCH: i32 = 10_000;
const PARALLEL: usize = 4;
/// 2026-01-01.
const NEW_YEAR: u32 = 1_767_225_600;

/// Inserts `count` documents, each made by its number.
pub(crate) async fn load(
    collection: &Collection<RawDocumentBuf>,
    count: i32,
    document: fn(i32) -> RawDocumentBuf,
) {
    let quick = WriteConcern::builder().w(mongodb::options::Acknowledgment::Nodes(1)).build();
    let mut inserts = JoinSet::new();
    for start in (0..count).step_by(BATCH as usize) {
        if inserts.len() >= PARALLEL {
            inserts.join_next().await.unwrap().unwrap();
        }
        let (collection, quick) = (collection.clone(), quick.clone());
        inserts.spawn(async move {
            let documents: Vec<_> = (start..count.min(start + BATCH)).map(document).collect();
            collection.insert_many(&documents).ordered(false).write_concern(quick).await.unwrap();
        });
    }
    while let Some(inserted) = inserts.join_next().await {
        inserted.unwrap();
    }
}

/// The document `number`, always the same.
pub(crate) fn document(number: i32) -> RawDocumentBuf {
    let mut rng = fastrand::Rng::with_seed(number.cast_unsigned().into());
    let at = NEW_YEAR + number.cast_unsigned() / 10;
    rawdoc! {
        "_id": id(at, number.cast_unsigned()),
        "number": number,
        "total": rng.i64(0..1 << 50),
        "score": rng.f64(),
        "active": rng.bool(),
        "created": DateTime::from_millis(i64::from(at) * 1000 + rng.i64(0..1000)),
        "price": decimal(rng.u64(0..10_000_000)),
        "customer": format!("customer-{:08}", rng.u32(0..1_000_000)),
        "note": format!("{:016x}", rng.u64(..)).repeat(8),
    }
}

/// Likewise, of 60 B: with ten million of them, the disk's speed for PostgreSQL's writes does not limit the
/// time yet.
pub(crate) fn small(number: i32) -> RawDocumentBuf {
    let mut rng = fastrand::Rng::with_seed(number.cast_unsigned().into());
    rawdoc! { "_id": number, "total": rng.i64(0..1 << 50), "score": rng.f64(), "active": rng.bool() }
}

fn id(at: u32, number: u32) -> ObjectId {
    let [a, b, c, d] = at.to_be_bytes();
    let [e, f, g, h] = number.to_be_bytes();
    ObjectId::from_bytes([a, b, c, d, 0, 0, 0, 0, e, f, g, h])
}

/// An amount in hundredths. The format's exponent is biased by 6176 and follows the sign bit.
fn decimal(hundredths: u64) -> Decimal128 {
    Decimal128::from_bytes((u128::from(hundredths) | (6176 - 2) << 113).to_le_bytes())
}
