//! Decides what an error of the driver or of the server means; no other file does.
//!
//! Messages name the hosts, the request, and what to do. They are composed from the server's code, its name
//! and its message: the driver's own `Display` dumps its structure. Of a server's message, only the part
//! before anything that it quotes is shown: a query contains `_id`s, and so does a resume token (G12).

use std::{error::Error as _, fmt, sync::Arc};

use mongodb::error::{CommandError, Error as DriverError, ErrorKind};

use super::silence::SilenceCause;
use crate::error::{Code, Error, Kind};

/// The oplog no longer holds the position: ChangeStreamHistoryLost, ChangeStreamFatalError, and
/// ShardRemovedError, which removed its part of the oplog. These are the codes that the server itself labels
/// `NonResumableChangeStreamError`.
const HISTORY_LOST: [i32; 3] = [286, 280, 464];
/// InvalidResumeToken and the refusal of another stream's token: history lost, but only when a stream is
/// opened.
const HISTORY_LOST_AT_OPEN: [i32; 2] = [260, 50811];
/// Unauthorized.
const UNAUTHORIZED: i32 = 13;
/// UserNotFound, AuthenticationFailed, and Atlas's "bad auth".
const BAD_CREDENTIALS: [i32; 3] = [11, 18, 8000];
/// CommandNotFound, CommandNotSupported, ReadConcernMajorityNotEnabled, NotImplemented, what DocumentDB says
/// of a feature that it lacks, an unknown field, and an unknown stage of a pipeline: a service that is
/// compatible with MongoDB lacks this.
const LACKING: [i32; 7] = [59, 115, 148, 238, 303, 40_415, 40_324];
/// BadValue and FailedToParse: the request is never accepted, whenever it comes.
const NEVER_ACCEPTED: [i32; 2] = [2, 9];
/// How Atlas refuses, besides credentials, what its smaller tiers lack.
const ATLAS: i32 = 8000;
/// "The $changeStream stage is only supported on replica sets".
const NOT_A_REPLICA_SET: i32 = 40573;

/// ShutdownInProgress, PrimarySteppedDown, NotWritablePrimary, InterruptedAtShutdown,
/// InterruptedDueToReplStateChange, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary.
const RESTARTING: [i32; 7] = [91, 189, 10_107, 11_600, 11_602, 13_435, 13_436];
/// SnapshotTooOld, SnapshotUnavailable: a past state that the server no longer has.
pub(super) const STATE_GONE: [i32; 2] = [239, 246];
/// CappedPositionLost: the position of a scan of a capped collection was removed.
pub(super) const CAPPED_POSITION_LOST: i32 = 136;
/// BSONObjectTooLarge.
pub(super) const TOO_LARGE: i32 = 10334;
/// The collection does not exist.
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
/// No collection and no database could have such a name.
pub(super) const INVALID_NAMESPACE: i32 = 73;
/// What to do when history is lost: the same everywhere.
pub const ANEW: &str = "docrow resync '*', then start docrow again: everything is copied again in place \
     ([source] on_history_lost = \"resync\" does so by itself)";
/// What precedes a quoted part of a server's message: a command, a query, a token, a value.
const QUOTES: [&str; 5] = ["{", "[", "\"", "Tree:", " to execute command"];

/// A request to MongoDB, for the message if it fails.
#[derive(Clone, Debug)]
pub(super) struct SourceRequest {
    /// The hosts that it is sent to.
    pub(super) hosts: Arc<str>,
    /// A verb and its object, for example `read shop.orders`.
    pub(super) what: String,
    /// The database whose `read` role it requires; `None`: `readAnyDatabase`.
    pub(super) database: Option<String>,
}

impl SourceRequest {
    /// The meaning of a failure of this request.
    pub(super) fn failed(&self, error: &DriverError) -> Error {
        self.error(error, false)
    }

