//! The same round trip as [`super::round_trip`]'s, through a real PostgreSQL.

use std::sync::Arc;

use docrow::mapping::Mapping;
use mongodb::bson::RawDocumentBuf;
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::{
    compile,
    documents::any_document,
    round_trip::{COLUMNS, everything, inferred, whole},
    stored::Store,
};
use crate::support::same::difference;

fn sample<T: std::fmt::Debug>(values: &impl Strategy<Value = T>) -> T {
    thread_local!(static RUNNER: std::cell::RefCell<TestRunner> = std::cell::RefCell::default());
    RUNNER.with_borrow_mut(|runner| values.new_tree(runner).unwrap().current())
}

/// Returns how many documents came back.
async fn check(store: &mut Store, mapping: &Arc<Mapping>, documents: &[RawDocumentBuf]) -> usize {
    let stored = store.pass(mapping, documents).await;
    for (rebuilt, document) in stored.documents.iter().zip(documents) {
        if let Some(difference) =
            rebuilt.as_ref().and_then(|rebuilt| difference(rebuilt.as_bytes(), document.as_bytes()))
        {
            panic!("{difference}\ndocument: {}", document.as_bytes().escape_ascii());
        }
    }
    stored.documents.iter().flatten().count()
}

/// G4: "the document can be rebuilt from its rows", whichever values, types and shapes.
#[tokio::test]
async fn any_document_comes_back_from_typed_tables() {
    let mut store = Store::new("typed").await;
    let documents = sample(&vec(any_document(COLUMNS), 600));
    assert!(check(&mut store, &compile(&everything("text")), &documents).await > 300);
    for key in ["bigint", "integer", "uuid", "bytea"] {
        let documents = sample(&vec(any_document(COLUMNS), 300));
        assert!(check(&mut store, &compile(&everything(key)), &documents).await > 0, "{key}");
    }
}

/// G4, for collections without a mapping file.
#[tokio::test]
async fn any_document_comes_back_from_inferred_tables() {
    let mut store = Store::new("inferred").await;
    let mut back = 0;
    for size in 0..12 {
        let documents = sample(&vec(any_document(&[]), 40));
        back += check(&mut store, &compile(&inferred(&documents[..size])), &documents).await;
    }
    assert!(back > 200, "{back}");
}

/// G4, in document mode.
#[tokio::test]
async fn any_document_comes_back_whole() {
    let mut store = Store::new("whole").await;
    for form in ["relaxed", "canonical"] {
        let documents = sample(&vec(any_document(&[]), 300));
        assert!(check(&mut store, &compile(&whole(form)), &documents).await > 150);
    }
}
