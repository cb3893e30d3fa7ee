//! "Secrets from environment or files, never in `ps`, logs, status or metrics."

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use docrow::{
    config::{Config, Overrides},
    demo::servers::{Mongod, MongodOptions, Postgres, PostgresOptions},
    sink::Target,
};
use mongodb::{bson::doc, options::ClientOptions};
use tokio::sync::OnceCell;

use super::{Authority, ENCODED, PASSWORD};
use crate::support::{Ended, Home, Place};

/// Servers whose passwords are not for URIs.
struct Guarded {
    mongod: Mongod,
    postgres: Postgres,
}

impl Guarded {
    async fn shared() -> &'static Self {
        static SERVERS: OnceCell<Guarded> = OnceCell::const_new();
        SERVERS.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let plain = || Some("plain".to_owned());
        let mongod = Mongod::start(MongodOptions { password: plain(), ..Default::default() }).await.unwrap();
        let client = mongodb::Client::with_uri_str(mongod.uri()).await.unwrap();
        let user = doc! { "createUser": "docrow", "pwd": PASSWORD, "roles": ["readAnyDatabase"] };
        client.database("admin").run_command(user).await.unwrap();
        let postgres =
            Postgres::start(PostgresOptions { password: plain(), ..Default::default() }).await.unwrap();
        let session = crate::support::connect(&postgres.uri("postgres")).await;
        let role = format!("CREATE ROLE docrow LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
        session.batch_execute(&role).await.unwrap();
        Self { mongod, postgres }
    }
}

/// docrow's folder, a place of a test's own, and how to name both servers without a password.
struct Stage {
    place: Place,
    home: Home,
    source: String,
    target: String,
}

impl Stage {
    async fn set(test: &str) -> Self {
        let servers = Guarded::shared().await;
        let place = Place::on(&servers.mongod.uri(), &servers.postgres.uri("postgres"), test).await;
        place.add_sentinels().await;
        place.collection("things").insert_one(doc! { "_id": 1, "a": "b" }).await.unwrap();
        let without = |uri: &str| uri.replace("postgres:plain@", "docrow@");
        let (source, target) = (without(&place.mongodb_uri), without(&place.postgres_uri));
        let home = Home::new(&place);
        Self { place, home, source, target }
    }

    /// Without the URIs in the configuration.
    fn unset(&mut self) {
        self.home.unset("source.uri");
        self.home.unset("target.uri");
    }

    /// A file that docrow's user alone can read.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// Replicates, and looks at it from outside meanwhile.
    async fn replicates(&self, arguments: &[&str]) -> Ended {
        let mut docrow = self.home.start(&[&["run"], arguments].concat());
        self.place.settle(&mut docrow).await;
        let shown = fs::read(format!("/proc/{}/cmdline", docrow.pid())).unwrap();
        let in_ps = String::from_utf8_lossy(&shown).contains("geheim");
        assert_eq!(in_ps, arguments.iter().any(|argument| argument.contains("geheim")), "{shown:?}");
        let question = "SELECT count(*) FROM pg_stat_activity WHERE query || application_name LIKE '%geheim%' \
            AND datname = current_database() AND pid <> pg_backend_pid()";
        assert_eq!(self.place.number(question).await, Some(0));
        let ended = docrow.stop().await;
        // Neither a password nor what SCRAM makes of it: how its messages begin, as they are and in base64.
        for secret in ["geheim", "n,,", "biws"] {
            assert!(!ended.log.contains(secret) && !ended.out.contains(secret), "{secret}: {}", ended.log);
        }
        ended
    }
}

fn with(uri: &str, password: &str) -> String {
    uri.replace("docrow@", &format!("docrow:{password}@"))
}

