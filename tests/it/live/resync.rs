//! What the sink does for resyncs and dropped collections.

use std::collections::BTreeSet;

use docrow::{
    error::Kind,
    mapping::Framing,
    model::{
        partition::Partition,
        resync_reason::Reason,
        table::{Scalar, Table},
    },
    sink::{
        Target,
        metadata::{
            chunks::{self, SnapshotPlan, StoredChunk},
            dead_letters, mapping_versions,
            positions::{self, StoredPosition},
            resync_requests,
        },
        rows::read::Reader,
        tables::ddl,
    },
};
use mongodb::bson::doc;

use super::sink::{FINGERPRINT, NS, Place, apply, column, documents, keys, mapping, position, users};
use crate::support::Home;

const OTHER: &str = "shop.other";

fn chunk(number: u32) -> StoredChunk {
    StoredChunk { number, min: None, max: Some(vec![1]), copied: None, replaces: false }
}

fn start(collection: &str, partition: u16, at: u32) -> StoredPosition {
    StoredPosition {
        partition: Partition(partition),
        collection: collection.into(),
        position: position(at),
        fingerprint: Some(i64::MAX),
    }
}

/// A position is always stored with the fingerprint of its stream.
#[tokio::test]
async fn a_position_is_stored_with_its_stream() {
    let place = Place::with_users("fingerprint", &users()).await;
    place.build_keys(&users()).await;
    let mut session = place.session().await;
    let unknown = StoredPosition { fingerprint: None, ..start(NS, 0, 1) };
    positions::reset(&mut session, "p", std::slice::from_ref(&unknown)).await.unwrap();
    assert_eq!(positions::load(&session, "p").await.unwrap(), [unknown]);
    chunks::replace(&mut session, "p", NS, &[chunk(0)], &[start(NS, 0, 1)]).await.unwrap();
    assert_eq!(positions::load(&session, "p").await.unwrap(), [start(NS, 0, 1)]);
    let rows = documents(Framing::Composite, &[1], "n", 1);
    apply(&mut place.applier().await, &rows, (&keys([1]), &keys([])), 2).await.unwrap();
    let applied = StoredPosition { fingerprint: Some(FINGERPRINT), ..start(NS, 0, 2) };
    assert_eq!(positions::load(&session, "p").await.unwrap(), [applied]);
}

/// A resync begins in one transaction: plan, positions, request. The rows stay, and other collections are not
/// affected.
#[tokio::test]
async fn a_resync_replaces_the_plan_and_the_positions() {
    let place = Place::with_users("replace", &users()).await;
    place.build_keys(&users()).await;
    let mut session = place.session().await;
    for collection in [NS, OTHER] {
        let positions = [start(collection, 0, 100), start(collection, 1, 100)];
        chunks::store(
            &mut session,
            "p",
            &[SnapshotPlan::new(collection, vec![chunk(0), chunk(1)])],
            &positions,
        )
        .await
        .unwrap();
    }
    place.query("UPDATE docrow.chunks SET copied_at = now(), documents = 2").await;
    let rows = documents(Framing::Composite, &[1, 2], "n", 2);
    apply(&mut place.applier().await, &rows, (&keys([1, 2]), &keys([])), 200).await.unwrap();
    assert_eq!(resync_requests::asked(&session, "p").await.unwrap(), []);
    resync_requests::ask(&mut session, "p", &[NS, OTHER], Reason::HistoryLost).await.unwrap();
    // The last reason counts. Operators request without holding the pipeline.
    let mut plain = place.plain().connect().await.unwrap();
    resync_requests::ask(&mut plain, "p", &[NS], Reason::Asked).await.unwrap();
    resync_requests::ask(&mut plain, "q", &[NS], Reason::Asked).await.unwrap();
    let asked = [(OTHER.to_owned(), Reason::HistoryLost), (NS.to_owned(), Reason::Asked)];
    assert_eq!(resync_requests::asked(&session, "p").await.unwrap(), asked);

    // Before where it was.
    chunks::replace(&mut session, "p", NS, &[chunk(5)], &[start(NS, 0, 50)]).await.unwrap();
    let planned = StoredChunk { replaces: true, ..chunk(5) };
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap(), [planned]);
    let positions = positions::load(&session, "p").await.unwrap();
    assert_eq!(positions, [start(OTHER, 0, 100), start(NS, 0, 50), start(OTHER, 1, 100)]);
    assert_eq!(resync_requests::asked(&session, "p").await.unwrap(), asked[..1]);
    let others = chunks::load(&session, "p", OTHER).await.unwrap();
    assert!(others.len() == 2 && others.iter().all(|chunk| !chunk.replaces && chunk.copied == Some(2)));
    assert_eq!(place.query("SELECT count(*) FROM users").await, ["2"]);
    assert_eq!(resync_requests::asked(&session, "q").await.unwrap().len(), 1);
}

