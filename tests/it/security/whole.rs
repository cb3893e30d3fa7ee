//! The whole way, over TLS with certificates of clients on both sides.

use mongodb::bson::{Document, doc};

use super::Servers;
use crate::support::{Docrow, Home, Place, Proxy, Trap};

/// In every value, and nowhere else.
const SECRET: &str = "geheim";

/// A place on both servers, that the certificate may use.
async fn place(servers: &Servers, test: &str) -> Place {
    let place = Place::on(&servers.mongod.uri(), &servers.postgres.uri("postgres"), test).await;
    let grants = format!(
        "GRANT CREATE, TEMP ON DATABASE {} TO certified, scram; GRANT USAGE, CREATE ON SCHEMA public TO certified, scram",
        place.name
    );
    place.postgres().await.batch_execute(&grants).await.unwrap();
    place.add_sentinels().await;
    let people = (0..200).map(person);
    place.collection("people").insert_many(people).await.unwrap();
    place
}

fn person(id: i32) -> Document {
    doc! { "_id": id, "name": format!("{SECRET}-{id}"), "tags": [{ "label": format!("{SECRET}-tag") }] }
}

/// Asserts that PostgreSQL sees nothing of docrow in this database but connections with its certificate.
async fn assert_certified(place: &Place) {
    let question = "SELECT count(*), count(*) FILTER (WHERE s.ssl AND s.client_dn = '/CN=certified/O=clients') \
        FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name LIKE 'docrow%' AND a.datname = current_database()";
    let row = place.postgres().await.query_one(question, &[]).await.unwrap();
    let (all, certified): (i64, i64) = (row.get(0), row.get(1));
    assert!(all > 1 && all == certified, "{certified} of {all}");
}

async fn change(place: &Place, docrow: &mut Docrow) {
    let people = place.collection("people");
    people
        .update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "name": "geheim-new" } })
        .await
        .unwrap();
    people.delete_many(doc! { "_id": { "$gt": 180 } }).await.unwrap();
    people.insert_many((1000..1050).map(person)).await.unwrap();
    place.settle(docrow).await;
}

/// "TLS to both sides with CA, client certificates": copied, followed, verified, killed and resumed; nothing
/// of it in the clear, and G12: nothing of it in the most verbose log.
#[tokio::test]
async fn all_of_it_by_certificates() {
    let servers = Servers::shared().await;
    let place = place(servers, "tls_whole").await;
    let proxy = Proxy::to(servers.postgres.port()).await;
    let mut home = Home::new(&place);
    let target = format!(
        "postgresql://certified@localhost:{}/{}?{}",
        servers.postgres.port(),
        place.name,
        servers.postgres_tls()
    );
    home.set("target.uri", proxy.uri(&target));
    let options = format!("{}&authMechanism=MONGODB-X509", servers.mongodb_tls());
    home.set("source.uri", servers.mongodb_uri("", &options));
    home.env("RUST_LOG", "trace");
    proxy.set(Trap::Message { message: SECRET.as_bytes(), answer: None });
    let mut docrow = home.run();
    change(&place, &mut docrow).await;
    assert_certified(&place).await;
    let mut log = docrow.kill9().await.log;

    let mut docrow = home.run();
    change(&place, &mut docrow).await;
    proxy.cut();
    change(&place, &mut docrow).await;
    log += &docrow.stop().await.log;
    assert_eq!(proxy.sprung(), 0, "a value passed in the clear");
    log += &home.finish(&["plan"]).await.with_code(0).log;
    log += &place.assert_same(&home).await.log;
    let line = log.lines().find(|line| line.contains(SECRET));
    assert_eq!(line, None, "the log reveals a value");
    assert!(log.lines().any(|line| line.contains(" TRACE ") || line.contains(" DEBUG ")), "{log}");
    assert!(!log.contains("panicked") && !log.contains("PRIVATE KEY"), "{log}");
}

/// The authorities that the system trusts: those of its own, or of the file that is named to it.
#[tokio::test]
async fn the_authorities_of_the_system() {
    let servers = Servers::shared().await;
    let place = place(servers, "tls_system").await;
    let mut home = Home::new(&place);
    let target = |host: &str| {
        let (port, password) = (servers.postgres.port(), super::ENCODED);
        format!("postgresql://scram:{password}@{host}:{port}/{}?sslrootcert=system", place.name)
    };
    home.set("target.uri", target("localhost"));
    let ended = home.finish(&["plan"]).await.with_code(4);
    assert!(ended.error().contains("UnknownIssuer"), "{}", ended.log);
    home.env("SSL_CERT_FILE", &servers.authority.certificate().display().to_string());
    home.finish(&["plan"]).await.with_code(0).quiet();
    home.set("target.uri", target("127.0.0.1"));
    let ended = home.finish(&["plan"]).await.with_code(4);
    assert!(ended.error().contains("only valid for"), "{}", ended.log);
    home.env("SSL_CERT_FILE", "/nowhere/none.pem");
    home.env("SSL_CERT_DIR", "/nowhere");
    let ended = home.finish(&["plan"]).await.with_code(2);
    assert!(ended.error().contains("name a file of them with sslrootcert"), "{}", ended.log);
}
