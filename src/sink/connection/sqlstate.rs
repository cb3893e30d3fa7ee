//! The meaning of an error of PostgreSQL, or of connecting to it: only here do SQLSTATEs become a [`Code`],
//! and so a [`Kind`](crate::error::Kind).
//!
//! It also keeps values out of errors (G12): from the server's error, it repeats the message, the SQLSTATE
//! and the names of table, column and constraint; never CONTEXT, nor DETAIL, which quote rows, except for
//! SQLSTATE 2BP01, whose DETAIL names what depends on a table; and it leaves out the message if it quotes a
//! value (class 22) or a user's trigger wrote it.

use std::{error::Error as StdError, fmt, io};

use tokio_postgres::{Error as PgError, error::DbError};

use super::transport::{TransportError, io_error, tls_error};
use crate::error::{Code, Error};

/// The operation, if it changes the meaning of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorContext {
    /// Writing rows of documents: an error about their content is the documents', not the target's.
    Rows,
    /// Anything else.
    Other,
}

/// The error of `context`, which did not write rows.
pub(crate) fn error(context: impl Into<String>, error: &PgError) -> Error {
    explain(ErrorContext::Other, context, error)
}

/// The error of `context`, which wrote rows of documents.
pub(crate) fn row_error(context: impl Into<String>, error: &PgError) -> Error {
    explain(ErrorContext::Rows, context, error)
}

fn explain(doing: ErrorContext, context: impl Into<String>, error: &PgError) -> Error {
    match error.as_db_error() {
        Some(answer) => Error::caused(meaning_of(doing, answer), context, ServerAnswer::new(answer)),
        None => Error::caused(meaning_without_answer(doing, error), context, TransportError::new(error)),
    }
}

fn meaning_of(doing: ErrorContext, answer: &DbError) -> Code {
    if is_stale_position(answer) {
        return Code::TargetOvertaken;
    }
    if is_row_security(answer) {
        return Code::RowSecurity;
    }
    if is_lost_name(answer) {
        return Code::NameWithoutSchema;
    }
    meaning_of_state(doing, answer.code().code())
}

/// Where it would hide rows, and the session requests an error instead. The message may be in any language.
fn is_row_security(answer: &DbError) -> bool {
    answer.code().code() == "42501" && answer.routine() == Some("check_enable_rls")
}

/// A user's trigger or function, fired by docrow's write, uses a name that depends on the search path.
/// docrow's own statements have no context, except for its own function.
fn is_lost_name(answer: &DbError) -> bool {
    let is_missing = matches!(answer.code().code(), "42P01" | "42883" | "42704");
    is_missing && answer.where_().is_some_and(|context| !context.contains("docrow.enter("))
}

/// The statement that writes a position sets it to NULL if it would move backwards (see `positions`).
fn is_stale_position(answer: &DbError) -> bool {
    answer.code().code() == "23502"
        && answer.schema() == Some("docrow")
        && answer.table() == Some("progress")
        && answer.column() == Some("position")
}

/// The error of `docrow.enter` if another process has the pipeline.
const TAKEN: &str = "ZD001";