    /// The meaning of a failure to open a change stream.
    pub(super) fn failed_to_open(&self, error: &DriverError) -> Error {
        self.error(error, true)
    }

    /// `MongoDB at HOSTS` and what is wrong with it.
    pub(super) fn refused(&self, code: Code, wrong: &str) -> Error {
        Error::new(code, format!("MongoDB at {} {wrong}", self.hosts))
    }

    fn error(&self, error: &DriverError, opening: bool) -> Error {
        let code = meaning_of(error, opening);
        let what = &self.what;
        let text = match code.kind() {
            Kind::HistoryLost => format!(
                "{what}: the oplog of {} no longer holds the position to resume from ({}): {ANEW}, and \
                 enlarge the oplog",
                self.hosts,
                CodeNumber(error)
            ),
            _ => format!("{what}: {}{}", ServerSaid { error, hosts: &self.hosts }, self.advice(error)),
        };
        Error::new(code, text)
    }

    fn advice(&self, error: &DriverError) -> String {
        match (code_of(error), &*error.kind) {
            (Some(UNAUTHORIZED), _) => {
                let role = match &self.database {
                    Some(database) => format!("read on the database {database}"),
                    None => "readAnyDatabase on admin".to_owned(),
                };
                format!(": name a user in the URI and grant it the role {role}")
            }
            (Some(NOT_A_REPLICA_SET), _) => ": start mongod with --replSet and run rs.initiate()".to_owned(),
            (Some(code), _) if LACKING.contains(&code) => ": docrow can't do without it".to_owned(),
            (Some(code), _) if !BAD_CREDENTIALS.contains(&code) => String::new(),
            (Some(_), _) | (None, ErrorKind::Authentication { .. }) => {
                ": check user, password and authSource in the URI".to_owned()
            }
            (None, _) => String::new(),
        }
    }
}

/// Every unknown error is treated as transient: it is retried with backoff. The server's code takes
/// precedence over the place in the driver where the error occurred: a server that shuts down also interrupts
/// an authentication.
fn meaning_of(error: &DriverError, opening: bool) -> Code {
    if let Some(silence) = SilenceCause::found_in(error) {
        return silence.code();
    }
    match (code_of(error), &*error.kind) {
        (Some(code), _) if HISTORY_LOST.contains(&code) => Code::HistoryLost,
        (Some(code), _) if opening && HISTORY_LOST_AT_OPEN.contains(&code) => Code::HistoryUnknown,
        (Some(code), _) if BAD_CREDENTIALS.contains(&code) => Code::SourceCredentials,
        (Some(UNAUTHORIZED), _) => Code::SourcePrivilege,
        (Some(NOT_A_REPLICA_SET), _) => Code::SourceStandalone,
        (Some(code), _) if LACKING.contains(&code) => Code::SourceLacks,
        (Some(code), _) if NEVER_ACCEPTED.contains(&code) => Code::SourceRefused,
        (Some(code), _) if RESTARTING.contains(&code) => Code::SourceRestarting,
        (Some(_), _) => Code::SourceSays,
        (None, ErrorKind::Authentication { .. }) => Code::SourceCredentials,
        (None, ErrorKind::IncompatibleServer { .. }) => Code::SourceTooOld,
        (None, ErrorKind::InvalidArgument { .. } | ErrorKind::Shutdown) => Code::Bug,
        (None, ErrorKind::InvalidTlsConfig { .. }) => Code::TlsFile,
        (None, ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. }) => Code::SourceLost,
        (None, ErrorKind::ServerSelection { .. }) => Code::SourceNoServer,
        (None, ErrorKind::DnsResolve { .. }) => Code::SourceName,
        (None, ErrorKind::InvalidResponse { .. }) => Code::SourceMalformed,
        (None, _) => Code::SourceAway,
    }
}

/// Whether the server refuses the credentials.
pub(super) fn is_of_login(error: &DriverError) -> bool {
    match (code_of(error), &*error.kind) {
        (Some(code), _) => BAD_CREDENTIALS.contains(&code),
        (None, kind) => matches!(kind, ErrorKind::Authentication { .. }),
    }
}

