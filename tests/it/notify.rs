//! `[notify] webhook`, against a real HTTP server: the events, the signature, and that nothing waits for it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
    serve::Listener,
};
use docrow::demo::servers::{Mongod, MongodOptions};
use hmac::{Hmac, KeyInit, Mac};
use mongodb::bson::doc;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use sha2::Sha256;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    security::authority::{Authority, Issued},
    support::{Code, Docrow, Home, Place},
};

const KEY: &str = "a key of more than sixteen bytes";

/// An operator's HTTP server.
struct Receiver {
    uri: String,
    got: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    _serving: JoinSet<()>,
}

/// How it treats a request.
#[derive(Clone)]
struct Taking {
    got: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    /// How many requests it answers with 503.
    refuses: Arc<AtomicUsize>,
    /// Whether it never answers.
    hangs: bool,
}

async fn take(State(taking): State<Taking>, headers: HeaderMap, body: String) -> StatusCode {
    let refused = taking.refuses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    taking.got.lock().unwrap().push((headers, body));
    if taking.hangs {
        std::future::pending::<()>().await;
    }
    if refused.is_ok() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
}

impl Receiver {
    async fn start(refuses: usize, hangs: bool) -> Self {
        let taking = Taking { got: Arc::default(), refuses: Arc::new(refuses.into()), hangs };
        Self::serve("http", TcpListener::bind("127.0.0.1:0").await.unwrap(), taking)
    }

    /// Over HTTPS, with this certificate.
    async fn start_tls(issued: &Issued) -> Self {
        let taking = Taking { got: Arc::default(), refuses: Arc::default(), hangs: false };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve("https", TlsListener { tcp, acceptor: acceptor(issued) }, taking)
    }

    fn serve<L: Listener<Addr = SocketAddr>>(scheme: &str, listener: L, taking: Taking) -> Self {
        let uri = format!("{scheme}://{}/hooks/s3cr3t-path", listener.local_addr().unwrap());
        let got = taking.got.clone();
        let router = Router::new().route("/hooks/s3cr3t-path", post(take)).with_state(taking);
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { uri, got, _serving: serving }
    }

    fn got(&self) -> Vec<(HeaderMap, String)> {
        self.got.lock().unwrap().clone()
    }

    fn notices(&self) -> Vec<Value> {
        self.got().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }

    /// Waits for a notification of an event.
    async fn hears(&self, docrow: &mut Docrow, event: &str) -> Value {
        let mut heard = None;
        docrow
            .until(event, async || {
                heard = self.notices().into_iter().find(|notice| notice["event"] == event);
                heard.is_some()
            })
            .await;
        heard.unwrap()
    }
}

/// Listens for TLS.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client may close the connection, because it does not trust the certificate.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(&issued.certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

fn notifying(place: &Place, receiver: &Receiver) -> Home {
    let mut home = Home::new(place);
    home.set("notify.webhook", "${DOCROW_TEST_WEBHOOK}");
    home.env("DOCROW_TEST_WEBHOOK", &receiver.uri);
    home.env("DOCROW_NOTIFY_KEY", KEY);
    home
}

