//! PostgreSQL's disk is full: docrow waits, reports it, and continues when there is space again.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use docrow::demo::servers::{Postgres, PostgresOptions};
use fastrand::Rng;
use mongodb::bson::doc;
use tempfile::TempDir;

use super::{Phase, Scene};
use crate::support::{Code, Home, Place, RETRIES, connect};

/// A separate file system, of 64 MB; mounting it requires root, or sudo without a password.
struct SmallDisk {
    folder: TempDir,
    /// Waits for its input to end, so that the file system is removed however this process ends.
    remover: Child,
}

impl SmallDisk {
    /// Owned by the owner of `like`.
    fn mount(like: &std::path::Path) -> Self {
        let folder = tempfile::Builder::new().prefix("docrow-disk-").tempdir().unwrap();
        let (owner, path) = (fs::metadata(like).unwrap(), folder.path());
        let options = format!("size=64m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let sudo = if fs::metadata("/proc/self").unwrap().uid() == 0 { "" } else { "sudo -n " };
        let mount = format!("{sudo}mount -t tmpfs -o {options} docrow-disk {}", path.display());
        let mounted = Command::new("sh").args(["-c", &mount]).status().unwrap();
        assert!(mounted.success(), "a small file system can't be mounted: {mount}");
        let script = format!("read _; {sudo}umount -l {}", path.display());
        let mut waits = Command::new("sh");
        waits.args(["-c", &script]).stdin(Stdio::piped());
        let remover = std::os::unix::process::CommandExt::process_group(&mut waits, 0).spawn().unwrap();
        Self { folder, remover }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Takes all remaining space.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        let block = vec![0; 4096];
        while ballast.write_all(&block).is_ok() {}
    }

    /// Frees it.
    fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

async fn disk_full(test: &str, phase: Phase) {
    let mut postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let disk = SmallDisk::mount(postgres.socket_folder());
    let shared = Place::shared(test).await;
    let place = Place::on(&shared.mongodb_uri, &postgres.uri("postgres"), test).await;
    let admin = connect(&postgres.uri("postgres")).await;
    let space = format!("CREATE TABLESPACE small LOCATION '{}'", disk.folder.path().display());
    admin.batch_execute(&space).await.unwrap();
    let default = format!("ALTER DATABASE {} SET default_tablespace = small", place.name);
    admin.batch_execute(&default).await.unwrap();
    add_large(&place, 0).await;
    let mut home = Home::new(&place);
    home.set("snapshot.parallelism", 1);
    let mut scene = Scene::held(place, home, phase).await;
    disk.fill();
    scene.open().await;
    add_large(&scene.place, 1000).await;
    scene.docrow.logs("SQLSTATE 53100").await;
    scene.change().await;
    scene.docrow.logs_times("SQLSTATE 53100", 2).await;
    disk.empty();
    let ended = scene.converges(&[RETRIES]).await.coded(Code::TargetDiskFull);
    assert!(ended.log.contains("No space left on device"), "{}", ended.log);
    postgres.stop().await.unwrap();
}

/// Documents that can't be compressed, in a collection that is copied last.
async fn add_large(place: &Place, from: i32) {
    let mut rng = Rng::with_seed(5);
    let mut padding = || (0..20_000).map(|_| rng.alphanumeric()).collect::<String>();
    let large: Vec<_> =
        (from..from + 100).map(|id| doc! { "_id": id, "n": 0, "padding": padding() }).collect();
    place.collection("zz_large").insert_many(large).await.unwrap();
}

#[tokio::test]
async fn disk_full_during_snapshot() {
    disk_full("disk_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn disk_full_during_hand_over() {
    disk_full("disk_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn disk_full_during_stream() {
    disk_full("disk_stream", Phase::Stream).await;
}
