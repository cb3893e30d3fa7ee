//! TLS to MongoDB by the driver's options, and every way to log in.

use std::{fs, path::Path, time::Duration};

use docrow::{
    demo::servers::{Mongod, MongodOptions},
    error::Kind,
    source::Source,
};

use super::{Authority, ENCODED, Servers, assert_says, eventually};

async fn open(uri: &str) -> docrow::error::Result<()> {
    Source::connect(uri).await.map(drop)
}

fn tls(root: &Path, identity: &Path) -> String {
    format!("tls=true&tlsCAFile={}&tlsCertificateKeyFile={}", root.display(), identity.display())
}

/// "SCRAM, X.509": docrow can log in by each of them.
#[tokio::test]
async fn every_way_to_log_in() {
    let servers = Servers::shared().await;
    let options = servers.mongodb_tls();
    for (login, more) in [
        (format!("sha1:{ENCODED}@"), ""),
        (format!("sha256:{ENCODED}@"), ""),
        (format!("sha1:{ENCODED}@"), "&authMechanism=SCRAM-SHA-1"),
        (format!("sha256:{ENCODED}@"), "&authMechanism=SCRAM-SHA-256"),
        (String::new(), "&authMechanism=MONGODB-X509"),
        (String::new(), "&authMechanism=MONGODB-X509&authSource=%24external"),
    ] {
        let uri = servers.mongodb_uri(&login, &format!("{options}{more}"));
        let opened = open(&uri).await;
        assert!(opened.is_ok(), "{more}: {opened:?}");
    }
    let said = ["refuses the credentials", "check user, password and authSource in the URI"];
    let subject = ["MONGODB-X509", "$external", "openssl x509"];
    let other = servers.authority.client("nobody");
    for (case, uri, words) in [
        ("password", servers.mongodb_uri("sha256:geheim-wrong@", &options), &said[..]),
        ("user", servers.mongodb_uri(&format!("nobody:{ENCODED}@"), &options), &said),
        (
            "mechanism",
            servers
                .mongodb_uri(&format!("sha1:{ENCODED}@"), &format!("{options}&authMechanism=SCRAM-SHA-256")),
            &["refuses the login by SCRAM-SHA-256", "that the server and the user have this authMechanism"],
        ),
        (
            "subject",
            servers.mongodb_uri(
                "",
                &format!("{}&authMechanism=MONGODB-X509", tls(servers.authority.certificate(), &other.both)),
            ),
            &subject,
        ),
        (
            "mechanism that the server has switched off",
            servers.mongodb_uri(&format!("sha1:{ENCODED}@"), &format!("{options}&authMechanism=PLAIN")),
            &["refuses the login by PLAIN", "authMechanism"],
        ),
        ("no login", servers.mongodb_uri("", &options), &["name a user in the URI"]),
    ] {
        let refused = open(&uri).await;
        assert_eq!(
            refused.as_ref().map_err(|e| e.kind()).err(),
            Some(Kind::SourceRefused),
            "{case}: {refused:?}"
        );
        assert_says(refused, case, words);
    }
}

/// "TLS to both sides with CA, client certificates and verification modes": errors are described in words.
#[tokio::test]
async fn what_is_wrong_with_tls_is_said() {
    let servers = Servers::shared().await;
    let root = servers.authority.certificate();
    let both = &servers.client.both;
    let strange = servers.stranger.client("certified");
    let expired = servers.authority.short("certified", &[], Duration::ZERO);
    let localhost = |uri: String| {
        uri.replace("127.0.0.1", "localhost").replace("replicaSet=docrow", "directConnection=true")
    };
    let uri = |options: &str| servers.mongodb_uri(&format!("sha256:{ENCODED}@"), options);
    let own = both.display();
    let unknown = ["UnknownIssuer", "with tlsCAFile"];
    for (case, uri, kind, words) in [
        (
            "no authority",
            uri(&format!("tls=true&tlsCertificateKeyFile={own}")),
            Kind::SourceRefused,
            &unknown[..],
        ),
        ("another authority", uri(&tls(servers.stranger.certificate(), both)), Kind::SourceRefused, &unknown),
        (
            "another name",
            localhost(uri(&tls(root, both))),
            Kind::SourceRefused,
            &["only valid for", "name the host in the URI"],
        ),
        ("no TLS", uri("tls=false"), Kind::SourceAway, &["add tls=true and tlsCAFile"]),
        (
            "no certificate",
            uri(&format!("tls=true&tlsCAFile={}", root.display())),
            Kind::SourceAway,
            &["want a certificate of its clients", "tlsCertificateKeyFile"],
        ),
        (
            "a stranger's certificate",
            uri(&tls(root, &strange.both)),
            Kind::SourceAway,
            &["docrow's certificate"],
        ),
        (
            "an expired certificate",
            uri(&tls(root, &expired.both)),
            Kind::SourceAway,
            &["docrow's certificate"],
        ),
    ] {
        let refused = open(&uri).await;
        assert_eq!(refused.as_ref().map_err(|e| e.kind()).err(), Some(kind), "{case}: {refused:?}");
        assert_says(refused, case, words);
    }
    // Nothing is proved, and nothing is required.
    for option in ["tlsAllowInvalidCertificates=true", "tlsInsecure=true"] {
        let trusting = format!("{}&{option}", tls(servers.stranger.certificate(), both));
        let opened = open(&localhost(uri(&trusting))).await;
        assert!(opened.is_ok(), "{option}: {opened:?}");
    }
}