/// SQLSTATEs: <https://www.postgresql.org/docs/15/errcodes-appendix.html>
fn meaning_of_state(doing: ErrorContext, state: &str) -> Code {
    match state {
        // docrow.enter: another process has taken the pipeline.
        TAKEN => Code::PipelineTaken,
        "3D000" => Code::TargetDatabase,
        "42501" => Code::TargetPrivilege,
        "42P01" | "42703" | "3F000" => Code::TableDropped,
        "42804" => Code::ColumnChanged,
        "42P10" => Code::KeyDropped,
        "2BP01" => Code::TableInUse,
        // A prepared statement does not exist, or existed before it was prepared: another session has
        // answered.
        "26000" | "42P05" => Code::Pooled,
        // The database was dropped: waiting does not help.
        "57P04" => Code::TargetDropped,
        "57P01" | "57P02" | "57P03" => Code::TargetRestarting,
        "57014" => Code::TargetCancelled,
        "53100" => Code::TargetDiskFull,
        "53200" => Code::TargetOutOfMemory,
        "53300" => Code::TargetTooManyConnections,
        // Read-only: a standby that was, or is about to be, the primary.
        "25006" => Code::TargetStandby,
        // Idle or open for too long.
        "25P03" | "25P04" => Code::TargetCancelled,
        "55P03" => Code::TargetLocked,
        _ => match (state.get(..2).unwrap_or_default(), doing) {
            ("08", _) => Code::TargetLost,
            ("28", _) => Code::TargetCredentials,
            // Transaction rolled back: serialization, deadlock.
            ("40", _) => Code::TargetConflict,
            // Resources; operator intervention.
            ("53" | "57", _) => Code::TargetAway,
            // System.
            ("58", _) => Code::TargetIo,
            ("22", ErrorContext::Rows) => Code::RowValue,
            // A constraint; a view's CHECK OPTION.
            ("23" | "44", ErrorContext::Rows) => Code::RowConstraint,
            ("P0", ErrorContext::Rows) => Code::RowTrigger,
            ("54", ErrorContext::Rows) => Code::RowTooLarge,
            _ => Code::TargetRefused,
        },
    }
}

/// Errors of tokio-postgres have no public kind; their causes determine it.
fn meaning_without_answer(doing: ErrorContext, error: &PgError) -> Code {
    let Some(io) = io_error(error) else {
        return if error.is_closed() { Code::TargetLost } else { refusal(error) };
    };
    match (io.kind(), doing) {
        _ if tls_error(io).is_some() => Code::TargetTls,
        // A message over the protocol's limit of 2 GiB.
        (io::ErrorKind::InvalidInput, ErrorContext::Rows) => Code::RowTooLarge,
        (io::ErrorKind::InvalidInput, ErrorContext::Other) => Code::TargetRefused,
        (io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound, _) => Code::TargetUnreachable,
        (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => Code::TargetUnreachable,
        (io::ErrorKind::TimedOut, _) => Code::TargetSilent,
        _ if io.to_string().contains("failed to lookup address") => Code::TargetName,
        _ => Code::TargetLost,
    }
}

/// There was no answer, but the connection is intact.
fn refusal(error: &PgError) -> Code {
    match error.to_string().as_str() {
        "error performing TLS handshake" => Code::TargetTls,
        // "invalid configuration": the server requires a password, and there is none.
        "authentication error" | "invalid configuration" => Code::TargetCredentials,
        _ => Code::TargetRefused,
    }
}

/// The server's message, without values.
#[derive(Debug)]
struct ServerAnswer(String);

impl ServerAnswer {
    fn new(answer: &DbError) -> Self {
        let code = answer.code().code();
        let mut said = format!("{} (SQLSTATE {code})", message(code, answer.message(), answer.routine()));
        if is_stale_position(answer) {
            "another transaction has moved the position further: reading it again".clone_into(&mut said);
        }
        if code == TAKEN {
            return Self("another process has taken the pipeline over".to_owned());
        }
        for (what, name) in
            [("table", answer.table()), ("column", answer.column()), ("constraint", answer.constraint())]
        {
            if let Some(name) = name.filter(|name| !said.contains(*name)) {
                said.push_str(&format!(", {what} \"{name}\""));
            }
        }
        if let Some(detail) = answer.detail().filter(|_| code == "2BP01") {
            said.push_str(&format!(": {detail}"));
        }
        let advice = special_advice(answer).or_else(|| login_advice(code, answer.message()));
        match advice.or_else(|| advice_of(code)) {
            Some(advice) => said.push_str(&format!(": {advice}")),
            None if code == "42501" => said.push_str(&format!(": {}", privilege_advice(answer.message()))),
            None => {}
        }
        Self(said)
    }
}

impl fmt::Display for ServerAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for ServerAnswer {}

fn message(code: &str, message: &str, routine: Option<&str>) -> String {
    if code.starts_with("P0") || routine == Some("exec_stmt_raise") {
        return "a trigger or function of the target raised an error".to_owned();
    }
    if !code.starts_with("22") {
        return message.to_owned();
    }
    let Some((before, rest)) = message.split_once('"') else { return message.to_owned() };
    let after = rest.rsplit_once('"').map_or("", |(_, after)| after);
    let after = if after.starts_with(':') { "" } else { after };
    format!("{before}\"…\"{after}")
}

/// SQLSTATE 28000 is specified only by its message.
fn login_advice(code: &str, message: &str) -> Option<&'static str> {
    if code != "28000" {
        None
    } else if message.contains("certificate") {
        Some(
            "name a certificate with sslcert and sslkey in the target URI: from an authority that the server \
             trusts, for this user (its CN, or as mapped by pg_ident.conf)",
        )
    } else if ["no encryption", "SSL off"].iter().any(|words| message.contains(words)) {
        // The latter up to PostgreSQL 13.
        Some("the server requires TLS: set sslmode=require or stronger in the target URI")
    } else {
        None
    }
}

