//! The preflight: reports everything that a run would encounter, each with what to do about it.
//!
//! The parts are independent, so that one failure does not hide the others: a target that is down does not
//! hide problems of the source. Nothing is written on either side, nor in the state directory.
//!
//! Wherever possible, it asks in the way that a run would: the same connection, the same listing, a change
//! stream that is really opened, the same plan of tables. Findings about privileges come from what the
//! servers report, so that a statement can grant exactly what is missing.
//!
//! No finding contains a document's value (G12): for documents, it has paths, types and counts.

mod capacity;
mod documents;
mod format;
mod history;
mod narrow;
mod report;
mod source;
mod state;
mod target;

use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use self::documents::KnownCollections;
pub use self::report::{CheckReport, Finding, FindingPart, PathMisfits, Severity};
use crate::{config::Config, pipeline, sink::metadata::mapping_versions};

/// Checks everything that `config` contains, with `size` documents of each collection.
pub async fn run(config: &Config, size: u32) -> CheckReport {
    let mut report = CheckReport::default();
    let ((of_source, source), (of_target, mut target)) =
        tokio::join!(source::check(config), target::check(config));
    report.extend(of_source);
    report.extend(of_target);
    let stored = match &target {
        // If that can't be read, the check of the mappings reports it.
        Some((target, session)) => {
            mapping_versions::load(session, target.pipeline()).await.unwrap_or_default()
        }
        None => Vec::new(),
    };
    let known = source.as_ref().filter(|found| found.allowed).map(|found| KnownCollections {
        included: &found.collections,
        others: &found.others,
        stored: stored.into_iter().map(|mapping| mapping.collection).collect(),
    });
    let (of_files, files) = documents::files(config, known);
    report.extend(of_files);
    let mut rate = None;
    if let (Some(found), Some(files)) = (&source, &files) {
        let asked = target.as_mut().map(|(target, session)| (&*target, session));
        let previewed = pipeline::preview(config, files, &found.source, &found.collections, asked);
        // The findings contain what a run would log.
        let previewed = previewed.with_subscriber(NoSubscriber::new()).await;
        let (of_documents, measured) = documents::check(config, found, previewed, size).await;
        report.extend(of_documents);
        rate = measured;
        if let Some((target, session)) = &target {
            report.extend(narrow::check(target, session).await);
        }
    }
    report.extend(history::check(config).await);
    report.extend(state::check(config));
    if let Some(found) = &source {
        report.extend(capacity::check(config, found, rate));
        found.source.close().await;
    }
    report.findings.sort_by_key(|finding| FindingPart::ALL.iter().position(|part| *part == finding.part));
    report
}
