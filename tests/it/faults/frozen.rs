//! MongoDB's connections freeze: nothing is refused, and nothing arrives.

use mongodb::bson::doc;

use super::{Phase, Scene, change, converges};
use crate::support::{Code, Home, Place, Proxy, RETRIES, Trap, http::get};

/// How long docrow waits for an answer in these tests.
const PATIENCE: &str = "socketTimeoutMS=3000";

fn through(proxy: &Proxy) -> String {
    format!("{}&{PATIENCE}", proxy.mongodb_uri())
}

async fn place(test: &str) -> (Place, Proxy, Home) {
    let place = Place::shared(test).await;
    let proxy = Proxy::of(&place.mongodb_uri).await;
    let mut home = Home::new(&place);
    home.set("source.uri", through(&proxy));
    (place, proxy, home)
}

/// "Packets of the change stream's connection alone dropped": the others continue, so nothing else detects
/// it.
#[tokio::test]
async fn change_stream_frozen_alone_during_stream() {
    let (place, proxy, home) = place("frozen_stream").await;
    super::fill(&place).await;
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    proxy.set(Trap::Frozen(b"$cmd.aggregate\0"));
    docrow.until("the stream's connection is frozen", async || proxy.sprung() == 1).await;
    change(&place, 1).await;
    docrow.logs("gave no answer in ").await;
    let ended = converges(&place, &home, docrow).await;
    ended.quiet_but(&["gives no answer", "gave no answer"]).coded(Code::SourceSilent);
}

/// All of them, but not forever: docrow reports it, is not ready, and resumes.
async fn server_frozen(test: &str, phase: Phase) {
    let (place, proxy, mut home) = place(test).await;
    home.serve();
    home.set("snapshot.parallelism", 1);
    let mut scene = Scene::held(place, home, phase).await;
    let address = scene.docrow.address().await;
    proxy.stall(true);
    scene.change().await;
    scene.open().await;
    let ready = async || get(&address, "/readyz").await.code == 200;
    scene.docrow.until("it is not ready", async || !ready().await).await;
    let status = async || get(&address, "/status").await.json()["health"]["words"].to_string();
    scene.docrow.until("it says why", async || status().await.contains("MongoDB does not answer")).await;
    scene.docrow.logs("gave no answer in ").await;
    proxy.stall(false);
    scene.docrow.until("it is ready", ready).await;
    let expected = ["gives no answer", "gave no answer", "MongoDB at", RETRIES];
    scene.converges(&expected).await.coded(Code::SourceSilent);
}

#[tokio::test]
async fn server_frozen_during_snapshot() {
    server_frozen("frozen_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn server_frozen_during_live() {
    server_frozen("frozen_live", Phase::Stream).await;
}

/// A slow server is not frozen: docrow asks whether it is working on the request, and waits for it.
#[tokio::test]
async fn slow_answers_are_waited_for() {
    let (place, _proxy, mut home) = place("slow_answers").await;
    super::fill(&place).await;
    let uri = format!("{}&{PATIENCE}&appName=slow_answers", place.mongodb_uri);
    home.set("source.uri", uri);
    let slow = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 2 },
        "data": {
            "failCommands": ["find"], "appName": "slow_answers", "namespace": format!("{}.things", place.name),
            "blockConnection": true, "blockTimeMS": 7_000,
        },
    };
    place.client.database("admin").run_command(slow).await.unwrap();
    home.backfill().await;
    let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    place.client.database("admin").run_command(off).await.unwrap();
    place.assert_same(&home).await;
}

/// Interactive commands end, too.
#[tokio::test]
async fn commands_end_while_the_server_is_frozen() {
    let (place, proxy, home) = place("frozen_commands").await;
    super::fill(&place).await;
    home.backfill().await;
    proxy.set(Trap::Frozen(b"readConcern\0"));
    let ended = home.finish(&["verify", "--patience", "5"]).await.with_code(3);
    assert!(ended.log.contains("gave no answer in"), "{}", ended.log);
    proxy.set(Trap::Frozen(b"$changeStream\0"));
    let ended = home.finish(&["check", "--json"]).await.with_code(1);
    assert!(ended.out.contains("gave no answer in"), "{}{}", ended.out, ended.log);
}
