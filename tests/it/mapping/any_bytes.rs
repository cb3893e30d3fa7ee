//! Properties of any bytes that are passed as a document, under mappings of every kind: they have rows and
//! can be rebuilt from them, or are refused and leave nothing behind. The fuzz target in `fuzz/` shares this
//! file, so it depends on no other test code but the judge of sameness.

use std::{
    fmt::Write,
    sync::{Arc, LazyLock},
};

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc, spec::ElementType};
use bytes::BytesMut;
use docrow_mapping::{
    mapping::{Encoder, Framing, Mapping, MaskKey, Rebuilder, Rows, document_json},
    model::{
        change::Namespace,
        table::{Reading, Scalar},
    },
    schema::{MappingSpec, Names, Sample, evolve},
};

use crate::support::same::difference;

/// MongoDB accepts no document that is deeper; docrow rebuilds none that is much deeper.
const MAX_DEPTH: usize = 200;

struct Case {
    mapping: Arc<Mapping>,
    /// Whether its rows represent a document completely.
    exact: bool,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let users = include_str!("../../../schemas/users.toml").to_owned();
    let omit = "omit = ['gone', 'o.gone', 'o.p', 'm[].gone', 'q[].gone', 'u.v.gone']\n";
    let exact = [
        users,
        automatic().to_toml(),
        tables("extra = '_extra'\n", "text", ""),
        tables("extra = '_extra'\non_unfit = 'dead_letter'\non_delete = 'soft'\n", "bigint", ""),
        document("extra = '_extra'\n", "relaxed"),
        document("extra = '_extra'\n", "canonical"),
    ];
    // Without `extra`, null is equivalent to missing.
    let inexact = [
        tables("on_unfit = 'fail'\n", "bytea", ""),
        tables(&format!("extra = '_extra'\n{omit}"), "text", ", mask = 'redact'"),
        tables(&format!("on_unfit = 'fail'\n{omit}"), "text", ", mask = 'redact'"),
        document(&format!("extra = '_extra'\n{omit}"), "relaxed"),
        document(&format!("extra = '_extra'\n{omit}"), "canonical"),
    ];
    let case = |text: &str, exact| {
        let spec = MappingSpec::parse(text, "any.toml").unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mapping = Mapping::compile(&spec).with_mask_key(MaskKey::new(b"key"));
        Case { mapping: Arc::new(mapping), exact }
    };
    exact.iter().map(|text| case(text, true)).chain(inexact.iter().map(|text| case(text, false))).collect()
});

fn automatic() -> MappingSpec {
    let mut sample = Sample::new();
    sample.observe(&rawdoc! {
        "_id": 1, "a": 1, "b": "x", "o": { "x": 1.5, "p": { "y": true } }, "m": [{ "x": 1, "k": [{ "x": "y" }] }],
        "t": ["x"], "n": [1, 2],
    });
    sample.spec(&Namespace::new("a", "t"), &mut Names::new())
}

/// Columns `f0`, `f1` … of every type and reading; every third has `hidden` beside its type. Objects with and
/// without a table, arrays in arrays, arrays in objects in arrays.
fn tables(options: &str, key: &str, hidden: &str) -> String {
    let mut text = format!(
        "collection = 'a.b'\ntable = 't'\n{options}key = {{ column = '_id', type = '{key}' }}\n[columns]\n"
    );
    let of_scalar = |scalar: Scalar| {
        let name = scalar.sql();
        let word = scalar.other_reading().and_then(Reading::word);
        let reading = word.map_or_else(String::new, |word| format!(", bson = '{word}'"));
        [
            format!("'{name}'"),
            format!("'{name}[]'"),
            format!("'{name}'{reading}"),
            format!("'{name}[]'{reading}"),
        ]
    };
    for (i, ty) in Scalar::ALL.into_iter().flat_map(of_scalar).enumerate() {
        let hidden = if i % 3 == 0 { hidden } else { "" };
        writeln!(text, "c{i} = {{ path = 'f{i}', type = {ty}{hidden} }}").unwrap();
    }
    writeln!(text, "o_x = {{ path = 'o.x', type = 'text'{hidden} }}").unwrap();
    text.push_str("o_o_a = { path = 'o.o.a', type = 'numeric' }\n");
    for (path, ordinals) in [("z", 0), ("m[]", 1), ("m[].k[]", 2), ("g[][].k[]", 3)] {
        let ordinals: Vec<_> = (0..ordinals).map(|i| format!("'n{i}'")).collect();
        let (name, ordinals) = (path.replace(['[', ']', '.'], ""), ordinals.join(", "));
        let columns =
            format!("a = {{ path = 'a', type = 'bigint' }}, x = {{ path = 'o.x', type = 'text'{hidden} }}");
        writeln!(
            text,
            "[[tables]]\ntable = '{name}'\npath = '{path}'\nparent = '_id'\nordinals = [{ordinals}]\ncolumns = {{ {columns} }}"
        )
        .unwrap();
    }
    text
}

