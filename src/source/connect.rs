//! Connecting, and the checks before anything else: whatever is wrong is reported at once, in one line, with
//! what to do.
//!
//! A driver that finds no server says little about the reason. So then each host of the URI is asked alone
//! ([`diagnose`]): to the driver, a replica set that was never initiated, or members whose names only resolve
//! elsewhere, look just like a host that is down.

use std::{
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use super::{
    diagnosis::{NOT_A_MEMBER, NOT_INITIATED, ServerRole, diagnose, join, role_of},
    error::{SourceRequest, is_of_login},
    server::{BEGINNING, Source, Version},
    silence::Patience,
    tls,
};
use crate::error::{Code, Error, Result};
use futures_util::try_join;
use mongodb::{
    Client,
    bson::{Document, doc},
    error::{Error as DriverError, ErrorKind},
    options::{ClientOptions, ConnectionString, HostInfo, ServerAddress},
};

/// How long to look for a server, unless the URI says otherwise.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The driver's own default is 10, fewer than the cursors that a wide snapshot holds at once.
const CONNECTIONS: u32 = 100;
/// The oldest supported server: the first that knows `hello`.
const OLDEST: Version = (4, 4, 2);

impl Source {
    /// Connects to the deployment that `uri` names, with the URI's options for TLS and authentication, and
    /// checks that it can be replicated from. Errors: the URI is wrong, nothing answers, or the server
    /// refuses the credentials, is too old or is no replica set.
    pub async fn connect(uri: &str) -> Result<Self> {
        let (options, patience) = options(uri).await?;
        let hosts: Arc<str> = join(&options.hosts, ServerAddress::to_string).into();
        let request = SourceRequest {
            hosts: hosts.clone(),
            what: "connect".to_owned(),
            database: options.default_database.clone(),
        };
        tls::check(&options)?;
        let default_database = options.default_database.clone();
        let client = Client::with_options(options.clone()).map_err(|e| request.failed(&e))?;
        let seen = Arc::new(Mutex::new(BEGINNING));
        let (offset, words) = (Arc::default(), "MongoDB".into());
        let source = Self {
            client: Arc::new(RwLock::new(client)),
            hosts,
            default_database,
            version: OLDEST,
            sharded: false,
            words,
            seen,
            newest: Arc::new(Mutex::new(BEGINNING)),
            offset,
            patience,
        };
        let (said, version, hello) = match source.hello(&request).await {
            Err(ConnectRefusal::NothingFound) => return Err(diagnose(&options, &request).await),
            Err(ConnectRefusal::Login(error)) => {
                return Err(tls::refused_login(&options)
                    .map_or(error, |wrong| request.refused(Code::SourceCredentials, &wrong)));
            }
            Err(ConnectRefusal::Said(error)) => return Err(error),
            Ok(answers) => answers,
        };
        let sharded = match role_of(&hello) {
            ServerRole::Router => true,
            ServerRole::Member => false,
            ServerRole::Uninitiated => return Err(request.refused(Code::SourceUninitiated, NOT_INITIATED)),
            ServerRole::Standalone => return Err(request.refused(Code::SourceStandalone, NOT_A_MEMBER)),
        };
        let set = hello.get_str("setName").map(|name| format!("replica set {name}"));
        let what = set.unwrap_or_else(|_| "sharded cluster".to_owned());
        Ok(Self { version, sharded, words: format!("MongoDB {said}, {what}").into(), ..source })
    }

    /// Asks for the server's version, as text and as numbers, and its `hello`; also checks that it is new
    /// enough and accepts this user.
    async fn hello(&self, request: &SourceRequest) -> Result<(String, Version, Document), ConnectRefusal> {
        let ask = async |command: Document| {
            self.command(request, "admin", command).await.map_err(|error| match *error.kind {
                ErrorKind::ServerSelection { .. } => ConnectRefusal::NothingFound,
                _ if is_of_login(&error) => ConnectRefusal::Login(request.failed(&error)),
                _ => ConnectRefusal::Said(request.failed(&error)),
            })
        };
        // Alone: when a login is refused, the driver gives up other requests as well, without a reason.
        let build = ask(doc! { "buildInfo": 1 }).await?;
        let said = build.get_str("version").unwrap_or_default();
        let Some(version) = version(said).filter(|version| *version >= OLDEST) else {
            let (major, minor, patch) = OLDEST;
            let text =
                format!("is version {said}: docrow needs {major}.{minor}.{patch} or newer; upgrade it");
            return Err(ConnectRefusal::Said(request.refused(Code::SourceTooOld, &text)));
        };
        let listed = ask(doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true });
        let (hello, _) = try_join!(ask(doc! { "hello": 1 }), listed)?;
        if self.reads_from().is_some()
            && let Err(error) = self.ask_where_reads_go(doc! { "ping": 1 }).await
            && matches!(*error.kind, ErrorKind::ServerSelection { .. })
        {
            return Err(ConnectRefusal::NothingFound);
        }
        Ok((said.to_owned(), version, hello))
    }
}

/// Why no usable answer came.
enum ConnectRefusal {
    NothingFound,
    /// The server refuses the credentials.
    Login(Error),
    Said(Error),
}