/// If the SQLSTATE alone means something else.
fn special_advice(answer: &DbError) -> Option<&'static str> {
    if is_row_security(answer) {
        Some(
            "row-level security would hide rows from docrow: ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or ALTER ROLE … \
             BYPASSRLS",
        )
    } else if is_lost_name(answer) {
        Some(
            "a trigger or function of the target uses this name without its schema: add the schema, or ALTER \
             FUNCTION … SET search_path = …, because docrow's sessions only search pg_catalog",
        )
    } else {
        None
    }
}

/// What to do if a pooler gives a session's statements to different server processes.
pub(crate) const POOLED: &str = "point the target URI at PostgreSQL itself, or at a pool in session mode \
    (PgBouncer: pool_mode = session)";

/// The missing privilege, from the server's message; for the user in the target URI.
fn privilege_advice(message: &str) -> String {
    let lacks =
        |what: &str| message.split_once(&format!("permission denied for {what} ")).map(|(_, name)| name);
    let owned = |what: &str| message.split_once(&format!("must be owner of {what} ")).map(|(_, name)| name);
    if let Some(table) = lacks("table").or_else(|| lacks("relation")) {
        format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {table} TO the user in the target URI")
    } else if let Some(schema) = lacks("schema") {
        format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO the user in the target URI")
    } else if let Some(database) = lacks("database") {
        format!("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO the user in the target URI")
    } else if let Some(table) = owned("table").or_else(|| owned("relation")) {
        format!("ALTER TABLE {table} OWNER TO the user in the target URI: only its owner may alter it")
    } else {
        "the user in the target URI may not do that: docs/roles.md has the privileges that docrow needs"
            .to_owned()
    }
}

