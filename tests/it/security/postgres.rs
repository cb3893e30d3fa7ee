//! TLS to PostgreSQL: every mode of libpq's, certificates of clients, SCRAM with and without channel binding.

use std::{fs, path::Path, time::Duration};

use docrow::{
    demo::servers::{Postgres, PostgresOptions},
    error::Kind,
    sink::{Session, Target},
};

use super::{Authority, ENCODED, Servers, assert_says, eventually, serve_tls};
use crate::support::connect;

async fn open(uri: &str) -> docrow::error::Result<Session> {
    Target::parse(uri, "public", "p")?.connect().await
}

/// What PostgreSQL says of the connections of this user: whether they are encrypted, and by which
/// certificate.
async fn seen(servers: &Servers, user: &str) -> Vec<(bool, Option<String>)> {
    let question = "SELECT s.ssl, s.client_dn FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = $1";
    let rows = connect(&servers.postgres.uri("postgres")).await.query(question, &[&user]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// "TLS to both sides with CA, client certificates and verification modes": those of libpq.
#[tokio::test]
async fn every_sslmode_proves_what_it_says() {
    let servers = Servers::shared().await;
    let login = format!("scram:{ENCODED}");
    let (root, other) = (servers.authority.certificate().display(), servers.stranger.certificate().display());
    let uri = |host: &str, options: &str| servers.postgres_uri(&login, host, options);
    for (host, options) in [
        ("127.0.0.1", String::new()),
        ("127.0.0.1", "sslmode=prefer".to_owned()),
        ("127.0.0.1", "sslmode=require".to_owned()),
        // Only the authority counts, not the name.
        ("127.0.0.1", format!("sslmode=require&sslrootcert={root}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={root}")),
        ("127.0.0.1", format!("sslrootcert={root}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={root}")),
    ] {
        let session = open(&uri(host, &options)).await;
        assert!(session.is_ok(), "{host} {options}: {session:?}");
        let seen = seen(servers, "scram").await;
        assert!(!seen.is_empty() && seen.iter().all(|(encrypted, _)| *encrypted), "{options}: {seen:?}");
    }
    let unknown = ["UnknownIssuer", "name its authority with sslrootcert"];
    for (host, options, words) in [
        ("localhost", "sslmode=disable".to_owned(), ["SQLSTATE 28000", "the server requires TLS"]),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), unknown),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), unknown),
        ("localhost", format!("sslmode=require&sslrootcert={other}"), unknown),
        ("localhost", "sslmode=verify-full".to_owned(), unknown),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={root}"),
            ["only valid for", "name the host in the target URI as in the certificate"],
        ),
    ] {
        let refused = open(&uri(host, &options)).await;
        assert_eq!(refused.as_ref().map_err(|e| e.kind()).err(), Some(Kind::TargetRefused), "{options}");
        assert_says(refused, &options, &words);
    }
}

/// "Client certificates": the right one lets in, as PostgreSQL says itself; any other is refused in words.
#[tokio::test]
async fn certificates_of_clients() {
    let servers = Servers::shared().await;
    let root = servers.authority.certificate().display();
    let uri = |login: &str, certificate: &Path, key: &Path| {
        let (certificate, key) = (certificate.display(), key.display());
        let options = format!("sslmode=verify-full&sslrootcert={root}&sslcert={certificate}&sslkey={key}");
        servers.postgres_uri(login, "localhost", &options)
    };
    let client = &servers.client;
    let session = open(&uri("certified", &client.certificate, &client.key)).await;
    assert!(session.is_ok(), "{session:?}");
    let dn = Some("/CN=certified/O=clients".to_owned());
    assert!(seen(servers, "certified").await.contains(&(true, dn)), "{:?}", seen(servers, "certified").await);

    let both = servers.authority.client("twofold");
    let login = format!("twofold:{ENCODED}");
    let session = open(&uri(&login, &both.certificate, &both.key)).await;
    assert!(session.is_ok(), "{session:?}");
    let wrong = open(&uri("twofold:wrong", &both.certificate, &both.key)).await;
    assert_says(wrong, "twofold", &["28P01", "check user and password"]);

    let without = open(&servers.postgres_uri("certified", "localhost", "sslmode=require")).await;
    assert_says(without, "without", &["certificate", "name a certificate with sslcert and sslkey"]);
    let other = servers.authority.client("somebody");
    let another = open(&uri("certified", &other.certificate, &other.key)).await;
    assert_says(another, "another's", &["SQLSTATE 28000", "its CN"]);
    let strange = servers.stranger.client("certified");
    let unknown = open(&uri("certified", &strange.certificate, &strange.key)).await;
    assert_says(unknown, "a stranger's", &["UnknownCA", "may refuse docrow's certificate"]);
    let expired = servers.authority.short("certified", &[], Duration::ZERO);
    let expired = open(&uri("certified", &expired.certificate, &expired.key)).await;
    assert_says(expired, "expired", &["CertificateExpired", "may refuse docrow's certificate"]);

    let missing = Path::new("/nowhere/docrow.pem");
    for (certificate, key, words) in [
        (&*client.certificate, missing, ["sslkey: read /nowhere/docrow.pem", "No such file"]),
        (missing, &client.key, ["sslcert: read /nowhere/docrow.pem", "No such file"]),
        (&client.certificate, &other.key, ["sslkey", "not that of the certificate"]),
        (&client.key, &client.key, ["sslcert", "no certificate in PEM form"]),
        (&client.certificate, &client.certificate, ["sslkey", "no private key in PEM form"]),
    ] {
        let refused = open(&uri("certified", certificate, key)).await;
        assert_eq!(refused.as_ref().map_err(|e| e.kind()).err(), Some(Kind::Usage), "{words:?}");
        assert_says(refused, "files", &words);
    }
}

