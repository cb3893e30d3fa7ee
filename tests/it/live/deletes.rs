//! Deletes in a real PostgreSQL: soft ones, and those of tables that reference each other.

use docrow::{
    error::{Kind, Result},
    mapping::{Framing, Rows},
    model::table::{Column, ColumnType, DELETED_AT, Scalar, Table},
    sink::{
        Keys,
        rows::{
            read::Reader,
            upsert::{AppliedBatch, Applier, Batch, CollectionBatch},
        },
        tables::ddl,
    },
};

use super::sink::{Place, USERS, bigint, keys, push, text, users};

/// The users, whose rows stay when they are deleted.
fn soft_users() -> Vec<Table> {
    let mut tables = users();
    let deleted_at = Column { name: DELETED_AT.into(), ty: ColumnType::scalar(Scalar::Timestamptz) };
    tables[0].columns.push(deleted_at);
    tables[0].soft_delete = true;
    tables
}

fn documents(tables: &[Table], ids: &[i64], name: &str, messages: i64) -> Rows {
    let mut rows = Rows::new(2);
    for &id in ids {
        let mut root = vec![None; tables[0].columns.len()];
        (root[0], root[1]) = (bigint(id), text(name));
        push(&mut rows, Framing::Composite, &tables[0], 0, &root);
        for ord in 0..messages {
            push(&mut rows, Framing::Composite, &tables[1], 1, &[bigint(id), bigint(ord), text(name)]);
        }
    }
    rows
}

async fn apply(
    applier: &mut Applier,
    tables: &[Table],
    (rows, upserted, deleted): (&Rows, &Keys, &Keys),
) -> Result<AppliedBatch> {
    let users = CollectionBatch { collection: USERS, tables, rows, upserted, deleted };
    applier.apply(&Batch { collections: vec![users], ..Batch::default() }).await
}

#[tokio::test]
async fn a_soft_delete_marks_the_root_until_the_document_is_written_again() {
    let tables = soft_users();
    let place = Place::with_users("soft", &tables).await;
    place.build_keys(&tables).await;
    let (mut applier, none, nothing) = (place.applier().await, keys([]), Rows::new(2));
    let rows = documents(&tables, &[1, 2, 3], "n", 2);
    apply(&mut applier, &tables, (&rows, &keys([1, 2, 3]), &none)).await.unwrap();
    let done = apply(&mut applier, &tables, (&nothing, &none, &keys([1, 2]))).await.unwrap();
    assert_eq!((done.written, done.deleted), (0, 2));
    assert_eq!(place.query("SELECT id FROM users WHERE _deleted_at <= now() ORDER BY 1").await, ["1", "2"]);
    assert_eq!(place.query("SELECT count(*) FROM messages").await, ["6"]);

    // Replayed: the time stays.
    let marked = place.query("SELECT _deleted_at FROM users WHERE id = 1").await;
    let done = apply(&mut applier, &tables, (&nothing, &none, &keys([1]))).await.unwrap();
    assert_eq!(done.deleted, 0);
    assert_eq!(place.query("SELECT _deleted_at FROM users WHERE id = 1").await, marked);

    // Neither root nor child rows count as rows of a document, nor as rows without one.
    let mut reader = Reader::new(place.session().await, &place.target);
    reader.forget_seen(&tables[0]).await.unwrap();
    for (table, live) in tables.iter().zip([1, 2]) {
        let rows = reader.live_rows(&tables[0], table, &keys([1, 3])).await.unwrap();
        assert_eq!(rows.len(), live);
        assert_eq!(reader.rows(table, &keys([1, 3])).await.unwrap().len(), 2 * live);
        let unseen = reader.unseen(&tables[0], table).await.unwrap().next(9).await.unwrap();
        assert_eq!(unseen.iter().collect::<Vec<_>>(), [3_i64.to_be_bytes()]);
    }

    // Written again, unchanged and with fewer children: it is back.
    let again = documents(&tables, &[1], "n", 2);
    apply(&mut applier, &tables, (&again, &keys([1]), &none)).await.unwrap();
    let again = documents(&tables, &[2], "new", 0);
    apply(&mut applier, &tables, (&again, &keys([2]), &none)).await.unwrap();
    assert_eq!(place.query("SELECT count(*) FROM users WHERE _deleted_at IS NULL").await, ["3"]);
    assert_eq!(place.query("SELECT user_id FROM messages ORDER BY 1").await, ["1", "1", "3", "3"]);
}

/// A document deleted and written in one batch with others; children go before the root they refer to, and
/// come after.
#[tokio::test]
async fn tables_that_refer_to_each_other_are_written_in_order() {
    for (name, tables) in [("foreign_keys", users()), ("foreign_keys_soft", soft_users())] {
        let place = Place::with_users(name, &tables).await;
        place.build_keys(&tables).await;
        for _ in 0..2 {
            ddl::add_foreign_keys(&mut place.session().await, "public", &tables).await.unwrap();
        }
        let keys_there = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
        assert_eq!(place.query(keys_there).await, ["1"]);
        let mut applier = place.applier().await;
        let rows = documents(&tables, &[1, 2, 3], "n", 3);
        apply(&mut applier, &tables, (&rows, &keys([1, 2, 3]), &keys([]))).await.unwrap();
        // One is new, one is deleted, one has fewer children, one none, in one batch.
        let mut rows = documents(&tables, &[3], "m", 0);
        for (all, more) in rows.tables.iter_mut().zip(documents(&tables, &[4, 2], "m", 2).tables) {
            all.bytes.extend_from_slice(&more.bytes);
            all.count += more.count;
        }
        apply(&mut applier, &tables, (&rows, &keys([3, 4, 2]), &keys([1]))).await.unwrap();
        let mut expected = vec!["2", "2", "4", "4"];
        if tables[0].soft_delete {
            expected.splice(0..0, ["1", "1", "1"]);
        }
        assert_eq!(place.query("SELECT user_id FROM messages ORDER BY 1").await, expected);
        // A join never finds a child row without its root row.
        place.query("ALTER TABLE messages VALIDATE CONSTRAINT messages_user_id_fkey").await;
    }
}

/// Rows without a root row were not written by docrow: they are reported, not removed.
#[tokio::test]
async fn a_foreign_key_that_the_rows_violate_is_refused() {
    let place = Place::with_users("foreign_orphan", &users()).await;
    place.build_keys(&users()).await;
    place.query("INSERT INTO messages VALUES (7, 0, 'orphan')").await;
    let error = ddl::add_foreign_keys(&mut place.session().await, "public", &users()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TargetRefused);
    let said = error.to_string();
    assert!(
        said.contains(r#"add the foreign key of "public"."messages""#) && said.contains("23503"),
        "{said}"
    );
    assert_eq!(place.query("SELECT count(*) FROM messages").await, ["1"]);
}