/// The hosts and the database that a URI names, for people; `None`: it can't be read.
pub fn name(uri: &str) -> Option<String> {
    let written = ConnectionString::parse(uri).ok()?;
    let hosts = match &written.host_info {
        HostInfo::HostIdentifiers(hosts) => join(hosts, ServerAddress::to_string),
        HostInfo::DnsRecord(name) => name.clone(),
        _ => return None,
    };
    Some(written.default_database.map_or_else(|| hosts.clone(), |database| format!("{hosts}/{database}")))
}

async fn options(uri: &str) -> Result<(ClientOptions, Patience)> {
    let wrong = |error: DriverError| match &*error.kind {
        ErrorKind::DnsResolve { message, .. } => Error::new(
            Code::SourceName,
            format!("resolve the host of the source URI: {message}: check its name"),
        ),
        ErrorKind::InvalidArgument { message, .. } => Error::new(Code::SourceUri, wrong_uri(uri, message)),
        _ => Error::new(Code::SourceUri, wrong_uri(uri, "it can't be read")),
    };
    let mut written = ConnectionString::parse(uri).map_err(wrong)?;
    #[expect(deprecated, reason = "the driver refuses it: it has no such timeout, docrow has")]
    let patience = Patience::new(written.socket_timeout.take());
    let mut options = ClientOptions::parse(written).await.map_err(wrong)?;
    options.app_name.get_or_insert_with(|| "docrow".to_owned());
    options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
    options.max_pool_size.get_or_insert(CONNECTIONS);
    Ok((options, patience))
}

/// The driver's message quotes what it could not read. If a password was not escaped, the quote contains a
/// part of it: then the message is left out.
fn wrong_uri(uri: &str, message: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    if let Some(wrong) = tls::not_served(message) {
        return format!("source URI: {wrong}");
    }
    let advice = "write mongodb://user:password@host:port/database?options, and in user and password %40 for \
        @, %3A for :, %2F for /, %3F for ?, %25 for %; or set the password separately, as source.password";
    let message = match rest.rsplit_once('@') {
        Some((user_info, _)) if user_info.contains(['/', '?', '#', '[', ']', '@']) => {
            "user and password hold reserved characters"
        }
        // If the host is missing, the password is in the place of a port.
        None if !has_ports(rest) => "it names no host, or a port that is no number",
        _ if is_of_options(uri, message) => {
            return format!("source URI: {message}: correct that option, or remove it");
        }
        _ => message,
    };
    format!("source URI: {message}: {advice}")
}

/// Whether the driver reports the same error without user and password: then they are not the cause.
fn is_of_options(uri: &str, message: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (_, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
    let said = ConnectionString::parse(format!("{scheme}://{hosts}")).err().map(|error| *error.kind);
    hosts.contains('?')
        && matches!(said, Some(ErrorKind::InvalidArgument { message: said, .. }) if said == message)
}

/// Whether what follows the hosts' colons, if there are any, are numbers. `rest` begins with the hosts.
fn has_ports(rest: &str) -> bool {
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    let ports = hosts.split(',').filter_map(|host| host.rsplit_once(':'));
    ports.into_iter().all(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// From `buildInfo`.
fn version(text: &str) -> Option<Version> {
    let mut parts = text.split(['.', '-']).map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?, parts.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_versions_are_new_enough() {
        for text in ["4.4.2", "4.4.29-rc0", "5.0.1", "6.0.5", "7.0", "10.0.0"] {
            assert!(version(text).is_some_and(|version| version >= OLDEST), "{text}");
        }
        for text in ["", "4", "4.2.24", "4.4.1", "3.6.8", "x.y", "mongodb"] {
            assert!(version(text).is_none_or(|version| version < OLDEST), "{text}");
        }
    }

    #[tokio::test]
    async fn a_wrong_option_is_not_taken_for_a_wrong_password() {
        for (option, said) in [
            ("compressors=zlib", "compressors is not supported"),
            ("compressors=brotli", "compressors is not supported"),
            ("maxPoolSize=many", "correct that option"),
            ("tls=perhaps", "correct that option"),
        ] {
            let uri = format!("mongodb://user:secret@localhost:27017/shop?{option}");
            let text = options(&uri).await.err().unwrap().to_string();
            assert!(text.contains(said), "{text}");
            assert!(!text.contains("%40") && !text.contains("secret"), "{text}");
        }
    }

    #[tokio::test]
    async fn how_long_to_wait_is_an_option() {
        let patience = async |option: &str| {
            let (_, patience) = options(&format!("mongodb://localhost:27017/?{option}")).await.unwrap();
            format!("{patience:?}")
        };
        assert_eq!(patience("socketTimeoutMS=5000").await, "Patience(5s)");
        assert_eq!(patience("socketTimeoutMS=0").await, patience("appName=x").await);
    }

    /// G12: an unescaped password is quoted by the driver as a port, a host or an option.
    #[tokio::test]
    async fn quotes_no_password() {
        for password in ["geh?eim", "geh/eim", "geh#eim", "geh@eim", "geh[eim", "geh%eim", "geh:eim"] {
            for host in ["@localhost:27017", ""] {
                let uri = format!("mongodb://user:{password}{host}/shop?x=y");
                if let Err(error) = options(&uri).await {
                    let text = error.to_string();
                    assert!(!text.contains("geh") && !text.contains("eim"), "{text}");
                }
            }
        }
    }
}
