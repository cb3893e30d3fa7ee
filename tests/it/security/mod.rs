//! TLS to both servers and logins of every kind, right and wrong; secrets stay out of every output. On real
//! servers, certificates made on the spot.

pub(crate) mod authority;
mod hostile;
mod mongodb;
mod postgres;
mod secrets;
mod whole;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ::docrow::demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions};
use ::mongodb::{
    Client,
    bson::{Document, doc},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};

use self::authority::{Authority, Issued};
use crate::support::connect;

/// A password that no URI takes as it is.
const PASSWORD: &str = "geheim/p@ss:w?rd%#[&=$ü";
/// The same, percent-encoded.
const ENCODED: &str = "geheim%2Fp%40ss%3Aw%3Frd%25%23%5B%26%3D%24%C3%BC";

/// How long a server may take to read its configuration again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both servers, that speak TLS, and whose clients need certificates. MongoDB's own certificate is for
/// 127.0.0.1, PostgreSQL's for localhost.
struct Servers {
    authority: Authority,
    /// Of whom the servers know nothing.
    stranger: Authority,
    /// For `CN=certified,O=clients`.
    client: Issued,
    mongod: Mongod,
    postgres: Postgres,
}

impl Servers {
    async fn shared() -> &'static Self {
        static SERVERS: OnceCell<Servers> = OnceCell::const_new();
        SERVERS.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let (authority, stranger) = (Authority::new("docrow's tests"), Authority::new("strangers"));
        let client = authority.client("certified");
        let mongod = mongod(&authority, &client).await;
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        serve_tls(&postgres, &authority.server("localhost"), Some(authority.certificate())).await;
        connect(&postgres.uri("postgres")).await.batch_execute(&roles()).await.unwrap();
        Self { authority, stranger, client, mongod, postgres }
    }

    /// A URI of PostgreSQL's.
    fn postgres_uri(&self, login: &str, host: &str, options: &str) -> String {
        format!("postgresql://{login}@{host}:{}/postgres?{options}", self.postgres.port())
    }

    /// A URI of MongoDB's. `login` ends in `@`, if there is one.
    fn mongodb_uri(&self, login: &str, options: &str) -> String {
        format!("mongodb://{login}127.0.0.1:{}/?replicaSet=docrow&{options}", self.mongod.port())
    }

    /// Options for a client that MongoDB lets in, but for the login.
    fn mongodb_tls(&self) -> String {
        mongodb_tls(&self.authority, &self.client)
    }

    /// Options by which PostgreSQL and the client prove their identities.
    fn postgres_tls(&self) -> String {
        format!(
            "sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
            self.authority.certificate().display(),
            self.client.certificate.display(),
            self.client.key.display()
        )
    }
}

fn mongodb_tls(authority: &Authority, client: &Issued) -> String {
    let (root, both) = (authority.certificate().display(), client.both.display());
    format!("tls=true&tlsCAFile={root}&tlsCertificateKeyFile={both}")
}

/// A MongoDB that takes only clients with a certificate of the authority's, with users of all kinds.
async fn mongod(authority: &Authority, client: &Issued) -> Mongod {
    let server = authority.server("127.0.0.1");
    let options = MongodOptions {
        password: Some("admin".to_owned()),
        arguments: vec![
            "--tlsMode=requireTLS".to_owned(),
            format!("--tlsCertificateKeyFile={}", server.both.display()),
            format!("--tlsCAFile={}", authority.certificate().display()),
        ],
        parameters: vec!["authenticationMechanisms=SCRAM-SHA-1,SCRAM-SHA-256,MONGODB-X509".to_owned()],
        uri_options: mongodb_tls(authority, client),
        ..Default::default()
    };
    let mongod = Mongod::start(options).await.unwrap();
    let users = Client::with_uri_str(mongod.uri()).await.unwrap();
    let roles = || vec![doc! { "role": "readAnyDatabase", "db": "admin" }];
    let create = async |database: &str, user: Document| {
        users.database(database).run_command(user).await.unwrap();
    };
    for (name, mechanism) in [("sha1", "SCRAM-SHA-1"), ("sha256", "SCRAM-SHA-256")] {
        let user = doc! { "createUser": name, "pwd": PASSWORD, "roles": roles(), "mechanisms": [mechanism] };
        create("admin", user).await;
    }
    create("$external", doc! { "createUser": &client.subject, "roles": roles() }).await;
    mongod
}

/// The roles that PostgreSQL's rules know, each with another way to log in.
const RULES: &str = "local all all trust
host all postgres 127.0.0.1/32 trust
hostssl all scram 127.0.0.1/32 scram-sha-256
hostssl all twofold 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all certified 127.0.0.1/32 cert
hostssl all anyone 127.0.0.1/32 trust
hostnossl all plain 127.0.0.1/32 scram-sha-256
";

fn roles() -> String {
    let role = |name: &str, more: &str| format!("CREATE ROLE {name} LOGIN {more};");
    let password = format!("PASSWORD '{PASSWORD}'");
    let with_password: String = ["scram", "twofold", "plain"].map(|name| role(name, &password)).concat();
    with_password + &["certified", "anyone"].map(|name| role(name, "")).concat()
}

/// Has PostgreSQL speak TLS with this certificate, asking clients for one of `clients`, by [`RULES`].
async fn serve_tls(postgres: &Postgres, server: &Issued, clients: Option<&Path>) {
    let session = connect(&postgres.uri("postgres")).await;
    let row = session.query_one("SELECT current_setting('data_directory')", &[]).await.unwrap();
    let folder = PathBuf::from(row.get::<_, String>(0));
    // The server's own user writes them, readable for itself alone.
    let write = async |name: &str, text: &str| {
        let (text, path) = (text.trim_end(), folder.join(name));
        assert!(!text.contains(['\t', '\\']), "COPY would change it");
        let copy = format!(
            "COPY (SELECT unnest(string_to_array($${text}$$, chr(10)))) TO PROGRAM 'umask 077; cat > {}'",
            path.display()
        );
        session.batch_execute(&copy).await.unwrap();
    };
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    write("server.crt", &read(&server.certificate)).await;
    write("server.key", &read(&server.key)).await;
    write("pg_hba.conf", RULES).await;
    let mut settings = vec!["ssl = on"];
    if let Some(clients) = clients {
        write("clients.crt", &read(clients)).await;
        settings.push("ssl_ca_file = 'clients.crt'");
    }
    for setting in settings {
        session.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    session.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Asks again and again, since a server may take a while to read its configuration.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that an error has these words, and no password.
#[track_caller]
fn assert_says<T>(found: Result<T, docrow::error::Error>, case: &str, words: &[&str]) {
    let Err(error) = found else { panic!("{case}: is accepted") };
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{case}: {word} is not in: {text}");
    }
    assert!(!text.contains("geheim"), "{case}: {text}");
}