/// Everything that says it: variables, files that variables name, files that the configuration names.
#[tokio::test]
async fn secrets_come_from_the_environment_or_files() {
    let mut stage = Stage::set("secret_ways").await;
    stage.home.env("RUST_LOG", "trace");
    let password = stage.file("password", &format!("{PASSWORD}\n"));
    let source = stage.file("source", &format!("{}\n", with(&stage.source, ENCODED)));
    let target = stage.file("target", &with(&stage.target, ENCODED));

    // Keys of the configuration.
    for (side, uri) in [("source", stage.source.clone()), ("target", stage.target.clone())] {
        stage.home.set(&format!("{side}.uri"), uri);
        stage.home.set(&format!("{side}.password"), format!("${{file:{password}}}"));
    }
    stage.replicates(&[]).await;
    stage.home.set("source.uri", format!("${{file:{source}}}"));
    stage.home.unset("source.password");
    stage.home.set("target.password", "${PG_PASSWORD}");
    stage.home.env("PG_PASSWORD", PASSWORD);
    stage.replicates(&[]).await;

    // Variables, and the files that they name.
    stage.home.unset("target.password");
    stage.unset();
    stage.home.env("DOCROW_SOURCE", &with(&stage.source, ENCODED));
    stage.home.env("DOCROW_TARGET", &stage.target.clone());
    stage.home.env("DOCROW_TARGET_PASSWORD", PASSWORD);
    stage.replicates(&[]).await;
    stage.home.env("DOCROW_TARGET_PASSWORD", "");
    stage.home.env("DOCROW_TARGET_PASSWORD_FILE", &password);
    stage.replicates(&[]).await;
    stage.home.env("DOCROW_TARGET_PASSWORD_FILE", "");
    for (name, file) in [("DOCROW_SOURCE", &source), ("DOCROW_TARGET", &target)] {
        stage.home.env_remove(name);
        stage.home.env(&format!("{name}_FILE"), file);
    }
    stage.replicates(&[]).await;
    // They are enough: there need be no configuration.
    fs::remove_file(stage.home.path().join("docrow.toml")).unwrap();
    stage.home.finish(&["plan", "--include", &format!("{}.*", stage.place.name)]).await.with_code(0);
}

/// What a person writes on the command line works, and is warned of.
#[tokio::test]
async fn a_password_on_the_command_line_is_warned_of() {
    let mut stage = Stage::set("secret_ps").await;
    stage.unset();
    let (source, target) = (with(&stage.source, ENCODED), with(&stage.target, ENCODED));
    let ended = stage.replicates(&["--source", &source, "--target", &target]).await;
    for name in ["source", "target"] {
        let warned = format!("--{name} has a password, which every user of this machine can see");
        assert_eq!(ended.log.matches(&warned).count(), 1, "{}", ended.log);
    }
    // Before the command, too; but not without a password.
    stage.home.env("DOCROW_SOURCE_PASSWORD", PASSWORD);
    let ended =
        stage.home.finish(&["--target", &target, "plan", "--source", &stage.source]).await.with_code(0);
    assert!(ended.log.contains("--target has a password"), "{}", ended.log);
    assert!(!ended.log.contains("--source has a password"), "{}", ended.log);
}

/// A file that every user can read is no place for a secret: a warning says so, once, with the remedy.
#[tokio::test]
async fn a_file_that_everybody_can_read_is_warned_of() {
    let mut stage = Stage::set("secret_open").await;
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(&stage.home.path(), 0o755);
    let password = PathBuf::from(stage.file("password", PASSWORD));
    stage.home.set("source.uri", with(&stage.source, "${PG_PASSWORD}"));
    stage.home.env("PG_PASSWORD", ENCODED);
    stage.home.set("target.uri", stage.target.clone());
    stage.home.set("target.password", format!("${{file:{}}}", password.display()));
    stage.home.finish(&["plan"]).await.with_code(0).quiet();
    open(&password, 0o644);
    let warning = "every user of this machine can read it: chmod 600";
    let ended = stage.home.finish(&["plan"]).await.with_code(0);
    assert_eq!(ended.log.matches(warning).count(), 1, "{}", ended.log);
    assert!(ended.log.contains(&password.display().to_string()), "{}", ended.log);
    // What is written out in the configuration makes that such a file.
    open(&password, 0o600);
    stage.home.set("source.uri", with(&stage.source, ENCODED));
    let ended = stage.home.finish(&["plan"]).await.with_code(0);
    assert!(ended.log.contains("docrow.toml") && ended.log.contains(warning), "{}", ended.log);
    open(&stage.home.path().join("docrow.toml"), 0o640);
    stage.home.finish(&["plan"]).await.with_code(0).quiet();
}