/// Whether the server does not answer such a request: this user may not ask, or it has no such command.
pub(super) fn is_withheld(error: &DriverError) -> bool {
    code_of(error).is_some_and(|code| [UNAUTHORIZED, ATLAS].contains(&code) || LACKING.contains(&code))
}

/// The server's code, of the error or of the first of its causes that has one.
pub(super) fn code_of(error: &DriverError) -> Option<i32> {
    command_error(error).map(|command| command.code)
}

fn command_error(error: &DriverError) -> Option<&CommandError> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command),
        _ => error.source()?.downcast_ref().and_then(command_error),
    }
}

/// The server's code with its name.
struct CodeNumber<'a>(&'a DriverError);

impl fmt::Display for CodeNumber<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match command_error(self.0) {
            Some(command) if command.code_name.is_empty() => write!(f, "code {}", command.code),
            Some(command) => write!(f, "{}, code {}", command.code_name, command.code),
            None => f.write_str("no code"),
        }
    }
}

/// What went wrong, in words.
struct ServerSaid<'a> {
    error: &'a DriverError,
    hosts: &'a str,
}

impl fmt::Display for ServerSaid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, hosts } = self;
        if let Some(command) = command_error(error) {
            return write!(
                f,
                "MongoDB at {hosts} says: {} ({})",
                unquoted(&command.message),
                CodeNumber(error)
            );
        }
        if let Some(silence) = SilenceCause::found_in(error) {
            return write!(f, "MongoDB at {hosts} {silence}");
        }
        match &*error.kind {
            ErrorKind::Io(io) => write!(f, "the connection to MongoDB at {hosts} failed: {io}"),
            ErrorKind::ConnectionPoolCleared { .. } => {
                write!(f, "the connections to MongoDB at {hosts} were lost")
            }
            ErrorKind::ServerSelection { message, .. } => match io_error_in(message) {
                Some(why) => write!(f, "no server at {hosts} answers in time: {why}"),
                None => write!(f, "no server at {hosts} answers in time"),
            },
            ErrorKind::Authentication { .. } => write!(f, "MongoDB at {hosts} refuses the credentials"),
            ErrorKind::DnsResolve { message, .. } => {
                write!(f, "the name {hosts} can't be resolved: {message}")
            }
            ErrorKind::IncompatibleServer { message, .. } | ErrorKind::InvalidTlsConfig { message, .. } => {
                f.write_str(message)
            }
            ErrorKind::SessionsNotSupported => write!(f, "MongoDB at {hosts} supports no sessions"),
            ErrorKind::InvalidResponse { .. } => {
                write!(f, "MongoDB at {hosts} gives an answer that can't be read")
            }
            _ => write!(f, "the driver of MongoDB at {hosts} failed"),
        }
    }
}

/// The innermost cause in the server's message, up to anything that it quotes.
fn unquoted(message: &str) -> &str {
    let cause = message.rsplit(":: caused by ::").next().unwrap_or(message);
    let end = QUOTES.iter().filter_map(|quote| cause.find(quote)).min().unwrap_or(cause.len());
    cause.get(..end).unwrap_or(cause).trim_matches([' ', '.', ':'])
}

