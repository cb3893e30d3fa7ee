//! MongoDB's own BSON corpus: every valid case is rebuilt exactly, and invalid BSON is refused, or rebuilt
//! exactly.
//!
//! The corpus is in the source package of pymongo; `make setup` fetches it. Its format is described in the
//! specification (<https://github.com/mongodb/specifications/blob/master/source/bson-corpus/bson-corpus.md>).

use std::{collections::BTreeMap, env, fs, path::PathBuf, sync::Arc};

use docrow::mapping::Mapping;
use mongodb::bson::RawDocumentBuf;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{
    compile, encode, rebuild,
    round_trip::{inferred, whole},
    stored::Store,
};
use crate::support::same::difference;

#[derive(Deserialize)]
struct Corpus {
    #[serde(default)]
    valid: Vec<Valid>,
    #[serde(default, rename = "decodeErrors")]
    decode_errors: Vec<DecodeError>,
}

#[derive(Deserialize)]
struct Valid {
    description: String,
    canonical_bson: String,
    degenerate_bson: Option<String>,
    converted_bson: Option<String>,
    canonical_extjson: String,
    relaxed_extjson: Option<String>,
    #[serde(default)]
    lossy: bool,
}

#[derive(Deserialize)]
struct DecodeError {
    description: String,
    bson: String,
}

/// The files of the corpus by name.
fn corpus() -> BTreeMap<String, Corpus> {
    let cache = env::var_os("DOCROW_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache/docrow"));
    let folder = cache.join("bson-corpus");
    let files = fs::read_dir(&folder).unwrap_or_else(|e| {
        panic!("MongoDB's BSON corpus is not in {}: {e}. `make setup` fetches it", folder.display())
    });
    let file = |path: PathBuf| {
        let corpus = serde_json::from_slice(&fs::read(&path).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), corpus)
    };
    files.map(|entry| file(entry.unwrap().path())).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// With `_id` as its first field, before those of `bytes`.
fn with_id(id: usize, bytes: &[u8]) -> Vec<u8> {
    let id = [&b"\x10_id\0"[..], &i32::try_from(id).unwrap().to_le_bytes()].concat();
    let length =
        i32::from_le_bytes(bytes[..4].try_into().unwrap()).wrapping_add(i32::try_from(id.len()).unwrap());
    [&length.to_le_bytes()[..], &id, &bytes[4..]].concat()
}

/// With `_id`, and `bytes` as an object in it.
fn within(id: usize, bytes: &[u8]) -> Vec<u8> {
    let inner = [&7_i32.to_le_bytes()[..], b"\x03d\0", bytes, b"\0"].concat();
    let length = i32::try_from(inner.len()).unwrap();
    with_id(id, &[&length.to_le_bytes()[..], &inner[4..]].concat())
}

/// A case's documents: each of its forms as a document of its own, and as a field.
fn documents(case: &Valid, id: &mut usize) -> Vec<RawDocumentBuf> {
    let forms = [Some(&case.canonical_bson), case.degenerate_bson.as_ref(), case.converted_bson.as_ref()];
    let mut documents = Vec::new();
    for form in forms.into_iter().flatten() {
        let form = bytes(form);
        for document in [with_id(*id, &form), within(*id + 1, &form)] {
            documents.push(RawDocumentBuf::from_bytes(document).unwrap());
        }
        *id += 2;
    }
    documents
}

#[test]
fn every_valid_case_comes_back() {
    let (mut id, mut cases) = (0, 0);
    for (file, corpus) in corpus() {
        let all: Vec<_> = corpus.valid.iter().flat_map(|case| documents(case, &mut id)).collect();
        let shared = compile(&inferred(&all));
        for case in &corpus.valid {
            let documents = documents(case, &mut id);
            let own = compile(&inferred(&documents[..2]));
            for mapping in [&own, &shared, &compile(&whole("relaxed")), &compile(&whole("canonical"))] {
                for document in &documents {
                    let rows = encode(mapping, document)
                        .unwrap_or_else(|e| panic!("{file}: {}: {e}", case.description));
                    let rebuilt = rebuild(mapping, &rows);
                    if let Some(difference) = difference(rebuilt.as_bytes(), document.as_bytes()) {
                        panic!("{file}: {}\n{difference}", case.description);
                    }
                }
            }
            cases += 1;
        }
    }
    assert!(cases > 500, "only {cases} cases");
}

