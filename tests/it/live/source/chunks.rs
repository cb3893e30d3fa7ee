//! The list of collections, and their documents chunk by chunk.

use docrow::{error::Kind, source::Chunk};
use mongodb::{
    bson::{Bson, Document, RawBsonRef, RawDocumentBuf, doc},
    options::CreateCollectionOptions,
};

use super::{Server, load_ids_of_all_types, sorted};
use crate::support::{Capability, lacks};

/// Trap: `_id` ranges by type lose documents. All are read, each once, however the collection is split.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_all_types_are_read_once_by_split_vector() {
    let server = Server::new("all_types_split_vector").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let collections = server.source.collections(&[format!("{}.c", server.database)], &[]).await.unwrap();
    let chunks = server.source.split(&collections[0], 100_000).await.unwrap();
    assert!(chunks.len() >= 10, "{} chunks", chunks.len());
    assert_eq!(sorted(server.read("c", &chunks).await), sorted(loaded));
}

/// The same if `splitVector` is refused, as on a hosted deployment: then the chunks are split by a sample.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_all_types_are_read_once_by_sample() {
    let server = Server::new("all_types_sample").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let collections = server.source.collections(&[format!("{}.c", server.database)], &[]).await.unwrap();
    let _guard = server.fail(1, doc! { "failCommands": ["splitVector"], "errorCode": 13 }).await;
    let chunks = server.source.split(&collections[0], 100_000).await.unwrap();
    assert!(chunks.len() >= 20, "{} chunks", chunks.len());
    assert_eq!(sorted(server.read("c", &chunks).await), sorted(loaded));
}

/// Every document is a chunk's bound once.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_any_type_is_a_chunk_bound() {
    let server = Server::new("any_bound").await;
    let loaded = load_ids_of_all_types(&server, "c").await;
    let is_end = |id: &&RawDocumentBuf| {
        matches!(id.get("_id").unwrap(), Some(RawBsonRef::MinKey | RawBsonRef::MaxKey))
    };
    for bound in loaded.iter().filter(|id| !is_end(id)) {
        let lower = Chunk { min: None, max: Some(bound.clone()) };
        let upper = Chunk { min: Some(bound.clone()), max: None };
        let read = server.read("c", &[lower, upper]).await;
        assert_eq!(sorted(read), sorted(loaded.clone()), "{bound:?}");
    }
}

/// The same for a clustered collection, whose scan includes MaxKey.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_any_type_is_read_once_of_a_clustered_collection() {
    if lacks(Capability::Clustered).await {
        return;
    }
    let server = Server::new("clustered").await;
    let create = doc! { "create": "c", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    server.client.database(&server.database).run_command(create).await.unwrap();
    let loaded = load_ids_of_all_types(&server, "c").await;
    let bound = loaded.iter().find(|id| matches!(id.get("_id"), Ok(Some(RawBsonRef::Int32(_))))).unwrap();
    let lower = Chunk { min: None, max: Some(bound.clone()) };
    let upper = Chunk { min: Some(bound.clone()), max: None };
    assert_eq!(sorted(server.read("c", &[lower, upper]).await), sorted(loaded.clone()));
    let collections = server.source.collections(&[format!("{}.c", server.database)], &[]).await.unwrap();
    let chunks = server.source.split(&collections[0], 100_000).await.unwrap();
    assert!(chunks.len() >= 10, "{} chunks", chunks.len());
    assert_eq!(sorted(server.read("c", &chunks).await), sorted(loaded));
}

/// A small collection, one without documents, and one that does not exist yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_collection_is_one_chunk() {
    let server = Server::new("small").await;
    server.collection("empty").insert_one(doc! { "_id": 1 }).await.unwrap();
    server.collection("empty").delete_one(doc! {}).await.unwrap();
    server.collection("one").insert_one(doc! { "_id": Bson::MaxKey }).await.unwrap();
    let collections = server.source.collections(&[format!("{}.*", server.database)], &[]).await.unwrap();
    let names: Vec<_> = collections.iter().map(|c| c.namespace.collection.as_str()).collect();
    assert_eq!(names, ["empty", "one"]);
    for (collection, count) in collections.iter().zip([0, 1]) {
        let chunks = server.source.split(collection, 1).await.unwrap();
        assert_eq!(server.read(&collection.namespace.collection, &chunks).await.len(), count);
    }
    assert_eq!(server.read("absent", &[Chunk::whole()]).await.len(), 0);
}