/// A sweep: all keys that were not seen, page by page, in roots and in children, while they are deleted.
#[tokio::test]
async fn what_was_not_seen_is_found_page_by_page() {
    let place = Place::with_users("sweep", &users()).await;
    place.build_keys(&users()).await;
    let tables = users();
    let (mut applier, none) = (place.applier().await, keys([]));
    let all: Vec<i64> = (0..2500).collect();
    let rows = documents(Framing::Composite, &all, "n", 2);
    apply(&mut applier, &rows, (&keys(all.clone()), &none), 1).await.unwrap();
    // Child rows whose root row is missing, and which belong to no document.
    place.query("DELETE FROM users WHERE id BETWEEN 1000 AND 1099").await;
    let mut reader = Reader::new(place.session().await, &place.target);
    reader.forget_seen(&tables[0]).await.unwrap();
    for page in all.iter().filter(|id| *id % 2 == 0).copied().collect::<Vec<_>>().chunks(700) {
        reader.see(&keys(page.iter().copied())).await.unwrap();
    }
    // Searching deletes nothing; documents found through child rows are deleted, with their root rows.
    for (table, expected) in [(&tables[0], (1200, 4)), (&tables[1], (1250, 5))] {
        let mut found = BTreeSet::new();
        let mut unseen = reader.unseen(&tables[0], table).await.unwrap();
        let mut pages = 0;
        loop {
            let page = unseen.next(300).await.unwrap();
            if page.is_empty() {
                break;
            }
            pages += 1;
            let ids: Vec<_> = page.iter().map(|key| i64::from_be_bytes(key.try_into().unwrap())).collect();
            assert!(ids.len() <= 300 && ids.iter().all(|id| id % 2 == 1 && found.insert(*id)), "{ids:?}");
            if table.name == "messages" {
                let nothing = docrow::mapping::Rows::new(2);
                apply(&mut applier, &nothing, (&none, &page), 2).await.unwrap();
            }
        }
        assert_eq!((found.len(), pages), expected);
    }
    let left = "SELECT (SELECT count(*) FROM users) || ' ' || (SELECT count(*) FROM messages)";
    assert_eq!(place.query(left).await, ["1200 2500"]);
}