/// Issue: live, stopped, error, dead letters begin, a mapping grew, a column misfits; signed by HMAC;
/// retries; no values.
#[tokio::test]
async fn everything_is_told_signed_and_tried_again() {
    let place = Place::shared("notify").await;
    place.add_sentinels().await;
    let users = (0..50).map(|id| doc! { "_id": id, "age": id });
    place.collection("users").insert_many(users).await.unwrap();
    place.collection("orders").insert_one(doc! { "_id": 1, "n": 1 }).await.unwrap();
    let receiver = Receiver::start(2, false).await;
    let mut home = notifying(&place, &receiver);
    home.set("mapping.max_dead_letters", 1);
    home.map(
        "orders.toml",
        &format!(
            "collection = '{}.orders'\ntable = 'orders'\nextra = '_extra'\non_unfit = 'dead_letter'\n\
             [key]\ncolumn = 'id'\ntype = 'bigint'\n[columns]\nn = {{ path = 'n', type = 'bigint' }}\n",
            place.name
        ),
    );
    let mut docrow = home.run();
    let live = receiver.hears(&mut docrow, "live").await;
    assert_eq!((&live["pipeline"], &live["phase"]), (&"docrow".into(), &"live".into()), "{live}");
    place.settle(&mut docrow).await;
    // The same notification was repeated until it was accepted.
    docrow.until("it is taken", async || receiver.got().len() >= 3).await;
    let ids: Vec<_> = receiver.notices().iter().take(3).map(|notice| notice["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && id.as_str().unwrap().len() == 32), "{ids:?}");

    place.collection("users").insert_one(doc! { "_id": 900, "city": "s3cr3t-value" }).await.unwrap();
    let grew = receiver.hears(&mut docrow, "mapping_grew").await;
    assert_eq!(grew["collection"], format!("{}.users", place.name), "{grew}");
    place.collection("users").insert_one(doc! { "_id": 901, "age": "s3cr3t-value" }).await.unwrap();
    let misfits = receiver.hears(&mut docrow, "column_misfits").await;
    assert!(misfits["text"].as_str().unwrap().contains("users.age"), "{misfits}");
    place.collection("orders").insert_one(doc! { "_id": 2, "n": "s3cr3t-value" }).await.unwrap();
    let letters = receiver.hears(&mut docrow, "dead_letters").await;
    assert_eq!(letters["collection"], format!("{}.orders", place.name), "{letters}");
    place.collection("orders").insert_one(doc! { "_id": 3, "n": "s3cr3t-value" }).await.unwrap();
    let error = receiver.hears(&mut docrow, "error").await;
    assert_eq!(
        (&error["collection"], &error["code"]),
        (&format!("{}.orders", place.name).into(), &"DRW-1305".into()),
        "{error}"
    );
    let ended = docrow.stop().await;
    assert_eq!(receiver.notices().last().unwrap()["event"], "stopped");
    assert!(!ended.log.contains("s3cr3t"), "{}", ended.log);
    for (headers, body) in receiver.got() {
        assert!(!body.contains("s3cr3t"), "{body}");
        let mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap().chain_update(&body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(headers["x-docrow-signature"], format!("sha256={hex}"));
        let event: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(headers["x-docrow-event"], event["event"].as_str().unwrap());
        assert_eq!(headers["content-type"], "application/json");
    }
}

/// Issue: never blocks replication. A server that accepts a request and never answers blocks nothing, not
/// even the end.
#[tokio::test]
async fn a_webhook_that_never_answers_holds_up_nothing() {
    let place = Place::shared("notify_hangs").await;
    place.add_sentinels().await;
    let receiver = Receiver::start(0, true).await;
    let home = notifying(&place, &receiver);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    receiver.hears(&mut docrow, "live").await;
    place.settle(&mut docrow).await;
    let began = Instant::now();
    docrow
        .stop()
        .await
        .quiet_but(&["the last notifications are not delivered", "does not accept a notification"]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// Over HTTPS, a certificate of a trusted authority is accepted. Another one is not, nor one for another
/// host: nothing is sent, and the log says what is wrong.
#[tokio::test]
async fn over_https_the_certificate_must_be_good() {
    let place = Place::shared("notify_https").await;
    place.add_sentinels().await;
    let (known, stranger) = (Authority::new("known"), Authority::new("stranger"));
    let receiver = Receiver::start_tls(&known.server("127.0.0.1")).await;
    let mut home = notifying(&place, &receiver);
    home.env("SSL_CERT_FILE", known.certificate().to_str().unwrap());
    let mut docrow = home.run();
    receiver.hears(&mut docrow, "live").await;
    docrow.stop().await.quiet();
    assert_eq!(receiver.notices().last().unwrap()["event"], "stopped");

    for (issued, why) in [
        (stranger.server("127.0.0.1"), "UnknownIssuer"),
        (known.server("hooks.example"), "not valid for name"),
    ] {
        let receiver = Receiver::start_tls(&issued).await;
        home.env("DOCROW_TEST_WEBHOOK", &receiver.uri);
        let mut docrow = home.run();
        docrow
            .logs("the webhook at 127.0.0.1 does not accept a notification: its certificate is refused: ")
            .await;
        let ended = docrow.stop().await;
        let ended =
            ended.quiet_but(&["does not accept a notification", "the last notifications are not delivered"]);
        assert!(ended.log.contains(why) && ended.log.contains("SSL_CERT_FILE"), "{}", ended.log);
        assert!(receiver.got().is_empty() && !ended.log.contains("s3cr3t"), "{}", ended.log);
    }
}

/// An error that ends the process is reported with its code, even if it occurs before anything is done; and
/// so is a server that goes away.
#[tokio::test]
async fn errors_are_told_with_their_codes() {
    let mut mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let postgres = Place::shared("notify_errors").await.postgres_uri;
    let place = Place::on(&mongod.uri(), &postgres, "notify_errors_own").await;
    place.add_sentinels().await;
    let receiver = Receiver::start(0, false).await;
    let mut home = notifying(&place, &receiver);
    let mut docrow = home.run();
    receiver.hears(&mut docrow, "live").await;
    mongod.kill9().await.unwrap();
    let error = receiver.hears(&mut docrow, "error").await;
    assert!(error["text"].as_str().unwrap().contains("MongoDB"), "{error}");
    docrow.stop().await;
    home.set("source.uri", "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=500");
    home.run().ended().await.with_code(3);
    let last = receiver.notices().last().unwrap().clone();
    assert_eq!((&last["event"], &last["phase"]), (&"error".into(), &"ended".into()), "{last}");
    assert!(last["code"].as_str().unwrap().starts_with("DRW-2"), "{last}");
}

/// Nothing is sent unsigned, and a wrong configuration is reported before anything is done.
#[tokio::test]
async fn a_webhook_without_a_key_is_refused() {
    let place = Place::shared("notify_refused").await;
    place.add_sentinels().await;
    let receiver = Receiver::start(0, false).await;
    let mut home = notifying(&place, &receiver);
    home.env_remove("DOCROW_NOTIFY_KEY");
    let ended = home.run().ended().await.with_code(2).coded(Code::MissingVariable);
    assert!(ended.error().contains("DOCROW_NOTIFY_KEY"), "{}", ended.log);
    home.env("DOCROW_NOTIFY_KEY", "short");
    let ended = home.run().ended().await.with_code(2).coded(Code::BadValue);
    assert!(ended.error().contains("less than 16 bytes"), "{}", ended.log);
    home.env("DOCROW_NOTIFY_KEY", KEY);
    home.env("DOCROW_TEST_WEBHOOK", "hooks.example/s3cr3t");
    let ended = home.run().ended().await.with_code(2).coded(Code::BadValue);
    assert!(ended.error().contains("is no URL") && !ended.log.contains("s3cr3t"), "{}", ended.log);
    assert!(receiver.got().is_empty());
    // A key in a file, as for every secret.
    std::fs::write(home.path().join("key"), format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(home.path().join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    home.env_remove("DOCROW_NOTIFY_KEY");
    home.env("DOCROW_NOTIFY_KEY_FILE", "key");
    home.env("DOCROW_TEST_WEBHOOK", &receiver.uri);
    let mut docrow = home.run();
    receiver.hears(&mut docrow, "live").await;
    docrow.stop().await.quiet();
}
