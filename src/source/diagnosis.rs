//! Why a deployment can't be connected to: each of its hosts is asked by itself.

use std::time::Duration;

use futures_util::future::join_all;
use mongodb::{
    bson::{Bson, Document},
    error::ErrorKind,
    options::{ClientOptions, ReadPreference, SelectionCriteria, ServerAddress},
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    ask::hello_of,
    error::{SourceRequest, io_error_in},
    tls::{self, TlsFailure},
};
use crate::error::{Code, Error};

/// How long to wait for a single host, twice: for the connection, then for the handshake.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) const NOT_A_MEMBER: &str =
    "is not a replica set member: change streams need one; start mongod with --replSet and run rs.initiate()";
pub(super) const NOT_INITIATED: &str =
    "was started with --replSet, but its replica set is not initiated: run rs.initiate()";

impl SourceRequest {
    fn unreachable(&self, code: Code, why: &str) -> Error {
        Error::new(code, format!("connect to MongoDB at {}: {why}", self.hosts))
    }
}

/// The kind of a server, from its answer to `hello`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerRole {
    Router,
    Member,
    Uninitiated,
    Standalone,
}

pub(super) fn role_of(hello: &Document) -> ServerRole {
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        ServerRole::Router
    } else if hello.contains_key("setName") {
        ServerRole::Member
    } else if hello.get_bool("isreplicaset").unwrap_or(false) {
        ServerRole::Uninitiated
    } else {
        ServerRole::Standalone
    }
}

/// What a host answers when it is asked alone.
enum HostFinding {
    /// No connection to it, with the reason.
    Closed(String),
    /// A connection, but no answer to the handshake, with the reason.
    Mute(String),
    Answers(Document),
}

/// Explains why no server was found.
pub(super) async fn diagnose(options: &ClientOptions, request: &SourceRequest) -> Error {
    let findings = join_all(options.hosts.iter().map(|host| examine(options, host))).await;
    conclude(&findings, options, request)
}

/// The most informative of the findings, for people.
fn conclude(findings: &[HostFinding], options: &ClientOptions, request: &SourceRequest) -> Error {
    let (mut refused, mut closed, mut mute) = (None, None, "no answer");
    for finding in findings {
        match finding {
            HostFinding::Answers(hello) => match role_of(hello) {
                ServerRole::Member => return of_member(hello, options, request),
                ServerRole::Uninitiated => refused = Some((Code::SourceUninitiated, NOT_INITIATED)),
                ServerRole::Standalone => refused = Some((Code::SourceStandalone, NOT_A_MEMBER)),
                ServerRole::Router => {}
            },
            HostFinding::Closed(why) => closed = Some(why),
            HostFinding::Mute(why) => mute = why,
        }
    }
    match (refused, closed) {
        (Some((code, wrong)), _) => request.refused(code, wrong),
        (None, Some(why)) => {
            // The resolver's words; the error has no kind of its own.
            let is_name = why.contains("failed to lookup address");
            let code = if is_name { Code::SourceName } else { Code::SourceUnreachable };
            let advice = if is_name {
                "check its spelling, and that this machine resolves it (`getent hosts NAME`)"
            } else {
                "check host and port, and that mongod is running"
            };
            request.unreachable(code, &format!("{why}: {advice}"))
        }
        (None, None) => match tls::explain(mute, options) {
            TlsFailure::Certificate(advice) => {
                let wrong = format!("and docrow do not agree on TLS: {mute}: {advice}");
                request.refused(Code::SourceTls, &wrong)
            }
            TlsFailure::Unclear(advice) => {
                let wrong = format!("it accepts connections, but the handshake fails ({mute}): {advice}");
                request.unreachable(Code::SourceHandshake, &wrong)
            }
        },
    }
}

/// Why a member that answers could not be used.
fn of_member(hello: &Document, options: &ClientOptions, request: &SourceRequest) -> Error {
    let set = hello.get_str("setName").unwrap_or_default();
    if let Some(wanted) = options.repl_set_name.as_deref().filter(|wanted| *wanted != set) {
        return request.refused(
            Code::SourceOtherSet,
            &format!("is the replica set {set}, not {wanted}: correct replicaSet in the URI"),
        );
    }
    let name = |host: &Bson| host.as_str().unwrap_or("?").to_owned();
    let members = hello.get_array("hosts").map(|hosts| join(hosts, name)).unwrap_or_default();
    if hello.get_str("primary").is_err() {
        let wrong =
            format!("the replica set {set} ({members}) has no primary: it elects one, or lacks a majority");
        return request.unreachable(Code::SourceNoPrimary, &wrong);
    }
    if let Some(preference) = preference_without_primary(options) {
        let wrong = format!(
            "of the members of the replica set {set} ({members}), none that can be reached is one that {preference} \
             selects: correct that in the source URI, or the members' tags, or bring such a member back"
        );
        return request.unreachable(Code::SourceUnmatched, &wrong);
    }
    request.unreachable(Code::SourceMembers, &format!(
        "it answers, but the replica set {set} has no primary that can be reached by the names it gives its members \
         ({members}): make these names resolve from here (with directConnection=true, docrow would read this member \
         alone, however far it is behind, and follow no failover)"
    ))
}