/// "SCRAM", bound to the channel or not.
#[tokio::test]
async fn passwords_and_channel_binding() {
    let servers = Servers::shared().await;
    let scram = |password: &str, options: &str| {
        servers.postgres_uri(&format!("scram:{password}"), "localhost", options)
    };
    for binding in ["require", "prefer", "disable"] {
        let session = open(&scram(ENCODED, &format!("sslmode=require&channel_binding={binding}"))).await;
        assert!(session.is_ok(), "{binding}: {session:?}");
    }
    let plain = |options: &str| servers.postgres_uri(&format!("plain:{ENCODED}"), "localhost", options);
    assert!(open(&plain("sslmode=disable")).await.is_ok());
    for (uri, words) in [
        (scram("geheim-wrong", ""), ["28P01", "check user and password in the target URI"]),
        (servers.postgres_uri("scram", "localhost", ""), ["password missing", "DOCROW_TARGET_PASSWORD_FILE"]),
        (plain("sslmode=disable&channel_binding=require"), ["channel binding", "by scram-sha-256, over TLS"]),
        (plain("sslmode=require"), ["SQLSTATE 28000", "pg_hba.conf"]),
        // A server that lets everyone in does not prove that it knows the password.
        (
            servers.postgres_uri("anyone", "localhost", "channel_binding=require"),
            ["did not use channel binding", "by scram-sha-256"],
        ),
    ] {
        assert_says(open(&uri).await, &words.join(" "), &words);
    }
}

/// The server's own certificate may be wrong in many ways, or missing.
#[tokio::test]
async fn what_is_wrong_with_the_servers_certificate_is_said() {
    let authority = Authority::new("an authority");
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let root = authority.certificate().display();
    let uri = format!("postgresql://anyone@localhost:{}/postgres", postgres.port());
    let full = format!("{uri}?sslmode=verify-full&sslrootcert={root}");
    assert_says(open(&full).await, "no TLS", &["server does not support TLS", "set ssl = on there"]);
    connect(&postgres.uri("postgres")).await.batch_execute("CREATE ROLE anyone LOGIN").await.unwrap();
    for (server, words) in [
        (authority.short("server", &["localhost"], Duration::ZERO), ["certificate expired", "renew it"]),
        (authority.server("other.example"), ["only valid for", "name the host"]),
        (authority.as_server(), ["CaUsedAsEndEntity", "a certificate of its own (not an authority's)"]),
        (Authority::new("another").server("localhost"), ["UnknownIssuer", "sslrootcert"]),
    ] {
        serve_tls(&postgres, &server, None).await;
        eventually(words[0], async || {
            open(&full).await.is_err_and(|error| error.to_string().contains(words[0]))
        })
        .await;
        assert_says(open(&full).await, words[0], &words);
        // It is encrypted all the same, where that is all that is asked for.
        assert!(open(&format!("{uri}?sslmode=require")).await.is_ok());
    }
    serve_tls(&postgres, &authority.server("localhost"), None).await;
    eventually("the right certificate", async || open(&full).await.is_ok()).await;
    let empty = tempfile::NamedTempFile::new().unwrap();
    fs::write(empty.path(), "nothing").unwrap();
    let nothing = open(&format!("{uri}?sslrootcert={}", empty.path().display())).await;
    assert_says(nothing, "empty", &["sslrootcert", "no certificate in PEM form"]);
}