fn advice_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "26000" | "42P05" => POOLED,
        "28P01" => "check user and password in the target URI",
        "28000" => "check the user in the target URI and the server's pg_hba.conf",
        "3D000" => "create it with CREATE DATABASE, or name another in the target URI",
        "25006" => "point the target URI at the primary",
        "2BP01" => "drop that first",
        "42P01" | "42703" | "3F000" => {
            "it was dropped or renamed while docrow used it: restore it with its content, or have it created \
             and all rows written again: docrow resync, then start docrow again"
        }
        "42804" => "the column's type was changed while docrow used it; change it back",
        "42P10" => "the table's primary key was dropped: start docrow again; it builds the key",
        "53100" => "free or add disk space on the PostgreSQL server",
        "53300" => "raise max_connections, or lower [snapshot] parallelism and [stream] partitions",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_code_means_what_follows_from_it() {
        for (code, rows, other) in [
            ("08006", Kind::TargetAway, Kind::TargetAway),
            ("57P01", Kind::TargetAway, Kind::TargetAway),
            ("57P03", Kind::TargetAway, Kind::TargetAway),
            ("57P04", Kind::TargetRefused, Kind::TargetRefused),
            // Disk full, out of memory, an I/O error.
            ("53100", Kind::TargetAway, Kind::TargetAway),
            ("53200", Kind::TargetAway, Kind::TargetAway),
            ("58030", Kind::TargetAway, Kind::TargetAway),
            // Serialization failure, deadlock.
            ("40001", Kind::TargetAway, Kind::TargetAway),
            ("40P01", Kind::TargetAway, Kind::TargetAway),
            // Cancelled, for example by a statement timeout; a lock timeout; a transaction timeout.
            ("57014", Kind::TargetAway, Kind::TargetAway),
            ("55P03", Kind::TargetAway, Kind::TargetAway),
            ("25P04", Kind::TargetAway, Kind::TargetAway),
            // Read-only after a failover.
            ("25006", Kind::TargetAway, Kind::TargetAway),
            // docrow.enter.
            ("ZD001", Kind::Fenced, Kind::Fenced),
            ("28P01", Kind::TargetRefused, Kind::TargetRefused),
            ("3D000", Kind::TargetRefused, Kind::TargetRefused),
            ("42501", Kind::TargetRefused, Kind::TargetRefused),
            // A dropped table, column or key; a column of another type; a dependent object.
            ("42P01", Kind::TargetRefused, Kind::TargetRefused),
            ("42703", Kind::TargetRefused, Kind::TargetRefused),
            ("42P10", Kind::TargetRefused, Kind::TargetRefused),
            ("42804", Kind::TargetRefused, Kind::TargetRefused),
            ("2BP01", Kind::TargetRefused, Kind::TargetRefused),
            // Caused by a pooler: prepared statements that vanish, or already exist.
            ("26000", Kind::TargetRefused, Kind::TargetRefused),
            ("42P05", Kind::TargetRefused, Kind::TargetRefused),
            ("22P05", Kind::TargetRefusedRows, Kind::TargetRefused),
            ("23514", Kind::TargetRefusedRows, Kind::TargetRefused),
            ("54000", Kind::TargetRefusedRows, Kind::TargetRefused),
            ("P0001", Kind::TargetRefusedRows, Kind::TargetRefused),
        ] {
            assert_eq!(meaning_of_state(ErrorContext::Rows, code).kind(), rows, "{code}");
            assert_eq!(meaning_of_state(ErrorContext::Other, code).kind(), other, "{code}");
        }
    }

    /// The reader need not guess which privilege is missing.
    #[test]
    fn a_refusal_says_which_privilege_is_lacking() {
        for (message, advice) in [
            (
                "permission denied for table users",
                "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON users TO",
            ),
            ("permission denied for schema public", "GRANT USAGE, CREATE ON SCHEMA public TO"),
            ("permission denied for database shop", "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE shop TO"),
            ("must be owner of table users", "ALTER TABLE users OWNER TO"),
            ("permission denied to set role", "docs/roles.md"),
        ] {
            assert!(privilege_advice(message).contains(advice), "{message}: {}", privilege_advice(message));
        }
    }

    /// G12: no value of a document in an error.
    #[test]
    fn messages_lose_the_values_they_quote() {
        let of = |code, text| message(code, text, None);
        assert_eq!(
            of("22P02", "invalid input syntax for type integer: \"sec\"ret\""),
            "invalid input syntax for type integer: \"…\""
        );
        assert_eq!(
            of("22003", "value \"99\" is out of range for type integer"),
            "value \"…\" is out of range for type integer"
        );
        assert_eq!(
            of("22021", "invalid byte sequence for encoding \"UTF8\": 0x00"),
            "invalid byte sequence for encoding \"…\""
        );
        assert_eq!(of("22003", "integer out of range"), "integer out of range");
        assert!(!of("P0001", "secret").contains("secret"));
        assert!(!message("23514", "secret", Some("exec_stmt_raise")).contains("secret"));
        assert!(of("23514", "new row for relation \"t\" violates check constraint \"c\"").contains("\"c\""));
    }
}
