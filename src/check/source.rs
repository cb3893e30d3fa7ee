//! Findings about MongoDB.

use indicatif::HumanCount;

use super::report::{FindingPart, PartFindings};
use crate::{
    config::{Config, Order},
    error::{Kind, Result},
    model::change::Namespace,
    schema::nearest,
    source::{CollectionInfo, MissingPrivilege, Oplog, Source, SourceSurvey, UserAccess},
};

/// How many names a finding shows.
const NAMES_SHOWN: usize = 10;

/// What was found.
pub(super) struct CheckedSource {
    pub(super) source: Source,
    pub(super) collections: Vec<CollectionInfo>,
    /// The names of existing collections that are not included.
    pub(super) others: Vec<String>,
    pub(super) oplog: Option<Oplog>,
    /// Whether the user has all privileges that docrow needs.
    pub(super) allowed: bool,
}

impl CheckedSource {
    /// The value, or its error as a problem, unless a finding about a missing privilege already explains it.
    pub(super) fn unless<T>(
        &self,
        findings: &mut PartFindings,
        subject: &str,
        outcome: Result<T>,
    ) -> Option<T> {
        match outcome {
            Err(error) if !self.allowed && error.kind() == Kind::SourceRefused => None,
            outcome => findings.unless(subject, outcome),
        }
    }
}

pub(super) async fn check(config: &Config) -> (PartFindings, Option<CheckedSource>) {
    let mut findings = PartFindings::new(FindingPart::Source);
    let connected = Source::connect(config.source.expose()).await;
    let Some(source) = findings.unless("connection", connected) else { return (findings, None) };
    let access = findings.unless("privileges", source.access().await);
    let user = access.as_ref().and_then(UserAccess::user);
    let as_whom = user.map_or("without access control".to_owned(), |user| format!("as {user}"));
    findings.ok("connection", format!("{} at {}, {as_whom}", source.words(), source.hosts()));
    if source.is_sharded() {
        findings
            .note("connection", "a sharded cluster: docrow supports it, but has not been tested on one")
            .advise("test it beside your current system, and compare with docrow verify");
    } else if source.is_shard().await {
        findings
            .note(
                "connection",
                "its members are a shard (--shardsvr): of a cluster's data, they have only their part",
            )
            .advise("if it is part of a cluster, name the cluster's routers (mongos) in the source URI");
    }
    if config.order == Order::Commit {
        findings.unless("stream.order", source.require_states_of_the_past());
    }
    let surveyed = source.survey(&config.include, &config.exclude).await;
    let Some(survey) = findings.unless("collections", surveyed) else { return (findings, None) };
    let allowed = match &access {
        Some(access) => privileges(&mut findings, &source, access, &survey.databases),
        None => false,
    };
    collections(&mut findings, &survey, allowed);
    if allowed && !survey.collections.is_empty() {
        let names: Vec<Namespace> = survey.collections.iter().map(|info| info.namespace.clone()).collect();
        if findings.unless("change stream", source.start_position(&names).await).is_some() {
            findings.ok("change stream", "opened, and every collection was read");
        }
    }
    let oplog = findings.unless("oplog", source.oplog().await).flatten();
    if oplog.is_none() && source.is_sharded() {
        findings
            .note("oplog", "each shard has its own, and a router does not show how far they reach back")
            .advise("check each shard with rs.printReplicationInfo()");
    }
    (
        findings,
        Some(CheckedSource {
            source,
            collections: survey.collections,
            others: survey.others,
            oplog,
            allowed,
        }),
    )
}

/// Whether the user has everything that docrow needs.
fn privileges(
    findings: &mut PartFindings,
    source: &Source,
    access: &UserAccess,
    databases: &[String],
) -> bool {
    let (mut allowed, mut has) = (true, Vec::new());
    for need in source.needs(databases) {
        let Some(MissingPrivilege { actions, statement }) = access.missing(&need) else {
            has.push(need.shown());
            continue;
        };
        let (missing, purpose) = (actions.join(", "), &need.purpose);
        let finding = match need.otherwise {
            Some(otherwise) => {
                findings.note("privileges", format!("{purpose}: {missing} is not granted: {otherwise}"))
            }
            None => {
                allowed = false;
                findings.problem("privileges", format!("{purpose}: {missing} is not granted"))
            }
        };
        match statement {
            Some(statement) => finding.run(statement),
            None => finding.advise("leave it as it is, or create a role for docrow: docs/roles.md"),
        };
    }
    if allowed && access.user().is_some() {
        findings.ok("privileges", has.join("; "));
    }
    allowed
}

fn collections(findings: &mut PartFindings, survey: &SourceSurvey, allowed: bool) {
    let SourceSurvey { collections, capped, excluded, idle, others, failures, databases } = survey;
    for failure in failures {
        // Otherwise, what is missing has been reported already.
        if allowed || failure.kind() != Kind::SourceRefused {
            findings.problem("collections", failure.to_string());
        }
    }
    for excluded in excluded {
        let name = excluded.namespace.to_string();
        let what = format!("a {}, which has no change stream", excluded.kind);
        if excluded.is_named {
            findings.problem(name, what).advise("remove it from include");
        } else {
            findings.note(name, format!("left out: {what}"));
        }
    }
    for namespace in capped {
        let what = "a capped collection: before version 5.0, MongoDB does not report the documents that it \
            removes, so their rows stay";
        findings.note(namespace.to_string(), what).advise("exclude it, or delete old rows yourself");
    }
    let total = |of: fn(&CollectionInfo) -> u64| collections.iter().map(of).sum::<u64>();
    let (documents, bytes) = (total(|info| info.documents), total(|info| info.bytes));
    if !collections.is_empty() {
        let count = collections.len();
        let (noun, documents) =
            (if count == 1 { "collection" } else { "collections" }, HumanCount(documents));
        let what = format!(
            "{count} {noun} in {}: about {documents} documents, {}",
            databases.join(", "),
            super::format::size(bytes)
        );
        findings.ok("collections", what);
    }
    // Otherwise they may just not be visible.
    for pattern in idle.iter().filter(|_| allowed) {
        let subject = format!("include {pattern}");
        let names = || {
            let included = collections.iter().map(|info| info.namespace.to_string());
            others.iter().cloned().chain(included).collect::<Vec<_>>()
        };
        let what = "it matches no collection";
        let advice = near(pattern, &names());
        if collections.is_empty() { findings.problem(subject, what) } else { findings.note(subject, what) }
            .advise(advice);
    }
    if collections.is_empty() && idle.is_empty() && failures.is_empty() {
        findings.problem("collections", "none is included").advise("check include and exclude");
    }
}

/// Suggestions for what might have been meant.
fn near(pattern: &str, names: &[String]) -> String {
    if let Some(near) = nearest(pattern, names.iter().map(String::as_str)) {
        return format!("is {near} meant?");
    }
    let shown = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_SHOWN) {
        _ if names.is_empty() => "there is none that this user may read".to_owned(),
        Some(more) if more > 0 => format!("there are {shown} and {more} more"),
        _ => format!("there are {shown}"),
    }
}
