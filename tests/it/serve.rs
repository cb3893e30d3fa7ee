//! `[serve]`: the dashboard, the status, the probes, and access to them.

use mongodb::bson::doc;
use tokio::net::TcpListener;

use crate::support::{
    Before, Docrow, Gate, Home, Place,
    http::{ask, get},
};

const TOKEN: &str = "0123456789abcdef-token";
const GUARDED: [&str; 4] = ["/", "/status", "/history", "/metrics"];

async fn place(test: &str) -> (Place, Home) {
    let place = Place::shared(&format!("serve_{test}")).await;
    place.collection("orders").insert_many((0..50).map(|id| doc! { "_id": id })).await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    (place, home)
}

/// Waits until docrow is ready.
async fn ready(docrow: &mut Docrow, address: &str) {
    docrow.until("it is ready", async || get(address, "/readyz").await.code == 200).await;
}

/// Contract: `/` dashboard, `/healthz`, `/readyz`, `/status` JSON; loopback by default, where no token is
/// needed.
#[tokio::test]
async fn everything_is_there() {
    let (_, home) = place("routes").await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    ready(&mut docrow, &address).await;
    for path in GUARDED.iter().chain(&["/healthz", "/readyz"]) {
        let answer = get(&address, path).await;
        assert_eq!(answer.code, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    let page = get(&address, "/").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(get(&address, "/status").await.header("content-type"), Some("application/json"));
    assert_eq!(get(&address, "/elsewhere").await.code, 404);
    // A page of another origin whose host's name resolves to this machine.
    for path in GUARDED {
        assert_eq!(ask(&address, path, &[("Host", "evil.example")]).await.unwrap().code, 403, "{path}");
    }
    let backfill = home.finish(&["backfill"]).await.with_code(6);
    assert!(backfill.log.contains("dashboard: http://127.0.0.1:"), "{}", backfill.log);
    docrow.stop().await.quiet();
    assert!(ask(&address, "/healthz", &[]).await.is_none());
}

/// Contract: `[serve] token`, sent as `Authorization: Bearer`, or once as `?token=` for a cookie; the probes
/// are open.
#[tokio::test]
async fn a_token_is_asked_for() {
    let (_, mut home) = place("token").await;
    home.set("serve.listen", "0.0.0.0:0");
    home.set("serve.token", "${DOCROW_TEST_TOKEN}");
    home.env("DOCROW_TEST_TOKEN", TOKEN);
    let mut docrow = home.run();
    let address = docrow.address().await.replace("0.0.0.0", "127.0.0.1");
    ready(&mut docrow, &address).await;
    let bearer = format!("Bearer {TOKEN}");
    for path in GUARDED {
        let refused = get(&address, path).await;
        assert_eq!((refused.code, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        for wrong in ["Bearer 0123456789abcdef-tokem", "Bearer", TOKEN] {
            let answer = ask(&address, path, &[("Authorization", wrong)]).await.unwrap();
            assert_eq!(answer.code, 401, "{path}: {wrong}");
        }
        let answer =
            ask(&address, path, &[("Authorization", &bearer), ("Host", "docrow.example")]).await.unwrap();
        assert_eq!(answer.code, 200, "{path}");
        assert!(!answer.body.contains(TOKEN) && !answer.headers.contains(TOKEN), "{path}");
    }
    for open in ["/healthz", "/readyz"] {
        assert_eq!(get(&address, open).await.code, 200, "{open}");
    }
    assert_eq!(get(&address, "/?token=wrong").await.code, 401);
    let introduced = get(&address, &format!("/?token={TOKEN}")).await;
    assert_eq!((introduced.code, introduced.header("location")), (303, Some("/")));
    let cookie = introduced.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Lax") && !cookie.contains(TOKEN), "{cookie}");
    let (cookie, _) = cookie.split_once(';').unwrap();
    for path in GUARDED {
        assert_eq!(ask(&address, path, &[("Cookie", cookie)]).await.unwrap().code, 200, "{path}");
    }
    // Commands that serve nothing do not need the token.
    home.set("serve.token", "${DOCROW_TEST_NOT_SET}");
    home.finish(&["status"]).await.with_code(0).quiet();
    let log = docrow.stop().await.quiet().log;
    assert!(!log.contains(TOKEN), "{log}");
}

/// Contract: a token is required on any address but a local one; the error says what to do.
#[tokio::test]
async fn other_machines_are_not_served_without_a_token() {
    let (_, mut home) = place("open").await;
    home.set("serve.listen", "0.0.0.0:0");
    for command in ["run", "backfill"] {
        let ended = home.finish(&[command]).await.with_code(2);
        let error = ended.error();
        for part in ["docrow.toml: serve.token: missing", "0.0.0.0:0", "${DOCROW_TOKEN}", "127.0.0.1"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert!(!home.state().exists());
}

/// A configured address that is not available is an error at the start; the default one is not: if another
/// pipeline has it, replication continues without it.
#[tokio::test]
async fn a_taken_port() {
    let (place, mut home) = place("port").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    home.set("serve.listen", address.as_str());
    let ended = home.finish(&["backfill"]).await.with_code(2);
    let error = ended.error();
    assert!(error.contains(&format!("serve.listen: docrow can't listen on {address}")), "{error}");
    assert_eq!(place.number("SELECT count(*) FROM orders").await, None);
    // Taken by this test, or by another program.
    let _default = TcpListener::bind("127.0.0.1:8745").await;
    home.unset("serve.listen");
    let ended = home.finish(&["backfill"]).await.with_code(0).quiet_but(&["serve.listen"]);
    assert!(
        ended.log.contains("no dashboard, no metrics: docrow can't listen on 127.0.0.1:8745"),
        "{}",
        ended.log
    );
    assert_eq!(place.number("SELECT count(*) FROM orders").await, Some(50));
}

/// `/readyz`: holds the pipeline and is live, or 503 with the reason. `/healthz`: the process is alive,
/// whatever it waits for.
#[tokio::test]
async fn the_probes_tell_stages_apart() {
    let (place, home) = place("probes").await;
    let gate = Gate::close(&place, Before::Update("docrow.chunks", "NEW.copied_at IS NOT NULL")).await;
    let mut docrow = home.run();
    let address = docrow.address().await;
    gate.reached(&mut docrow, 1).await;
    let answer = get(&address, "/readyz").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, "copying\n"));
    assert_eq!(get(&address, "/healthz").await.code, 200);
    gate.open().await;
    ready(&mut docrow, &address).await;
    let mut standby = home.start(&["run", "--standby"]);
    let second = standby.address().await;
    let standing_by = async || get(&second, "/readyz").await.body.starts_with("standing by");
    standby.until("it stands by", standing_by).await;
    assert_eq!(get(&second, "/readyz").await.code, 503);
    assert_eq!(get(&second, "/healthz").await.code, 200);
    // It shows the pipeline's state, as reported by the other process.
    let shows = async || get(&second, "/status").await.json()["process"].clone();
    standby.until("the other one is shown", async || shows().await["stage"] == "live").await;
    assert_eq!(shows().await["running"], true);
    docrow.stop().await.quiet();
    ready(&mut standby, &second).await;
    standby.stop().await;
}

/// A page that is open when the process ends with an error learns the reason; and so does any later request.
#[tokio::test]
async fn the_last_word_is_heard() {
    let (place, mut home) = place("last").await;
    let mapping = format!(
        "collection = '{}.orders'\ntable = 'orders'\non_unfit = 'fail'\n\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\n\
         [columns]\nn = {{ path = 'n', type = 'bigint' }}\n",
        place.name
    );
    home.map("orders.toml", &mapping);
    home.set("stream.partitions", 1);
    let mut docrow = home.run();
    let address = docrow.address().await;
    ready(&mut docrow, &address).await;
    get(&address, "/status").await;
    place
        .collection("orders")
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "n": "no number" } })
        .await
        .unwrap();
    let mut last = None;
    while let Some(answer) = ask(&address, "/status", &[]).await {
        let status = answer.json();
        if status["process"]["stage"] == "ended" {
            last = Some(status);
            break;
        }
    }
    let ended = docrow.ended().await.with_code(2);
    assert!(ended.log.contains("every collection is stopped"), "{}", ended.log);
    let last = last.unwrap_or_else(|| panic!("not told: {}", ended.log));
    assert_eq!(last["health"]["level"], "error");
    let after = home.finish(&["status", "--json"]).await.with_code(0);
    let after: serde_json::Value = serde_json::from_str(&after.out).unwrap();
    for status in [&last, &after] {
        let why = status["process"]["problem"].as_str().unwrap();
        assert!(why.contains("every collection is stopped"), "{why}");
        let stopped = status["collections"][0]["stopped"].as_str().unwrap();
        assert!(stopped.contains("on_unfit") && !stopped.contains("no number"), "{stopped}");
    }
    assert_eq!(after["process"]["running"], false);
}
