//! PostgreSQL goes back in time: restored from a backup, or failed over to a standby that lags. docrow's
//! state directory then knows more than PostgreSQL, which is still the truth; missing changes are read again.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use docrow::demo::{
    free_port,
    servers::{Postgres, PostgresOptions},
};
use tempfile::TempDir;

use super::{Phase, Scene, change, converges, fill};
use crate::support::{Home, Place, Proxy, RETRIES, connect, until};

/// A PostgreSQL server whose data can be saved and restored.
struct Server {
    postgres: Postgres,
    backup: TempDir,
}

impl Server {
    async fn start(test: &str) -> (Self, Place) {
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let shared = Place::shared(test).await;
        let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), test).await;
        (Self { postgres, backup: tempfile::tempdir().unwrap() }, place)
    }

    fn data(&self) -> PathBuf {
        self.postgres.socket_folder().join("data")
    }

    /// Saves a copy of everything.
    async fn back_up(&mut self) {
        self.postgres.stop().await.unwrap();
        copy(&self.data(), &self.backup.path().join("data"));
        self.postgres.restart().await.unwrap();
    }

    /// Restores the copy.
    async fn restore(&mut self) {
        self.postgres.stop().await.unwrap();
        fs::remove_dir_all(self.data()).unwrap();
        copy(&self.backup.path().join("data"), &self.data());
        self.postgres.restart().await.unwrap();
    }
}

/// With owners and modes.
fn copy(from: &PathBuf, to: &PathBuf) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// G2, G7: restored to the moment of a phase, while docrow runs.
async fn restored(test: &str, phase: Phase) {
    let (mut server, place) = Server::start(test).await;
    let home = Home::new(&place);
    let mut scene = Scene::held(place, home, phase).await;
    server.back_up().await;
    // Its holder went with the server.
    drop(scene.gate.take());
    scene.change().await;
    scene.place.settle(&mut scene.docrow).await;
    scene.change().await;
    scene.place.settle(&mut scene.docrow).await;
    server.restore().await;
    scene.converges(&[RETRIES]).await;
}