/// The JSON of document mode is that of the specification, wherever that represents everything.
#[test]
fn whole_documents_are_the_specifications_json() {
    let mut compared = [0, 0];
    for (file, corpus) in corpus() {
        for case in corpus.valid.iter().filter(|case| !case.lossy) {
            let forms =
                [("canonical", Some(&case.canonical_extjson)), ("relaxed", case.relaxed_extjson.as_ref())];
            for ((form, expected), compared) in forms.into_iter().zip(&mut compared) {
                let Some(expected) = expected else { continue };
                let mapping = compile(&whole(form));
                let document = RawDocumentBuf::from_bytes(with_id(1, &bytes(&case.canonical_bson))).unwrap();
                let written = doc_column(&mapping, &document);
                if written.contains("$docrow") {
                    continue;
                }
                let mut written: Json = serde_json::from_str(&written).unwrap();
                written.as_object_mut().unwrap().remove("_id");
                let expected: Json = serde_json::from_str(expected).unwrap();
                assert_eq!(numbers(&written), numbers(&expected), "{file}: {}", case.description);
                *compared += 1;
            }
        }
    }
    assert!(compared[0] > 500 && compared[1] > 20, "{compared:?}");
}

/// JSON with every `$numberDouble` written alike: the specification leaves open how.
fn numbers(json: &Json) -> Json {
    match json {
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| match value {
                Json::String(text) if name == "$numberDouble" => {
                    (name.clone(), format!("{:?}", text.parse::<f64>().unwrap()).into())
                }
                value => (name.clone(), numbers(value)),
            };
            Json::Object(fields.iter().map(field).collect())
        }
        Json::Array(elements) => elements.iter().map(numbers).collect(),
        _ => json.clone(),
    }
}

fn doc_column(mapping: &Arc<Mapping>, document: &RawDocumentBuf) -> String {
    let rows = encode(mapping, document).unwrap();
    let doc = rows.tables[0].tuples().next().unwrap().columns().nth(1).unwrap().unwrap().to_vec();
    String::from_utf8(doc[1..].to_vec()).unwrap()
}

/// Trap: malformed bytes become a dead letter, or are kept as they are.
#[test]
fn what_is_no_bson_is_refused_or_comes_back() {
    let mut refused = 0;
    for (file, corpus) in corpus() {
        for case in &corpus.decode_errors {
            let form = bytes(&case.bson);
            for document in [with_id(1, &form), within(1, &form)] {
                let Ok(document) = RawDocumentBuf::from_bytes(document) else {
                    refused += 1;
                    continue;
                };
                for text in [
                    inferred(std::slice::from_ref(&document)),
                    inferred(&[]),
                    whole("relaxed"),
                    whole("canonical"),
                ] {
                    let mapping = compile(&text);
                    let Ok(rows) = encode(&mapping, &document) else {
                        refused += 1;
                        continue;
                    };
                    if let Some(difference) =
                        difference(rebuild(&mapping, &rows).as_bytes(), document.as_bytes())
                    {
                        panic!("{file}: {}\n{difference}", case.description);
                    }
                }
            }
        }
    }
    assert!(refused > 50, "only {refused} refusals");
}

#[tokio::test]
async fn every_valid_case_comes_back_from_postgres() {
    let mut store = Store::new("corpus").await;
    let (mut id, mut everything) = (0, Vec::new());
    let check = async |store: &mut Store, text: &str, documents: &[RawDocumentBuf]| {
        let stored = store.pass(&compile(text), documents).await;
        for (rebuilt, document) in stored.documents.iter().zip(documents) {
            let rebuilt = rebuilt.as_ref().expect("no dead letter");
            if let Some(difference) = difference(rebuilt.as_bytes(), document.as_bytes()) {
                panic!("{difference}");
            }
        }
    };
    for corpus in corpus().values() {
        let documents: Vec<_> = corpus.valid.iter().flat_map(|case| documents(case, &mut id)).collect();
        check(&mut store, &inferred(&documents), &documents).await;
        everything.extend(documents);
    }
    for text in [whole("relaxed"), whole("canonical"), inferred(&everything[..3]), inferred(&everything)] {
        check(&mut store, &text, &everything).await;
    }
}