/// The URI's read preference, as it is written there, if it may exclude the primary.
fn preference_without_primary(options: &ClientOptions) -> Option<String> {
    let Some(SelectionCriteria::ReadPreference(preference)) = &options.selection_criteria else {
        return None;
    };
    let (name, options) = match preference {
        ReadPreference::Secondary { options } => ("secondary", options.as_ref()),
        ReadPreference::Nearest { options } => ("nearest", options.as_ref()),
        _ => return None,
    };
    let sets = options.and_then(|options| options.tag_sets.as_ref()).into_iter().flatten();
    let tags = sets.map(|set| {
        let mut tags: Vec<_> = set.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        tags.sort_unstable();
        format!("&readPreferenceTags={}", tags.join(","))
    });
    Some(format!("readPreference={name}{}", tags.collect::<String>()))
}

async fn examine(options: &ClientOptions, host: &ServerAddress) -> HostFinding {
    if let ServerAddress::Tcp { host, port } = host {
        match timeout(DIAGNOSIS_TIMEOUT, TcpStream::connect((host.as_str(), port.unwrap_or(27017)))).await {
            Err(_) => return HostFinding::Closed("the connection is not answered".to_owned()),
            Ok(Err(error)) => return HostFinding::Closed(error.to_string()),
            Ok(Ok(_)) => {}
        }
    }
    let mut alone = options.clone();
    alone.hosts = vec![host.clone()];
    alone.direct_connection = Some(true);
    alone.repl_set_name = None;
    alone.credential = None;
    alone.server_selection_timeout = Some(DIAGNOSIS_TIMEOUT);
    match hello_of(alone).await {
        Ok(hello) => HostFinding::Answers(hello),
        Err(error) => match &*error.kind {
            ErrorKind::ServerSelection { message, .. } => {
                HostFinding::Mute(io_error_in(message).unwrap_or("no answer").to_owned())
            }
            _ => HostFinding::Mute("no answer".to_owned()),
        },
    }
}

/// What they are called, with commas.
pub(super) fn join<T>(items: &[T], name: impl Fn(&T) -> String) -> String {
    items.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use mongodb::{bson::doc, options::ReadPreferenceOptions};

    use super::*;

    #[test]
    fn tells_roles_apart() {
        assert_eq!(role_of(&doc! { "msg": "isdbgrid" }), ServerRole::Router);
        assert_eq!(role_of(&doc! { "setName": "rs0", "secondary": true }), ServerRole::Member);
        assert_eq!(role_of(&doc! { "isreplicaset": true }), ServerRole::Uninitiated);
        assert_eq!(role_of(&doc! { "isWritablePrimary": true }), ServerRole::Standalone);
    }

    #[test]
    fn names_a_read_preference_as_it_is_written() {
        let shown = |preference: ReadPreference| {
            let criteria = SelectionCriteria::ReadPreference(preference);
            preference_without_primary(&ClientOptions::builder().selection_criteria(criteria).build())
        };
        let tags = |pairs: &[(&str, &str)]| {
            let set = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let sets = vec![set.collect(), HashMap::new()];
            Some(ReadPreferenceOptions::builder().tag_sets(sets).build())
        };
        assert_eq!(shown(ReadPreference::Primary), None);
        assert_eq!(shown(ReadPreference::SecondaryPreferred { options: None }), None);
        assert_eq!(
            shown(ReadPreference::Secondary { options: tags(&[("rack", "1"), ("dc", "ny")]) }).as_deref(),
            Some("readPreference=secondary&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=")
        );
    }

    #[test]
    fn says_what_keeps_a_member_from_being_used() {
        let request = SourceRequest { hosts: "db:27017".into(), what: String::new(), database: None };
        let member = || {
            HostFinding::Answers(
                doc! { "setName": "rs0", "primary": "mongo-0:27017", "hosts": ["mongo-0:27017", "mongo-1:27017"] },
            )
        };
        let findings =
            [HostFinding::Mute(String::new()), member(), HostFinding::Closed("refused".to_owned())];
        let wanted = |set: &str| ClientOptions::builder().repl_set_name(set.to_owned()).build();
        let error = conclude(&findings, &wanted("rs0"), &request);
        assert_eq!(error.code(), Code::SourceMembers);
        assert!(error.to_string().contains("rs0 has no primary"), "{error}");
        assert!(error.to_string().contains("(mongo-0:27017,mongo-1:27017)"), "{error}");
        assert_eq!(conclude(&findings, &wanted("rs1"), &request).code(), Code::SourceOtherSet);
        let electing = [HostFinding::Answers(doc! { "setName": "rs0", "hosts": ["mongo-0:27017"] })];
        let error = conclude(&electing, &wanted("rs0"), &request);
        assert_eq!(error.code(), Code::SourceNoPrimary);
    }
}