fn document(options: &str, json: &str) -> String {
    let key = "key = { column = '_id', type = 'text' }";
    format!(
        "collection = 'a.b'\ntable = 't'\n{options}{key}\ndocument = {{ column = 'doc', json = '{json}' }}\n"
    )
}

/// Panics if a property does not hold for `bytes` under the mapping of this number.
pub(crate) fn check(number: usize, bytes: &[u8]) {
    let Ok(document) = RawDocument::from_bytes(bytes) else { return };
    match CASES.get(number % (CASES.len() + 1)) {
        Some(case) => check_under(&case.mapping, case.exact, document),
        None => check_sample(document),
    }
}

fn check_under(mapping: &Arc<Mapping>, exact: bool, document: &RawDocument) {
    let mut rows = [Framing::Copy, Framing::Composite].map(|framing| {
        let mut rows = Rows::new(mapping.tables().len());
        let mut encoder = Encoder::new(Arc::clone(mapping), framing);
        encoder.watch();
        let encoded = encoder.encode(document, &mut rows);
        let mut key = BytesMut::new();
        let key = encoder.encode_key(document, &mut key).map(|()| key);
        (encoded, key, rows)
    });
    let [(copied, key, rows), (composed, _, composed_rows)] = &mut rows;
    assert_eq!(copied, composed);
    let _ = document_json(document.as_bytes());
    check_censored(mapping, document);
    if copied.is_err() {
        assert_eq!((rows.byte_len(), composed_rows.byte_len(), rows.row_count()), (0, 0, 0));
        return;
    }
    assert_eq!(rows.row_count(), composed_rows.row_count());
    for (table, rows) in mapping.tables().iter().zip(&rows.tables) {
        assert_eq!(rows.tuples().count(), rows.count);
        assert!(rows.tuples().all(|tuple| tuple.columns().count() == table.columns.len()));
    }
    let root = rows.tables[0].tuples().next().unwrap();
    assert_eq!(root.columns().next(), Some(key.as_deref().ok()));
    let rebuilt = Rebuilder::new(mapping).document(rows);
    if is_sound(document, MAX_DEPTH) {
        let rebuilt = rebuilt.unwrap_or_else(|corrupt| panic!("{corrupt}"));
        if exact {
            assert_eq!(difference(rebuilt.as_bytes(), document.as_bytes()), None);
        }
    }
}

/// The rest of a document contains nothing that should be left out.
fn check_censored(mapping: &Mapping, document: &RawDocument) {
    let Some(left) = mapping.censored(document) else { return };
    let left = RawDocumentBuf::from_bytes(left).unwrap();
    assert_eq!(mapping.censored(&left).as_deref(), Some(left.as_bytes()));
}

/// A mapping made of a document, or grown by it, can be written to a file; the document has rows in it.
fn check_sample(document: &RawDocument) {
    let mut sample = Sample::new();
    sample.observe(document);
    let namespace = Namespace::new("a", "t");
    let spec = sample.spec(&namespace, &mut Names::new());
    let (described, file) = sample.mapping_file(&namespace, 1, &mut Names::new());
    assert_eq!(described, spec);
    assert_eq!(MappingSpec::parse(&file, "any.toml").unwrap(), spec);
    check_under(&Arc::new(Mapping::compile(&spec)), true, document);
    if let Some(grown) = evolve(&automatic(), &sample, &mut Names::new(), &[]) {
        check_under(&Arc::new(Mapping::compile(&grown)), true, document);
    }
}

/// Whether each part of it is what it says, and it is no deeper than that.
fn is_sound(document: &RawDocument, depth: usize) -> bool {
    depth > 0
        && document.iter_elements().all(|element| {
            let Ok(element) = element else { return false };
            let nested = matches!(
                element.element_type(),
                ElementType::EmbeddedDocument | ElementType::Array | ElementType::JavaScriptCodeWithScope
            );
            match element.value() {
                _ if !nested => true,
                Ok(RawBsonRef::Document(inner)) => is_sound(inner, depth - 1),
                Ok(RawBsonRef::JavaScriptCodeWithScope(inner)) => is_sound(inner.scope, depth - 1),
                Ok(RawBsonRef::Array(inner)) => {
                    RawDocument::from_bytes(inner.as_bytes()).is_ok_and(|inner| is_sound(inner, depth - 1))
                }
                _ => false,
            }
        })
}
