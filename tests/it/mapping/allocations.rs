//! The encoder "in the steady state allocates nothing": counted, on the thread that encodes.

use std::sync::Arc;

use allocation_counter::measure;
use bytes::BytesMut;
use docrow::{
    demo::users,
    mapping::{Encoder, Framing, Mapping, MaskKey, Rows},
    schema::MappingSpec,
};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocumentBuf, doc, rawdoc};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::{
    compile,
    documents::any_document,
    encode,
    round_trip::{COLUMNS, everything, inferred, whole},
};

const USERS: &str = include_str!("../../../schemas/users.toml");

/// Fields that are masked, by a hash and without, and fields that are omitted from objects, rows and noted
/// values.
fn secretive() -> Arc<Mapping> {
    let text = USERS
        .replace(
            "extra      =",
            "omit = [\"lastName\", \"address.city\", \"messages[].body\", \"x.y\"]\nextra =",
        )
        .replace("last_name  =", "# ")
        .replace("city     =", "# ")
        .replace("body       =", "# ")
        .replace("path = \"email\",", "path = \"email\", mask = \"sha256\",")
        .replace("path = \"to\",  ", "path = \"to\", mask = \"sha256\", ")
        .replace("path = \"bio\",", "path = \"bio\", mask = \"redact\",");
    let mapping = Mapping::compile(&MappingSpec::parse(&text, "users.toml").unwrap());
    assert!(mapping.needs_mask_key());
    Arc::new(mapping.with_mask_key(MaskKey::new(b"key")))
}

/// Documents of every type in every place, most of them with values that do not fit; those that have rows.
fn odd(mapping: &Arc<Mapping>) -> Vec<RawDocumentBuf> {
    let mut runner = TestRunner::deterministic();
    let strategy = any_document(COLUMNS);
    let documents = (0..300).map(|_| strategy.new_tree(&mut runner).unwrap().current());
    // An embedded `_id` that is not canonical is converted in separate memory.
    let is_embedded = |document: &RawDocumentBuf| {
        use RawBsonRef::{Array, Document, JavaScriptCodeWithScope};
        let id = document.iter().flatten().find(|(name, _)| name.as_str() == "_id");
        matches!(id, Some((_, Document(_) | Array(_) | JavaScriptCodeWithScope(_))))
    };
    let documents = documents.filter(|document| !is_embedded(document) && encode(mapping, document).is_ok());
    let documents: Vec<_> = documents.collect();
    assert!(documents.len() > 100);
    documents
}

/// Users with values that do not fit, are equal only, and are not mapped, in the root and in the tables.
fn unusual_users() -> Vec<RawDocumentBuf> {
    let more = rawdoc! {
        "age": 36.0, "email": 5_i64, "address": "a second one", "unknown": { "a": [1, 2.5, { "b": "c\0d" }] },
        "x": { "y": 1, "z": [true, null] },
    };
    let with = |id| {
        let mut user = users::user(1, id);
        more.iter().flatten().for_each(|(name, value)| user.append(name, value));
        user
    };
    (0..100).map(with).collect()
}

/// How many allocations encoding documents like the previous ones needs.
fn allocations(encoder: &mut Encoder, documents: &[RawDocumentBuf], rows: &mut Rows) -> u64 {
    let mut key = BytesMut::with_capacity(4096);
    let mut pass = || {
        rows.clear();
        for document in documents {
            encoder.encode(document, rows).unwrap();
            key.clear();
            encoder.encode_key(document, &mut key).unwrap();
        }
    };
    pass();
    measure(pass).count_total
}

/// Issue: "zero allocations per document in steady state (measured by a counting allocator in a test)".
#[test]
fn encoding_allocates_nothing() {
    let users: Vec<_> = (0..100).map(|id| users::user(1, id)).collect();
    let unusual = unusual_users();
    let everything = compile(&everything("text"));
    let cases = [
        ("users", compile(USERS), &users),
        ("users with notes", compile(USERS), &unusual),
        ("users mapped automatically", compile(&inferred(&users)), &users),
        ("users with notes, mapped automatically", compile(&inferred(&users)), &unusual),
        ("masked users", secretive(), &users),
        ("masked users with notes", secretive(), &unusual),
        ("every type", Arc::clone(&everything), &odd(&everything)),
        ("relaxed documents", compile(&whole("relaxed")), &unusual),
        ("canonical documents", compile(&whole("canonical")), &unusual),
        ("odd relaxed documents", compile(&whole("relaxed")), &odd(&compile(&whole("relaxed")))),
        ("documents without a field", compile(&format!("omit = [\"x.y\"]\n{}", whole("relaxed"))), &unusual),
    ];
    for (name, mapping, documents) in cases {
        for (framing, watch) in [
            (Framing::Copy, false),
            (Framing::Composite, false),
            (Framing::Copy, true),
            (Framing::Composite, true),
        ] {
            let mut rows = Rows::new(mapping.tables().len());
            let mut encoder = Encoder::new(Arc::clone(&mapping), framing);
            if watch {
                encoder.watch();
            }
            let count = allocations(&mut encoder, documents, &mut rows);
            assert_eq!(count, 0, "{name}, {framing:?}, watching: {watch}");
        }
    }
}

/// G11: "bounded memory". The memory for a large document is freed when the next one is encoded.
#[test]
fn large_documents_leave_no_memory_behind() {
    let field = |i: i32| (format!("f{i}"), Bson::from(i));
    let wide: Document =
        [("_id".to_owned(), Bson::from(1))].into_iter().chain((0..300_000).map(field)).collect();
    let mut deep = rawdoc! { "x": 5_i64 };
    for _ in 0..1000 {
        deep = rawdoc! { "x": deep };
    }
    let large = [
        RawDocumentBuf::try_from(&wide).unwrap(),
        RawDocumentBuf::try_from(&doc! { "_id": 1, "x": wide.clone() }).unwrap(),
        rawdoc! { "_id": 1, "email": rawdoc! { "x": "x".repeat(5_000_000) } },
        rawdoc! { "_id": "x".repeat(5_000_000) },
        rawdoc! { "_id": 1, "x": deep },
    ];
    let small = users::user(1, 1);
    let omitting = format!("omit = [\"x.y\"]\n{}", whole("relaxed"));
    for mapping in [compile(&everything("text")), secretive(), compile(&whole("relaxed")), compile(&omitting)]
    {
        let mut encoder = None;
        let left = measure(|| {
            let encoder = encoder.insert(Encoder::new(Arc::clone(&mapping), Framing::Copy));
            let mut rows = Rows::new(mapping.tables().len());
            for document in &large {
                let _ = encoder.encode(document, &mut rows);
                rows.clear();
            }
            encoder.encode(&small, &mut rows).unwrap();
        });
        assert!(left.bytes_max > 5_000_000 && left.bytes_current < 8_000_000, "{left:?}");
    }
}

/// The count is of this binary's allocator.
#[test]
fn allocations_are_counted() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1]))).count_total, 1);
}