/// The first reason in the driver's message about why it found no server, which is a dump of all its state.
pub(super) fn io_error_in(message: &str) -> Option<&str> {
    let reason = message.split_once("I/O error: ")?.1.split_once(", labels: ")?.0;
    // The TLS library refers to a page about a connection that ended without notice.
    reason.split(": https://").next()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{deserialize_from_document, doc};

    use super::*;

    fn command(code: i32) -> DriverError {
        let answer = doc! { "code": code, "codeName": "Name", "errmsg": "it failed" };
        ErrorKind::Command(deserialize_from_document(answer).unwrap()).into()
    }

    fn kinds(code: i32) -> [Kind; 2] {
        let request = SourceRequest { hosts: "db:27017".into(), what: "follow".to_owned(), database: None };
        [request.failed(&command(code)), request.failed_to_open(&command(code))].map(|error| error.kind())
    }

    /// Trap: retryable errors mistaken for lost history, with a needless full copy.
    #[test]
    fn passing_errors_are_retried() {
        let of_the_network = [6, 7, 89, 9001, 317, 384];
        let of_time = [24, 50, 202, 262, 290];
        let of_the_state_of_a_member =
            [91, 133, 134, 189, 10058, 10107, 11600, 11601, 11602, 13435, 13436, 16986];
        let of_the_state_of_a_cluster = [63, 70, 150, 249, 250, 13388, 15, 185];
        // For a cursor, and for a scan that the oplog's end overtook: opening it again shows what the error
        // means.
        let of_a_cursor = [43, 136, 175, 234, 237, 239, 246, 279, 361];
        let of_no_name = [1, 8, 123_456, -1];
        for code in [
            &of_the_network[..],
            &of_time,
            &of_the_state_of_a_member,
            &of_the_state_of_a_cluster,
            &of_a_cursor,
            &of_no_name,
        ]
        .concat()
        {
            assert_eq!(kinds(code), [Kind::SourceAway; 2], "{code}");
        }
    }

    /// G8: 286, 280, 464 always; 260, 50811 only at open.
    #[test]
    fn lost_history_is_known_by_its_codes() {
        for code in [286, 280, 464] {
            assert_eq!(kinds(code), [Kind::HistoryLost; 2], "{code}");
        }
        for code in [260, 50811] {
            assert_eq!(kinds(code), [Kind::SourceAway, Kind::HistoryLost], "{code}");
        }
    }

    /// These need operator action.
    #[test]
    fn refusals_are_not_retried() {
        for code in [11, 13, 18, 8000, 40573] {
            assert_eq!(kinds(code), [Kind::SourceRefused; 2], "{code}");
        }
    }

    #[test]
    fn says_what_to_do() {
        let request = SourceRequest {
            hosts: "db:27017".into(),
            what: "read shop.orders".to_owned(),
            database: Some("shop".to_owned()),
        };
        let said = |code| request.failed(&command(code)).to_string();
        assert_eq!(said(91), "read shop.orders: MongoDB at db:27017 says: it failed (Name, code 91)");
        assert!(said(13).ends_with("grant it the role read on the database shop"), "{}", said(13));
        assert!(said(18).ends_with("check user, password and authSource in the URI"), "{}", said(18));
        assert!(said(286).ends_with("and enlarge the oplog"), "{}", said(286));
    }

    /// G12: a query or a token in a message may hold a document's `_id`.
    #[test]
    fn quotes_nothing_of_what_a_server_quotes() {
        for (message, shown) in [
            ("Authentication failed.", "Authentication failed"),
            ("not authorized on shop to execute command { find: \"orders\" }", "not authorized on shop"),
            (
                "error processing query: ns=shop.ordersTree: _id $eq 7",
                "error processing query: ns=shop.orders",
            ),
            (
                "PlanExecutor error :: caused by :: cannot resume stream; not found. {_data: \"82\"}",
                "cannot resume stream; not found",
            ),
            ("cursor id 7 not found", "cursor id 7 not found"),
            ("", ""),
        ] {
            assert_eq!(unquoted(message), shown);
        }
    }

    #[test]
    fn finds_the_reason_in_the_drivers_dump() {
        let dump = "Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: \
                    localhost:1, Type: Unknown, Error: Kind: I/O error: tls handshake eof, labels: {\"RetryableError\"}, \
                    source: None, server response: None } ] }";
        assert_eq!(io_error_in(dump), Some("tls handshake eof"));
        assert_eq!(io_error_in("Server selection timeout: No available servers"), None);
    }
}