/// "Errors name file and key, never contents."
#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said() {
    let mut stage = Stage::set("secret_wrong").await;
    let password = stage.file("password", PASSWORD);
    let refused = async |home: &Home, parts: &[&str]| {
        let ended = home.finish(&["plan"]).await.with_code(2);
        for part in parts {
            assert!(ended.error().contains(part), "{part}: {}", ended.log);
        }
        assert!(!ended.log.contains("geheim"), "{}", ended.log);
    };
    stage.home.set("source.password", "${file:/nowhere/geh}");
    refused(&stage.home, &["docrow.toml: source.password: read /nowhere/geh", "No such file"]).await;
    stage.home.set("source.password", format!("${{file:{password}}}"));
    refused(&stage.home, &["docrow.toml: source.password: the URI contains a password, too"]).await;
    stage.home.set("source.uri", stage.source.replace("docrow@", ""));
    refused(&stage.home, &["docrow.toml: source.password: the URI names no user"]).await;
    stage.home.set("source.uri", stage.source.clone());
    stage.home.env("DOCROW_TARGET_FILE", "/nowhere/target");
    refused(&stage.home, &["DOCROW_TARGET_FILE", "read /nowhere/target", "No such file"]).await;
    stage.home.env("DOCROW_TARGET", &stage.target.clone());
    refused(&stage.home, &["DOCROW_TARGET and DOCROW_TARGET_FILE are both set"]).await;
    stage.home.env_remove("DOCROW_TARGET");
    let empty = stage.file("empty", "\n");
    stage.home.env("DOCROW_TARGET_FILE", &empty);
    refused(&stage.home, &["DOCROW_TARGET_FILE", "empty: it is empty"]).await;
    stage.home.env_remove("DOCROW_TARGET_FILE");
    stage.home.env("DOCROW_MASK_KEY_FILE", "/nowhere/key");
    refused(&stage.home, &["DOCROW_MASK_KEY_FILE", "No such file"]).await;
}

/// Every configuration in docs/security.md is one, with the files that it names; and every variable there is
/// read.
#[tokio::test]
async fn the_documentation_holds() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("an authority");
    let client = authority.client("docrow");
    for (name, from) in [
        ("ca.pem", &client.certificate),
        ("docrow.pem", &client.both),
        ("docrow.crt", &client.certificate),
        ("docrow.key", &client.key),
    ] {
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    for name in ["mongodb_password", "postgres_password"] {
        fs::write(folder.path().join(name), PASSWORD).unwrap();
    }
    let here = text.replace("/etc/docrow", &folder.path().display().to_string());
    let here = here.replace("/run/secrets", &folder.path().display().to_string());
    let snippets: Vec<_> =
        here.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(snippets.len() >= 2, "{snippets:?}");
    for snippet in snippets {
        let file = folder.path().join("docrow.toml");
        fs::write(&file, snippet).unwrap();
        let config = Config::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
        Target::parse(config.target.expose(), "public", "p").unwrap();
        ClientOptions::parse(config.source.expose()).await.unwrap();
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("DOCROW_")) {
        let stem = name.trim_end_matches("_FILE").trim_end_matches("_PASSWORD");
        assert!(
            ["DOCROW_SOURCE", "DOCROW_TARGET", "DOCROW_MASK_KEY", "DOCROW_NOTIFY_KEY"].contains(&stem),
            "{name}"
        );
    }
}
