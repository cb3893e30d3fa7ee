//! What went wrong on the way to the server, where it gave no answer.

use std::{error::Error as StdError, fmt, io};

use tokio_postgres::Error as PgError;

use super::tls;

/// An error on the way to the server.
#[derive(Debug)]
pub(super) struct TransportError(String);

impl TransportError {
    pub(super) fn new(error: &PgError) -> Self {
        let mut said = match error.source() {
            // The TLS library refers to a page about a connection that ended without notice.
            Some(cause) if cause.is::<io::Error>() => {
                let said = cause.to_string();
                said.split(": https://").next().unwrap_or(&said).to_owned()
            }
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let advice = io_error(error).map_or_else(|| driver_advice(&said), way_advice);
        if let Some(advice) = advice {
            said.push_str(": ");
            said.push_str(advice);
        }
        Self(said)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for TransportError {}

/// Advice for the driver's own errors.
fn driver_advice(said: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 4] = [
        ("server does not support TLS", "set ssl = on there, or relax sslmode in the target URI"),
        (
            "password missing",
            "the server requires one: put it into the target URI, or set DOCROW_TARGET_PASSWORD or \
             DOCROW_TARGET_PASSWORD_FILE (PGPASSWORD and .pgpass are not read)",
        ),
        (
            "did not use channel binding",
            "with channel_binding=require the server must ask for a password by scram-sha-256, over TLS: see its pg_hba.conf",
        ),
        (
            "unsupported authentication method",
            "docrow logs in by password or by certificate: choose scram-sha-256 or cert in the server's pg_hba.conf",
        ),
    ];
    ADVICE.iter().find(|(words, _)| said.contains(words)).map(|(_, advice)| *advice)
}

fn way_advice(error: &io::Error) -> Option<&'static str> {
    if let Some(error) = tls_error(error) {
        return Some(tls::advice(error));
    }
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "is PostgreSQL running there, and listening on that address?",
        io::ErrorKind::TimedOut => "no answer: check host, port and firewall",
        io::ErrorKind::NotFound => "no such socket: check the host in the target URI",
        _ => return None,
    })
}

pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn io_error(error: &PgError) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}
