//! Errors about unusable deployments.

use std::time::Duration;

use docrow::{
    demo::servers::{Mongod, MongodOptions},
    error::Kind,
    model::change::Namespace,
    source::Source,
};
use mongodb::{Client, bson::doc};

use super::{Server, with_option};

async fn refused(uri: &str) -> (Kind, String) {
    let started = std::time::Instant::now();
    let error = Source::connect(uri).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(11), "said after {:?}", started.elapsed());
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("Kind:"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    (error.kind(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_host_is_said_to_be_away() {
    let (kind, text) = refused("mongodb://user:s3cret@127.0.0.1:9/").await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.starts_with("connect to MongoDB at 127.0.0.1:9: Connection refused"), "{text}");
    assert!(text.ends_with("check host and port, and that mongod is running"), "{text}");
    let (kind, text) = refused("mongodb://nowhere.invalid/").await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.starts_with("connect to MongoDB at nowhere.invalid:27017: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_uri_is_a_usage_error() {
    let (kind, text) = refused("postgres://user:s3cret@localhost/").await;
    assert_eq!(kind, Kind::Usage);
    assert!(text.contains("postgres") && text.contains("mongodb://"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_where_there_is_none_is_said_to_be_the_trouble() {
    let server = Server::new("tls").await;
    let (kind, text) = refused(&with_option(&server.uri, "tls=true")).await;
    assert_eq!(kind, Kind::SourceAway);
    assert!(text.contains("tls=true or tls=false"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_set_is_refused() {
    let server = Server::new("other_set").await;
    let (kind, text) = refused(&server.uri.replace("replicaSet=docrow", "replicaSet=other")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.contains("not other: correct replicaSet in the URI"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_preference_that_no_member_matches_is_said() {
    let server = Server::new("preference").await;
    for preference in ["readPreference=secondary", "readPreference=nearest&readPreferenceTags=dc:ny,disk:ssd"]
    {
        let (kind, text) = refused(&with_option(&server.uri, preference)).await;
        assert_eq!(kind, Kind::SourceAway);
        let said = preference.replace("dc:ny,disk:ssd", "dc:ny,disk:ssd selects");
        assert!(text.contains("none that can be reached is one that readPreference="), "{text}");
        assert!(text.contains(&said), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_refused() {
    let mongod = Mongod::start(MongodOptions { replica_set: false, ..Default::default() }).await.unwrap();
    let (kind, text) = refused(&mongod.uri()).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(
        text.contains("is not a replica set member: change streams need one; start mongod with --replSet"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_is_not_initiated_is_refused() {
    let mongod = Mongod::start(MongodOptions { initiated: false, ..Default::default() }).await.unwrap();
    let (kind, text) = refused(&mongod.uri().replace("replicaSet=docrow", "")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.ends_with("its replica set is not initiated: run rs.initiate()"), "{text}");
}

/// Against a server with users: the harness's superuser creates the others.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_privileges_are_checked() {
    let options = MongodOptions { password: Some("s3cret-pw".to_owned()), ..Default::default() };
    let mongod = Mongod::start(options).await.unwrap();
    let uri = mongod.uri();
    let address = format!("127.0.0.1:{}", mongod.port());
    let root = Client::with_uri_str(&uri).await.unwrap();
    let admin = root.database("admin");
    for name in ["shop", "crm"] {
        root.database(name).collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    for (user, role) in [("reader", Some("read")), ("nobody", None)] {
        let roles: Vec<_> = role.iter().map(|role| doc! { "role": role, "db": "shop" }).collect();
        admin.run_command(doc! { "createUser": user, "pwd": "s3cret", "roles": roles }).await.unwrap();
    }

    let (kind, text) = refused(&uri.replace("s3cret-pw", "s3cret-wrong")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(text.ends_with("check user, password and authSource in the URI"), "{text}");

    let (kind, text) = refused(&format!("mongodb://{address}/")).await;
    assert_eq!(kind, Kind::SourceRefused);
    assert!(
        text.ends_with("name a user in the URI and grant it the role readAnyDatabase on admin"),
        "{text}"
    );

    let reader =
        Source::connect(&format!("mongodb://reader:s3cret@{address}/?authSource=admin")).await.unwrap();
    let all = reader.collections(&[], &[]).await.unwrap();
    let namespaces: Vec<_> = all.iter().map(|collection| collection.namespace.clone()).collect();
    assert_eq!(namespaces, [Namespace::new("shop", "orders")]);
    reader.start_position(&namespaces).await.unwrap();
    assert_eq!(reader.oplog_start().await.unwrap(), None);
    assert!(Source::connect(&uri).await.unwrap().oplog_start().await.unwrap().is_some());
    let error = reader.start_position(&[Namespace::new("crm", "orders")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceRefused);
    assert!(error.to_string().ends_with("grant it the role read on the database crm"), "{error}");
    let both = [Namespace::new("crm", "orders"), Namespace::new("shop", "orders")];
    let error = reader.start_position(&both).await.unwrap_err();
    assert!(error.to_string().ends_with("grant it the role readAnyDatabase on admin"), "{error}");

    let nobody =
        Source::connect(&format!("mongodb://nobody:s3cret@{address}/?authSource=admin")).await.unwrap();
    // An unreadable collection is not taken for a missing one, neither at first nor later.
    let shop = ["shop.*".to_owned()];
    for error in [
        nobody.collections(&shop, &[]).await.unwrap_err(),
        nobody.collections_now(&shop, &[]).await.unwrap_err(),
        nobody.names(&shop, &[]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::SourceRefused);
        assert!(error.to_string().ends_with("grant it the role read on the database shop"), "{error}");
    }
    let error = nobody.collections(&[], &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("there is none that this user may read"), "{error}");
}
