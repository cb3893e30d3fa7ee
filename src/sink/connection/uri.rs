//! The target URI and the meaning of its options. They are libpq's, with libpq's meanings. Options that
//! docrow does not support are refused with advice, never ignored: a security option that has no effect would
//! be worse than none.
//!
//! Where docrow is stricter than libpq: it reads nothing that the URI does not name (no `~/.postgresql`, no
//! `PG…` variables, no password file), and naming certificates without an `sslmode` means `require`, not
//! `prefer`, which continues in plain text if a server has no TLS.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::{
    sqlstate,
    tls::{CertificateProof, ClientIdentity, TlsSettings, TrustedRoots},
};
use crate::error::{Code, Error, Result};

/// How long to wait for the server to accept a connection, unless the URI says `connect_timeout`.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A peer that answers no keepalive for this long (and, times three, for good) is gone. With the driver's two
/// hours, a pipeline would wait for a machine that died.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long the server, or the network, may be silent, unless the URI says `tcp_user_timeout`.
const SILENCE: Duration = Duration::from_secs(40);

/// The form of a URI.
const FORM: &str = "write it as postgresql://user:password@host:port/database";

/// libpq's options that docrow does not support, and what to do instead.
const NOT_SERVED: [(&[&str], &str); 7] = [
    (&["sslcrl", "sslcrldir"], "revocation lists are not read: give servers short-lived certificates"),
    (
        &["sslpassword"],
        "encrypted keys are not read: decrypt it with `openssl pkey -in FILE -out KEY`, and protect the file by its \
         permissions",
    ),
    (
        &["passfile"],
        "libpq's password files are not read: name a file that contains only the password, with \
         DOCROW_TARGET_PASSWORD_FILE or as target.password = \"${file:PATH}\"",
    ),
    (&["service", "servicefile"], "service files are not read: write their content into the URI"),
    (
        &["gssencmode", "gsslib", "gssdelegation", "krbsrvname"],
        "GSSAPI is not supported: remove it, and use TLS (sslmode=verify-full)",
    ),
    (
        &["ssl_min_protocol_version", "ssl_max_protocol_version", "sslcompression", "sslsni", "sslcertmode"],
        "remove it: docrow uses TLS 1.2 and 1.3, without compression, with the host's name",
    ),
    (
        &["require_auth", "requirepeer"],
        "use channel_binding=require, which allows only SCRAM, or a client certificate",
    ),
];

/// A parsed URI.
#[derive(Debug)]
pub(super) struct TargetUri {
    /// For the driver.
    pub(super) config: Config,
    /// The TLS settings, if TLS is used.
    pub(super) tls: TlsSettings,
    /// `host:port`, for people.
    pub(super) address: String,
    /// How long the server may be silent.
    pub(super) patience: Duration,
}

/// Parses a URI. Errors never repeat it: it contains a password.
pub(super) fn parse(uri: &str) -> Result<TargetUri> {
    if !uri.starts_with("postgres://") && !uri.starts_with("postgresql://") {
        return Err(Error::new(Code::TargetUri, format!("the target is not a PostgreSQL URI: {FORM}")));
    }
    let (uri, options) = split(uri)?;
    let mut config: Config = uri.parse().map_err(|e| {
        Error::new(Code::TargetUri, format!("{}: {FORM}", sqlstate::error("read the target URI", &e)))
    })?;
    let address = address(&config)?;
    // libpq uses the database with the same name as the user; if the name was forgotten, the tables would end
    // up there.
    if config.get_dbname().is_none_or(str::is_empty) {
        return Err(Error::new(Code::TargetUri, format!("the target URI names no database: {FORM}")));
    }
    config.application_name("docrow");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(PATIENCE);
    }
    if !uri.contains("keepalives") {
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(3);
    }
    let patience = options.silence()?.unwrap_or(SILENCE);
    config.tcp_user_timeout(patience);
    let (mode, tls) = options.tls()?;
    // A socket of this machine has no TLS, as with libpq.
    let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    config.ssl_mode(if local { SslMode::Disable } else { mode });
    Ok(TargetUri { config, tls, address, patience })
}

/// The options of a URI that the driver does not know, or only in part: those of TLS, and one that it reads
/// in seconds where libpq means milliseconds.
#[derive(Debug, Default, PartialEq, Eq)]
struct UriOptions {
    silence: Option<String>,
    mode: Option<String>,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

/// Removes these options from a URI.
fn split(uri: &str) -> Result<(String, UriOptions)> {
    let (base, options) = uri.split_once('?').unwrap_or((uri, ""));
    let (mut own, mut kept) = (UriOptions::default(), Vec::new());
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let place = match name {
            "sslmode" => &mut own.mode,
            "sslrootcert" => &mut own.roots,
            "sslcert" => &mut own.certificate,
            "sslkey" => &mut own.key,
            "tcp_user_timeout" => &mut own.silence,
            _ => {
                if let Some((_, advice)) = NOT_SERVED.iter().find(|(names, _)| names.contains(&name)) {
                    return Err(wrong(format_args!("{name} is not supported: {advice}")));
                }
                kept.push(option);
                continue;
            }
        };
        let value = percent_decode_str(value).decode_utf8();
        *place = Some(value.map_err(|_| wrong(format_args!("{name} is not UTF-8")))?.into_owned());
    }
    let uri = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    Ok((uri, own))
}