/// Tables that docrow created are dropped with everything about the collection; adopted ones are emptied.
#[tokio::test]
async fn a_dropped_collection_leaves_nothing_but_what_was_given() {
    let place = Place::held("drop").await;
    place.query("CREATE TABLE messages (user_id bigint, ord bigint, body text, note text)").await;
    let mut session = place.session().await;
    ddl::change_tables(&mut session, &place.target, &mapping(), &users()).await.unwrap();
    // A later version: an adopted table stays adopted.
    let mut tables = users();
    let columns = vec![column("user_id", Scalar::Bigint), column("ord", Scalar::Bigint)];
    tables.push(Table { name: "visits".into(), columns, key_columns: 2, soft_delete: false });
    let second = mapping().next("second");
    ddl::change_tables(&mut session, &place.target, &second, &tables).await.unwrap();
    place.build_keys(&tables).await;
    ddl::add_foreign_keys(&mut session, "public", &tables).await.unwrap();
    chunks::store(&mut session, "p", &[SnapshotPlan::new(NS, vec![chunk(0)])], &[start(NS, 0, 1)])
        .await
        .unwrap();
    chunks::store(&mut session, "p", &[SnapshotPlan::new(OTHER, vec![chunk(0)])], &[start(OTHER, 0, 1)])
        .await
        .unwrap();
    let rows = documents(Framing::Composite, &[1], "n", 2);
    apply(&mut place.applier().await, &rows, (&keys([1]), &keys([])), 2).await.unwrap();
    resync_requests::ask(&mut session, "p", &[NS, OTHER], Reason::Dropped).await.unwrap();
    let letter = "INSERT INTO docrow.dead_letters (pipeline, collection, key, key_hash, reason) VALUES \
        ('p', 'shop.users', '7', gen_random_uuid(), 'x'), ('p', 'shop.other', '7', gen_random_uuid(), 'x')";
    place.query(letter).await;

    // A user's object depends on it: nothing is done.
    place.query("CREATE VIEW names AS SELECT name FROM users").await;
    let error = ddl::drop_tables(&mut session, &place.target, NS).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    let said = error.to_string();
    assert!(said.contains("drop the tables of shop.users") && said.contains("view public.names"), "{said}");
    assert_eq!(place.query("SELECT count(*) FROM users").await, ["1"]);
    place.query("DROP VIEW names").await;

    ddl::drop_tables(&mut session, &place.target, NS).await.unwrap();
    let there = "SELECT string_agg(relname, ' ') FROM pg_class \
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(place.query(there).await, ["messages"]);
    assert_eq!(place.query("SELECT count(*) FROM messages").await, ["0"]);
    assert_eq!(mapping_versions::load(&session, "p").await.unwrap(), []);
    assert_eq!(chunks::load(&session, "p", NS).await.unwrap(), []);
    assert_eq!(chunks::load(&session, "p", OTHER).await.unwrap().len(), 1);
    assert_eq!(positions::load(&session, "p").await.unwrap(), [start(OTHER, 0, 1)]);
    assert_eq!(resync_requests::asked(&session, "p").await.unwrap().len(), 1);
    assert_eq!(dead_letters::keys(&session, "p").await.unwrap().count(NS), 0);
    assert_eq!(dead_letters::keys(&session, "p").await.unwrap().count(OTHER), 1);
    // Again: nothing to do. And the collection may return.
    ddl::drop_tables(&mut session, &place.target, NS).await.unwrap();
    ddl::change_tables(&mut session, &place.target, &mapping(), &users()).await.unwrap();
}

/// `docrow resync` only makes a request, and reports the result. It needs no source.
#[tokio::test]
async fn a_resync_is_asked_for_on_the_command_line() {
    let place = crate::support::Place::shared("resync_asked").await;
    for name in ["orders", "users"] {
        place.collection(name).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let home = Home::new(&place);
    let all = format!("{}.*", place.name);
    let ended = home.finish(&["resync", &all]).await.with_code(2);
    assert!(ended.error().contains("pipeline docrow has copied nothing yet"), "{}", ended.log);
    home.backfill().await;
    let (mut home, target) = (Home::new(&place), place.postgres_uri.as_str());
    home.set("source.uri", "${NO_SOURCE}");
    let ended = home.finish(&["resync", "*.orders", "shop.nothing"]).await.with_code(2);
    let there = format!("there are {0}.orders, {0}.users", place.name);
    assert!(ended.error().contains("\"shop.nothing\"") && ended.error().contains(&there), "{}", ended.log);
    let session = Target::parse(target, "public", "docrow").unwrap().connect().await.unwrap();
    assert_eq!(resync_requests::asked(&session, "docrow").await.unwrap(), []);
    let ended = home.finish(&["resync", "*.orders"]).await.with_code(0).quiet();
    let orders = format!("{}.orders", place.name);
    let said =
        format!("requested a resync of {orders}\nno process runs pipeline docrow: the next `docrow run`");
    assert!(ended.out.starts_with(&said), "{}", ended.out);
    assert_eq!(resync_requests::asked(&session, "docrow").await.unwrap(), [(orders, Reason::Asked)]);
}