#[tokio::test]
async fn target_restored_to_an_earlier_time_during_snapshot() {
    restored("restored_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn target_restored_to_an_earlier_time_during_hand_over() {
    restored("restored_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn target_restored_to_an_earlier_time_during_stream() {
    restored("restored_stream", Phase::Stream).await;
}

/// G7: while docrow does not run; its state directory is ahead of PostgreSQL.
#[tokio::test]
async fn target_restored_to_an_earlier_time_between_two_runs() {
    let (mut server, place) = Server::start("restored_between").await;
    let home = Home::new(&place);
    fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    server.back_up().await;
    let mut docrow = home.run();
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    docrow.stop().await.quiet();
    change(&place, 2).await;
    server.restore().await;
    converges(&place, &home, home.run()).await.quiet();
}

/// G7: to before docrow first wrote to it. The state directory belongs to another target.
#[tokio::test]
async fn target_restored_to_before_the_first_run() {
    let (mut server, place) = Server::start("restored_empty").await;
    let home = Home::new(&place);
    fill(&place).await;
    server.back_up().await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    change(&place, 1).await;
    place.settle(&mut docrow).await;
    server.restore().await;
    let expected = [RETRIES, "another target database", "rebuilt meanwhile"];
    let ended = converges(&place, &home, docrow).await.quiet_but(&expected);
    assert!(ended.log.contains("another target database"), "{}", ended.log);
}

/// A primary, and a standby that follows it through a proxy; docrow reaches either through another one.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    replication: Proxy,
    way: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let primary = Postgres::start(PostgresOptions::default()).await.unwrap();
        let mut standby = Postgres::start(PostgresOptions::default()).await.unwrap();
        standby.stop().await.unwrap();
        let replication = Proxy::to(primary.port()).await;
        let data = standby.socket_folder().join("data");
        fs::remove_dir_all(&data).unwrap();
        let program = fs::read_link(format!("/proc/{}/exe", primary.pid().unwrap())).unwrap();
        let mut base_backup = tokio::process::Command::new(program.with_file_name("pg_basebackup"));
        base_backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data);
        base_backup.arg("--dbname").arg(replication.uri(&primary.uri("postgres")));
        assert!(base_backup.status().await.unwrap().success());
        // What it writes down are the options of its own version, which an older server does not know.
        let conninfo = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n",
            replication.address().port()
        );
        fs::write(data.join("postgresql.auto.conf"), conninfo).unwrap();
        // It was written by this process's user.
        let mut own = Command::new("chown");
        own.arg("-R").arg("--reference").arg(standby.socket_folder()).arg(&data);
        assert!(own.status().unwrap().success());
        standby.restart().await.unwrap();
        let way = Proxy::to(primary.port()).await;
        Self { primary, standby, replication, way }
    }

    /// From now on, the standby receives nothing more.
    async fn stop_replication(&self, place: &Place) {
        let primary = place.postgres().await;
        let position: String =
            primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
        let standby = connect(&self.standby.uri("postgres")).await;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        let has_all = async || standby.query_one(&question, &[]).await.unwrap().get::<_, bool>(0);
        until("the standby has everything", has_all).await;
        self.replication.refuse(true);
        self.replication.cut();
    }

    /// The primary dies, and the standby, which is behind, replaces it.
    async fn fail_over(&mut self, place: &Place) {
        let question = "SELECT max(position) FROM docrow.progress";
        let mut reached: Vec<String> = Vec::new();
        for server in [&self.standby, &self.primary] {
            let session = connect(&server.uri(&place.name)).await;
            reached.push(session.query_one(question, &[]).await.unwrap().get(0));
        }
        assert!(reached[0] < reached[1], "{reached:?}");
        self.primary.kill9().await.unwrap();
        self.way.lead_to(self.standby.port());
        let standby = connect(&self.standby.uri("postgres")).await;
        assert!(standby.query_one("SELECT pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
    }

    /// The same while docrow follows changes that the standby does not have.
    async fn fail_over_behind(&mut self, scene: &mut Scene) {
        self.stop_replication(&scene.place).await;
        scene.open().await;
        for _ in 0..2 {
            scene.change().await;
            scene.place.settle(&mut scene.docrow).await;
        }
        self.fail_over(&scene.place).await;
    }
}

/// G2: changes that the standby never received are read again from the oplog.
async fn failed_over(test: &str, phase: Phase) {
    let mut pair = Pair::start().await;
    let shared = Place::shared(test).await;
    let place = Place::on(&shared.mongodb_uri, &pair.way.uri(&pair.primary.uri("postgres")), test).await;
    let home = Home::new(&place);
    let mut scene = Scene::held(place, home, phase).await;
    pair.fail_over_behind(&mut scene).await;
    scene.converges(&[RETRIES]).await;
}

/// As managed services do it: the server's name leads to another address from now on.
#[tokio::test]
async fn failover_by_name_during_stream() {
    const NAME: &str = "db.docrow.test";
    let mut pair = Pair::start().await;
    let shared = Place::shared("failover_name").await;
    let place = Place::on(&shared.mongodb_uri, &pair.primary.uri("postgres"), "failover_name").await;
    let port = free_port().unwrap();
    let at = |last| SocketAddr::from(([127, 0, 0, last], port));
    let _former = Proxy::at(at(2), pair.primary.port()).await;
    let _later = Proxy::at(at(3), pair.standby.port()).await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let lead_to = |last| fs::write(hosts.path(), format!("127.0.0.{last} {NAME}\n")).unwrap();
    lead_to(2);
    let mut home = Home::new(&place);
    home.resolve_by(hosts.path().to_owned());
    home.set("target.uri", format!("postgresql://postgres@{NAME}:{port}/{}", place.name));
    let mut scene = Scene::held(place, home, Phase::Stream).await;
    pair.fail_over_behind(&mut scene).await;
    lead_to(3);
    scene.place.postgres_uri = pair.standby.uri(&scene.place.name);
    scene.converges(&[RETRIES]).await;
}

#[tokio::test]
async fn failover_to_a_standby_that_lags_during_snapshot() {
    failed_over("failover_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn failover_to_a_standby_that_lags_during_hand_over() {
    failed_over("failover_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn failover_to_a_standby_that_lags_during_stream() {
    failed_over("failover_stream", Phase::Stream).await;
}