impl UriOptions {
    /// How long the server may be silent, if given; 0 means the default, as with libpq.
    fn silence(&self) -> Result<Option<Duration>> {
        let Some(text) = &self.silence else { return Ok(None) };
        let millis: u32 =
            text.parse().map_err(|_| wrong(format_args!("tcp_user_timeout is a number of milliseconds")))?;
        Ok((millis > 0).then(|| Duration::from_millis(millis.into())))
    }

    fn tls(self) -> Result<(SslMode, TlsSettings)> {
        let Self { mode, roots, certificate, key, silence: _ } = self;
        let system = roots.as_deref() == Some("system");
        let named = roots.is_some() || certificate.is_some() || key.is_some();
        let (mode, proof) = match mode.as_deref() {
            Some("verify-full") => (SslMode::Require, CertificateProof::Host),
            // Anyone can get a certificate from a public authority, so that proves nothing without the host.
            None if system => (SslMode::Require, CertificateProof::Host),
            Some(mode) if system => {
                return Err(wrong(format_args!(
                    "sslmode={mode} is too weak for sslrootcert=system: write sslmode=verify-full"
                )));
            }
            Some("verify-ca") => (SslMode::Require, CertificateProof::Authority),
            // As in libpq: naming an authority requests verification.
            Some("require") | None if roots.is_some() => (SslMode::Require, CertificateProof::Authority),
            Some("require") => (SslMode::Require, CertificateProof::None),
            None if named => (SslMode::Require, CertificateProof::None),
            Some(mode @ ("prefer" | "disable")) if named => {
                return Err(wrong(format_args!(
                    "sslmode={mode} ignores the named certificates: write sslmode=verify-full, or remove \
                     them"
                )));
            }
            Some("prefer") | None => (SslMode::Prefer, CertificateProof::None),
            Some("disable") => (SslMode::Disable, CertificateProof::None),
            Some("allow") => {
                return Err(wrong(format_args!(
                    "sslmode=allow is not supported, because it prefers unencrypted connections: write \
                     sslmode=prefer or stronger"
                )));
            }
            Some(_) => {
                return Err(wrong(format_args!(
                    "sslmode must be one of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        let roots =
            roots.filter(|_| !system).map_or(TrustedRoots::System, |path| TrustedRoots::File(path.into()));
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(ClientIdentity { certificate: certificate.into(), key: key.into() })
            }
            (Some(_), None) => {
                return Err(wrong(format_args!("sslcert needs sslkey: name the file of its private key")));
            }
            (None, Some(_)) => {
                return Err(wrong(format_args!("sslkey needs sslcert: name the file of its certificate")));
            }
        };
        Ok((mode, TlsSettings { proof, roots, identity }))
    }
}

fn wrong(what: std::fmt::Arguments<'_>) -> Error {
    Error::new(Code::TargetUri, format!("target URI: {what}"))
}

/// The servers that a configuration names, for people. Errors: there is none, or it contains a part of a
/// password that was not percent-encoded.
fn address(config: &Config) -> Result<String> {
    let ports = config.get_ports();
    let mut addresses = Vec::new();
    for (i, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(host) if host.contains('@') => {
                let advice = "percent-encode the special characters of the password (@ is %40, / is %2F, : is %3A), or \
                              set it separately, as target.password";
                return Err(Error::new(
                    Code::TargetUri,
                    format!("the target URI has more than one @: {advice}"),
                ));
            }
            Host::Tcp(host) => addresses.push(format!("{host}:{port}")),
            Host::Unix(path) => addresses.push(format!("{} (port {port})", path.display())),
        }
    }
    if addresses.is_empty() {
        return Err(Error::new(Code::TargetUri, format!("the target URI names no host: {FORM}")));
    }
    Ok(addresses.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<(SslMode, TlsSettings), String> {
        let parsed = parse(&format!("postgres://u:secret@h/d{options}")).map_err(|e| e.to_string())?;
        Ok((parsed.config.get_ssl_mode(), parsed.tls))
    }

    #[test]
    fn sslmode_decides_what_is_proved() {
        for (options, mode, proof) in [
            ("", SslMode::Prefer, CertificateProof::None),
            ("?sslmode=prefer", SslMode::Prefer, CertificateProof::None),
            ("?sslmode=disable", SslMode::Disable, CertificateProof::None),
            ("?sslmode=require", SslMode::Require, CertificateProof::None),
            ("?sslrootcert=/ca.pem", SslMode::Require, CertificateProof::Authority),
            ("?sslmode=require&sslrootcert=/ca.pem", SslMode::Require, CertificateProof::Authority),
            ("?sslmode=verify-ca&connect_timeout=1", SslMode::Require, CertificateProof::Authority),
            ("?connect_timeout=1&sslmode=verify-full", SslMode::Require, CertificateProof::Host),
            ("?sslrootcert=system", SslMode::Require, CertificateProof::Host),
            ("?sslcert=/c.pem&sslkey=/k.pem", SslMode::Require, CertificateProof::None),
        ] {
            let (found, tls) = read(options).unwrap();
            assert_eq!((found, tls.proof), (mode, proof), "{options}");
        }
    }

    #[test]
    fn files_are_named_by_options() {
        let tls = read("?sslrootcert=/a%20b.pem&sslcert=c.pem&sslkey=k.pem").unwrap().1;
        assert_eq!(tls.roots, TrustedRoots::File("/a b.pem".into()));
        assert_eq!(tls.identity, Some(ClientIdentity { certificate: "c.pem".into(), key: "k.pem".into() }));
        let tls = read("?sslrootcert=system&sslmode=verify-full").unwrap().1;
        assert_eq!((tls.roots, tls.identity), (TrustedRoots::System, None));
    }

    /// An option without effect is refused, with advice, and without the password.
    #[test]
    fn no_option_about_security_is_ignored() {
        for (options, words) in [
            ("?sslmode=allow", "prefers unencrypted"),
            ("?sslmode=sometimes", "must be one of disable, prefer"),
            ("?sslmode=", "must be one of disable, prefer"),
            ("?sslmode=verify-ca&sslrootcert=system", "too weak for sslrootcert=system"),
            ("?sslmode=prefer&sslrootcert=/ca.pem", "ignores the named certificates"),
            ("?sslmode=disable&sslcert=/c.pem&sslkey=/k.pem", "ignores the named certificates"),
            ("?sslcert=/c.pem", "sslcert needs sslkey"),
            ("?sslkey=/k.pem", "sslkey needs sslcert"),
            ("?sslrootcert=%ff", "sslrootcert is not UTF-8"),
            ("?sslcrl=/crl.pem", "revocation lists"),
            ("?sslpassword=secret", "openssl pkey"),
            ("?passfile=/x", "DOCROW_TARGET_PASSWORD_FILE"),
            ("?service=x", "service files"),
            ("?gssencmode=prefer", "GSSAPI"),
            ("?ssl_min_protocol_version=TLSv1.3", "TLS 1.2 and 1.3"),
            ("?require_auth=scram-sha-256", "channel_binding=require"),
            ("?nonsense=1", "nonsense"),
            ("?channel_binding=perhaps", "channel_binding"),
        ] {
            let error = read(options).unwrap_err();
            assert!(error.contains(words) && !error.contains("secret"), "{options}: {error}");
        }
    }

    /// libpq has it in milliseconds, the driver in seconds.
    #[test]
    fn the_limit_of_silence_is_in_milliseconds() {
        let silence = |options: &str| {
            let parsed = parse(&format!("postgres://u@h/d{options}")).map_err(|e| e.to_string())?;
            assert_eq!(parsed.config.get_tcp_user_timeout(), Some(&parsed.patience));
            Ok::<_, String>(parsed.patience)
        };
        assert_eq!(silence("?tcp_user_timeout=2500&connect_timeout=1"), Ok(Duration::from_millis(2500)));
        for default in ["", "?tcp_user_timeout=0", "?sslmode=disable"] {
            assert_eq!(silence(default), Ok(SILENCE), "{default}");
        }
        for wrong in ["?tcp_user_timeout=", "?tcp_user_timeout=-1", "?tcp_user_timeout=10s"] {
            assert!(silence(wrong).unwrap_err().contains("milliseconds"), "{wrong}");
        }
    }

    #[test]
    fn there_is_no_tls_on_a_socket_of_this_machine() {
        let parsed = parse("postgres://u@%2Frun%2Fpostgresql/d?sslmode=require").unwrap();
        assert_eq!(parsed.config.get_ssl_mode(), SslMode::Disable);
    }

    /// libpq would use the database with the same name as the user.
    #[test]
    fn a_uri_without_a_database_is_refused() {
        for uri in ["postgresql://u@db", "postgres://u:p@db:5433/", "postgresql://u@db/?sslmode=disable"] {
            let refusal = parse(uri).err().unwrap().to_string();
            assert!(refusal.contains("names no database"), "{uri}: {refusal}");
        }
        for uri in ["postgresql://u@db/x", "postgresql://u@db?dbname=x", "postgresql:///x?host=/run/p"] {
            parse(uri).unwrap();
        }
    }

    #[test]
    fn no_error_repeats_the_password() {
        for uri in [
            "mysql://u:secret@db/x",
            "postgresql://u:secret@db:port/x",
            "postgresql://u:sec@secret@db/x",
            "postgresql://u:secret@db/x?sslmode=sometimes",
            "postgresql://u:secret@db/x?nonsense=1",
            "postgresql:///x",
            "postgresql://u:secret@db",
        ] {
            let refusal = parse(uri).err().unwrap().to_string();
            assert!(!refusal.contains("secret"), "{refusal}");
            assert_eq!(refusal.contains("nonsense"), uri.contains("nonsense"), "{refusal}");
        }
    }
}