/// "A clear error": the files that the URI names are checked first.
#[tokio::test]
async fn what_is_wrong_with_a_file_is_said() {
    let servers = Servers::shared().await;
    let (root, client) = (servers.authority.certificate(), &servers.client);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let both = fs::read_to_string(&client.both).unwrap();
    let encrypted = file("encrypted", &both.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    let other = fs::read_to_string(servers.authority.client("other").key).unwrap();
    let mixed = file("mixed", &format!("{}{other}", fs::read_to_string(&client.certificate).unwrap()));
    let (empty, missing) = (file("empty", ""), folder.path().join("missing"));
    for (options, words) in [
        (tls(&missing, &client.both), ["tlsCAFile: read ", "No such file"]),
        (tls(&empty, &client.both), ["tlsCAFile", "no certificate in PEM form"]),
        (tls(root, &missing), ["tlsCertificateKeyFile: read ", "No such file"]),
        (tls(root, &client.certificate), ["tlsCertificateKeyFile", "no private key in PEM form"]),
        (tls(root, &client.key), ["tlsCertificateKeyFile", "no certificate in PEM form"]),
        (tls(root, &encrypted), ["tlsCertificateKeyFile", "openssl pkey"]),
        (tls(root, &mixed), ["tlsCertificateKeyFile", "not that of the certificate"]),
        (
            format!("{}&tlsCertificateKeyFilePassword=geheim", servers.mongodb_tls()),
            ["tlsCertificateKeyFilePassword is not supported", "openssl pkey"],
        ),
        (
            format!("{}&tlsAllowInvalidHostnames=true", servers.mongodb_tls()),
            ["tlsAllowInvalidHostnames is not supported", "name the host as its certificate does"],
        ),
        (
            format!("tls=true&tlsCAFile={}&authMechanism=MONGODB-X509", root.display()),
            ["MONGODB-X509 logs in by certificate", "tlsCertificateKeyFile"],
        ),
    ] {
        let refused = open(&servers.mongodb_uri("", &options)).await;
        assert_eq!(refused.as_ref().map_err(|e| e.kind()).err(), Some(Kind::Usage), "{words:?}: {refused:?}");
        assert_says(refused, &options, &words);
    }
}

/// A mongod does not start with an expired certificate, but the certificate may expire while it runs.
#[tokio::test]
async fn a_server_whose_certificate_has_expired() {
    let authority = Authority::new("an authority");
    // The machine may be slow.
    for seconds in [2, 5, 15, 40] {
        let server = authority.short("server", &["127.0.0.1"], Duration::from_secs(seconds));
        let options = MongodOptions {
            initiated: false,
            arguments: vec![
                "--tlsMode=requireTLS".to_owned(),
                format!("--tlsCertificateKeyFile={}", server.both.display()),
                format!("--tlsCAFile={}", authority.certificate().display()),
                "--tlsAllowConnectionsWithoutCertificates".to_owned(),
            ],
            uri_options: format!("tls=true&tlsCAFile={}", authority.certificate().display()),
            ..Default::default()
        };
        let Ok(mongod) = Mongod::start(options).await else { continue };
        let uri = mongod.uri();
        eventually("it to expire", async || {
            open(&uri).await.is_err_and(|error| error.to_string().contains("certificate expired"))
        })
        .await;
        return assert_says(open(&uri).await, "expired", &["renew the server's certificate"]);
    }
    panic!("mongod does not start");
}
