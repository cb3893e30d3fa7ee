//! mongod 6.0.5 aborts (an invariant in `document_diff_serialization.cpp`) when an update by a pipeline, or
//! `$merge`, encounters a document in which a name occurs twice at one level. So each seed has either the one
//! or the other. Pure.

use std::collections::BTreeSet;

use mongodb::bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::plan::Step;

/// The steps, changed to those that mongod survives.
pub(super) fn survivable(seed: u64, steps: Vec<Step>) -> Vec<Step> {
    // Scenarios alternate by tens: each gets both.
    let has_pipelines = (seed ^ (seed / 10)) & 1 == 0;
    let change = |command: &RawDocumentBuf| changed(command, has_pipelines);
    let change = |step| match step {
        Step::Command(command) => Step::Command(change(&command)),
        Step::Transaction(commands) => Step::Transaction(commands.iter().map(change).collect()),
        other => other,
    };
    steps.into_iter().map(change).collect()
}

/// With each name once, or without pipelines that update.
fn changed(document: &RawDocument, has_pipelines: bool) -> RawDocumentBuf {
    let (mut names, mut changed) = (BTreeSet::new(), RawDocumentBuf::new());
    for field in document.iter() {
        let (name, value) = field.unwrap();
        if has_pipelines && !names.insert(name.as_str().to_owned()) {
            continue;
        }
        let value = match (name.as_str(), value) {
            ("u", RawBsonRef::Array(_)) if !has_pipelines => {
                RawBson::Document(rawdoc! { "$inc": { "n": 1 } })
            }
            ("whenMatched", _) if !has_pipelines => RawBson::String("replace".to_owned()),
            (_, value) => changed_value(value, has_pipelines),
        };
        changed.append(name, value);
    }
    changed
}

fn changed_value(value: RawBsonRef<'_>, has_pipelines: bool) -> RawBson {
    match value {
        RawBsonRef::Document(document) => RawBson::Document(changed(document, has_pipelines)),
        RawBsonRef::Array(array) => {
            let mut changed = RawArrayBuf::new();
            array.into_iter().for_each(|value| changed.push(changed_value(value.unwrap(), has_pipelines)));
            RawBson::Array(changed)
        }
        other => other.into(),
    }
}
