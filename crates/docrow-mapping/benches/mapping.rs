//! How fast the mapping is: documents of the users workload, one core, no servers. Throughput is in bytes of
//! BSON; of one document, in documents.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may fail loudly")]

#[allow(unreachable_pub, reason = "docrow has it in its library")]
#[path = "../../../src/demo/users/documents.rs"]
mod users;

use std::{hint::black_box, sync::Arc};

use bson::RawDocumentBuf;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use docrow_mapping::{
    mapping::{Encoder, Framing, Mapping, Rebuilder, Rows},
    model::change::Namespace,
    schema::{MappingSpec, Names, Sample},
};

/// About 6 MB: more than the caches next to a core hold, as in a backfill.
const COUNT: i32 = 1000;

const USERS: &str = include_str!("../../../schemas/users.toml");

const WHOLE: &str = "collection = \"sample_db.users\"\ntable = \"users\"\nextra = \"_extra\"\n\
    key = { column = \"id\", type = \"bigint\" }\ndocument = { column = \"doc\", json = \"relaxed\" }\n";

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn compile(text: &str) -> Arc<Mapping> {
    Arc::new(Mapping::compile(&MappingSpec::parse(text, "users.toml").unwrap()))
}

fn automatic(documents: &[RawDocumentBuf]) -> Arc<Mapping> {
    let mut sample = Sample::new();
    documents.iter().for_each(|document| sample.observe(document));
    Arc::new(Mapping::compile(&sample.spec(&Namespace::new("sample_db", "users"), &mut Names::new())))
}

fn encode(
    group: &mut Group<'_>,
    name: &str,
    documents: &[RawDocumentBuf],
    mut encoder: Encoder,
    tables: usize,
) {
    let mut rows = Rows::new(tables);
    group.bench_function(name, |bench| {
        bench.iter(|| {
            rows.clear();
            for document in documents {
                encoder.encode(black_box(document), &mut rows).unwrap();
            }
            black_box(&rows);
        });
    });
}

fn rebuild(group: &mut Group<'_>, documents: &[RawDocumentBuf], mapping: &Arc<Mapping>) {
    let mut encoder = Encoder::new(Arc::clone(mapping), Framing::Copy);
    let rows: Vec<_> = documents
        .iter()
        .map(|document| {
            let mut rows = Rows::new(mapping.tables().len());
            encoder.encode(document, &mut rows).unwrap();
            rows
        })
        .collect();
    let rebuilder = Rebuilder::new(mapping);
    group.bench_function("rebuild", |bench| {
        bench.iter(|| {
            for rows in &rows {
                black_box(rebuilder.document(rows).unwrap());
            }
        });
    });
}

fn mapping(criterion: &mut Criterion) {
    let documents: Vec<_> = (0..COUNT).map(|id| users::user(1, id)).collect();
    let bytes: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
    let mut group = criterion.benchmark_group("users");
    group.throughput(Throughput::BytesDecimal(bytes.try_into().unwrap()));
    let file = compile(USERS);
    let mappings = [
        ("file/copy", Arc::clone(&file), Framing::Copy, false),
        ("file/composite", Arc::clone(&file), Framing::Composite, false),
        ("file/copy, watching", Arc::clone(&file), Framing::Copy, true),
        ("automatic/copy", automatic(&documents), Framing::Copy, false),
        ("automatic/composite, watching", automatic(&documents), Framing::Composite, true),
        ("document/relaxed", compile(WHOLE), Framing::Copy, false),
        ("document/canonical", compile(&WHOLE.replace("relaxed", "canonical")), Framing::Copy, false),
    ];
    for (name, mapping, framing, watch) in mappings {
        let tables = mapping.tables().len();
        let mut encoder = Encoder::new(mapping, framing);
        if watch {
            encoder.watch();
        }
        encode(&mut group, name, &documents, encoder, tables);
    }
    rebuild(&mut group, &documents, &file);
}

/// One document over and over: the encoder's own work, with everything in the caches.
fn encoding(criterion: &mut Criterion) {
    let (document, mapping) = ([users::user(1, 1)], compile(USERS));
    let mut group = criterion.benchmark_group("one user");
    group.throughput(Throughput::Elements(1));
    for (name, framing) in [("copy", Framing::Copy), ("composite", Framing::Composite)] {
        let encoder = Encoder::new(Arc::clone(&mapping), framing);
        encode(&mut group, name, &document, encoder, mapping.tables().len());
    }
}

criterion_group!(benches, mapping, encoding);
criterion_main!(benches);
