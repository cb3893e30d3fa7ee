//! PostgreSQL behind a pooler: a real PgBouncer, in each of its modes.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use docrow::demo::free_port;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{Home, Place, try_connect};

/// A running PgBouncer.
struct Pooler {
    uri: String,
    _process: Child,
    _folder: TempDir,
}

impl Pooler {
    /// In front of the place's database, in this mode.
    async fn start(place: &Place, mode: &str) -> Self {
        let (server, _) = place.postgres_uri.rsplit_once('/').unwrap();
        let (_, address) = server.rsplit_once('@').unwrap();
        let (host, server_port) = address.split_once(':').unwrap();
        let (port, name) = (free_port().unwrap(), &place.name);
        let folder = tempfile::tempdir().unwrap();
        // It does not run as root.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n{name} = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 40\n"
        );
        fs::write(&file, settings).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let process = program(folder.path())
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("pgbouncer: {e}: `make setup` fetches it"));
        let uri = format!("postgresql://postgres@127.0.0.1:{port}/{name}");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while let Err(error) = try_connect(&uri).await {
            assert!(tokio::time::Instant::now() < deadline, "pgbouncer does not answer: {error:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Self { uri, _process: process, _folder: folder }
    }
}

/// PgBouncer, which refuses to run as root, as a user who may read the content of `folder`.
fn program(folder: &Path) -> Command {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let cache =
        std::env::var("DOCROW_CACHE").unwrap_or_else(|_| format!("{}/.cache/docrow", variable("HOME")));
    let places = format!("{}:/usr/sbin:{cache}", variable("PATH"));
    let found = places.split(':').map(|place| Path::new(place).join("pgbouncer")).find(|file| file.exists());
    let found = std::env::var("DOCROW_PGBOUNCER").map(PathBuf::from).ok().or(found);
    let found = found.expect("there is no pgbouncer: `make setup` fetches it");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        command.arg(found);
        return command;
    }
    let copy = folder.join("pgbouncer");
    fs::copy(found, &copy).unwrap();
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
    command
}

/// If a session is not a session, docrow reports it before it does anything.
async fn refused(mode: &str) {
    let place = Place::shared(&format!("pooler_{mode}")).await;
    place.add_sentinels().await;
    let pooler = Pooler::start(&place, mode).await;
    let mut home = Home::new(&place);
    home.set("target.uri", pooler.uri.as_str());
    let checked = home.finish(&["check"]).await.with_code(1);
    assert!(
        checked.out.contains("a pooler at") && checked.out.contains("PgBouncer: pool_mode"),
        "{}",
        checked.out
    );
    for command in ["run", "backfill", "plan"] {
        let ended = home.finish(&[command]).await.with_code(4);
        assert!(ended.error().starts_with("[DRW-3212] a pooler at"), "{command}: {}", ended.log);
    }
    assert_eq!(place.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'docrow'").await, Some(0));
}

#[tokio::test]
async fn transaction_mode_is_refused_with_words() {
    refused("transaction").await;
}

#[tokio::test]
async fn statement_mode_is_refused_with_words() {
    refused("statement").await;
}

#[tokio::test]
async fn session_mode_works() {
    let place = Place::shared("pooler_session").await;
    place.add_sentinels().await;
    let pooler = Pooler::start(&place, "session").await;
    let mut home = Home::new(&place);
    home.set("target.uri", pooler.uri.as_str());
    home.finish(&["check"]).await.with_code(0).quiet();
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    home.finish(&["status"]).await.with_code(0).quiet();
    place.assert_same(&home).await;
    docrow.kill9().await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
}