/// In a collection with this option, each document is in one chunk.
async fn is_read_once(name: &str, option: &str, value: Document) {
    let server = Server::new(name).await;
    let padding = "x".repeat(100_000);
    let create = doc! { "create": name, option: value };
    server.client.database(&server.database).run_command(create).await.unwrap();
    let documents =
        (0..60).map(|n| doc! { "_id": format!("{}é{n}", ["A", "b"][n % 2]), "padding": &padding });
    server.collection(name).insert_many(documents).await.unwrap();
    let collections = server.source.collections(&[format!("{}.{name}", server.database)], &[]).await.unwrap();
    let chunks = server.source.split(&collections[0], 500_000).await.unwrap();
    assert!(chunks.len() >= 5, "{} chunks", chunks.len());
    let read = sorted(server.read(name, &chunks).await);
    assert_eq!(read.len(), 60);
    assert!(read.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The keys of its index are no values.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_with_a_collation_is_read_once() {
    is_read_once("collated", "collation", doc! { "locale": "en", "strength": 2 }).await;
}

/// It has no index of `_id`s at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_clustered_collection_is_read_once() {
    if lacks(Capability::Clustered).await {
        return;
    }
    is_read_once("clustered_strings", "clusteredIndex", doc! { "key": { "_id": 1 }, "unique": true }).await;
}

/// What has no change stream is left out by a glob, and refused by name with the reason.
async fn is_left_out_or_refused_by_name(server: &Server, kind: &str, create: Document) {
    let name = create.get_str("create").unwrap().to_owned();
    server.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    server.client.database(&server.database).run_command(create).await.unwrap();
    let all = server.source.collections(&[format!("{}.*", server.database)], &[]).await.unwrap();
    assert_eq!(
        all.iter().map(|c| c.namespace.to_string()).collect::<Vec<_>>(),
        [format!("{}.orders", server.database)]
    );
    let error = server.source.collections(&[format!("{}.{name}", server.database)], &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains(&format!("it is a {kind}, which has no change stream")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_series_are_left_out_or_refused_by_name() {
    if lacks(Capability::TimeSeries).await {
        return;
    }
    let server = Server::new("series").await;
    let create = doc! { "create": "series", "timeseries": { "timeField": "t" } };
    is_left_out_or_refused_by_name(&server, "time-series collection", create).await;
    assert_eq!(server.source.names(&[format!("{}.*", server.database)], &[]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_left_out_or_refused_by_name() {
    let server = Server::new("views").await;
    let create = doc! { "create": "view", "viewOn": "orders", "pipeline": [] };
    is_left_out_or_refused_by_name(&server, "view", create).await;
    let nothing = [format!("{}.nothing*", server.database), "absent.*".to_owned()];
    let error = server.source.collections(&nothing, &[]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains(&format!("{}.orders", server.database)), "{error}");
    assert!(error.to_string().contains("absent.*"), "{error}");
    let excluded = [format!("{}.*", server.database)];
    assert_eq!(server.source.collections(&excluded, &excluded).await.unwrap_err().kind(), Kind::Usage);
}

/// The names are those of `collections`, now and after any change; later, an empty list is no error.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_listed_as_collections_come_and_go() {
    let server = Server::new("names").await;
    let database = server.client.database(&server.database);
    let include = [format!("{}.o*", server.database)];
    let exclude = [format!("{}.old*", server.database)];
    let listed = async || {
        let names = server.source.names(&include, &exclude).await.unwrap();
        let collections = server.source.collections_now(&include, &exclude).await.unwrap();
        assert_eq!(names, collections.into_iter().map(|c| c.namespace).collect::<Vec<_>>());
        names.into_iter().map(|name| name.collection).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [""; 0]);
    for name in ["orders", "old", "other"] {
        server.collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let view = CreateCollectionOptions::builder().view_on("orders".to_owned()).pipeline(vec![]).build();
    database.create_collection("oview").with_options(view).await.unwrap();
    assert_eq!(listed().await, ["orders", "other"]);
    let first = server.source.collections(&include, &exclude).await.unwrap();
    assert_eq!(first.len(), 2);
    server.collection("other").drop().await.unwrap();
    assert_eq!(listed().await, ["orders"]);
    database.drop().await.unwrap();
    assert_eq!(listed().await, [""; 0]);
    let impossible = [" /x.*".to_owned(), ".y".to_owned(), format!("{}.*", "d".repeat(99))];
    assert_eq!(server.source.names(&impossible, &[]).await.unwrap(), []);
    let malformed = server.source.names(&["o*".to_owned()], &[]).await.unwrap_err();
    assert_eq!(malformed.kind(), Kind::Usage);
}

/// The `_id`s of a sweep: all of them, MaxKey too, in several replies, without the documents.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_read_without_their_documents() {
    let server = Server::new("read_ids").await;
    let mut loaded = load_ids_of_all_types(&server, "c").await;
    let many = (0..50_000).map(|n| doc! { "_id": format!("{n:0>500}") });
    loaded.extend(many.clone().map(|id| RawDocumentBuf::try_from(&id).unwrap()));
    server.collection("c").insert_many(many).await.unwrap();
    let after = server.source.operation_time().await.unwrap();
    let mut reader = server.source.read_ids(&server.namespace("c"), after).await.unwrap();
    let (mut read, mut replies) = (Vec::new(), 0);
    while let Some(documents) = reader.next().await.unwrap() {
        replies += 1;
        read.extend(documents.iter().unwrap().map(|document| document.unwrap().to_owned()));
    }
    assert!(replies > 1, "{replies} replies");
    assert_eq!(sorted(read), sorted(loaded));
}

/// A partial read of a chunk, of a collection's `_id`s or by a lookup is never taken for a complete one.
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_no_end() {
    let server = Server::new("breaks_off").await;
    let namespace = server.namespace("c");
    // Of each kind of read more than fits into a reply.
    let ids = (0..10_000).map(|n| doc! { "_id": format!("{n:0>2000}") });
    let padding = "x".repeat(4_000);
    let documents = ids.clone().map(|id| doc! { "_id": id.get("_id"), "padding": &padding });
    server.collection("c").insert_many(documents).await.unwrap();
    let keys: Vec<_> = ids.map(|id| RawDocumentBuf::try_from(&id).unwrap()).collect();
    let after = server.source.operation_time().await.unwrap();
    for error in [doc! { "errorCode": 43 }, doc! { "errorCode": 262 }, doc! { "closeConnection": true }] {
        let fail = doc! { "failCommands": ["getMore"], "namespace": namespace.to_string() };
        let fail: Document = fail.into_iter().chain(error).collect();
        let chunk = server.source.read_chunk(&namespace, &Chunk::whole(), after, 1000).await.unwrap();
        let ids = server.source.read_ids(&namespace, after).await.unwrap();
        for mut reader in [chunk, ids] {
            assert!(reader.next().await.unwrap().is_some());
            let _guard = server.fail(1, fail.clone()).await;
            assert_eq!(reader.next().await.unwrap_err().kind(), Kind::SourceAway);
        }
        let some = keys.iter().take(3_500).map(|key| &**key);
        let mut lookup = server.source.lookup(&namespace, some, after).await.unwrap();
        assert!(lookup.next().await.unwrap().is_some());
        let _guard = server.fail(1, fail.clone()).await;
        assert_eq!(lookup.next().await.unwrap_err().kind(), Kind::SourceAway);
    }
}
